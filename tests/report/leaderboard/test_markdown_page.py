"""A leaderboard shows the text of jobs literally."""

from __future__ import annotations

from markdown_it import MarkdownIt

from spinevl.report.leaderboard.markdown_page import markdown
from spinevl.report.leaderboard.rows import Row
from spinevl.report.leaderboard.settings import Board

BAD = "name=$\\frac{1|2$<b>`x`\n| 9 |\x1b"


def test_overrides_folders_and_errors_are_shown_as_they_are() -> None:
    rows = [
        Row("0-a|b", 0, (BAD, "data=<i>"), "failed", BAD, 1.0),
        Row("1-c", 1, ("data=<i>",), "done", None, 1.0),
    ]
    parser = MarkdownIt("commonmark", {"html": True}).enable("table")
    tokens = [one for one in parser.parse(markdown(Board.of(rows))) if one.type == "inline"]
    cells = ["".join(child.content for child in one.children or ()) for one in tokens]
    shown = "name=$\\frac{1|2$<b>`x` | 9 |\\x1b"
    assert shown in cells
    assert f"1 failed: {shown}" in cells
    assert "0-a|b" in cells
    kinds = {child.type for one in tokens for child in one.children or ()}
    assert kinds <= {"text", "code_inline", "strong_open", "strong_close", "text_special"}
    assert "data=<i>" in cells[1]
