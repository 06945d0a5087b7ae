"""Answers of a checkpoint for the dev or test patients."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from spinevl.evaluation.join import answers_of, write_answers, write_predictions
from spinevl.evaluation.metrics import combine
from spinevl.schema.errors import UserError
from spinevl.schema.prediction import Prediction
from spinevl.schema.record import Record
from spinevl.sources.conversations import ConversationSource
from spinevl.stages.answer import answer_conversations
from spinevl.stages.prepare import Study, conversations, load_study, ready_model

log = logging.getLogger(__name__)


def main(cfg: DictConfig, *, out: Path) -> None:
    """Predict; writes ``predictions.jsonl`` and, with all graded tasks, ``answers.json``."""
    if not cfg.checkpoint:
        raise UserError("checkpoint is not set: give the checkpoint/ folder of a training")
    from spinevl.checkpoints.format import read_config
    from spinevl.models.source import checkpoint_folder

    checkpoint = checkpoint_folder(cfg.checkpoint)
    stored = read_config(checkpoint).get("study") or {}
    if source := conversations(cfg, stored):
        _same_window(source, stored)
        return answer_conversations(cfg, checkpoint, source, out=out)
    subset = str(cfg.subset)
    study = load_study(cfg, {subset}, stored=stored)
    predictor = load_predictor(cfg, checkpoint, study)
    predictions = predictor.predict(study.records(subset))
    write_outputs(study, subset, predictions, out=out)
    return None


def _same_window(source: ConversationSource, stored: Mapping[str, Any]) -> None:
    """Refuse volumes windowed otherwise than those that the checkpoint was trained on."""
    data = stored.get("data") or {}
    if "window" not in data:
        return
    trained = None if data["window"] is None else tuple(map(float, data["window"]))
    if source.window != trained:
        told = "null" if trained is None else f"[{trained[0]:g},{trained[1]:g}]"
        raise UserError(
            f"data.window: the checkpoint was trained with {told}; add 'data.window={told}'"
        )


def load_predictor(cfg: DictConfig, checkpoint: Path, study: Study) -> Any:
    """The checkpoint's model, ready to answer the study's questions on the device that is there."""
    from spinevl.inference.predictor import Predictor

    model, cache = ready_model(cfg, checkpoint)
    return Predictor(
        model,
        tasks=study.tasks,
        mode=str(cfg.predict.mode),  # type: ignore[arg-type]
        batch_patients=cfg.predict.batch_size,
        packing=str(cfg.predict.packing),  # type: ignore[arg-type]
        max_new_tokens=cfg.predict.max_new_tokens or 48,
        repetition_penalty=cfg.predict.repetition_penalty,
        cache=cache,
    )


def write_outputs(
    study: Study, subset: str, predictions: Sequence[Prediction], *, out: Path
) -> None:
    """``predictions.jsonl``, and ``answers.json`` where all graded tasks are answered."""
    write_predictions(out / "predictions.jsonl", predictions)
    closed = {name: task for name, task in study.tasks.items() if task.closed}
    complete = bool(closed) and combine(dict.fromkeys(closed, 0.0), closed)[1]
    if not complete:
        asked = ", ".join(study.tasks)
        log.info("no answers.json: a submission needs all graded tasks, not %s alone", asked)
        return
    official = {name: task for name, task in closed.items() if task.weight > 0}
    ids = [patient.id for patient in study.patients(subset)]
    answers = answers_of(predictions, official)
    write_answers(out / "answers.json", ids=ids, answers=answers, tasks=official)
    log.info("answers for %d patients in %s", len(ids), out / "answers.json")


def swapped(records: Sequence[Record], order: Sequence[str]) -> list[Record]:
    """The same questions shown the images of the next patient of ``order``."""
    from dataclasses import replace

    following = dict(zip(order, [*order[1:], *order[:1]], strict=True))
    result = []
    for record in records:
        images = tuple(
            str(path.parents[2] / following[record.id] / path.parent.name / path.name)
            for path in map(Path, record.images)
        )
        result.append(replace(record, images=images))
    return result
