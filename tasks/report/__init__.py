"""The report directory."""
