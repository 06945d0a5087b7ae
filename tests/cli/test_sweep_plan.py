"""All jobs of a sweep are composed and checked before the first one starts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from spinevl.cli.main import main
from spinevl.jobs.sweep_folder import read_sweep


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    records = [
        {"id": f"{i:04d}", "qd": i % 3, "sl": i % 2, "zjppt": [0] * 5, "zyzg": [0] * 11}
        for i in range(4)
    ]
    for name in "abc":
        (tmp_path / f"{name}.json").write_text(json.dumps(records))
    return tmp_path


def sweep(*words: str) -> int:
    return main(["evaluate", "-m", "labels=a.json", *words])


JOBLIB = ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
SUBMITIT = ("hydra/launcher=submitit_local",)


@pytest.mark.parametrize("launcher", [(), JOBLIB, SUBMITIT], ids=["basic", "joblib", "submitit"])
@pytest.mark.parametrize("folder", [(), ("hydra.sweep.dir=s",)], ids=["default", "given"])
def test_a_mistyped_value_of_one_job_starts_none(
    here: Path,
    capfd: pytest.CaptureFixture[str],
    launcher: tuple[str, ...],
    folder: tuple[str, ...],
) -> None:
    if launcher:
        pytest.importorskip(
            f"hydra_plugins.hydra_{launcher[0].split('=')[1].split('_')[0]}_launcher"
        )
    words = ("answers=a.json,b.json,c.json", "missing=error,perhaps", *folder)
    before = sorted(here.rglob("*"))
    assert sweep(*words, *launcher) == 1
    out, err = capfd.readouterr()
    assert "this model" not in out
    lines = err.splitlines()
    assert len(lines) == 3
    for number, line in zip((1, 3, 5), lines, strict=True):
        name = f"answers={'abc'[number // 2]}.json missing=perhaps"
        assert line.startswith(f"spinevl: job {number} ({name}): missing=perhaps")
    assert sorted(here.rglob("*")) == before


@pytest.mark.parametrize(
    ("words", "lines"),
    [
        # of an option that does not exist, and of a value of the wrong type, both in job 3
        (
            ("task=[qd],[qt]", "side_px=1,x"),
            [
                "job 1 (task=[qd] side_px=x): side_px=x",
                "job 2 (task=[qt] side_px=1): task=qt",
                "job 3 (task=[qt] side_px=x): task=qt.*; side_px=x",
            ],
        ),
        # a file that is not there
        (("answers=a.json,d.json",), [r"job 1 \(answers=d\.json\): answers=d\.json"]),
        # wrong in every job: told once, without a job
        (("answers=a.json,b.json", "boxes=none.json"), [r"boxes=none\.json"]),
        (("mising=error,upstream",), ["unknown key 'mising'; did you mean missing"]),
        (("hydra.sweep.subdir=x", "answers=a.json,b.json"), [r"job 1 .*subdir.*job 0 for job 1"]),
        (("side_px=interval(1,2)",), [r".*INTERVAL"]),
    ],
)
def test_what_is_wrong_is_a_line_for_each_job(
    here: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], lines: list[str]
) -> None:
    import re

    assert sweep(*words, "hydra.sweep.dir=s") == 1
    found = capsys.readouterr().err.splitlines()
    assert len(found) == len(lines)
    for expected, line in zip(lines, found, strict=True):
        pattern = expected if "\\" in expected or ".*" in expected else re.escape(expected)
        pattern = pattern.replace("(task=[qt] side_px=x)", re.escape("(task=[qt] side_px=x)"))
        assert re.match(f"spinevl: {pattern}", line), line
    assert not (here / "s").exists()


def test_a_slice_that_the_data_do_not_have_starts_no_job(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("data=phantom", "sag_image=[5],[6],[5,8]", "hydra.sweep.dir=s")
    assert main(["build", "-m", *words]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("spinevl: job 2 (sag_image=[5,8]): sag_image has no slice 8")
    assert not (here / "s").exists()


def test_values_of_a_file_are_checked_too(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """``hydra.sweeper.params`` of an experiment say what a sweep goes over."""
    (here / "conf/experiment").mkdir(parents=True)
    text = "# @package _global_\nhydra:\n  sweeper:\n    params:\n      side_px: 5,0,7\n"
    (here / "conf/experiment/sides.yaml").write_text(text)
    words = ("--config-dir=conf", "+experiment=sides", "answers=a.json", "hydra.sweep.dir=s")
    assert sweep(*words) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("spinevl: job 1 (side_px=0): side_px=0")


def test_jobs_that_have_not_begun_are_known_from_the_start(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from spinevl.stages import evaluate as stage

    def stopped(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(stage, "main", stopped)
    assert sweep("answers=a.json,b.json,c.json", "hydra.sweep.dir=s") != 0
    told = read_sweep(here / "s")
    assert told
    assert told.planned == [["labels=a.json", f"answers={name}.json"] for name in "abc"]
    assert list(told.jobs.values()) == [0]
    capsys.readouterr()
    assert main(["leaderboard", "dir=s"]) == 0
    out = capsys.readouterr().out
    assert "1 interrupted, 2 not begun" in out
    assert "| `answers=b.json` |" in out
    assert "| 2 |  |  |  | not begun |" in out
    monkeypatch.undo()
    monkeypatch.chdir(here)
    assert sweep("answers=a.json,b.json,c.json", "hydra.sweep.dir=s") == 0
    assert "not begun" not in (here / "s/leaderboard.md").read_text()
    assert "3 done" in (here / "s/leaderboard.md").read_text()
