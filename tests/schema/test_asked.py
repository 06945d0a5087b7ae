"""Who was asked and who is answered: a line for each of a few patients, one for many."""

from __future__ import annotations

import time

from spinevl.schema.asked import add_unmatched, compare
from spinevl.schema.errors import Problems


def test_both_sides_are_told_once_in_their_own_order() -> None:
    assert compare("cab", "bdbed") == (["c", "a"], ["d", "e"])
    assert compare("ab", iter("ba")) == ([], [])


def test_the_time_grows_with_the_patients_and_not_with_their_square() -> None:
    ids = [f"patient-{k}" for k in range(100_000)]
    begun = time.perf_counter()
    assert compare(ids, reversed(ids)) == ([], [])
    assert time.perf_counter() - begun < 5


def told(asked: list[str], answered: list[str]) -> list[str]:
    problems = Problems()
    absent, surplus = compare(asked, answered)
    add_unmatched(
        *(problems, "a.json", absent, surplus),
        n_asked=len(asked),
        each="a score",
        only="only the asked",
        fixes=("add it", "drop it"),
    )
    return problems


def test_a_few_patients_have_a_line_each() -> None:
    assert told(["a", "b"], ["a", "b"]) == []
    lines = told(["a", "b", "c"], ["c", "d"])
    assert [line.partition(": expected")[0] for line in lines] == [
        "a.json: patient a", "a.json: patient b", "a.json: patient d"
    ]  # fmt: skip
    assert ["add it" in line for line in lines] == [True, True, False]


def test_many_patients_are_one_line_with_the_first_names() -> None:
    asked = [f"p{k}" for k in range(40)]
    (line,) = told(asked, asked[:10])
    assert "a score for each of 40 patients" in line
    assert "none for 30 (p10, p11, p12 and 27 more)" in line
    assert "others" not in line
    assert line.endswith("add it")
    (line,) = told(asked, [*asked, *"vwxyz"])
    assert "5 others (v, w, x and 2 more)" in line
    (line,) = told(asked, [*asked[1:], *"vwxyz"])
    assert "none for 1 (p0) and 5 others" in line
    assert line.endswith("add it; drop it")


def test_files_of_other_patients_are_one_line() -> None:
    (line,) = told([f"p{k}" for k in range(200)], [f"q{k}" for k in range(300)])
    assert "none for 200 (p0, p1, p2 and 197 more) and 300 others (q0, " in line
    assert "same patients" in line
