"""How dicom-ingest is run."""
