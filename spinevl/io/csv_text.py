"""Text of unknown origin in CSV files, which spreadsheets would run as formulas."""

from __future__ import annotations

from typing import Any

_STARTS_A_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def csv_cell(value: Any) -> Any:
    """A value as a cell: text that starts like a formula gets a quote in front, numbers stay."""
    if isinstance(value, str) and value.startswith(_STARTS_A_FORMULA):
        return f"'{value}"
    return value
