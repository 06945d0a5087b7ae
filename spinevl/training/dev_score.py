"""The dev score: the challenge's for patients, the log-probability of conversations' answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from spinevl.data.study import PatientStudy, Study
from spinevl.distributed.ranks import gathered
from spinevl.evaluation.evaluate import point_scores
from spinevl.evaluation.metrics import combine
from spinevl.inference.options import choose, merge_slices, option_logprobs
from spinevl.schema.batch import Batch
from spinevl.schema.example import Example

DevScore = Callable[[list[Batch], list[torch.Tensor]], float]


def dev_score(
    study: Study, examples: Sequence[Example], told: dict[str, float]
) -> tuple[DevScore, str]:
    """(dev batches, log-probabilities of their sequences) -> the score, higher is better; its name.

    Args:
        study: what is trained on.
        examples: dev's, in the order of the batches' indices.
        told: takes each task's F1 whenever dev is scored.
    """
    if not isinstance(study, PatientStudy):
        return mean_logprob, "dev log-probability a token"
    patients = study.patients("dev")

    def score(batches: list[Batch], logprobs: list[torch.Tensor]) -> float:
        chosen = {}
        for batch, values in zip(batches, logprobs, strict=True):
            for index, options in option_logprobs(batch, values.double().tolist()).items():
                chosen[index] = choose(examples[index], options)
        predictions = merge_slices([examples[index] for index in chosen], list(chosen.values()))
        value, f1 = point_scores(patients, predictions, tasks=study.tasks)
        told.update({f"dev/{name}/f1": one for name, one in f1.items()})
        return value

    closed = {name: task for name, task in study.tasks.items() if task.closed}
    _, complete = combine(dict.fromkeys(closed, 0.0), closed)
    return score, "dev score" if complete else "partial dev score"


def of_all_ranks(
    batches: list[Batch], logprobs: list[torch.Tensor]
) -> tuple[list[Batch], list[torch.Tensor]]:
    """The dev batches of every rank in order, without blank ones; each rank must call this."""
    shares = [zip(*share, strict=True) for share in gathered((batches, logprobs))]
    # the ranks take the batches in turn
    in_order = [pair for turn in zip(*shares, strict=True) for pair in turn if pair[0].questions]
    return [batch for batch, _ in in_order], [values for _, values in in_order]


def mean_logprob(batches: list[Batch], logprobs: list[torch.Tensor]) -> float:
    """The mean log-probability of the answers' tokens; the negative of the dev loss."""
    total = sum(float(values.double().sum()) for values in logprobs)
    return total / sum(len(batch.target_id) for batch in batches)
