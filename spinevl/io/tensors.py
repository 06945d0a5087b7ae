"""Weights in safetensors files; pickles are never read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from spinevl.io.finite import require_finite_weights
from spinevl.io.json_file import read_json_object
from spinevl.schema.errors import UserError, refused

if TYPE_CHECKING:
    import torch

WEIGHTS = "model.safetensors"


def pickles_in(folder: Path) -> list[str]:
    """The names of the pickled weights in a folder, which are never read."""
    if not folder.is_dir():
        return []
    return sorted(file.name for file in folder.iterdir() if file.suffix in (".bin", ".pt", ".pth"))


def read_tensors(folder: Path) -> dict[str, torch.Tensor]:
    """The weights of a folder by name, from one safetensors file or several with an index.

    Raises:
        UserError: no weights there, only a pickle, a shard missing, a file that is cut short, or
            numbers that are not finite.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    index = folder / f"{WEIGHTS}.index.json"
    names = [WEIGHTS]
    if not (folder / WEIGHTS).is_file() and index.is_file():
        try:
            names = sorted(set(read_json_object(index)["weight_map"].values()))
        except (KeyError, AttributeError, TypeError) as error:
            raise UserError(f"{index}: no weight_map ({error}); copy it again") from error
    tensors: dict[str, torch.Tensor] = {}
    for name in names:
        file = folder / name
        if Path(name).name != name or not file.is_file():
            pickles = pickles_in(folder)
            found = f"only {pickles[0]}, a pickle, which is not read" if pickles else "no such file"
            fix = "save it as safetensors" if pickles else "copy it again"
            raise refused(str(file), "safetensors weights", found, fix)
        try:
            stored = load_file(file)
        except (SafetensorError, OSError) as error:
            raise UserError(
                f"{file}: not a whole safetensors file ({error}); copy it again"
            ) from error
        require_finite_weights(stored, where=str(file))
        tensors.update(stored)
    return tensors


def write_tensors(file: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    """Write named tensors, contiguous and on the CPU, as PyTorch's own loaders expect them."""
    from safetensors.torch import save_file

    save_file(dict(tensors), file, metadata={"format": "pt"})
