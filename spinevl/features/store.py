"""Features of a frozen encoder, kept on disk: every image is encoded once, whoever asks for it.

A folder an encoder holds segments, an array ``{name}.npy`` [n, tokens, dim] that is mapped into
memory and its index ``{name}.json``. A segment is written beside and renamed, its array last, so
a reader never sees half of one. Jobs and ranks that need the same images take turns: the first
encodes, the others find.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import logging
import os
import sys
import uuid
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock, Timeout

from spinevl.io.files import write_text_atomic
from spinevl.models.encoder.base import FIXED_BATCH, Encoder, encode_in_fixed_batches
from spinevl.schema.errors import UserError

log = logging.getLogger(__name__)

_SEGMENT_IMAGES = 1024


@dataclass(frozen=True)
class Features:
    """Encoder features by image path.

    Attributes:
        encoded: images that had to be encoded for this table.
        found: images that the cache had already.
    """

    encoded: int
    found: int
    _rows: Mapping[str, np.ndarray]

    def __call__(self, paths: Sequence[str]) -> torch.Tensor:
        """The features of some images, float32 [len(paths), tokens, dim]."""
        return torch.from_numpy(np.stack([self._rows[path] for path in paths]))


class FeatureCache:
    """A folder of features, shared by the jobs of a machine.

    Args:
        folder: where every encoder gets a folder of its own.
        max_bytes: the bound; the segments that were used longest ago are dropped first.
    """

    def __init__(self, folder: Path, *, max_bytes: int) -> None:
        self.folder = folder
        self.max_bytes = max_bytes

    def features(
        self,
        encoder: Encoder,
        paths: Sequence[str],
        *,
        load: Callable[[str], np.ndarray],
        autocast: torch.dtype | None = None,
    ) -> Features | None:
        """The features of all ``paths``, encoded in batches where the cache lacks them.

        Args:
            encoder: frozen, in evaluation mode, on the device that it is to run on.
            paths: image files; images with the same pixels are encoded once.
            load: path -> uint8 [H, W].
            autocast: the precision that training encodes in, if not float32.

        Returns:
            The features; None where they are more than the cache may hold.

        Raises:
            UserError: the folder cannot be written.
        """
        keys = {path: image_key(load(path)) for path in dict.fromkeys(paths)}
        first_of = {key: path for path, key in reversed(keys.items())}
        size = 4 * encoder.tokens * encoder.dim
        if len(first_of) * size > self.max_bytes:
            log.warning(
                "features are not cached: those of %d images take %.1f GB, feature_cache.max_gb "
                "is %.1f",
                len(first_of),
                len(first_of) * size / 1e9,
                self.max_bytes / 1e9,
            )
            return None
        home = self.folder / encoder_key(encoder, autocast=autocast)
        try:
            home.mkdir(parents=True, exist_ok=True)
            with FileLock(home / ".lock"):
                _sweep(home)
                rows = _read(home, set(first_of), shape=(encoder.tokens, encoder.dim))
                missing = [key for key in first_of if key not in rows]
                for start in range(0, len(missing), _SEGMENT_IMAGES):
                    part = missing[start : start + _SEGMENT_IMAGES]
                    _write(home, encoder, [(key, first_of[key]) for key in part], load, autocast)
                    if len(missing) > _SEGMENT_IMAGES:
                        log.info("encoded %d of %d images", start + len(part), len(missing))
                if missing:
                    rows |= _read(home, set(missing), shape=(encoder.tokens, encoder.dim))
                used = {Path(row.filename) for row in rows.values()}
            self._drop_oldest(used)
        except OSError as error:
            raise UserError(
                f"cache_dir: {error.filename or home}: {error.strerror or error}; make room, name "
                "another cache_dir, or set feature_cache.enabled=false"
            ) from error
        log.info(
            "features of %d images: %d encoded, %d in the cache",
            len(first_of),
            len(missing),
            len(first_of) - len(missing),
        )
        return Features(
            len(missing), len(first_of) - len(missing), {p: rows[key] for p, key in keys.items()}
        )

    def _drop_oldest(self, used: set[Path]) -> None:
        """Remove whole segments, longest unused first, until the bound holds.

        A job that has one mapped goes on reading it: its pages live until it is unmapped. Folders
        where another job is at work are left alone.
        """
        with FileLock(self.folder / ".lock"):
            segments = list(self.folder.glob("*/*.npy"))
            total = sum(_stat(file)[1] for file in segments)
            for file in sorted(segments, key=_stat):
                if total <= self.max_bytes:
                    return
                if file in used:
                    continue
                try:
                    with FileLock(file.parent / ".lock", timeout=0):
                        total -= _stat(file)[1]
                        _remove(file)
                except Timeout:
                    continue


def image_key(pixels: np.ndarray) -> str:
    """The content of an image, uint8 [H, W], as 32 hex digits."""
    digest = hashlib.blake2b(repr(pixels.shape).encode(), digest_size=16)
    digest.update(np.ascontiguousarray(pixels).data)
    return digest.hexdigest()


def encoder_key(encoder: Encoder, *, autocast: torch.dtype | None = None) -> str:
    """All that features depend on besides pixels: code, settings, weights, device and precision."""
    digest = hashlib.sha256()
    device = next(encoder.parameters()).device.type
    kind = type(encoder)
    sources = [inspect.getsource(sys.modules[name]) for name in _modules(kind)]
    versions = [f"{name} {version(name)}" for name in ("torch", "transformers", "numpy", "pillow")]
    for part in (kind.__qualname__, device, str(autocast), encoder.identity(), *sources, *versions):
        digest.update(part.encode() + b"\0")
    for name, tensor in sorted({**encoder.state_dict(), **dict(encoder.named_buffers())}.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()[:32]


def _modules(kind: type[Encoder]) -> list[str]:
    """The modules of an encoder's class and its bases, and of the encoder package they import."""
    own = [one.__module__ for one in kind.__mro__ if issubclass(one, Encoder)]
    package = Encoder.__module__.rpartition(".")[0]
    used = {
        home
        for name in own
        for value in vars(sys.modules[name]).values()
        if str(home := getattr(value, "__module__", "")).startswith(f"{package}.")
    }
    return list(dict.fromkeys([*own, *sorted(used)]))


@torch.inference_mode()
def encode(
    encoder: Encoder, images: Sequence[np.ndarray], *, autocast: torch.dtype | None = None
) -> np.ndarray:
    """Images uint8 [H, W] -> features, float32 [len(images), tokens, dim]."""
    device = next(encoder.parameters()).device
    pixels = torch.stack([encoder.transform(image) for image in images]).to(device)
    with torch.autocast(device.type, dtype=autocast, enabled=autocast is not None):
        return encode_in_fixed_batches(encoder, pixels).float().cpu().numpy()


def _read(home: Path, keys: set[str], *, shape: tuple[int, int]) -> dict[str, Any]:
    """The rows of ``keys`` that whole segments hold; what is damaged counts as not there.

    Each row is a view of its segment's memory map.
    """
    rows: dict[str, Any] = {}
    for file in sorted(home.glob("*.npy"), key=_stat):
        wanted = False
        try:
            index = json.loads(file.with_suffix(".json").read_text(encoding="utf-8"))
            array = np.load(file, mmap_mode="r", allow_pickle=False)
            entries = list(zip(index["images"], index["crc32"], strict=True))
            if array.shape != (len(entries), *shape) or array.dtype != np.float32:
                raise ValueError(f"an array of {array.dtype} {array.shape}")
        except (ValueError, KeyError, TypeError, EOFError) as error:
            log.warning("%s is damaged (%s); its images are encoded again", file, error)
            _remove(file)
            continue
        for number, (key, crc) in enumerate(entries):
            if key not in keys:
                continue
            if zlib.crc32(array[number]) == crc:
                rows[key] = array[number]
                wanted = True
            else:
                log.warning("%s: image %d is damaged and encoded again", file, number)
        if wanted:
            os.utime(file)
    return rows


def _write(
    home: Path,
    encoder: Encoder,
    images: Sequence[tuple[str, str]],
    load: Callable[[str], np.ndarray],
    autocast: torch.dtype | None,
) -> None:
    """Encode images (key, path) into a segment of their own; the index first, then the array."""
    name = uuid.uuid4().hex
    beside = home / f"{name}.part"
    header = {
        "descr": np.lib.format.dtype_to_descr(np.dtype(np.float32)),
        "fortran_order": False,
        "shape": (len(images), encoder.tokens, encoder.dim),
    }
    checks = []
    # written, not mapped: a full disk is then an error that can be told, not a dead process
    with beside.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        for features in _encoded(encoder, [path for _, path in images], load, autocast):
            file.write(np.ascontiguousarray(features).data)
            checks += [zlib.crc32(np.ascontiguousarray(one).data) for one in features]
        file.flush()
        os.fsync(file.fileno())
    index = {"images": [key for key, _ in images], "crc32": checks}
    write_text_atomic(home / f"{name}.json", json.dumps(index))
    beside.rename(home / f"{name}.npy")


def _sweep(home: Path) -> None:
    """Remove what killed jobs left; under the folder's lock."""
    for left in home.glob("*.part"):
        left.unlink()
    for index in home.glob("*.json"):
        if not index.with_suffix(".npy").exists():
            index.unlink()
    for array in home.glob("*.npy"):
        if not array.with_suffix(".json").exists():
            array.unlink()


def _remove(array: Path) -> None:
    array.unlink(missing_ok=True)
    array.with_suffix(".json").unlink(missing_ok=True)


def _encoded(
    encoder: Encoder,
    paths: Sequence[str],
    load: Callable[[str], np.ndarray],
    autocast: torch.dtype | None,
) -> Iterator[np.ndarray]:
    together = 4 * FIXED_BATCH[encoder.modality]
    for start in range(0, len(paths), together):
        images = [load(path) for path in paths[start : start + together]]
        yield encode(encoder, images, autocast=autocast)


def _stat(file: Path) -> tuple[float, int]:
    """When a file was last used, and its bytes; zeros where it has just gone."""
    try:
        found = file.stat()
    except FileNotFoundError:
        return 0.0, 0
    return found.st_mtime, found.st_size
