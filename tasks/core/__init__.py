"""Pure rules: no I/O and no third-party imports."""
