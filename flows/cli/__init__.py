"""The command `dicom-ingest`: options, commands, what a person reads."""
