"""How fast a training is, and what its steps spend their time on."""

from __future__ import annotations

import resource
import time
from typing import Any

import pytorch_lightning as pl
import torch
from torch import nn

from spinevl.distributed.ranks import world_size
from spinevl.models.vlm import VLM

PARTS = ("data", "encoder", "decoder", "head", "backward", "optimizer")
"""What a step's time is split into; ``data`` is what it waits for its batch, ``encoder`` goes up to
the visual tokens."""


class Clock(pl.Callback):
    """Counts questions and tokens, and times the training steps alone.

    Attributes:
        parts: seconds of each of ``PARTS``, in all steps together.
    """

    def __init__(self) -> None:
        self.questions = self.tokens = self.places = self.sequence_tokens = 0
        self.seconds = 0.0
        self.parts = dict.fromkeys(PARTS, 0.0)
        self._begun = self._waits = 0.0
        self._in_forward = False
        self._watch = _Watch()
        self._hooks: list[Any] = []

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Watch the parts of the model."""
        self._watch = _Watch(cuda=pl_module.device.type == "cuda")
        model: VLM = pl_module.model
        for branch in model.vision_branches().values():
            self._time(branch.encoder, "encoder")
            self._time(branch.connector, "encoder")
        self._time(model.llm.model.base_model, "decoder")
        self._time(model.llm.model.get_output_embeddings(), "head")

    def _time(self, part: nn.Module, name: str) -> None:
        def begin(*_: Any) -> None:
            if self._in_forward:
                self._watch.begin(name)

        def end(*_: Any) -> None:
            if self._in_forward:
                self._watch.end(name)

        self._hooks += [part.register_forward_pre_hook(begin), part.register_forward_hook(end)]

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Let go of the model."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = []
        self._take(last=True)

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        """From here on it waits for a batch."""
        self._waits = time.perf_counter()

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        """Scoring dev is no part of a step."""
        self._waits = time.perf_counter()

    def on_train_batch_start(
        self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int
    ) -> None:
        """Start the clock."""
        self._begun = time.perf_counter()
        self.parts["data"] += self._begun - self._waits
        self._in_forward = True

    def on_before_backward(self, trainer: Any, pl_module: Any, loss: Any) -> None:
        """The forward pass is done; parts that run from here on are run again for gradients."""
        self._in_forward = False
        self._watch.begin("backward")

    def on_after_backward(self, trainer: Any, pl_module: Any) -> None:
        """The gradients are there."""
        self._watch.end("backward")

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        """What follows in this step is the optimizer's."""
        self._watch.begin("optimizer")

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Stop it, and count."""
        self._watch.end("optimizer")
        self._take()
        self._waits = time.perf_counter()
        self.seconds += self._waits - self._begun
        self.questions += len(batch.questions)
        self.tokens += batch.tokens
        self.places += batch.input_ids.numel()
        self.sequence_tokens += batch.sequence_tokens
        report = self.report()
        told = {name: report[name] for name in ("tokens_per_second", "padding_share")}
        pl_module.log_dict({**told, "memory_bytes": float(peak_memory())})

    def _take(self, *, last: bool = False) -> None:
        for name, seconds in self._watch.take(last=last):
            self.parts[name] += seconds

    def state_dict(self) -> dict[str, Any]:
        """See Lightning."""
        names = ("questions", "tokens", "places", "sequence_tokens", "seconds", "parts")
        return {name: getattr(self, name) for name in names}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """See Lightning."""
        vars(self).update(state_dict)

    def report(self) -> dict[str, Any]:
        """What ``train.json`` says of speed: that of this process times their number.

        The ratio of reuse is that of the tokens of all sequences to those that were computed.
        """
        seconds = max(self.seconds, 1e-9) / world_size()
        return {
            "samples_per_second": self.questions / seconds,
            "tokens_per_second": self.tokens / seconds,
            "padding_share": 1 - self.tokens / max(self.places, 1),
            "shared_share": 1 - self.tokens / max(self.sequence_tokens, 1),
            "token_reuse_ratio": self.sequence_tokens / max(self.tokens, 1),
            "step_seconds_total": self.seconds,
            "step_seconds": {name: round(spent, 6) for name, spent in self.parts.items()},
        }


class _Watch:
    """Times spans of work. On CUDA, which works behind, by events that need no waiting."""

    def __init__(self, *, cuda: bool = False) -> None:
        self.cuda = cuda
        self._begun: dict[str, Any] = {}
        self._done: list[tuple[str, Any, Any]] = []

    def _now(self) -> Any:
        if not self.cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def begin(self, name: str) -> None:
        self._begun[name] = self._now()

    def end(self, name: str) -> None:
        """End a span, if it has begun: a step that accumulates has no optimizer."""
        if name in self._begun:
            self._done.append((name, self._begun.pop(name), self._now()))

    def take(self, *, last: bool = False) -> list[tuple[str, float]]:
        """The seconds of the spans that are over on the device; with ``last`` of all."""
        if not self.cuda:
            over = [(name, end - begin) for name, begin, end in self._done]
            self._done = []
            return over
        if last:
            torch.cuda.synchronize()
        ready = [one for one in self._done if last or one[2].query()]
        self._done = self._done[len(ready) :]
        return [(name, begin.elapsed_time(end) / 1000) for name, begin, end in ready]


def peak_memory() -> int:
    """Peak memory in bytes: of the GPU where one is used, of the process otherwise."""
    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
