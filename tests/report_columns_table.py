"""The table of the report's columns as the documentation has it, rendered from their declaration."""

from tasks.core.report_columns import COLUMNS


def column_table() -> str:
    """Markdown, one row a column."""
    rows = (f"| `{name}` | {column.kind} | {column.sentence} |" for name, column in COLUMNS.items())
    return "\n".join(["| column | kind | what it says |", "| --- | --- | --- |", *rows])
