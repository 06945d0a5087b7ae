"""What a whole run tells its loggers, read back from the files of an offline run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from spinevl.cli.main import main

SMALL = [
    *("data.n_train=8", "data.n_dev=4", "data.n_test=4", "task=[qd,zjppt]", "sag_image=[5,6]"),
    *("trainer.max_epochs=2", "trainer.progress_bar=false", "trainer.batch_patients=4"),
    *("encoder.widths=[8,8,16]", "encoder.dim=16", "llm.width=32"),
    "logger=[wandb,tensorboard,csv]",
]


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that was logged without a key and without a network."""
    pytest.importorskip("wandb")
    pytest.importorskip("tensorboard")
    folder = tmp_path_factory.mktemp("logged")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("WANDB_API_KEY", "WANDB_MODE", "NETRC", "WANDB_BASE_URL"):
            patch.delenv(name, raising=False)
        patch.setenv("HOME", str(folder))
        patch.setenv("WANDB_SILENT", "true")
        words = [*SMALL, f"cache_dir={folder}/cache", f"hydra.run.dir={folder}/out"]
        assert main(["run", *words]) == 0
    return folder / "out"


def test_wandb_has_every_value(out: Path, read_run: Any) -> None:
    run = read_run(out)
    assert run.exit_code == 0
    assert run.job_type == "run"
    curve = set().union(*run.history)
    assert {"loss", "loss/answer", "loss/auxiliary", "grad_norm", "tokens_per_second"} <= curve
    assert {"padding_share", "memory_bytes", "dev/score", "dev/qd/f1", "dev/zjppt/f1"} <= curve
    assert {"lr/encoder", "lr/connector", "lr/llm", "lr/heads"} <= curve
    for task in ("qd", "zjppt"):
        assert {f"loss/answer/{task}", f"loss/auxiliary/{task}"} <= curve
    training = json.loads((out / "train.json").read_text())
    scores = run.values("dev/score")
    assert scores == pytest.approx([value for _, value in training["dev_history"]])
    assert all(value > 1e6 for value in run.values("memory_bytes"))

    metrics = json.loads((out / "metrics.json").read_text())
    (last,) = [row for row in run.history if "predictions" in row]
    assert last["test/partial_score"] == pytest.approx(metrics["partial_score"])
    for name, told in metrics["controls"].items():
        assert last[f"controls/{name}/zjppt/f1"] == pytest.approx(told["zjppt"]["f1"])
        delta = told["paired"]["zjppt"]["delta"]
        assert last[f"controls/{name}/zjppt/difference"] == pytest.approx(delta)
    for task in ("qd", "zjppt"):
        assert last[f"test/{task}/f1"] == pytest.approx(metrics[task]["f1"])
        counts = [row[2] for row in run.table(f"confusion/{task}")["data"]]
        assert counts == [count for row in metrics[task]["confusion"] for count in row]
        bins = run.table(f"reliability/{task}")["data"]
        assert [row[4] for row in bins] == [b["count"] for b in metrics[task]["calibration_bins"]]
        for figure in (f"confusion/{task}_figure", f"reliability/{task}_figure"):
            assert (run.file.parent / "files" / last[figure]["path"]).stat().st_size > 1000
    assert run.config["data_fingerprint"]
    assert run.config["versions"]["torch"]
    assert run.config["sag_image"] == [5, 6]
    checkpoint = next(one for one in run.artifacts if one.type == "model")
    (entry,) = checkpoint.manifest.contents
    assert entry.ref.startswith("spinevl://")


def test_wandb_gets_every_answer_and_no_patient(out: Path, read_run: Any) -> None:
    run = read_run(out)
    lines = [json.loads(line) for line in (out / "predictions.jsonl").open()]
    table = run.table("predictions")
    assert len(table["data"]) == len(lines)
    rows = [dict(zip(table["columns"], row, strict=True)) for row in table["data"]]
    assert [row["answer"] for row in rows] == [line["text"] for line in lines]
    assert [row["correct"] for row in rows] == [line["correct"] for line in lines]
    chances = [json.loads(row["probabilities"]) for row in rows]
    assert chances == [line["probabilities"] for line in lines]
    assert all(row["truth"] for row in rows)
    hashed = {line["id"]: row["patient"] for line, row in zip(lines, rows, strict=True)}
    assert len(set(hashed.values())) == 4
    # neither the patients nor the folders of this machine are in any file that W&B would send
    sent = [run.file, *(file for file in (run.file.parent / "files").rglob("*") if file.is_file())]
    assert any(file.suffix == ".html" for file in sent)
    for file in sent:
        content = file.read_bytes()
        for private in (*hashed, str(out), str(out.parent / "cache"), str(Path.cwd())):
            assert private.encode() not in content, (file, private)


def test_tensorboard_has_the_same_values(out: Path, read_run: Any) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = accumulator.EventAccumulator(str(out / "tensorboard"))
    events.Reload()
    tags = events.Tags()
    told = {key for row in read_run(out).history for key, one in row.items()
            if isinstance(one, int | float)}  # fmt: skip
    assert set(tags["scalars"]) == told - {"trainer/global_step"}
    assert {"confusion/qd", "confusion/zjppt", "reliability/qd"} <= set(tags["images"])
    assert "_hparams_/session_start_info" in events.summary_metadata
