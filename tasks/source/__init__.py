"""What there is to send: manifests, the scan, a file's content and its DICOM header."""
