"""Cells of CSV files, which people open in spreadsheets."""

from typing import Any


def harmless(cell: Any) -> Any:
    """A cell that no spreadsheet takes for a formula, whoever chose its first character."""
    dangerous = isinstance(cell, str) and cell.startswith(("=", "+", "-", "@", "\t", "\r"))
    return f"'{cell}" if dangerous else cell
