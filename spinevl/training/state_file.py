"""The files of a training's state: written as they are made, and read without running code."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.plugins.io import TorchCheckpointIO

from spinevl.io.files import writing
from spinevl.io.machine import machine_problem
from spinevl.schema.errors import refused


class StateFile(TorchCheckpointIO):
    """Writes a state as it is made; Lightning's own would hold it in memory once more.

    Attributes:
        error: why a file could not be written. It is no exception, for which the other processes,
            which wait for this one, would wait in vain.
    """

    error: OSError | None = None

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None
    ) -> None:
        """See Lightning."""
        try:
            with writing(Path(path)), Path(path).open("wb") as file:
                try:
                    torch.save(checkpoint, file)
                except RuntimeError as error:  # what torch makes of a full disk
                    if isinstance(error.__context__, OSError):
                        raise error.__context__ from None
                    raise
        except OSError as error:
            self.error = error

    def load_checkpoint(
        self, path: Any, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """See Lightning; runs no code of the file's."""
        try:
            return torch.load(path, map_location="cpu", weights_only=True)
        except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
            if machine_problem(error):
                raise
            fix = "remove its folder, or start anew with resume=never"
            found = "something else, which is not read"
            raise refused(f"{path}", "the state of a training", found, fix) from error
