"""Which sweep a folder holds: the same command goes on, another has a board of its own."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from spinevl.cli.main import main
from spinevl.io.process import this_process
from spinevl.jobs.status import JobStatus, write_status
from spinevl.jobs.sweep_folder import SWEEP_FILE, Sweep, begin_sweep, join_sweep, read_sweep
from spinevl.schema.errors import UserError


def quiet(line: str) -> None:
    raise AssertionError(line)


def test_the_same_command_goes_on_and_another_begins_with_no_jobs(tmp_path: Path) -> None:
    said: list[str] = []
    begin_sweep(tmp_path, ["run", "seed=0,1"], say=quiet)
    join_sweep(tmp_path, tmp_path / "0-seed-0", 0)
    begin_sweep(tmp_path, ["run", "seed=0,1"], say=quiet)
    join_sweep(tmp_path, tmp_path / "0-seed-0", 0)
    join_sweep(tmp_path, tmp_path / "1-seed-1", 1)
    sweep = read_sweep(tmp_path)
    assert sweep
    assert sweep.jobs == {"0-seed-0": 0, "1-seed-1": 1}
    begin_sweep(tmp_path, ["run", "seed=0,1,2"], say=said.append)
    (line,) = said
    assert "2 jobs of another sweep (run seed=0,1)" in line
    sweep = read_sweep(tmp_path)
    assert sweep
    assert sweep.jobs == {}


def test_two_jobs_of_a_sweep_in_one_folder_are_refused(tmp_path: Path) -> None:
    begin_sweep(tmp_path, ["run", "seed=0,1"], say=quiet)
    join_sweep(tmp_path, tmp_path / "same", 0)
    with pytest.raises(UserError, match=r"hydra\.sweep\.subdir: .*same.* job 0 .*job 1"):
        join_sweep(tmp_path, tmp_path / "same", 1)


@pytest.mark.parametrize("name", ["leaderboard.md", "leaderboard.tex", SWEEP_FILE])
def test_a_file_of_the_users_own_is_not_overwritten(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("mine")
    with pytest.raises(UserError, match=name):
        begin_sweep(tmp_path, ["run"], say=quiet)
    assert (tmp_path / name).read_text() == "mine"
    # a board of an earlier version stands beside its jobs
    if name != SWEEP_FILE:
        (tmp_path / "0").mkdir()
        write_status(tmp_path / "0", JobStatus(0, ()))
        begin_sweep(tmp_path, ["run"], say=quiet)


def test_a_folder_in_which_another_process_sweeps_is_refused(tmp_path: Path) -> None:
    other = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        process = replace(this_process(), pid=other.pid, start="")
        sweep = Sweep(["run"], **asdict(process))
        (tmp_path / SWEEP_FILE).write_text(json.dumps(asdict(sweep)))
        with pytest.raises(UserError, match=f"process {other.pid}"):
            begin_sweep(tmp_path, ["run"], say=quiet)
    finally:
        other.communicate(b"\n")
    begin_sweep(tmp_path, ["run"], say=quiet)
    sweep_now = read_sweep(tmp_path)
    assert sweep_now
    assert sweep_now.pid == os.getpid()


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    records = [
        {"id": f"{i:04d}", "qd": i % 3, "sl": i % 2, "zjppt": [0] * 5, "zyzg": [0] * 11}
        for i in range(6)
    ]
    for name in "abc":
        (tmp_path / f"{name}.json").write_text(json.dumps(records))
    return tmp_path


def evaluate(*words: str) -> int:
    return main(["evaluate", "-m", "labels=a.json", "hydra.sweep.dir=m", *words])


def folders(here: Path) -> list[str]:
    """The folders that the board has."""
    with (here / "m/leaderboard_jobs.csv").open(newline="") as file:
        return sorted(row["folder"] for row in csv.DictReader(file))


def test_another_sweep_in_the_same_folder_has_rows_of_its_own(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate("answers=a.json,b.json") == 0
    first = folders(here)
    assert len(first) == 2
    capsys.readouterr()
    assert evaluate("answers=c.json,b.json") == 0
    assert "2 jobs of another sweep" in capsys.readouterr().err
    second = folders(here)
    assert len(second) == 2
    assert first[1] in second  # the same job in the same folder is taken over
    assert first[0] not in second
    assert (here / "m" / first[0] / "metrics.json").exists()
    assert not list(here.glob("m/*.old-*"))


def test_a_subdir_that_all_jobs_share_starts_none(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate("answers=a.json,b.json", "hydra.sweep.subdir=same") == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "hydra.sweep.subdir" in line
    assert not (here / "m").exists()


def test_a_users_leaderboard_stops_the_sweep(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "m").mkdir()
    (here / "m/leaderboard.md").write_text("my own")
    assert evaluate("answers=a.json,b.json") == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "leaderboard.md" in line
    assert [one.name for one in (here / "m").iterdir() if not one.name.startswith(".")] == [
        "leaderboard.md"
    ]
    assert (here / "m/leaderboard.md").read_text() == "my own"
