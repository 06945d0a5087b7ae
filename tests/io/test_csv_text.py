"""Text in a CSV file stays text when a spreadsheet opens it."""

from __future__ import annotations

import csv
import io

import pytest

from spinevl.io.csv_text import csv_cell
from spinevl.report.leaderboard import Row, table


@pytest.mark.parametrize("text", ["=1+1", "+x=1", "-2", "@SUM(A1)", "\t=1", "\r=1"])
def test_text_that_starts_a_formula_is_quoted(text: str) -> None:
    assert csv_cell(text) == "'" + text


@pytest.mark.parametrize("value", [-2, -0.5, None, "", "a=1", "病", "'=1"])
def test_numbers_and_other_text_stay(value: object) -> None:
    assert csv_cell(value) is value


def test_the_leaderboard_quotes_what_users_wrote() -> None:
    row = Row("=folder", 0, ("+x=1", "seed=0"), "failed", '=HYPERLINK("x")', 1.5)
    (found,) = csv.DictReader(io.StringIO(table([row])))
    assert found["folder"] == "'=folder"
    assert found["overrides"] == "'+x=1 seed=0"
    assert found["error"] == '\'=HYPERLINK("x")'
    assert found["seconds"] == "1.5"
