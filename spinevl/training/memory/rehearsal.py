"""Rehearse a training step with tensors that have no data, and count its bytes by part.

The parts are built on the meta device, so nothing is loaded. The step then runs operation by
operation as it will, on fake tensors of the CPU: forward pass, autocast, adapters and gradient
checkpointing are those of the training, and so are the tensors that live.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from spinevl.data.datamodule import ExampleDataModule
from spinevl.data.heaviest import heaviest_batch, heaviest_dev_batch
from spinevl.data.packing.image_input import ImageInput
from spinevl.schema.batch import Batch
from spinevl.schema.image_ref import ImageRef
from spinevl.training.memory.attention import cuda_attention
from spinevl.training.memory.live_bytes import LiveBytes
from spinevl.training.memory.sharding import Weights
from spinevl.training.module import TrainingModule


@dataclass(frozen=True)
class Rehearsal:
    """The bytes of a step on one device that shares nothing.

    Attributes:
        weights: of each part: encoder, connector, llm, heads and what else there is.
        activations: what the forward pass of each part keeps for the backward pass.
        logits: of the predicted tokens, with their log-probabilities.
        forward_peak: the most that lives in the forward pass besides weights.
        backward_peak: the same of the backward pass; gradients of weights count.
        dev_peak: the same of a batch in which dev is scored.
        largest_weight: the largest tensor that learns.
        tokens, images: of the batch.
    """

    weights: Mapping[str, Weights]
    activations: Mapping[str, int]
    logits: int
    forward_peak: int
    backward_peak: int
    dev_peak: int
    largest_weight: int
    tokens: int
    images: int

    @property
    def all_weights(self) -> Weights:
        """Those of all parts together."""
        each = self.weights.values()
        return Weights(
            sum(one.frozen for one in each),
            sum(one.trained for one in each),
            sum(one.numbers for one in each),
        )


class _Shapes(ImageInput):
    """Images as shapes: the first is decoded and stands for all."""

    def __call__(self, images: Sequence[ImageRef]) -> tuple[torch.Tensor, torch.Tensor | None]:
        if not images:
            return torch.zeros(0), None
        if self.features is not None:
            return torch.zeros(0), self.features(images)
        pixels, _ = super().__call__(images[:1])
        return pixels.expand(len(images), *pixels.shape[1:]), None


def shapes_only(data: ExampleDataModule, kept: Mapping[str, tuple[int, int]]) -> None:
    """Let the batches of ``data`` have shapes for images.

    Args:
        data: changed in place.
        kept: (tokens, dim) of the features of each modality whose features are kept on disk.
    """

    def features(size: tuple[int, int]) -> Callable[[Sequence[ImageRef]], torch.Tensor]:
        return lambda images: torch.zeros(1, 1, 1).expand(len(images), *size)

    for modality, one in data.collate.inputs.items():
        table = features(kept[modality]) if modality in kept else None
        data.collate.inputs[modality] = _Shapes(one.vision, one.images, table)


class Rehearsals:
    """Rehearses training steps of one module.

    Args:
        module: on the meta device; its tensors are replaced.
        autocast: the type of trainer.precision, None for float32.
        cuda: whether a GPU will run it.
    """

    def __init__(self, module: TrainingModule, *, autocast: torch.dtype | None, cuda: bool) -> None:
        from torch._subclasses.fake_tensor import FakeTensorMode

        self.module = module
        self.autocast = autocast
        self.cuda = cuda
        self.mode = FakeTensorMode(allow_non_fake_inputs=True)
        with self.mode:
            _fill_with_fakes(module)

    def __call__(self, data: ExampleDataModule) -> Rehearsal:
        """Rehearse the heaviest training step and the heaviest dev batch, see ``shapes_only``."""
        batch = data.collate(heaviest_batch(data))
        dev = heaviest_dev_batch(data)
        live = LiveBytes()
        with self.mode, live, cuda_attention() if self.cuda else nullcontext():
            weights = _weights(self.module, live)
            step = _Step(self.module, live, self.autocast, live.now)
            activations, logits, forward, backward = step.train(batch)
            dev_peak = step.score(data.collate.to_score()(dev)) if dev else 0
        learned = (one for one in self.module.parameters() if one.requires_grad)
        return Rehearsal(
            weights=weights,
            activations=activations,
            logits=logits,
            forward_peak=forward,
            backward_peak=backward,
            dev_peak=dev_peak,
            largest_weight=max((one.nbytes for one in learned), default=0),
            tokens=batch.tokens,
            images=_n_images(batch),
        )


@dataclass(frozen=True)
class _Step:
    module: TrainingModule
    live: LiveBytes
    autocast: torch.dtype | None
    weights: int

    def train(self, batch: Batch) -> tuple[dict[str, int], int, int, int]:
        """Activations by part, logits, and the peaks of forward and backward pass."""
        live = self.live
        live.restart_peak()
        fakes = _fake(batch)  # the trainer holds a batch until its step is done
        with _activations(self.module, live) as found, self._precision():
            loss = self.module.training_step(fakes, 0)
        logits = max(0, live.now - self.weights - sum(found.values()))
        forward = live.peak - self.weights
        live.restart_peak()
        loss.backward()
        backward = live.peak - self.weights
        self.module.zero_grad(set_to_none=True)
        return found, logits, forward, backward

    def score(self, batch: Batch) -> int:
        """The peak of a batch in which dev is scored."""
        self.live.restart_peak()
        with torch.no_grad(), self._precision():
            self.module.validation_step(_fake(batch), 0)
        return self.live.peak - self.weights

    def _precision(self) -> AbstractContextManager[Any]:
        return nullcontext() if self.autocast is None else torch.autocast("cpu", self.autocast)


def _fake(batch: Batch) -> Batch:
    """The same batch without data. Called within a fake mode."""
    return batch.each(lambda one: torch.empty(one.shape, dtype=one.dtype))


def _fill_with_fakes(module: nn.Module) -> None:
    """Replace every tensor of a module by a fake one of the CPU; what is tied stays tied."""
    made: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}  # with the old ones, which stay alive
    for child in module.modules():
        for held in (child._parameters, child._buffers):
            for name, old in held.items():
                if old is None:
                    continue
                if id(old) not in made:
                    new: torch.Tensor = torch.empty(old.shape, dtype=old.dtype)
                    if isinstance(old, nn.Parameter):
                        new = nn.Parameter(new, requires_grad=old.requires_grad)
                    made[id(old)] = (new, old)
                held[name] = made[id(old)][0]  # type: ignore[assignment]


def _weights(module: TrainingModule, live: LiveBytes) -> dict[str, Weights]:
    """The weights of each part."""
    found = {}
    for name, part in module.parts().items():
        learned = [one for one in part.parameters() if one.requires_grad]
        trained = live.count(learned)
        frozen = live.count([*part.parameters(), *part.buffers()])
        found[name] = Weights(frozen, trained, sum(one.numel() for one in learned))
    return found


@contextmanager
def _activations(module: TrainingModule, live: LiveBytes) -> Iterator[dict[str, int]]:
    """Bytes that stay behind the forward pass of each part, by its name."""
    found: dict[str, int] = {}
    counted = live.now

    def until(name: str) -> Callable[..., None]:
        def hook(*_: Any) -> None:
            nonlocal counted
            found[name] = found.get(name, 0) + live.now - counted
            counted = live.now

        return hook

    hooks = []
    for name, part in module.parts().items():
        watched: Any = part.model.base_model if name == "llm" else part  # type: ignore[union-attr]
        hooks.append(watched.register_forward_hook(until(name)))
    try:
        yield found
    finally:
        for one in hooks:
            one.remove()


def _n_images(batch: Batch) -> int:
    shown = [batch.pixel_values, batch.volumes, batch.features, batch.volume_features]
    return sum(len(one) for one in shown if one is not None)
