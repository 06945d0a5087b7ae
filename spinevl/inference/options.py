"""From log-probabilities or text to predictions; slices that were asked apart are merged."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from spinevl.schema.batch import Batch
from spinevl.schema.box import Box
from spinevl.schema.example import Example
from spinevl.schema.prediction import Prediction


def option_logprobs(batch: Batch, logprobs: Sequence[float]) -> dict[int, dict[int, float]]:
    """Dataset index -> label -> log-probability of its option text, from a batch to score."""
    owners = batch.sequence_question.tolist()
    result: dict[int, dict[int, float]] = {index: {} for index in batch.questions}
    for owner, label, logprob in zip(owners, batch.sequence_label, logprobs, strict=True):
        if label >= 0:
            result[batch.questions[owner]][label] = logprob
    return result


def choose(example: Example, logprobs: Mapping[int, float]) -> Prediction:
    """The most probable option; ties go to the lower label."""
    probabilities = normalised(logprobs)
    choice = _most_probable(probabilities)
    text = example.options[choice]
    return _prediction(example, text, choice=choice, probabilities=probabilities)


def parse(example: Example, text: str) -> Prediction:
    """A generated answer, parsed strictly: None where it is not exactly an answer."""
    if example.kind == "box":
        return _prediction(example, text.strip(), box=Box.parse_answer(text, example.key.level))
    answer = text.strip()
    known = answer in example.options
    return _prediction(example, answer, choice=example.options.index(answer) if known else None)


def _prediction(
    example: Example,
    text: str,
    *,
    choice: int | None = None,
    probabilities: Mapping[int, float] | None = None,
    box: Box | None = None,
) -> Prediction:
    key = example.key
    return Prediction(
        key.patient, key.task, key.level, example.slices, choice, probabilities, text, box
    )


def normalised(logprobs: Mapping[int, float]) -> dict[int, float]:
    """Log-probabilities of the options -> probabilities that sum to 1 over them."""
    highest = max(logprobs.values())
    weights = {label: math.exp(value - highest) for label, value in logprobs.items()}
    total = sum(weights.values())
    return {label: weight / total for label, weight in weights.items()}


def merge_slices(
    examples: Sequence[Example], predictions: Sequence[Prediction]
) -> list[Prediction]:
    """Merge the closed questions that were asked of several slices apart.

    Probabilities by the mean log-probability; generated labels by majority, ties to the lower.
    Boxes belong to one slice each and stay as they are.
    """
    groups: dict[tuple[object, ...], list[tuple[Example, Prediction]]] = {}
    for example, one in zip(examples, predictions, strict=True):
        slot = one.slices if example.kind == "box" else ()
        groups.setdefault((example.key, slot), []).append((example, one))
    return [
        group[0][1] if len(group) == 1 else _merged(group[0][0], [one for _, one in group])
        for group in groups.values()
    ]


def _merged(example: Example, group: Sequence[Prediction]) -> Prediction:
    slices = tuple(number for one in group for number in one.slices)
    tables = [one.probabilities for one in group]
    first = group[0]
    if all(table is not None for table in tables):
        floor = 1e-300
        means = {
            label: sum(math.log(max(table[label], floor)) for table in tables if table)
            / len(tables)
            for label in tables[0] or {}
        }
        probabilities = normalised(means)
        choice = _most_probable(probabilities)
        text = example.options[choice]
        return Prediction(first.id, first.task, first.object, slices, choice, probabilities, text)
    votes = [one.choice for one in group if one.choice is not None]
    majority = max(sorted(set(votes)), key=votes.count) if votes else None
    text = " | ".join(one.text for one in group)
    return Prediction(first.id, first.task, first.object, slices, majority, None, text)


def _most_probable(probabilities: Mapping[int, float]) -> int:
    return max(sorted(probabilities), key=lambda label: probabilities[label])
