"""Whether what was sent is there, and is the same."""
