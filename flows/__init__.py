"""Prefect flows and the command line: the shells around the engine in `tasks`."""
