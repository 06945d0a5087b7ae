"""A user without a home directory: only what needs one is refused, in one line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from spinevl.data.study_spec import StudySpec, with_absolute_paths
from spinevl.io.files import expanded, made_folder
from spinevl.models.source import checkpoint_folder
from spinevl.schema.cohort import StudyRequest
from spinevl.schema.errors import UserError
from spinevl.sources.cervai import CervAISource
from spinevl.sources.conversations import ConversationSource


@pytest.fixture
def nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container whose user id has no entry: no HOME, and no other way to tell."""

    def no_entry(user: int) -> None:
        raise KeyError(f"getpwuid(): uid not found: {user}")

    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr("pwd.getpwuid", no_entry)


@pytest.mark.usefixtures("nobody")
@pytest.mark.parametrize(
    ("call", "key", "variable"),
    [
        (lambda: StudySpec().cache_folder(), "cache_dir=~/.cache/spinevl", "SPINEVL_CACHE_DIR"),
        (lambda: made_folder("~/out", "output_dir"), "output_dir=~/out", "HOME"),
        (lambda: checkpoint_folder("~/checkpoint"), "checkpoint=~/checkpoint", "HOME"),
        (lambda: with_absolute_paths({"labels": "~/l.json"}), "labels=~/l.json", "HOME"),
        (lambda: CervAISource(train_images="~/i")._root("train_images"), "images=~/i", "HOME"),
        (lambda: ConversationSource(images="~/i"), "data.images=~/i", "HOME"),
    ],
)
def test_a_path_below_home_is_one_line(call: Callable[[], object], key: str, variable: str) -> None:
    with pytest.raises(UserError) as caught:
        call()
    (line,) = caught.value.problems
    assert key in line
    assert f"set {variable}" in line


@pytest.mark.usefixtures("nobody")
def test_other_paths_and_sources_without_a_cache_need_no_home(tmp_path: Path) -> None:
    assert expanded(tmp_path / "a~b") == tmp_path / "a~b"
    request = StudyRequest({}, {}, [6], {"train"}, StudySpec().cache_folder)
    assert request.levels == []
    with pytest.raises(UserError, match="SPINEVL_CACHE_DIR"):
        _ = request.cache_dir
