"""What people are shown of the problems: one line each, as many as can be read."""

from __future__ import annotations

import pickle

import pytest

from spinevl.schema.errors import Problem, Problems, UserError, escaped


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\nspinevl: all is well", "a\\nspinevl: all is well"),
        ("\x1b[2J\x1b]0;title\x07", "\\x1b[2J\\x1b]0;title\\x07"),
        ("\r\t\0\x9b", "\\r\\t\\x00\\x9b"),
        ("gnp.\u202egpj", "gnp.\\u202egpj"),
        ("\u2028\ud800", "\\u2028\\ud800"),
        ("病人 é 'quoted' \\n", "病人 é 'quoted' \\n"),
    ],
)
def test_text_of_files_cannot_draw_on_the_terminal(text: str, shown: str) -> None:
    assert escaped(text) == shown
    assert escaped(shown) == shown
    (line,) = UserError(Problem(f"{text}.json", "x", text, "mend it")).problems
    assert line == f"{shown}.json: expected x, found {shown}; mend it"


def test_a_long_value_keeps_its_two_ends() -> None:
    line = UserError(Problem("f.json", "x", "a" + "-" * 10**6 + "z", "mend it")).problems[0]
    assert len(line) < 300
    assert line.startswith("f.json: expected x, found a-")
    assert line.endswith("-z; mend it")
    assert len(UserError("y" * 10**6).problems[0]) < 2100


def test_twenty_problems_are_shown_and_the_rest_is_counted() -> None:
    problems = Problems()
    for number in range(20_000):
        with problems.collected():
            raise UserError(f"problem {number}")
    with pytest.raises(UserError) as caught:
        problems.raise_any()
    error = caught.value
    assert len(error.problems) == 20_000
    assert error.lines[:20] == [f"problem {number}" for number in range(20)]
    assert error.lines[20:] == ["... and 19,980 more"]
    assert str(error) == "\n".join(error.lines)
    assert UserError(f"{k}" for k in range(20)).lines == [f"{k}" for k in range(20)]


def test_an_error_crosses_processes_whole() -> None:
    error = pickle.loads(pickle.dumps(UserError(["one", "two"])))
    assert error.problems == ("one", "two")
