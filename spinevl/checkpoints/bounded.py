"""Build the model of a checkpoint, which must be no larger than the weights that it has."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode

from spinevl.io.json_file import read_json_object
from spinevl.schema.errors import UserError, refused

# a model is allocated once, with tied weights twice; small buffers and steps of its initialisation
# come on top
_TIMES, _MORE_ELEMENTS = 3, 2**22
_TENSORS_EACH, _MORE_TENSORS = 20, 2000
_LAYERS = re.compile(r"(^|_)layers?$")
_FIX = "the config does not belong to the weights; copy the checkpoint again"
_BUILDING_ERRORS = (ArithmeticError, AssertionError, LookupError, RuntimeError, TypeError)


class _Allocations(TorchDispatchMode):
    """Counts what new tensors hold, and refuses the one that is too many before it is made."""

    def __init__(self, elements: int, tensors: int, where: str) -> None:
        super().__init__()
        self.left = [elements, tensors]
        self.where = where

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        size = args[0] if args else None
        if isinstance(size, (list, tuple)) and all(isinstance(one, int) for one in size):
            self.left = [self.left[0] - math.prod(size), self.left[1] - 1]
            if min(self.left) < 0:
                raise refused(self.where, "a model as large as its weights", "a larger one", _FIX)
        return func(*args, **(kwargs or {}))


@contextmanager
def sized_by(shapes: Mapping[str, tuple[int, ...]], folder: Path) -> Iterator[None]:
    """Within it a model is built whose config files come from a checkpoint.

    Args:
        shapes: of the checkpoint's weights.
        folder: the checkpoint.

    Raises:
        UserError: the model is far larger than the weights, or cannot be built.
    """
    for file in (folder / "config.json", *sorted(folder.glob("*/config.json"))):
        _require_few_layers(read_json_object(file), len(shapes), where=str(file))
    elements = _TIMES * sum(map(math.prod, shapes.values())) + _MORE_ELEMENTS
    tensors = _TENSORS_EACH * len(shapes) + _MORE_TENSORS
    try:
        with _Allocations(elements, tensors, str(folder)):
            yield
    except _BUILDING_ERRORS as error:
        raise UserError(
            f"{folder}: no model can be built as its config files say ({type(error).__name__}: "
            f"{error}); {_FIX}"
        ) from error


def _require_few_layers(config: Mapping[str, Any], most: int, *, where: str) -> None:
    """Refuse numbers of layers, at any depth, that exceed that of the weights: a config lists its
    layers before any of them is made."""
    waiting: list[Any] = [config]
    while waiting:
        one = waiting.pop()
        if isinstance(one, Mapping):
            for key, value in one.items():
                if isinstance(value, int) and _LAYERS.search(key) and value > most:
                    found = f"{value}, and {most} weights"
                    raise refused(f"{where}: {key}", "layers that have weights", found, _FIX)
        waiting += one.values() if isinstance(one, Mapping) else one
        waiting = [inner for inner in waiting if isinstance(inner, (Mapping, list))]
