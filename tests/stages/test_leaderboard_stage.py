"""``spinevl leaderboard``: the board of a sweep at any time."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import Any

import pytest

from spinevl.cli.main import main
from spinevl.jobs import sweep as boards
from spinevl.jobs.status import JobStatus, write_status
from spinevl.jobs.sweep_folder import BOARD


@pytest.fixture
def sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a sweep of which one job is done, one was killed and one runs no longer."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "s"
    folder.mkdir()
    (folder / "sweep.json").write_text(json.dumps({"command": ["run"], "jobs": {"0": 0, "1": 1}}))
    for number, status in enumerate(("done", "running")):
        one = JobStatus(number, (f"a={number}",), status, seconds=1.0, host="h", pid=0)
        write_status(folder / str(number), one)
    (folder / "0/train.json").write_text('{"dev_score": 0.5}')
    return folder


def test_the_board_is_printed_and_written(sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["leaderboard", "dir=s"]) == 0
    out, err = capsys.readouterr()
    assert out == (sweep / "leaderboard.md").read_text()
    assert "| 1 | `a=0` | 0.500 (n=1) |" in out
    assert "1 done, 0 failed, 1 running" in out
    assert err == ""
    assert {one.name for one in sweep.iterdir() if one.is_file()} >= {*BOARD, "sweep.json"}
    assert [one.name for one in sweep.parent.iterdir()] == ["s"]  # no folder of its own
    (sweep / "1/job.json").unlink()
    assert main(["leaderboard", f"dir={sweep}"]) == 0
    assert "1 missing" in capsys.readouterr().out


def test_a_board_that_cannot_be_written_is_printed(
    sweep: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(errno.EROFS, "Read-only file system", "s/leaderboard.md")

    monkeypatch.setattr(boards, "write_text_atomic", refuse)
    assert main(["leaderboard", "dir=s"]) == 0
    out, err = capsys.readouterr()
    assert "| 1 | `a=0` |" in out
    (line,) = err.splitlines()
    assert "s/leaderboard.md" in line


@pytest.mark.parametrize("folder", [None, "nothing", "file", "empty", "s/0"])
def test_what_is_no_sweep_is_one_line(
    sweep: Path, capsys: pytest.CaptureFixture[str], folder: str | None
) -> None:
    Path("file").touch()
    Path("empty").mkdir()
    assert main(["leaderboard", *([f"dir={folder}"] if folder else [])]) == 1
    out, err = capsys.readouterr()
    (line,) = err.splitlines()
    assert f"dir={folder}" in line or (folder is None and "dir" in line)
    assert out == ""
    assert not list(Path("empty").iterdir())
    assert not (sweep / "0/leaderboard.md").exists()


@pytest.mark.parametrize("flag", ["-m", "--multirun"])
def test_there_is_no_sweep_of_leaderboards(
    sweep: Path, capsys: pytest.CaptureFixture[str], flag: str
) -> None:
    assert main(["leaderboard", flag, "dir=s"]) == 1
    out, err = capsys.readouterr()
    (line,) = err.splitlines()
    assert "leaderboard -m" in line
    assert out == ""
    assert [one.name for one in sweep.parent.iterdir()] == ["s"]


@pytest.mark.parametrize("content", [None, "{broken"])
def test_jobs_of_no_sweep_are_compared_and_nothing_is_written_beside_them(
    sweep: Path, capsys: pytest.CaptureFixture[str], content: str | None
) -> None:
    (sweep / "sweep.json").unlink()
    if content:
        (sweep / "sweep.json").write_text(content)
    (sweep / "leaderboard.md").write_text("mine")
    assert main(["leaderboard", "dir=s"]) == 0
    out, err = capsys.readouterr()
    assert "| 1 | `a=0` |" in out
    assert "sweep.json" in err
    assert (sweep / "leaderboard.md").read_text() == "mine"
    assert not (sweep / "leaderboard.csv").exists()
