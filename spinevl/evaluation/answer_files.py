"""The files that hold answers: submissions, and ``predictions.jsonl``."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from spinevl.evaluation.join import by_patient
from spinevl.io.files import write_text_atomic
from spinevl.io.json_file import read_json_list
from spinevl.schema.box import Box
from spinevl.schema.errors import Problems, UserError, refused
from spinevl.schema.prediction import Prediction
from spinevl.schema.task import Task


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
        if not isinstance(identity, str):
            where = f"{path}: record {number}"
            problems.add(where, "an object with a string id", repr(entry)[:60], "mend")
        elif identity in found and missing == "error":
            where = f"{path}: patient {identity}"
            problems.add(where, "one record", "another", "drop one")
        else:
            found[identity] = _entry(path, entry, tasks, missing == "upstream", problems)
    known = set(ids)
    if missing != "upstream":
        for one in ids:
            if one not in found:
                problems.add(f"{path}: patient {one}", "an answer", "none", "add the patient")
        for one in found:
            if one not in known:
                wanted = "only labelled patients"
                problems.add(f"{path}: patient {one}", wanted, "a surplus one", "drop it")
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
) -> None:
    """Write a submission: exactly ``ids`` in their order, every value of ``tasks`` an int.

    Raises:
        UserError: a question without an answer, or an answer that could not be parsed; it is no
            integer, and none is guessed.
    """
    rows = by_patient(predictions, ids, tasks)
    unparsed = [
        f"patient {one.id} {one.task} {one.object}".rstrip()
        for answers in zip(*rows.values(), strict=True)
        for row in answers
        for one in row
        if one.choice is None
    ]
    if unparsed:
        raise UserError(
            f"{path} is not written: {len(unparsed)} answers could not be parsed, first "
            f"{unparsed[0]}; use predict.mode=choice, which always answers"
        )
    content: list[dict[str, Any]] = [{"id": identity} for identity in ids]
    for name, task in tasks.items():
        for entry, row in zip(content, rows[name], strict=True):
            labels = [one.choice for one in row]
            entry[name] = labels if task.levels else labels[0]
    write_text_atomic(path, json.dumps(content, indent=4, ensure_ascii=False))


def write_predictions(path: Path, predictions: Sequence[Prediction]) -> None:
    """Write ``predictions.jsonl``, a line a question."""
    lines = (json.dumps(one.to_json(), ensure_ascii=False) for one in predictions)
    write_text_atomic(path, "".join(f"{line}\n" for line in lines))


def read_predictions(path: str | Path, *, tasks: Mapping[str, Task]) -> list[Prediction]:
    """Read ``predictions.jsonl``. Raises UserError naming each bad line."""
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise refused(str(path), "a predictions.jsonl", str(error), "check the path") from error
    problems = Problems()
    result: list[Prediction] = []
    seen: set[tuple[object, ...]] = set()
    # not splitlines, which also breaks at characters that an answer may hold
    for number, line in enumerate(text.removesuffix("\n").split("\n"), start=1):
        try:
            entry = json.loads(line)
            if entry["task"] not in tasks:
                continue  # a task that is not scored
            one = _prediction(entry, tasks)
            if one.question in seen:
                raise ValueError("this question has been answered on an earlier line")
            seen.add(one.question)
            result.append(one)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            found = f"{type(error).__name__}: {error}"
            problems.add(f"{path}: line {number}", "a prediction", found, "predict again")
    problems.raise_any()
    return result


def _prediction(entry: Mapping[str, Any], tasks: Mapping[str, Task]) -> Prediction:
    task = tasks[entry["task"]]
    choice, box = entry["choice"], entry["box"]
    if entry["object"] not in task.objects:
        raise ValueError(f"object {entry['object']!r} is none of {task.name}")
    if choice is not None and (type(choice) is not int or not 0 <= choice < len(task.choices)):
        raise ValueError(f"choice {choice!r} is no label of {task.name}")
    table = entry["probabilities"]
    probabilities = None if table is None else {int(k): float(v) for k, v in table.items()}
    if probabilities is not None:
        if set(probabilities) != set(range(len(task.choices))):
            raise ValueError(f"probabilities are not one for each of {len(task.choices)} labels")
        if not all(0 <= p <= 1 for p in probabilities.values()):
            raise ValueError("a probability is not between 0 and 1")
        if abs(sum(probabilities.values()) - 1) > 1e-6:
            raise ValueError("probabilities do not sum to 1")
    if box is not None and (
        len(box) != 4
        or any(type(v) is not int for v in box)
        or box[0] >= box[2]
        or box[1] >= box[3]
    ):
        raise ValueError(f"box {box!r} is not [x1, y1, x2, y2] with x1 < x2 and y1 < y2")
    if not isinstance(entry["id"], str):
        raise ValueError("id is no string")
    slices = entry["slices"]
    if not isinstance(slices, list) or any(type(one) is not int or one < 0 for one in slices):
        raise ValueError(f"slices {slices!r} is no list of slice numbers")
    if not task.closed and len(slices) != 1:
        raise ValueError(f"slices {slices!r}: a box lies in one slice")
    return Prediction(
        id=entry["id"],
        task=task.name,
        object=entry["object"],
        slices=tuple(slices),
        choice=choice,
        probabilities=probabilities,
        text=str(entry["text"]),
        box=None if box is None else Box(*box),
    )


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
    answered = {one.id for one in predicted if one.task in (closed or tasks)}
    absent = [one for one in ids if one not in answered]
    surplus = sorted(answered - set(ids))
    if (absent or surplus) and missing == "error":
        raise UserError(
            [f"{predictions}: patient {one}: no prediction; predict it" for one in absent]
            + [f"{predictions}: patient {one}: has no labels; drop it" for one in surplus]
        )
    return predicted
