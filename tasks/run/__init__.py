"""Use cases that flows and commands call."""
