"""Who owns an output folder: the cases of jobs.owner's table, and jobs as people start them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from spinevl.cli import hydra_guard
from spinevl.cli.main import main
from spinevl.jobs import owner
from spinevl.jobs.identity import identity, parts
from spinevl.jobs.owner import LOCK, new_folder, owned
from spinevl.jobs.record import recorded
from spinevl.jobs.status import JobStatus, read_status, write_status
from spinevl.schema.errors import UserError

FIRST: dict[str, Any] = {"seed": 0}
OTHER: dict[str, Any] = {"seed": 1}


def run(out: Path, config: dict[str, Any] | None, *files: str, fails: bool = False) -> list[str]:
    """A job that leaves some files; what it said of its folder, and ``complete`` where it was."""
    said: list[str] = []
    one = None if config is None else identity(config, out=out)
    with owned(out, config or {}, identity=one, say=said.append) as complete:
        if complete:
            return [*said, "complete"]
        decisive = parts(config or {}, out=out)
        with recorded(
            out, config or {}, identity=one, parts=decisive, number=0, overrides=()
        ) as record:
            for name in files:
                (out / name).write_text(name)
            if fails:
                raise ValueError("half way")
            record(0.5)
    return said


def names(folder: Path) -> list[str]:
    return sorted(one.name for one in folder.iterdir())


def test_a_new_and_an_empty_folder_are_taken(tmp_path: Path) -> None:
    assert run(tmp_path / "a/b", FIRST, "x") == []
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty/slurm.out").touch()
    assert run(tmp_path / "empty", FIRST, "x") == []
    assert names(tmp_path / "a/b") == ["job.json", "x"]


def test_the_same_job_is_complete_and_another_moves_it_aside(tmp_path: Path) -> None:
    out = tmp_path / "o"
    run(out, FIRST, "x", "answers.json")
    assert run(out, FIRST, "never") == ["complete"]
    assert names(out) == ["answers.json", "job.json", "x"]
    (said,) = run(out, OTHER, "y")
    assert "o.old-1" in said
    assert "seed (0, now 1)" in said
    assert names(out) == ["job.json", "y"]
    assert names(tmp_path / "o.old-1") == ["answers.json", "job.json", "x"]
    run(out, FIRST)
    assert names(tmp_path) == ["o", "o.old-1", "o.old-2"]
    status = read_status(out)
    assert status
    assert (status.status, status.value, status.results) == ("done", 0.5, ())


def test_a_result_that_was_removed_is_made_again(tmp_path: Path) -> None:
    run(tmp_path, FIRST, "x")
    (tmp_path / "x").unlink()
    assert run(tmp_path, FIRST, "x") != ["complete"]
    assert (tmp_path / "x").exists()


def test_more_checkpoints_than_the_best_may_be_removed(tmp_path: Path) -> None:
    out = tmp_path / "o"
    run(out, FIRST, "checkpoint", "checkpoints")
    (out / "checkpoints").unlink()
    assert run(out, FIRST, "x") == ["complete"]
    (out / "checkpoints").touch()
    run(out, OTHER, "y")  # and they are moved aside with the rest
    assert names(out) == ["job.json", "y"]


def test_a_cut_job_goes_on_without_the_results_of_its_end(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="half way"):
        run(tmp_path, FIRST, ".predictions.test.jsonl", "metrics.json", fails=True)
    status = read_status(tmp_path)
    assert status
    assert (status.status, status.error) == ("failed", "ValueError: half way")
    (said,) = run(tmp_path, FIRST, "x")
    assert "failed" in said
    assert names(tmp_path) == [".predictions.test.jsonl", "job.json", "x"]


def test_another_version_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(tmp_path, FIRST, "x")
    monkeypatch.setattr(owner, "code", lambda: "99.0")
    said, complete = run(tmp_path, FIRST, "x")
    assert "99.0" in said
    assert complete == "complete"


def test_a_job_that_cannot_run_replaces_no_results(tmp_path: Path) -> None:
    for _ in range(2):
        with pytest.raises(ValueError, match="half way"):
            run(tmp_path / "new", None, fails=True)
    assert names(tmp_path / "new") == ["job.json"]
    run(tmp_path / "o", FIRST, "x")
    assert run(tmp_path / "o", None, "never") == ["complete"]
    assert run(tmp_path / "o", FIRST, "never") == ["complete"]
    assert names(tmp_path) == ["new", "o"]
    assert names(tmp_path / "o") == ["job.json", "x"]
    # an earlier version, which knew no identity
    write_status(tmp_path / "o", JobStatus(0, (), "done"))
    assert run(tmp_path / "o", None, "never") == ["complete"]


def test_a_job_that_is_told_to_read_what_is_not_there_moves_nothing(tmp_path: Path) -> None:
    out = tmp_path / "o"
    labels = {"labels": str(tmp_path / "labels.json")}
    (tmp_path / "labels.json").write_text("[]")
    run(out, {"data": labels}, "x")
    mistyped = {"data": {"labels": str(tmp_path / "labls.json")}}
    with pytest.raises(UserError, match=r"^data\.labels=.*labls\.json: expected a file or folder"):
        run(out, mistyped, "y")
    assert names(tmp_path) == ["labels.json", "o"]
    assert run(out, {"data": labels})[-1] == "complete"


@pytest.mark.parametrize("files", [(), ("run.log",), ("x",)])
def test_a_job_that_failed_without_results_gives_up_its_place(
    tmp_path: Path, files: tuple[str, ...]
) -> None:
    out = tmp_path / "o"
    with pytest.raises(ValueError, match="half way"):
        run(out, OTHER, *files, fails=True)
    said = run(out, FIRST, "mine")
    assert ("o.old-1" in names(tmp_path)) is bool(said) is ("x" in files)
    assert "mine" in names(out)
    assert ("run.log" in names(out)) is ("run.log" in files)  # what it has said is kept


def test_a_job_says_where_its_own_results_were_moved(tmp_path: Path) -> None:
    out = tmp_path / "o[1]"
    run(out, FIRST, "x")
    run(out, OTHER, "y")
    (told,) = [one for one in run(out, FIRST, "x") if "very job" in one]
    assert told.startswith(f"{tmp_path}/o[1].old-1: it holds this very job (done)")
    assert names(tmp_path) == ["o[1]", "o[1].old-1", "o[1].old-2"]


def test_a_folder_with_a_running_job_below_is_not_moved(tmp_path: Path) -> None:
    run(tmp_path / "o", FIRST, "x")
    (tmp_path / "o/ended").mkdir()
    (tmp_path / "o/ended" / LOCK).touch()  # of a job that was killed
    with (
        owned(tmp_path / "o/deep/inner", OTHER, identity="1", say=print),
        pytest.raises(UserError, match="deep/inner"),
    ):
        run(tmp_path / "o", OTHER)
    assert names(tmp_path) == ["o"]
    run(tmp_path / "o", OTHER)
    assert names(tmp_path) == ["o", "o.old-1"]


@pytest.mark.parametrize("manifest", [False, True])
def test_a_result_elsewhere_that_was_removed_is_made_again(tmp_path: Path, manifest: bool) -> None:
    config = {**FIRST, "output_dir": f"{tmp_path}/records"}
    (tmp_path / "records").mkdir()
    for name in ("of_this_job", "another"):
        (tmp_path / "records" / name).touch()
    out = tmp_path / "o"
    if manifest:
        out.mkdir()
        (out / "manifest.json").write_text('{"outputs": {"of_this_job": {}}}')
        with recorded(out, config, identity=identity(config), number=0, overrides=()):
            pass
    else:
        run(out, config)
    (tmp_path / "records/another").unlink()
    assert (run(out, config) == ["complete"]) is manifest
    (tmp_path / "records/of_this_job").unlink()
    assert run(out, config) != ["complete"]


def test_files_that_are_no_jobs_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(UserError, match=r"thesis\.tex"):
        run(tmp_path, FIRST)
    assert names(tmp_path) == ["thesis.tex"]


@pytest.mark.parametrize("key", ["records", "checkpoint", "cache_dir"])
def test_what_the_job_reads_is_not_moved_away(tmp_path: Path, key: str) -> None:
    (tmp_path / "o/inner").mkdir(parents=True)
    run_config = {**OTHER, key: f"{tmp_path}/o/inner"}
    write_status(tmp_path / "o", JobStatus(0, (), "done"))
    with pytest.raises(UserError, match=f"{key}="):
        run(tmp_path / "o", run_config)
    assert names(tmp_path) == ["o"]


def test_a_folder_that_is_in_use_is_refused_until_its_process_ends(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from spinevl.jobs.owner import owned\n"
        "with owned(Path(sys.argv[1]), {'seed': 0}, identity='0', say=print):\n"
        "    print('mine', flush=True); time.sleep(60)"
    )
    job = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert job.stdout
    assert job.stdout.readline() == "mine\n"
    try:
        for config in (FIRST, OTHER):
            with pytest.raises(UserError, match="a job"):
                run(tmp_path, config)
    finally:
        job.kill()
        job.wait()
    assert names(tmp_path) == [LOCK]
    assert run(tmp_path, FIRST, "x") == []
    assert names(tmp_path) == ["job.json", "x"]


def test_jobs_of_one_second_get_folders_of_their_own(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: new_folder(tmp_path / "outputs/now"), range(8)))
    assert sorted(one.name for one in made) == ["now", *(f"now_{n}" for n in range(2, 9))]


LABELS = [
    {"id": f"{i:04d}", "qd": i % 3, "sl": i % 2, "zjppt": [0] * 5, "zyzg": [0] * 11}
    for i in range(6)
]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b"):
        (tmp_path / f"{name}.json").write_text(json.dumps(LABELS))
    return tmp_path


def evaluate(*words: str) -> int:
    return main(["evaluate", *words, "labels=a.json"])


def test_default_folders_of_two_jobs_differ(here: Path) -> None:
    for _ in range(3):  # fast enough to start in the same second now and then
        assert evaluate("answers=b.json") == 0
    assert len(list((here / "outputs/evaluate").iterdir())) == 3


def test_a_config_that_fails_touches_no_folder(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate("answers=b.json", "hydra.run.dir=o") == 0
    kept = {one: one.stat().st_mtime_ns for one in (here / "o").rglob("*")}
    assert evaluate("answers=nowhere", "missing=perhaps", "hydra.run.dir=o") == 1
    assert {one: one.stat().st_mtime_ns for one in (here / "o").rglob("*")} == kept
    assert names(here) == ["a.json", "b.json", "o"]
    assert evaluate("answers=a.json", "hydra.run.dir=o") == 0
    assert "o.old-1" in capsys.readouterr().err
    assert "answers=a.json" in (here / "o/.hydra/overrides.yaml").read_text()
    assert "answers=b.json" in (here / "o.old-1/.hydra/overrides.yaml").read_text()


class Killed(BaseException):
    """Passes what a job does at its end, as a kill does."""


@pytest.mark.parametrize("at", range(4))
def test_a_job_that_was_killed_at_its_beginning_starts_again(
    here: Path, at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved, moments = hydra_guard._save_config, iter(range(4))

    def killing(*given: Any) -> None:
        if next(moments) == at:
            raise Killed
        saved(*given)

    with monkeypatch.context() as patched:
        patched.setattr(hydra_guard, "_save_config", killing)
        if at < 3:  # Hydra saves three files; with the fourth nothing is killed
            with pytest.raises(Killed):
                evaluate("answers=b.json", "hydra.run.dir=o")
        else:
            assert evaluate("answers=b.json", "hydra.run.dir=o") == 0
    assert evaluate("answers=b.json", "hydra.run.dir=o") == 0
    assert names(here) == ["a.json", "b.json", "o"]
    assert len(names(here / "o/.hydra")) == 3


def test_a_users_empty_folder_stays(here: Path) -> None:
    (here / "empty").mkdir()
    for folder in ("empty", "new"):
        assert evaluate("answers=b.json", "missing=perhaps", f"hydra.run.dir={folder}") == 1
    assert names(here) == ["a.json", "b.json", "empty"]


def test_a_mistyped_sweep_leaves_the_results_of_the_right_one(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep = ("-m", "answers=a.json,b.json", "hydra.sweep.dir=m")
    assert evaluate(*sweep) == 0
    kept = {one: one.stat().st_mtime_ns for one in here.rglob("*.json")}
    assert evaluate(*sweep, "missing=perhaps") == 1
    assert "missing=perhaps" in capsys.readouterr().err
    assert {one: one.stat().st_mtime_ns for one in here.rglob("*.json")} == kept
    assert len((here / "m/leaderboard.csv").read_text().splitlines()) == 1 + 2


def test_a_sweep_into_the_same_folder_keeps_its_board(here: Path) -> None:
    for _ in range(2):
        assert evaluate("-m", "answers=a.json,b.json", "hydra.sweep.dir=m") == 0
    board = (here / "m/leaderboard.csv").read_text().splitlines()
    assert len(board) == 1 + 2
    assert not [one for one in (here / "m").iterdir() if "old" in one.name]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_is_one_line(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "locked").mkdir(mode=0o500)
    assert evaluate("answers=b.json", "hydra.run.dir=locked/o") == 1
    assert "locked/o" in capsys.readouterr().err


@pytest.mark.parametrize("mine", ['{"slurm": 1}', "no JSON"])
def test_another_programs_job_file_makes_no_folder_ours(tmp_path: Path, mine: str) -> None:
    (tmp_path / "o/.hydra").mkdir(parents=True)
    (tmp_path / "o/.hydra/hydra.yaml").touch()
    (tmp_path / "o/job.json").write_text(mine)
    (tmp_path / "o/thesis.tex").touch()
    with pytest.raises(UserError, match=r"thesis\.tex"):
        run(tmp_path / "o", FIRST)
    assert names(tmp_path / "o") == [".hydra", "job.json", "thesis.tex"]


def test_neither_a_link_nor_the_working_directory_is_moved_aside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(tmp_path / "o", FIRST, "x")
    (tmp_path / "link").symlink_to("o")
    with pytest.raises(UserError, match="link"):
        run(tmp_path / "link", OTHER)
    (tmp_path / "o/below").mkdir()
    for folder in ("o", "o/below"):
        monkeypatch.chdir(tmp_path / folder)
        with pytest.raises(UserError, match="working directory"):
            run(tmp_path / "o", OTHER)
    assert names(tmp_path / "o") == ["below", "job.json", "x"]


def test_a_file_in_place_of_the_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "o").touch()
    with pytest.raises(UserError, match=r"hydra\.run\.dir"):
        run(tmp_path / "o", FIRST)


def test_a_result_that_was_changed_later_makes_the_job_start_again(tmp_path: Path) -> None:
    run(tmp_path, FIRST, "answers.jsonl")
    assert run(tmp_path, FIRST) == ["complete"]
    (tmp_path / "answers.jsonl").write_text("cut")
    (said,) = run(tmp_path, FIRST, "answers.jsonl")
    assert "not complete" in said
    assert run(tmp_path, FIRST) == ["complete"]


STATE = ("resume/step-00000010/state", "metrics.csv", "train.json", ".predictions.dev.jsonl")


def cut_training(out: Path, *files: str) -> None:
    """A job that was killed, and what it left."""
    with pytest.raises(ValueError, match="half way"):
        run(out, FIRST, fails=True)
    for name in files:
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_text(name)


def files_in(out: Path) -> set[str]:
    return {str(one.relative_to(out)) for one in out.rglob("*") if one.is_file()}


def test_a_cut_training_goes_on_with_its_state_and_leaves_none_at_its_end(tmp_path: Path) -> None:
    cut_training(tmp_path, *STATE, "metrics.json")
    with owned(tmp_path, FIRST, identity=identity(FIRST, out=tmp_path), say=print):
        assert files_in(tmp_path) == {*STATE, "job.json", LOCK}
    (said,) = run(tmp_path, FIRST, "x")
    assert "goes on" in said
    assert files_in(tmp_path) == {"job.json", "x", *STATE[1:]}
    status = read_status(tmp_path)
    assert status
    assert "resume" not in status.results


def test_without_a_state_a_training_starts_again(tmp_path: Path) -> None:
    cut_training(tmp_path, "metrics.csv", "train.json", "checkpoint/config.json")
    (said,) = run(tmp_path, FIRST)
    assert "starts again" in said
    assert files_in(tmp_path) == {"job.json", "checkpoint/config.json"}


def test_a_job_that_never_resumes_starts_anew_and_is_the_same_job(tmp_path: Path) -> None:
    cut_training(tmp_path, *STATE)
    never = {**FIRST, "resume": "never"}
    (said,) = run(tmp_path, never, "x")
    assert "anew" in said
    assert files_in(tmp_path) == {"job.json", "x"}
    assert run(tmp_path, FIRST) == ["complete"]


def test_a_state_that_a_complete_job_has_left_is_removed(tmp_path: Path) -> None:
    """It was killed between its last two acts."""
    run(tmp_path, FIRST, "x")
    (tmp_path / "resume").mkdir()
    assert run(tmp_path, FIRST) == ["complete"]
    assert files_in(tmp_path) == {"job.json", "x"}
    assert not (tmp_path / "resume").exists()
