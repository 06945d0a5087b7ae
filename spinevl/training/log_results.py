"""What a job found, told to its loggers at its end: scores, matrices, answers, the checkpoint."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spinevl.config.options import WandbOptions
from spinevl.data.examples import pictures
from spinevl.data.images import ImageStore
from spinevl.data.study import PatientStudy
from spinevl.evaluation.join import with_truth
from spinevl.io.files import made_folder
from spinevl.report.figures import confusion_figure, reliability_figure
from spinevl.report.metrics_file import CURVE_FILE, read_training
from spinevl.report.page import write_report
from spinevl.schema.box import Box
from spinevl.schema.prediction import Prediction
from spinevl.schema.score import AnswerScore, Score
from spinevl.schema.task import Task
from spinevl.training.loggers import TENSORBOARD, private_names
from spinevl.training.private import Names
from spinevl.training.spec import TrainSpec
from spinevl.training.wandb_run import STEP, start_run

_PICTURES = 12  # patients of whom images are sent
_BIN = ("low", "high", "probability", "frequency", "count")
_ANSWER = ("patient", "task", "level", "truth", "answer", "probabilities", "correct")


@dataclass(frozen=True)
class Results:
    """What a job found about the patients of ``subset``, and what it was made with."""

    study: PatientStudy
    subset: str
    score: Score
    predictions: Sequence[Prediction]
    provenance: Mapping[str, Any]
    fingerprint: Mapping[str, Any]


def log_results(spec: TrainSpec, results: Results, *, out: Path) -> None:
    """Tell the loggers of a training; a run of W&B that has ended, or that another process had, is
    gone on with.

    Args:
        spec: the training.
        results: what was found.
        out: the job's folder.
    """
    options = spec.logger
    training = read_training(out)
    if options.tensorboard:
        _to_tensorboard(spec, results, out, step=training.get("steps", 0))
    if options.wandb:
        import wandb

        names = private_names(options, spec.study.cache_folder)
        kept = (training.get("logger") or {}).get("wandb")
        run = wandb.run or start_run(
            options.wandb, out=out, config=spec.config, names=names, run=kept
        )
        _to_wandb(run, options.wandb, results, names, out=out, training=training)


def scalars(score: Score) -> dict[str, float]:
    """``test/qd/f1``, ``test/score``, ``controls/majority/score``...: every number of a score."""
    at = score.subset or "test"
    found = dict(_numbers(score, at))
    for name, one in score.baselines.items():
        found |= _numbers(one, f"controls/{name}")
        for key, pair in one.paired.items():
            found[f"controls/{name}/{key}/difference"] = pair.delta
            if pair.ci95:
                found[f"controls/{name}/{key}/difference_low"] = pair.ci95.low
                found[f"controls/{name}/{key}/difference_high"] = pair.ci95.high
    return found


def _numbers(score: AnswerScore, at: str) -> Iterator[tuple[str, float]]:
    told: list[tuple[str, float | None]] = []
    for key, value, ci95, one in (
        (score.key, score.value, score.ci95, None),
        *((f"{name}/{one.metric}", one.value, one.ci95, one) for name, one in score.tasks.items()),
    ):
        told.append((key, value))
        told += [(f"{key}_low", ci95.low), (f"{key}_high", ci95.high)] if ci95 else []
        task = key.partition("/")[0]
        more = ("accuracy", "balanced_accuracy", "quadratic_kappa", "calibration_error", "log_loss")
        told += [(f"{task}/{name}", getattr(one, name)) for name in (*more, "unparsed") if one]
    return ((f"{at}/{key}", float(value)) for key, value in told if value is not None)


def _figures(results: Results) -> Iterator[tuple[str, Any]]:
    for name, task, one in _closed(results):
        yield f"confusion/{name}", confusion_figure(one, task)
        if one.calibration_bins:
            yield f"reliability/{name}", reliability_figure(one, task)


def _closed(results: Results) -> Iterator[tuple[str, Task, Any]]:
    for name, one in results.score.tasks.items():
        if one.confusion:
            yield name, results.study.tasks[name], one


def _to_tensorboard(spec: TrainSpec, results: Results, out: Path, *, step: int) -> None:
    from torch.utils.tensorboard.writer import SummaryWriter

    options: Any = spec.logger.tensorboard
    save_dir = options.save_dir
    folder = made_folder(save_dir, "logger.tensorboard.save_dir") if save_dir else out
    with SummaryWriter(str(folder / TENSORBOARD / (options.name or ""))) as writer:
        for name, value in scalars(results.score).items():
            writer.add_scalar(name, value, step)
        for name, figure in _figures(results):
            writer.add_figure(name, figure, step)


def _to_wandb(
    run: Any,
    options: WandbOptions,
    results: Results,
    names: Names,
    *,
    out: Path,
    training: Mapping[str, Any],
) -> None:
    import wandb

    told = {key: value for key, value in results.provenance.items() if key != "config"}
    run.config.update(
        {**told, "data_fingerprint": _digest(results.fingerprint)}, allow_val_change=True
    )
    values: dict[str, Any] = dict(scalars(results.score))
    for name, _, one in _closed(results):
        answers = [each.answer or str(each.label) for each in one.classes]
        counts = [
            [truth, answer, count]
            for truth, row in zip(answers, one.confusion, strict=True)
            for answer, count in zip(answers, row, strict=True)
        ]
        values[f"confusion/{name}"] = wandb.Table(columns=["truth", "answer", "count"], data=counts)
        bins = [[getattr(each, key) for key in _BIN] for each in one.calibration_bins]
        if bins:
            values[f"reliability/{name}"] = wandb.Table(columns=list(_BIN), data=bins)
    for name, figure in _figures(results):
        values[f"{name}_figure"] = wandb.Image(figure)
    joined = with_truth(
        results.predictions, results.study.patients(results.subset), results.study.tasks
    )
    rows = [_answer(one, results.study.tasks[one.task], names) for one in joined]
    values["predictions"] = wandb.Table(columns=list(_ANSWER), data=rows)
    if options.images:
        values["images"] = list(_images(results, names))
    values["report"] = wandb.Html(_page(options, results, names, out=out))
    run.log({**values, STEP: training.get("steps", 0)})
    run.log_artifact(_checkpoint(run, out / "checkpoint", names, options, training))


def _digest(fingerprint: Mapping[str, Any]) -> str:
    text = json.dumps(fingerprint, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _answer(one: Prediction, task: Task, names: Names) -> list[Any]:
    truth: Any = one.truth
    if isinstance(truth, Box):
        truth = str(truth.as_list())
    elif truth is not None and truth < len(task.choices):
        truth = task.choices[truth]
    probabilities = json.dumps(one.to_json()["probabilities"]) if one.probabilities else None
    answer = one.text if one.box is None else str(one.box.as_list())
    return [names.of(one.id), one.task, one.object, truth, answer, probabilities, one.correct]


def _images(results: Results, names: Names) -> Iterator[Any]:
    import wandb

    load = ImageStore(results.study.decode).load
    shown = pictures(results.study.examples(results.subset))
    for patient, images in list(shown.items())[:_PICTURES]:
        if images and images[0].plane:
            yield wandb.Image(load(images[0]), caption=names.of(patient))


def _page(options: WandbOptions, results: Results, names: Names, *, out: Path) -> str:
    """The report; without its gallery where ids or images of patients may not be sent."""
    if options.patients and options.images:
        return (out / "report.html").read_text("utf-8")
    import yaml

    told = {key: value for key, value in results.provenance.items() if key != "config"}
    config = names.config(results.provenance["config"])
    with tempfile.TemporaryDirectory() as folder:
        write_report(
            Path(folder),
            score=results.score,
            predictions=[],
            tasks=results.study.tasks,
            pictures={},
            load=ImageStore(results.study.decode).load,
            config=yaml.safe_dump(config, allow_unicode=True, sort_keys=False),
            provenance=told,
            fingerprint={"sha256": _digest(results.fingerprint)},
            cohort=results.study.cohort.name,
            curve=out / CURVE_FILE,
        )
        return (Path(folder) / "report.html").read_text("utf-8")


def _checkpoint(
    run: Any, folder: Path, names: Names, options: WandbOptions, training: Mapping[str, Any]
) -> Any:
    """The checkpoint by reference: it stays where it is."""
    import wandb

    told = {key: training.get(key) for key in ("dev_score", "dev_measure", "dev_score_step")}
    artifact = wandb.Artifact(f"checkpoint-{run.id}", type="model", metadata=told)
    path = str(folder.absolute())
    if options.patients:
        artifact.add_reference(f"file://{path}", checksum=False)
    else:
        with contextlib.redirect_stderr(io.StringIO()):  # W&B says that it cannot read the place
            place = f"spinevl://{names.of(path)}/checkpoint"
            artifact.add_reference(place, name="checkpoint", checksum=False)
    return artifact
