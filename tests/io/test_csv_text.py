"""Text in a CSV file stays text when a spreadsheet opens it."""

from __future__ import annotations

import pytest

from spinevl.io.csv_text import csv_cell


@pytest.mark.parametrize("text", ["=1+1", "+x=1", "-2", "@SUM(A1)", "\t=1", "\r=1"])
def test_text_that_starts_a_formula_is_quoted(text: str) -> None:
    assert csv_cell(text) == "'" + text


@pytest.mark.parametrize("value", [-2, -0.5, None, "", "a=1", "病", "'=1"])
def test_numbers_and_other_text_stay(value: object) -> None:
    assert csv_cell(value) is value
