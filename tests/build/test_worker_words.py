"""What a worker process is told, and nothing else."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from spinevl.build.trust import NOTHING, Trust
from spinevl.build.user_modules import UserModules, serve
from spinevl.build.worker_words import read_worker_words, worker_words
from spinevl.schema.errors import UserError


def test_a_worker_trusts_and_finds_what_its_job_does(tmp_path: Path) -> None:
    trust = Trust(("my_parts", "other.parts"), remote_code=True)
    serve(trust, [tmp_path / "my conf", tmp_path])
    words = worker_words(tmp_path / "out", trust)
    serve(NOTHING, [])
    assert read_worker_words(words) == (tmp_path / "out", trust)
    (finder,) = (one for one in sys.meta_path if isinstance(one, UserModules))
    assert finder.names == {"my_parts", "other"}
    assert finder.folders == [str(tmp_path / "my conf"), str(tmp_path)]


def test_a_job_that_trusts_nothing_tells_its_folder_alone(tmp_path: Path) -> None:
    assert worker_words(tmp_path, NOTHING) == [str(tmp_path)]
    assert read_worker_words([str(tmp_path)]) == (tmp_path, NOTHING)
    assert not any(isinstance(one, UserModules) for one in sys.meta_path)


def test_other_words_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"seed=1: .*the files in"):
        read_worker_words([str(tmp_path), "seed=1"])
