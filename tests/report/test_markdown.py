"""Text of files in Markdown shows just itself, whatever it holds; a parser of GFM is the judge."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from spinevl.report.markdown import Markdown, as_code, as_literal, as_markdown, one_line

HOSTILE = (
    "a|b",
    "a\\|b",
    "`x` and ``",
    "two\nlines\u2028three",
    "<script>alert(1)</script>",
    "&lt;b&gt; &amp; &#42;",
    "[text](javascript:alert(1))",
    "![image](http://example.org/x.png)",
    "[a]: http://example.org",
    "*a* __b__ _c_ ~~d~~ snake_case_name",
    "$x^2$ and $$y$$",
    "# heading",
    "> quote",
    "\x1b[31mred\x07",
    "\\",
    "trailing \\",
    "\ud800 half",
    "<!-- comment",
    "</td></tr>",
)


class Text(HTMLParser):
    """The text and the elements of an HTML page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.cells: list[str] = []
        self.tags: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.append(tag)
        if tag in ("td", "th", "p", "h1", "li"):
            self.cells.append("")

    def handle_data(self, data: str) -> None:
        if self.cells:
            self.cells[-1] += data


def rendered(text: str) -> Text:
    parser = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
    return Text(parser.render(text))


def words(text: str) -> str:
    return " ".join(text.split())


@given(st.text(max_size=40))
@example("_a_")
def test_any_text_is_one_cell_that_shows_it(text: str) -> None:
    page = rendered(as_markdown([["head", text], [text, "last"]]))
    assert [cell.strip() for cell in page.cells] == ["head", one_line(text), one_line(text), "last"]
    assert set(page.tags) <= {"table", "thead", "tbody", "tr", "th", "td"}


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_is_a_cell_a_heading_and_a_list_item(text: str) -> None:
    shown = one_line(text)
    page = rendered(as_markdown([[text, "b"], ["c", as_code(text)]]))
    assert [words(cell) for cell in page.cells] == [shown, "b", "c", shown]
    assert set(page.tags) <= {"table", "thead", "tbody", "tr", "th", "td", "code"}
    page = rendered(f"# {as_literal(text)}\n\n- {as_literal(text)}: 1\n")
    assert [words(cell) for cell in page.cells] == [shown, f"{shown}: 1"]
    assert set(page.tags) <= {"h1", "ul", "li"}


def test_a_formula_of_github_does_not_start() -> None:
    assert not re.search(r"(?<!\\)\$", as_literal("$x$ costs 5$"))


def test_our_own_markdown_stays() -> None:
    table = as_markdown([["a"], [Markdown("**bold** `code`")], ["0.512 [0.480, 0.541]"]])
    assert table == "| a |\n| --- |\n| **bold** `code` |\n| 0.512 [0.480, 0.541] |"
    assert as_code("seed=1") == "`seed=1`"


@given(st.text(alphabet="ab01=.,_[]{}-", min_size=1, max_size=20))
def test_overrides_are_code(text: str) -> None:
    page = rendered(as_markdown([["x"], [as_code(text)]]))
    assert page.tags[-1] == "code"
    assert page.cells[1].strip() == text
