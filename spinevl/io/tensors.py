"""Weights in safetensors files; pickles are never read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spinevl.io.finite import is_finite, not_finite
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


class StoredTensors(Mapping[str, "torch.Tensor"]):
    """Weights of safetensors files by name, of which each is read when it is asked for.

    No file stays open or mapped, so that a model that is filled from them is in memory with no
    more than one of them.

    Args:
        places: name -> its file, and its own name there.
        shapes: name -> its shape.
    """

    def __init__(
        self, places: Mapping[str, tuple[Path, str]], shapes: Mapping[str, tuple[int, ...]]
    ) -> None:
        self._places = places
        self.shapes = shapes

    def __getitem__(self, name: str) -> torch.Tensor:
        """Read a tensor.

        Raises:
            UserError: the file is damaged, or a number is not finite.
        """
        file, own = self._places[name]
        with _opened(file) as stored:
            tensor: torch.Tensor = stored.get_tensor(own)
            if not is_finite(tensor):
                names = list(stored.keys())
                wrong = [one for one in names if not is_finite(stored.get_tensor(one))]
                raise not_finite(wrong, of=len(names), where=str(file))
        return tensor

    def __contains__(self, name: object) -> bool:
        return name in self._places  # nothing is read for it

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def under(self, names: Mapping[str, str]) -> StoredTensors:
        """Some of them under other names: new name -> the one that it has."""
        return StoredTensors(
            {new: self._places[old] for new, old in names.items()},
            {new: self.shapes[old] for new, old in names.items()},
        )


def stored_tensors(folder: Path) -> StoredTensors:
    """The weights of a folder by name, in one safetensors file or several with an index.

    Raises:
        UserError: no weights there, only a pickle, a shard missing, or a file that is cut short.
    """
    index = folder / f"{WEIGHTS}.index.json"
    names = [WEIGHTS]
    if not (folder / WEIGHTS).is_file() and index.is_file():
        try:
            names = sorted(set(read_json_object(index)["weight_map"].values()))
        except (KeyError, AttributeError, TypeError) as error:
            raise UserError(f"{index}: no weight_map ({error}); copy it again") from error
    places: dict[str, tuple[Path, str]] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    for name in names:
        file = folder / name
        if Path(name).name != name or not file.is_file():
            pickles = pickles_in(folder)
            found = f"only {pickles[0]}, a pickle, which is not read" if pickles else "no such file"
            fix = "save it as safetensors" if pickles else "copy it again"
            raise refused(str(file), "safetensors weights", found, fix)
        with _opened(file) as stored:
            for key in stored.keys():  # noqa: SIM118  # it is no mapping
                places[key] = file, key
                shapes[key] = tuple(stored.get_slice(key).get_shape())
    return StoredTensors(places, shapes)


@contextmanager
def _opened(file: Path) -> Iterator[Any]:
    """A safetensors file, mapped as long as one of its tensors is in use."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="pt") as stored:
            yield stored
    except (SafetensorError, OSError) as error:
        raise UserError(f"{file}: not a whole safetensors file ({error}); copy it again") from error


def write_tensors(file: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    """Write named tensors, contiguous and on the CPU, as PyTorch's own loaders expect them."""
    from safetensors.torch import save_file

    save_file(dict(tensors), file, metadata={"format": "pt"})
