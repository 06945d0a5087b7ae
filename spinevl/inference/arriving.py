"""A tensor that a GPU sends to the CPU while it goes on computing."""

from __future__ import annotations

import torch


class Arriving:
    """A tensor on its way to the CPU, behind what its device was told before and nothing after.

    Args:
        tensor: on any device; on the CPU it is there already.
    """

    def __init__(self, tensor: torch.Tensor) -> None:
        self._sent = tensor.to("cpu", non_blocking=tensor.is_cuda)
        self._event: torch.cuda.Event | None = None
        if tensor.is_cuda:
            with torch.cuda.device(tensor.device):
                self._event = torch.cuda.Event()
                self._event.record()

    def here(self) -> torch.Tensor:
        """The tensor on the CPU, once it is there."""
        if self._event is not None:
            self._event.synchronize()
        return self._sent
