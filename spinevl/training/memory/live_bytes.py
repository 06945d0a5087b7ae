"""The bytes of all living tensors, counted operation by operation."""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveBytes(TorchDispatchMode):
    """Counts the storages that operations allocate while it is entered, until they are freed.

    Tensors with data and fake tensors are counted alike. Those that were made before are to be
    ``count``ed first: a view of one would count as new.

    Attributes:
        now: bytes that live.
        peak: the most that lived at once since the start or ``restart_peak``.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = 0
        self.peak = 0
        self._known: dict[int, weakref.ref[torch.UntypedStorage]] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Run one operation and count what it made."""
        output = func(*args, **(kwargs or {}))
        self.count(one for one in tree_leaves(output) if isinstance(one, torch.Tensor))
        return output

    def count(self, tensors: Iterable[torch.Tensor]) -> int:
        """Count tensors that were made before; returns the bytes that are new."""
        before = self.now
        for tensor in tensors:
            storage = tensor.untyped_storage()
            place, size = storage._cdata, storage.nbytes()
            if place in self._known:
                continue

            def freed(_: Any, place: int = place, size: int = size) -> None:
                del self._known[place]
                self.now -= size

            self._known[place] = weakref.ref(storage, freed)
            self.now += size
        self.peak = max(self.peak, self.now)
        return self.now - before

    def restart_peak(self) -> None:
        """Take the peak from now on."""
        self.peak = self.now
