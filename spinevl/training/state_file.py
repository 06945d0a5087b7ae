"""The files of a training's state: written as they are made, and read without running code."""

from __future__ import annotations

import pickle
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.plugins.io import TorchCheckpointIO

from spinevl.io.files import writing
from spinevl.io.machine import machine_problem
from spinevl.schema.errors import UserError

STATE = "state"
"""The name of a state in its folder: a file, of DeepSpeed a folder with files of each process."""

_OPTIMIZER, _MODEL = "optim_states.pt", "model_states.pt"  # how DeepSpeed's files end
_ALWAYS = {
    "epoch": int,
    "global_step": int,
    "pytorch-lightning_version": str,
    "loops": dict,
    "callbacks": dict,
    "lr_schedulers": list,
    "random": list,
}
_NEEDED: Mapping[str, Mapping[str, type]] = {  # by what a file's name ends with
    _OPTIMIZER: {"optimizer_state_dict": dict},
    _MODEL: {**_ALWAYS, "module": dict},
    "": {**_ALWAYS, "state_dict": dict, "optimizer_states": list},
}


# what torch makes of a file that it did not write, or that was changed
_UNREADABLE = (
    *(pickle.UnpicklingError, struct.error, RuntimeError, EOFError, LookupError),
    *(ValueError, TypeError, AttributeError),
)


class TornState(Exception):
    """A state that cannot be used; why, in a sentence."""


class _Empty:
    """Stands for an object of DeepSpeed's where only the keys of a file matter."""

    def __init__(self, *_: Any) -> None: ...


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
            return _read(Path(path))
        except TornState as error:
            raise UserError(
                f"{error}; remove the folder of this state, or start anew with resume=never"
            ) from error


def require_state(path: Path, *, world: int) -> None:
    """Hold a state against what a training reads of it, without its tensors.

    Args:
        path: see STATE.
        world: how many processes wrote it.

    Raises:
        TornState: a file is missing, or is something else.
    """
    files = sorted(path.rglob("*.pt")) if path.is_dir() else [path]
    shares = sum(one.name.endswith(_OPTIMIZER) for one in files)
    if path.is_dir() and (shares != world or shares == len(files)):
        raise TornState(
            f"{path}: expected the weights and the optimizer's share of each of {world} processes, "
            f"found {len(files) - shares} and {shares} files"
        )
    for file in files:
        _read(file, keys_only=True)


def _read(path: Path, *, keys_only: bool = False) -> dict[str, Any]:
    """A file of a state; with ``keys_only`` its tensors stay on the disk. Raises TornState."""
    expected = f"{path}: expected the state of a training"
    try:
        stand_ins: list[Any] = []
        if keys_only:
            found = torch.serialization.get_unsafe_globals_in_checkpoint(path)
            stand_ins = [(_Empty, one) for one in found if one.startswith("deepspeed.")]
        with torch.serialization.safe_globals(stand_ins):
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=keys_only)
    except FileNotFoundError as error:
        raise TornState(f"{expected}, found no file") from error
    except _UNREADABLE as error:
        if machine_problem(error):
            raise
        raise TornState(f"{expected}, found something else, which is not read") from error
    if not isinstance(content, dict):
        raise TornState(f"{expected}, found a {type(content).__name__}")
    needed = next(keys for end, keys in _NEEDED.items() if path.name.endswith(end))
    if wrong := [key for key, kind in needed.items() if not isinstance(content.get(key), kind)]:
        raise TornState(f"{expected}, found other content, without its {', '.join(wrong)}")
    return content
