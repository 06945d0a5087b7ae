"""Sweeps: a folder a job, a leaderboard that grows, failures that stop nobody."""

from __future__ import annotations

import csv
import json
import os
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from spinevl.cli.job import clean_slate
from spinevl.cli.main import main
from spinevl.io.process import this_process
from spinevl.jobs.status import JobStatus, read_status, write_status
from spinevl.jobs.sweep import read_board, write_leaderboard
from spinevl.report.leaderboard.csv_files import csv_text, setting_table
from spinevl.report.leaderboard.markdown_page import markdown
from spinevl.report.leaderboard.picture import plot
from spinevl.report.leaderboard.rows import Spread
from spinevl.report.leaderboard.settings import Board
from spinevl.schema.score import Score
from spinevl.schema.task_score import Interval, TaskScore


def labels(shift: int, count: int = 8) -> list[dict[str, Any]]:
    return [
        {
            "id": f"{i:04d}",
            "qd": (i + shift) % 3,
            "sl": i % 2,
            "zjppt": [(i + k + shift) % 4 for k in range(5)],
            "zyzg": [(i * k) % 4 for k in range(11)],
        }
        for i in range(count)
    ]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name, shift, count in (("labels", 0, 8), ("good", 0, 8), ("bad", 1, 8), ("short", 0, 5)):
        (tmp_path / f"{name}.json").write_text(json.dumps(labels(shift, count)))
    return tmp_path


@pytest.mark.parametrize(
    "launcher", [[], ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]], ids=["basic", "joblib"]
)
def test_a_sweep_goes_on_after_a_failure_and_ranks_the_rest(
    here: Path, capfd: pytest.CaptureFixture[str], launcher: list[str]
) -> None:
    if launcher:
        pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    command = ["evaluate", "-m", "labels=labels.json", "answers=bad.json,short.json,good.json"]
    assert main([*command, *launcher, "hydra.sweep.dir=sweep"]) == 1
    if launcher:
        from joblib.externals.loky import get_reusable_executor

        get_reusable_executor().shutdown()  # its processes would keep this working directory
    out, err = capfd.readouterr()
    scores = [line for line in out.splitlines() if "this model" in line]
    assert len(scores) == 2
    assert {line[:3] for line in scores} == ({"#0 ", "#2 "} if launcher else {"thi"})
    assert "Traceback" not in err
    assert "spinevl: a job of the sweep failed, see sweep/leaderboard.md" in err

    rows = lines(here / "sweep")
    assert [row["rank"] for row in rows] == ["1", "2", ""]
    assert [row["setting"].rpartition("=")[2] for row in rows] == [
        "good.json", "bad.json", "short.json"
    ]  # fmt: skip
    assert [(row["done"], row["failed"]) for row in rows] == [("1", "0"), ("1", "0"), ("0", "1")]
    assert float(rows[0]["score"]) == 1.0
    assert "0005" in rows[2]["error"]
    jobs = lines(here / "sweep", "leaderboard_jobs.csv")
    assert [row["job"] for row in jobs] == ["2", "0", "1"]
    assert jobs[0]["folder"] == "2-answers-good.json"
    assert "**1 failed**: " in (here / "sweep" / "leaderboard.md").read_text()
    assert (here / "sweep" / "leaderboard.png").read_bytes().startswith(b"\x89PNG")
    assert r"\toprule" in (here / "sweep" / "leaderboard.tex").read_text()
    assert (here / "sweep" / jobs[2]["folder"] / ".hydra" / "config.yaml").is_file()


def lines(sweep: Path, name: str = "leaderboard.csv") -> list[dict[str, str]]:
    with (sweep / name).open(newline="") as file:
        return list(csv.DictReader(file))


def job(
    sweep: Path, number: int, overrides: list[str], *, metrics: Any = None, status: str = "done"
) -> Path:
    """A job folder as a job leaves it."""
    folder = sweep / f"{number}-job"
    write_status(folder, JobStatus(number, tuple(overrides), status, seconds=1.0))
    if metrics is not None:
        (folder / "metrics.json").write_text(json.dumps(metrics))
    return folder


def scored(value: float, *, complete: bool = True) -> dict[str, Any]:
    tasks = {
        "qd": TaskScore("f1", value, Interval(0, 1), levels={}),
        "positioning": TaskScore("mean_iou", 0.5),
    }
    if not complete:
        del tasks["positioning"]
    ci95 = Interval(value - 0.1, value + 0.1)
    score = Score(value, complete, ci95, tasks, n_patients=8, baselines={}, notes={})
    return score.to_json()


def names(board: Board) -> list[str]:
    return [" ".join(one.overrides) for one in board.settings]


def ranks(board: Board) -> list[int | None]:
    return [one.rank for one in board.settings]


def test_a_setting_is_a_row_over_its_seeds(tmp_path: Path) -> None:
    job(tmp_path, 0, ["sag_image=[6]", "++seed=0"], metrics=scored(0.4))
    job(tmp_path, 1, ["sag_image=[6]", "+seed=1"], metrics=scored(0.6))
    job(tmp_path, 2, ["sag_image=[5,6]", "seed=0"], metrics=scored(0.55))
    job(tmp_path, 3, ["sag_image=[5,6]", "seed=1"], status="running")
    job(tmp_path, 4, ["task=[qd]"], metrics=scored(0.9, complete=False))
    job(tmp_path, 5, ["a=1", "seed=9"], metrics="not an object")
    board = read_board(tmp_path)
    # a score over fewer tasks never outranks a full one
    assert names(board) == ["sag_image=[5,6]", "sag_image=[6]", "task=[qd]", "a=1"]
    assert ranks(board) == [1, 2, 3, None]
    # sample standard deviation of 0.4 and 0.6
    assert board.settings[1].value == Spread(0.5, pytest.approx(0.02**0.5), 2)
    assert board.settings[0].value == Spread(0.55, None, 1)
    assert [row.number for row in board.rows] == [2, 3, 0, 1, 4, 5]
    assert [row.repeat for row in board.rows[2:4]] == [("seed=0",), ("seed=1",)]
    text = markdown(board)
    first = "| 1 | `sag_image=[5,6]` | 0.550 (n=1) | 0.450 to 0.650 | 0.550 | 0.500 | 1 s |  |"
    assert f"{first} 1 done, 1 running |" in text
    assert "| 2 | `sag_image=[6]` | 0.500 ± 0.141 (n=2) |  | 0.500 | 0.500 |" in text
    assert "| 0.900 (partial, n=1) |" in text
    assert "| 1 | 1-job | `seed=1` | 0.600 | done | 1 s |  |" in text


def test_folds_are_repeats_too(tmp_path: Path) -> None:
    for number, dev in enumerate((0.25, 0.75)):
        trained(job(tmp_path, number, ["split=kfold", f"split.fold={number}"]), dev)
        trained(job(tmp_path, 2 + number, ["split=kfold", f"+split.seed={number}"]), dev)
    (setting,) = read_board(tmp_path).settings
    assert setting.overrides == ("split=kfold",)
    assert setting.value == Spread(0.5, pytest.approx((4 * 0.0625 / 3) ** 0.5), 4)


def test_equal_scores_share_a_rank_whatever_their_rounding(tmp_path: Path) -> None:
    values = [(0.1 + 0.2, 0.3), (0.3, 0.3), (0.3 + 1e-9, 0.3), (0.2, 0.2)]
    for number, pair in enumerate(values):
        for seed, dev in enumerate(pair):
            trained(job(tmp_path, 2 * number + seed, [f"a={number}", f"seed={seed}"]), dev)
    assert 0.1 + 0.2 != 0.3
    board = read_board(tmp_path)
    assert names(board) == ["a=2", "a=0", "a=1", "a=3"]
    assert ranks(board) == [1, 2, 2, 4]


def test_partial_scores_of_a_setting_are_not_averaged_with_full_ones(tmp_path: Path) -> None:
    job(tmp_path, 0, ["seed=0"], metrics=scored(0.5))
    job(tmp_path, 1, ["seed=1"], metrics=scored(0.9, complete=False))
    (setting,) = read_board(tmp_path).settings
    assert setting.scored == Spread(0.5, None, 1)
    assert not setting.partial


def test_the_same_job_in_two_folders_counts_once(tmp_path: Path) -> None:
    for number, identity in enumerate("aab"):
        folder = tmp_path / str(number)
        write_status(folder, JobStatus(number, ("seed=0",), "done", identity=identity))
        trained(folder, 0.5 + number)
    (setting,) = read_board(tmp_path).settings
    assert setting.value == Spread(1.5, pytest.approx(2**0.5), 2)


def test_overrides_that_all_settings_share_stand_on_top_once(tmp_path: Path) -> None:
    job(tmp_path, 0, ["data=phantom", "a=1", "seed=0"], metrics=scored(0.4))
    job(tmp_path, 1, ["data=phantom", "a=2", "seed=0"], metrics=scored(0.5))
    text = markdown(read_board(tmp_path))
    assert text.count("data=phantom") == 1
    assert "All with `data=phantom`." in text
    assert "| 1 | `a=2` | 0.500 (n=1) |" in text


def test_controls_that_differ_have_a_column_and_others_a_line(tmp_path: Path) -> None:
    for number, swapped in enumerate((0.125, 0.25)):
        metrics = scored(0.5)
        controls = {"swapped_images": swapped, "level_majority": 0.375}
        metrics["controls"] = {
            name: {"score": value, "paired": {}} for name, value in controls.items()
        }
        job(tmp_path, number, [f"a={number}"], metrics=metrics)
    text = markdown(read_board(tmp_path))
    assert "| swapped images |" in text
    assert "| 0.125 |" in text
    assert "level majority 0.375" in text
    assert "| level majority |" not in text


def test_a_board_of_one_setting_names_its_overrides_once(tmp_path: Path) -> None:
    for number in range(2):
        overrides = ["experiment=demo", "optim.lr.llm=1e-4", f"seed={number}"]
        job(tmp_path, number, overrides, metrics=scored(0.5))
    board = read_board(tmp_path)
    assert board.name(board.settings[0]) == "(the only setting)"
    text = markdown(board)
    assert text.count("experiment=demo") == 1
    assert "All with `experiment=demo` `optim.lr.llm=1e-4`." in text
    assert "| 1 | (the only setting) | 0.500 ± 0.000 (n=2) |" in text


def single(folder: Path, verb: str, words: list[str], *, metrics: Any = None, **files: str) -> Path:
    """The folder of a single job of a verb."""
    parts = {}
    for key, content in files.items():
        parts |= {key: f'"{key}.json"', f"the files of {key}": content}
    status = JobStatus(0, tuple(words), "done", seconds=1.0, verb=verb, parts=parts)
    write_status(folder, status)
    if metrics is not None:
        (folder / "metrics.json").write_text(json.dumps(metrics))
    return folder


def test_scores_of_other_answers_are_not_ranked_among_dev_scores(tmp_path: Path) -> None:
    words = ["checkpoint=outputs/a/checkpoint"]
    trained(single(tmp_path / "a", "run", [], metrics={**scored(0.3), "subset": "test"}), 0.5)
    trained(single(tmp_path / "b", "train", ["a=1"]), 0.4)
    single(tmp_path / "c", "evaluate", ["labels=t.json"], metrics=scored(0.9), labels="t")
    single(tmp_path / "d", "report", words, metrics={**scored(0.8), "subset": "dev"})
    single(tmp_path / "e", "predict", words)
    single(tmp_path / "f", "report", [*words], metrics={**scored(0.7), "subset": "dev"})
    board = read_board(tmp_path)
    assert [(board.name(one), one.rank) for one in board.settings] == [
        ("run", 1),
        ("train a=1", 2),
        ("evaluate labels=t.json", None),
        ("report checkpoint=outputs/a/checkpoint", None),
        ("predict checkpoint=outputs/a/checkpoint", None),
    ]
    assert [len(one.jobs) for one in board.settings] == [1, 1, 1, 2, 1]
    text = markdown(board)
    assert "| rank | setting | dev score | score | scored on |" in text
    assert "| 1 | `run` | 0.500 (n=1) | 0.300 (n=1) | test |" in text
    assert '|  | `evaluate` `labels=t.json` |  | 0.900 (n=1) | labels="labels.json" |' in text
    assert "Only trainings are ranked" in text
    found = {line["verb"]: line for line in csv.DictReader(
        csv_text(*setting_table(board)).splitlines())}  # fmt: skip
    assert (found["report"]["rank"], found["report"]["dev_score"]) == ("", "")


@pytest.mark.parametrize(("contents", "best"), [("ss", 1), ("st", None)])
def test_scores_on_other_labels_are_not_ranked(
    tmp_path: Path, contents: str, best: int | None
) -> None:
    for number, content in enumerate(contents):
        words = ["labels=labels.json", f"answers={number}.json"]
        metrics = scored(0.5 + number / 10)
        single(tmp_path / str(number), "evaluate", words, metrics=metrics, labels=content)
    board = read_board(tmp_path)
    assert board.settings[0].rank == best
    assert ("Nothing is ranked" in markdown(board)) is (best is None)


def test_too_few_patients_for_an_interval_are_told(tmp_path: Path) -> None:
    few = {**scored(0.5), "notes": {"ci95": "none, since 4 patients are fewer than 10"}}
    few.pop("ci95")
    job(tmp_path, 0, ["a=1"], metrics=few)
    assert "95 % intervals: none, since 4 patients are fewer than 10." in markdown(
        read_board(tmp_path)
    )


def test_a_failed_setting_says_why_and_a_job_that_left_nothing_is_missing(tmp_path: Path) -> None:
    folder = tmp_path / "0"
    write_status(folder, JobStatus(0, ("a=1",), "failed", error="no | such\nfile"))
    sweep = {"command": ["run"], "jobs": {"0": 0, "1": 1}}
    (tmp_path / "sweep.json").write_text(json.dumps(sweep))
    board = read_board(tmp_path)
    assert [row.status for row in board.rows] == ["failed", "missing"]
    assert names(board) == ["a=1"]
    text = markdown(board)
    assert r"**1 failed**: no \| such file |" in text
    assert "1 missing" in text


def test_jobs_that_read_other_contents_of_a_file_are_told(tmp_path: Path) -> None:
    for number, (path, content) in enumerate([("a", "1"), ("a", "1"), ("a", "2"), ("b", "3")]):
        folder = job(tmp_path, number, [f"seed={number}"], metrics=scored(0.5))
        status = read_status(folder)
        assert status is not None
        parts = {"data.labels": f'"{path}.json"', "the files of data.labels": content}
        write_status(folder, replace(status, parts=parts))
    (line,) = [one for one in markdown(read_board(tmp_path)).splitlines() if "same data" in one]
    assert "jobs 0, 1 and job 2 found" in line
    assert '`data.labels="a.json"`' in line
    assert "b.json" not in line  # which another override may name


def test_an_error_that_says_no_more_than_the_status_is_left_out(tmp_path: Path) -> None:
    write_status(tmp_path / "0", JobStatus(0, ("a=1",), "interrupted", error="interrupted"))
    text = markdown(read_board(tmp_path))
    assert text.count("| 1 interrupted |") == 1
    assert "interrupted: interrupted" not in text


def test_a_job_whose_process_is_gone_is_interrupted(tmp_path: Path) -> None:
    me = this_process()
    for number, pid in enumerate((me.pid, 2**22 + 1)):
        status = JobStatus(number, (f"a={number}",), host=me.host, pid=pid, start=me.start)
        write_status(tmp_path / str(number), status)
    board = read_board(tmp_path)
    assert [one.statuses for one in board.settings] == [{"running": 1}, {"interrupted": 1}]
    assert "0 done, 0 failed, 1 running, 1 interrupted" in markdown(board)
    line = setting_table(board)
    assert dict(zip(line[0], line[1][1], strict=True))["interrupted"] == 1


def test_speed_and_time_are_means_of_jobs_that_are_done(tmp_path: Path) -> None:
    for number, (seconds, speed) in enumerate([(60.0, 100), (120.0, 300)]):
        folder = tmp_path / str(number)
        write_status(folder, JobStatus(number, (f"seed={number}",), "done", seconds=seconds))
        (folder / "train.json").write_text(json.dumps({"tokens_per_second": speed}))
    folder = tmp_path / "2"
    write_status(folder, JobStatus(2, ("seed=2",), "failed", seconds=9000.0))
    (folder / "train.json").write_text('{"tokens_per_second": 9}')
    assert "| 1.5 min | 200 | 2 done, **1 failed** |" in markdown(read_board(tmp_path))


def trained(folder: Path, dev: Any, *, measure: str = "dev score") -> None:
    (folder / "train.json").write_text(json.dumps({"dev_score": dev, "dev_measure": measure}))


def test_jobs_are_ranked_by_dev_with_test_beside_it(tmp_path: Path) -> None:
    # the best on test is the worst on dev
    for number, (seed, dev, test) in enumerate(
        [(0, 0.5, 0.9), (1, 0.5, 0.2), (0, 0.75, 0.25), (1, 0.25, 0.95)]
    ):
        overrides = [f"sag_image=[{6 + number // 2}]", f"seed={seed}"]
        metrics = {**scored(test), "subset": "test"}
        trained(job(tmp_path, number, overrides, metrics=metrics), dev)
    board = read_board(tmp_path)
    # both are 0.5 on dev; the first was started first
    assert ranks(board) == [1, 1]
    assert board.settings[0].value == Spread(0.5, 0, 2)
    assert board.settings[1].value == Spread(0.5, pytest.approx(0.125**0.5), 2)
    assert board.settings[1].scored == Spread(0.6, pytest.approx(0.245**0.5), 2)
    text = markdown(board)
    assert "| rank | setting | dev score | test score | qd |" in text
    assert "| 1 | `sag_image=[7]` | 0.500 ± 0.354 (n=2) | 0.600 ± 0.495 (n=2) |" in text
    line = next(csv.DictReader(csv_text(*setting_table(board)).splitlines()))
    assert (line["dev_score"], line["score"]) == ("0.5", "0.55")
    assert plot(board).startswith(b"\x89PNG")


def test_a_test_score_without_a_dev_score_is_shown_and_not_ranked(tmp_path: Path) -> None:
    for number, dev in enumerate((None, "high", True, 0.25)):
        metrics = {**scored(0.9), "subset": "test"}
        trained(job(tmp_path, number, [f"a={number}"], metrics=metrics), dev)
    board = read_board(tmp_path)
    assert names(board) == ["a=3", "a=0", "a=1", "a=2"]
    assert ranks(board) == [1, None, None, None]
    assert "|  | `a=0` |  | 0.900 (n=1) |" in markdown(board)
    assert "subset=dev" in markdown(board)
    assert "subset=dev" not in markdown(Board.of(board.rows[:1]))
    assert "Ranked by" in markdown(board)
    assert "Ranked by" not in markdown(Board.of(board.rows[1:]))


def test_numbers_without_a_sum_have_no_mean_and_hide_no_other(tmp_path: Path) -> None:
    for number, dev in enumerate((1e308, 1e308, 0.5)):
        trained(job(tmp_path, number, [f"a={number // 2}", f"seed={number}"]), dev)
    assert names(write_leaderboard(tmp_path)) == ["a=1", "a=0"]
    assert ranks(read_board(tmp_path)) == [1, None]


def test_trainings_alone_are_ranked_too(tmp_path: Path) -> None:
    trained(job(tmp_path, 0, ["task=[qd]"]), 0.9, measure="partial dev score")
    trained(job(tmp_path, 1, []), 0.5)
    trained(job(tmp_path, 2, ["data=conversations"]), -1.5, measure="dev log-probability a token")
    board = read_board(tmp_path)
    assert [row.number for row in board.rows] == [1, 2, 0]
    assert plot(board).startswith(b"\x89PNG")


@pytest.mark.parametrize("file", ["job.json", "metrics.json"])
@pytest.mark.parametrize("text", ["", "[]", '{"number": "x"}', "[" * 100_000, "\x00"])
def test_a_job_that_cannot_be_read_hides_no_other(tmp_path: Path, file: str, text: str) -> None:
    job(tmp_path, 0, ["a=1"], metrics=scored(0.5))
    (job(tmp_path, 1, ["a=2"], metrics=scored(0.9)) / file).write_text(text)
    write_leaderboard(tmp_path)
    assert [row.status for row in read_board(tmp_path).rows] == ["done", "unreadable"]
    board = (tmp_path / "leaderboard.md").read_text()
    assert f"**unreadable** |  | {file}" in board.replace("| 1 s |", "|  |")
    assert "1 done" in board
    assert "1 unreadable" in board


def test_a_board_of_partial_scores_says_so(tmp_path: Path) -> None:
    job(tmp_path, 0, [], metrics=scored(0.5, complete=False))
    write_leaderboard(tmp_path)
    assert "| rank | setting | partial score |" in (tmp_path / "leaderboard.md").read_text()
    (line,) = lines(tmp_path)
    assert (line["score"], line["partial"]) == ("0.5", "True")
    (line,) = lines(tmp_path, "leaderboard_jobs.csv")
    assert (line["score"], line["partial_score"]) == ("", "0.5")


def test_a_status_is_read_as_written_and_what_is_none_is_none(tmp_path: Path) -> None:
    status = JobStatus(3, ("seed=1", "name='ä'"), "failed", error="no such file", seconds=0.5)
    write_status(tmp_path, status)
    assert read_status(tmp_path) == status
    assert list(json.loads((tmp_path / "job.json").read_text()))[:5] == [
        "number", "overrides", "status", "error", "seconds"
    ]  # fmt: skip
    for text in ("", "[]", "{}", '{"overrides": []}', '{"number": 0, "overrides": 3}'):
        (tmp_path / "job.json").write_text(text)
        assert read_status(tmp_path) is None


def test_a_job_leaves_nothing_behind(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    before = dict(os.environ), Path.cwd(), random.getstate()
    with clean_slate():
        os.environ["PL_GLOBAL_SEED"] = "7"
        os.chdir(tmp_path)
        random.seed(1)
        torch.set_default_dtype(torch.float64)
        torch.use_deterministic_algorithms(True)
        torch.set_grad_enabled(False)
    assert (dict(os.environ), Path.cwd(), random.getstate()) == before
    assert torch.get_default_dtype() == torch.float32
    assert not torch.are_deterministic_algorithms_enabled()
    assert torch.is_grad_enabled()
