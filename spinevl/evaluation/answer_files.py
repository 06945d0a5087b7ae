"""The files that hold answers: submissions, and ``predictions.jsonl``."""

from __future__ import annotations

import functools
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from spinevl.evaluation.join import by_patient
from spinevl.io.files import write_text_atomic
from spinevl.io.json_file import field, read_json_lines, read_json_list
from spinevl.schema.asked import add_unmatched, compare
from spinevl.schema.box import Box
from spinevl.schema.errors import Problems, UserError, escaped, refused
from spinevl.schema.patient import composed
from spinevl.schema.prediction import Prediction
from spinevl.schema.task import Task

log = logging.getLogger(__name__)

PREDICTIONS_FILE = "predictions.jsonl"
DEV_PREDICTIONS_FILE = "predictions_dev.jsonl"
"""Of dev patients, where those are scored and the test patients are in ``predictions.jsonl``."""

_AGAIN = "mend the line or predict again"
_NONE = type(None)
_TIE = 1e-6  # probabilities may have been rounded
_ONLY, _DROP = "only labelled patients", "drop who has no labels"


def read_submission(
    path: str | Path, *, ids: Sequence[str], tasks: Mapping[str, Task], missing: str = "error"
) -> list[Prediction]:
    """A submission file, checked against the patients it must answer.

    Args:
        path: a JSON list of ``{"id", task: label or labels}``.
        ids: the patients.
        tasks: the closed ones among these are read.
        missing: ``error`` refuses absent, surplus, repeated and malformed answers; ``upstream``
            leaves absent and surplus patients out, takes the last of a repeated one and lets
            integers outside the range stand.

    Returns:
        One prediction a question, without probabilities and slices, which the file does not say.

    Raises:
        UserError: with every problem.
    """
    content = read_json_list(path, expected="a JSON list of answers")
    problems = Problems()
    found: dict[str, list[Prediction]] = {}
    for number, entry in enumerate(content, start=1):
        identity = entry.get("id") if isinstance(entry, dict) else None
        identity = composed(identity) if isinstance(identity, str) else None
        if not isinstance(identity, str):
            where = f"{path}: record {number}"
            problems.add(where, "an object with a string id", repr(entry)[:60], "mend")
        elif identity in found and missing == "error":
            where = f"{path}: patient {identity}"
            problems.add(where, "one record", "another", "drop one")
        else:
            found[identity] = _entry(
                path, {**entry, "id": identity}, tasks, missing == "upstream", problems
            )
    known = set(ids)
    absent, surplus = compare(ids, found)
    if missing != "upstream":
        add_unmatched(
            *(problems, str(path), absent, surplus),
            n_asked=len(known),
            each="an answer",
            only=_ONLY,
            fixes=("add the patient", _DROP),
        )
    problems.raise_any()
    return [one for identity, answers in found.items() if identity in known for one in answers]


def _entry(
    path: str | Path,
    entry: Mapping[str, Any],
    tasks: Mapping[str, Task],
    any_integer: bool,
    problems: Problems,
) -> list[Prediction]:
    answers: list[Prediction] = []
    for task in tasks.values():
        if not task.closed:
            continue
        where = f"{path}: patient {entry['id']} {task.name}"
        value = entry.get(task.name)
        values = value if task.levels else [value]
        highest = len(task.choices) - 1
        if not isinstance(values, list) or len(values) != len(task.objects):
            wanted = f"a list of {len(task.objects)} integers" if task.levels else "an integer"
            problems.add(where, wanted, repr(value)[:60], "mend the answer")
        elif any(
            type(one) is not int or not (any_integer or 0 <= one <= highest) for one in values
        ):
            found = repr(value)[:60]
            problems.add(where, f"integers 0 to {highest}", found, "mend the answer")
        else:
            for name, label in zip(task.objects, values, strict=True):
                text = task.choices[label] if 0 <= label <= highest else ""
                answers.append(Prediction(entry["id"], task.name, name, (), label, None, text))
    return answers


def write_submission(
    path: Path,
    predictions: Sequence[Prediction],
    *,
    ids: Sequence[str],
    tasks: Mapping[str, Task],
    written: Mapping[str, str] | None = None,
) -> None:
    """Write a submission: exactly ``ids`` in their order, every value of ``tasks`` an int.

    ``written`` spells ids as the submission template does.

    Raises:
        UserError: a question without an answer.
    """
    assert not unparsed_answers(predictions, tasks)  # no integer, and none is guessed
    rows = by_patient(predictions, ids, tasks)
    content: list[dict[str, Any]] = [{"id": (written or {}).get(one, one)} for one in ids]
    for name, task in tasks.items():
        for entry, row in zip(content, rows[name], strict=True):
            labels = [one.choice for one in row]
            entry[name] = labels if task.levels else labels[0]
    write_text_atomic(path, json.dumps(content, indent=4, ensure_ascii=False))


def unparsed_answers(predictions: Sequence[Prediction], tasks: Mapping[str, Task]) -> list[str]:
    """The questions of ``tasks`` whose answers could not be parsed, in words."""
    return [
        f"patient {one.id} {one.task} {one.object}".rstrip()
        for one in predictions
        if one.choice is None and one.task in tasks
    ]


def write_predictions(path: Path, predictions: Sequence[Prediction]) -> None:
    """Write ``predictions.jsonl``, a line a question."""
    lines = (json.dumps(one.to_json(), ensure_ascii=False) for one in predictions)
    write_text_atomic(path, "".join(f"{line}\n" for line in lines))


def read_predictions(path: str | Path, *, tasks: Mapping[str, Task]) -> list[Prediction]:
    """Read ``predictions.jsonl``; what it says of the truth is passed over.

    Lines of tasks that are not among ``tasks`` are passed over too, and it is told which.

    Raises:
        UserError: naming each bad line.
    """
    problems = Problems()
    result: list[Prediction] = []
    seen: set[tuple[object, ...]] = set()
    others: dict[str, None] = {}
    lines = read_json_lines(path, expected="a prediction", fix=_AGAIN, problems=problems)
    for where, entry in lines:
        with problems.collected():
            task = field(entry, "task", str, where=where, fix=_AGAIN)
            if task not in tasks:
                others[task] = None
                continue
            one = _prediction(entry, tasks, where)
            if one.question in seen:
                found = "one that has been answered on an earlier line"
                raise refused(where, "a question of its own", found, "drop one of them")
            seen.add(one.question)
            result.append(one)
    problems.raise_any()
    if others:
        log.warning("%s: not scored: %s; name them in task=", path, escaped(", ".join(others)))
    return result


def _prediction(entry: Mapping[str, Any], tasks: Mapping[str, Task], where: str) -> Prediction:
    """The prediction of a line of a known task. Raises UserError for what write_predictions does
    not write."""
    patient = composed(field(entry, "id", str, where=where, fix=_AGAIN))
    where = f"{where} (id {patient})"
    told = functools.partial(field, entry, where=where, fix=_AGAIN)
    task, level = tasks[entry["task"]], told("object", str)
    choice, box, slices = told("choice", int, _NONE), told("box", list, _NONE), told("slices", list)
    highest = len(task.choices) - 1
    if level not in task.objects:
        wanted = f"one of {', '.join(map(repr, task.objects))}"
        raise refused(f"{where}: object", wanted, repr(level), _AGAIN)
    if choice is not None and not 0 <= choice <= highest:
        wanted = f"a label of {task.name}, 0 to {highest}, or null" if task.closed else "null"
        raise refused(f"{where}: choice", wanted, repr(choice), _AGAIN)
    if any(type(one) is not int or one < 0 for one in slices):
        raise refused(f"{where}: slices", "slice numbers", repr(slices), _AGAIN)
    if not task.closed and len(slices) != 1:
        raise refused(f"{where}: slices", "one, the slice of the box", repr(slices), _AGAIN)
    if box is not None and not _is_box(box):
        wanted = "[x1, y1, x2, y2] with x1 < x2 and y1 < y2"
        raise refused(f"{where}: box", wanted, repr(box), _AGAIN)
    probabilities = _probabilities(told("probabilities", dict, _NONE), len(task.choices), where)
    if probabilities and (
        choice is None or probabilities[choice] < max(probabilities.values()) - _TIE
    ):
        best = max(probabilities, key=probabilities.__getitem__)
        wanted = f"the most probable label, {best}"
        raise refused(f"{where}: choice", wanted, repr(choice), _AGAIN)
    return Prediction(
        id=patient,
        task=task.name,
        object=level,
        slices=tuple(slices),
        choice=choice,
        probabilities=probabilities,
        text=told("text", str),
        box=None if box is None else Box(*box),
    )


def _is_box(box: list[Any]) -> bool:
    whole = len(box) == 4 and all(type(one) is int and one >= 0 for one in box)
    return whole and box[0] < box[2] and box[1] < box[3]


def _probabilities(
    table: Mapping[str, Any] | None, n_labels: int, where: str
) -> dict[int, float] | None:
    """Label -> probability of a line's table: one for each label, summing to 1."""
    if table is None:
        return None
    values = list(table.values())
    if set(table) != {str(label) for label in range(n_labels)}:
        wanted, found = f"one for each label, 0 to {n_labels - 1}", f"labels {', '.join(table)}"
    elif not all(type(one) in (int, float) and 0 <= one <= 1 for one in values):
        wanted, found = "numbers between 0 and 1", repr(values)
    elif abs(sum(values) - 1) > 1e-6:
        wanted, found = "numbers that sum to 1", f"a sum of {sum(values):g}"
    else:
        return {int(label): float(one) for label, one in table.items()}
    raise refused(f"{where}: probabilities", wanted, found, _AGAIN)


def read_answered(
    *,
    answers: str | None,
    predictions: str | None,
    ids: Sequence[str],
    tasks: Mapping[str, Task],
    missing: str,
) -> list[Prediction]:
    """The answers of a submission, of ``predictions.jsonl``, or of both.

    Of both, the predictions add probabilities and boxes to the submission.

    Args:
        answers, predictions: the files; one of them at least.
        ids: the patients who must be answered.
        tasks, missing: see read_submission.

    Raises:
        UserError: the files disagree, or do not answer exactly the patients of ``ids``.
    """
    closed = {name: task for name, task in tasks.items() if task.closed}
    predicted = read_predictions(predictions, tasks=tasks) if predictions else []
    if answers:
        submitted = read_submission(answers, ids=ids, tasks=closed, missing=missing)
        # a submission does not say which slices its answers rest on
        choices = {one.question[:3]: one.choice for one in submitted}
        if any(choices.get(one.question[:3], one.choice) != one.choice for one in predicted):
            raise UserError(
                f"{predictions} and {answers} disagree; give files of the same prediction"
            )
        answered = {one.id for one in submitted}
        return submitted + [one for one in predicted if one.id in answered or not closed]
    absent, surplus = compare(ids, (one.id for one in predicted if one.task in (closed or tasks)))
    problems = Problems()
    if missing == "error":
        add_unmatched(
            *(problems, str(predictions), absent, surplus),
            n_asked=len(set(ids)),
            each="a prediction",
            only=_ONLY,
            fixes=("predict it", _DROP),
        )
    problems.raise_any()
    return predicted
