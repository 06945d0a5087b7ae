"""What a task may be."""

from __future__ import annotations

from typing import Any

import pytest

from spinevl.schema.task import Task


@pytest.mark.parametrize("name", ["../x", "a/b", "", ".hidden", "a\\b", "a b", 3])
def test_a_name_is_the_front_of_a_files_name(name: Any) -> None:
    with pytest.raises(ValueError, match="expected a name of letters"):
        Task(name=name, title="t", choices=("a", "b"))


def test_an_answer_is_parsed_by_its_text_alone() -> None:
    task = Task(name="foramen-2", title="t", choices=("A.open", "B.narrow"))
    assert [task.parse(text) for text in ("B.narrow", " A.open\n", "B", "")] == [1, 0, None, None]
