"""The losses of a step by task, for loggers."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from spinevl.schema.batch import Batch
from spinevl.schema.example import Example


class TaskLosses:
    """Adds up the answer and auxiliary losses of each task over a step's batches.

    Each is the weighted mean over the task's answers, or their tokens, and over its auxiliary
    targets. Of several processes each adds up its share.

    Args:
        examples: what is trained on, in the order of the batches' indices.
        heads: the names of the auxiliary heads, see head_sizes.
    """

    def __init__(self, examples: Sequence[Example] = (), heads: Sequence[str] = ()) -> None:
        tasks = dict.fromkeys(one.key.task for one in examples)
        tasks |= dict.fromkeys(name.split("/")[1] for name in heads)
        number = {name: n for n, name in enumerate(tasks)}
        self.tasks = [name or "conversation" for name in tasks]
        self._of_question = [number[one.key.task] for one in examples]
        self._of_head = torch.tensor([number[name.split("/")[1]] for name in heads])
        self._sums = torch.zeros(4, len(self.tasks))

    def add_answers(self, batch: Batch, logprobs: torch.Tensor) -> None:
        """Add the target tokens' log-probabilities [T]."""
        if batch.questions and self._of_question:
            of_question = torch.tensor([self._of_question[one] for one in batch.questions])
            sequence = batch.target_sequence
            owner = of_question.to(sequence.device)[batch.sequence_question[sequence]]
            self._add(0, owner, -logprobs.detach() * batch.target_weight, batch.target_weight)

    def add_auxiliary(self, batch: Batch, losses: torch.Tensor) -> None:
        """Add the losses [A] of the auxiliary targets."""
        if batch.questions and len(losses) and len(self._of_head):
            owner = self._of_head.to(losses.device)[batch.auxiliary_head]
            weight = batch.auxiliary_weight
            self._add(2, owner, losses.detach() * weight, weight)

    def _add(
        self, row: int, owner: torch.Tensor, values: torch.Tensor, weights: torch.Tensor
    ) -> None:
        self._sums = self._sums.to(values.device)
        self._sums[row].index_add_(0, owner, values.float())
        self._sums[row + 1].index_add_(0, owner, weights.float())

    def take(self) -> torch.Tensor:
        """The sums of the step [4 * tasks], on its device, which begin again; see named."""
        sums, self._sums = self._sums, torch.zeros(4, len(self.tasks))
        return sums.flatten()

    def named(self, sums: Sequence[float]) -> dict[str, float]:
        """What was taken -> ``loss/answer/qd``, ``loss/auxiliary/qd``... of the step's tasks."""
        n = len(sums) // 4
        found = {}
        for kind, start in (("answer", 0), ("auxiliary", 2 * n)):
            for k, task in enumerate(self.tasks[:n]):
                if sums[start + n + k] > 0:
                    found[f"loss/{kind}/{task}"] = sums[start + k] / sums[start + n + k]
        return found
