"""The picture of a leaderboard."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from PIL import Image

from spinevl.report.leaderboard.picture import plot
from spinevl.report.leaderboard.rows import Row
from spinevl.report.leaderboard.settings import Board


def size(rows: list[Row]) -> tuple[int, int]:
    with Image.open(io.BytesIO(plot(Board.of(rows)))) as picture:
        assert picture.format == "PNG"
        return picture.size


def test_a_formula_in_an_override_is_no_formula_of_the_picture() -> None:
    bad = "name=$\\frac{1|2$<b>`x`\n| 9 |\x1b"
    size([Row("0", 0, (bad,), "done", None, 1.0), Row("1", 1, ("x=$^$",), "failed", "$", 1.0)])


def test_a_name_in_chinese_is_no_warning(recwarn: pytest.WarningsRecorder) -> None:
    size([Row("0", 0, ("data.labels=/数据/标签.json",), "done", None, 1.0, dev=0.5)])
    assert not list(recwarn)


def test_a_long_name_and_many_settings_stay_within_a_page() -> None:
    rows = [
        Row(str(k), k, (f"a={k:03d}" * 40,), "done", None, 1.0, dev=k / 200) for k in range(200)
    ]
    width, height = size(rows)
    assert width < 1500
    assert height < 3000


def test_a_partial_score_is_told_from_a_full_one() -> None:
    full = Row("0", 0, ("task=[qd]",), "done", None, 1.0, dev=0.9)
    width, _ = size([full])
    assert size([replace(full, partial_dev=True)])[0] > width  # a word more


def test_a_board_without_jobs_has_a_picture() -> None:
    size([])
    size([Row("0", None, (), "unreadable", "?", None)])
