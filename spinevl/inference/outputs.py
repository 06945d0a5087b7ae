"""Answer a study's examples, and write what the answers make."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path

from spinevl.build.trust import NOTHING, Trust
from spinevl.data.study import ConversationStudy, PatientStudy
from spinevl.evaluation.answer_files import (
    DEV_PREDICTIONS_FILE,
    PREDICTIONS_FILE,
    unparsed_answers,
    write_predictions,
    write_submission,
)
from spinevl.evaluation.join import with_truth
from spinevl.evaluation.metrics import combine
from spinevl.inference.answering import answer
from spinevl.inference.predictor import predictions
from spinevl.inference.spec import PredictSpec, Request
from spinevl.io.files import write_text_atomic
from spinevl.schema.prediction import Prediction

log = logging.getLogger(__name__)


def answer_patients(
    spec: PredictSpec,
    requests: Sequence[Request],
    study: PatientStudy,
    *,
    out: Path,
    trust: Trust = NOTHING,
) -> dict[Request, list[Prediction]]:
    """The predictions for the patients of each request; slices asked apart are merged.

    The answers of a job that was killed are kept in its folder until write_outputs.
    """
    asked = {request: request.examples(study) for request in requests}
    answers = answer(spec, asked, study, out=out, trust=trust)
    return {request: predictions(asked[request], answers[request]) for request in requests}


def answer_conversations(
    spec: PredictSpec, subset: str, study: ConversationStudy, *, out: Path, trust: Trust = NOTHING
) -> None:
    """Answer the last question of every conversation of ``data.SUBSET``.

    Each batch is added to ``answers.jsonl`` as it is done; ``conversations.json``, in MedM-VL's
    format, follows when all are.
    """
    pairs = study.source.read(subset, answered=False)
    request = Request(subset)
    asked = {request: [example for _, example in pairs]}
    answers = answer(spec, asked, study, out=out, trust=trust)[request]
    answered = []
    for (record, example), one in zip(pairs, answers, strict=True):
        turns = [
            {"from": role, "value": text}
            for pair in one.rounds
            for role, text in zip(("human", "gpt"), pair, strict=True)
        ]
        truth = example.truth or record.get("answer", "")
        answered.append({**record, "conversations": turns, "answer": truth})
    path = out / "conversations.json"
    write_text_atomic(path, json.dumps(answered, indent=2, ensure_ascii=False) + "\n")
    log.info("answers to %d conversations in %s", len(pairs), path)


def write_outputs(
    study: PatientStudy,
    subset: str,
    answered: Sequence[Prediction],
    *,
    out: Path,
    dev: Sequence[Prediction] | None = None,
) -> None:
    """``predictions.jsonl``, with the truth where it is known, and ``answers.json``.

    The latter needs a parsed answer to every question of all graded tasks. Without it the job is
    complete all the same, and a line says why it is left out. Answers for ``dev`` patients, which
    are scored where no truth of the test patients is known, go to ``predictions_dev.jsonl``.
    """
    _write_answers(study, subset, answered, out / PREDICTIONS_FILE)
    if dev and subset != "dev":
        _write_answers(study, "dev", dev, out / DEV_PREDICTIONS_FILE)
    _write_submission(study, subset, answered, out=out)
    for progress in out.glob(".predictions.*.jsonl"):
        progress.unlink()


def _write_answers(
    study: PatientStudy, subset: str, answered: Sequence[Prediction], path: Path
) -> None:
    known = study.patients(subset) if study.has_truth(subset) else ()
    write_predictions(path, with_truth(answered, known, study.tasks))


def _write_submission(
    study: PatientStudy, subset: str, answered: Sequence[Prediction], *, out: Path
) -> None:
    path = out / "answers.json"
    closed = {name: task for name, task in study.tasks.items() if task.closed}
    _, complete = combine(dict.fromkeys(closed, 0.0), closed)
    if not complete:
        path.unlink(missing_ok=True)  # of an earlier job in this folder
        found = sum(task.weight for task in closed.values())
        log.info(
            "answers for %d patients in %s; no answers.json, the challenge's submission, "
            "whose weights of tasks sum to 1, and not to %g",
            len({one.id for one in answered}),
            out / PREDICTIONS_FILE,
            found,
        )
        return
    official = {name: task for name, task in closed.items() if task.weight > 0}
    if unparsed := unparsed_answers(answered, official):
        path.unlink(missing_ok=True)
        log.warning(
            "no answers.json: %d answers could not be parsed, first %s; they count as wrong. Use "
            "predict.mode=choice, which always answers",
            len(unparsed),
            unparsed[0],
        )
        return
    written = {patient.id: patient.written for patient in study.patients(subset)}
    write_submission(path, answered, ids=list(written), tasks=official, written=written)
    log.info("answers for %d patients in %s", len(written), path)
