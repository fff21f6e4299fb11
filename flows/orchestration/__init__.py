"""What flows share: the form, blocks, artifacts, events, names, what a person does to a run in the UI."""
