"""Features of a frozen encoder, kept on disk: every image is encoded once, whoever asks for it.

A folder an encoder holds segments, an array ``{name}.npy`` [n, tokens, dim] that is mapped into
memory and its index ``{name}.json``. A segment is written beside and renamed, its index last, so
a reader never sees half of one. Jobs and ranks that need the same images take turns: the first
encodes, the others find.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import logging
import os
import uuid
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock

from spinevl.models.encoder.base import ALIKE_IMAGES, Encoder, encode_alike
from spinevl.schema.errors import UserError
from spinevl.schema.files import write_text_atomic

log = logging.getLogger(__name__)

_SEGMENT_IMAGES = 1024
_BATCH_IMAGES = 4 * ALIKE_IMAGES


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
                rows = _read(home, set(first_of), shape=(encoder.tokens, encoder.dim))
                missing = [key for key in first_of if key not in rows]
                for start in range(0, len(missing), _SEGMENT_IMAGES):
                    part = missing[start : start + _SEGMENT_IMAGES]
                    _write(home, encoder, [(key, first_of[key]) for key in part], load, autocast)
                    if len(missing) > _SEGMENT_IMAGES:
                        log.info("encoded %d of %d images", start + len(part), len(missing))
                if missing:
                    rows |= _read(home, set(missing), shape=(encoder.tokens, encoder.dim))
            self._drop_oldest(keep=home)
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

    def _drop_oldest(self, *, keep: Path) -> None:
        """Remove whole segments, longest unused first, until the bound holds.

        A job that has one mapped goes on reading it: its pages live until it is unmapped.
        """
        indexes = sorted(self.folder.glob("*/*.json"), key=lambda file: file.stat().st_mtime)
        sizes = {file: _size(file.with_suffix(".npy")) for file in indexes}
        total = sum(sizes.values())
        for file in [one for one in indexes if one.parent != keep]:
            if total <= self.max_bytes:
                return
            file.unlink(missing_ok=True)
            file.with_suffix(".npy").unlink(missing_ok=True)
            total -= sizes[file]


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
    for part in (kind.__module__, kind.__qualname__, device, str(autocast), encoder.identity()):
        digest.update(part.encode() + b"\0")
    digest.update(inspect.getsource(kind).encode())
    for name, tensor in sorted(encoder.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()[:32]


@torch.inference_mode()
def encode(
    encoder: Encoder, images: Sequence[np.ndarray], *, autocast: torch.dtype | None = None
) -> np.ndarray:
    """Images uint8 [H, W] -> features, float32 [len(images), tokens, dim]."""
    device = next(encoder.parameters()).device
    pixels = torch.stack([encoder.transform(image) for image in images]).to(device)
    with torch.autocast(device.type, dtype=autocast, enabled=autocast is not None):
        return encode_alike(encoder, pixels).float().cpu().numpy()


def _read(home: Path, keys: set[str], *, shape: tuple[int, int]) -> dict[str, np.ndarray]:
    """The rows of ``keys`` that whole segments hold; what is damaged counts as not there."""
    rows: dict[str, np.ndarray] = {}
    for file in sorted(home.glob("*.json"), key=lambda one: one.stat().st_mtime):
        wanted = False
        try:
            index = json.loads(file.read_text(encoding="utf-8"))
            array = np.load(file.with_suffix(".npy"), mmap_mode="r", allow_pickle=False)
            entries = list(zip(index["images"], index["crc32"], strict=True))
            if array.shape != (len(entries), *shape) or array.dtype != np.float32:
                raise ValueError(f"an array of {array.dtype} {array.shape}")
        except (OSError, ValueError, KeyError, TypeError) as error:
            log.warning("%s is damaged (%s); its images are encoded again", file, error)
            file.unlink(missing_ok=True)
            file.with_suffix(".npy").unlink(missing_ok=True)
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
    """Encode images (key, path) into a segment of their own."""
    for left in home.glob("*.part"):  # of a job that was killed; we hold the lock
        left.unlink()
    name = uuid.uuid4().hex
    beside = home / f"{name}.part"
    shape = (len(images), encoder.tokens, encoder.dim)
    array = np.lib.format.open_memmap(beside, mode="w+", dtype=np.float32, shape=shape)
    checks = []
    for start, features in _encoded(encoder, [path for _, path in images], load, autocast):
        array[start : start + len(features)] = features
        checks += [zlib.crc32(np.ascontiguousarray(one).data) for one in features]
    array.flush()
    del array
    beside.rename(home / f"{name}.npy")
    index = {"images": [key for key, _ in images], "crc32": checks}
    write_text_atomic(home / f"{name}.json", json.dumps(index))


def _encoded(
    encoder: Encoder,
    paths: Sequence[str],
    load: Callable[[str], np.ndarray],
    autocast: torch.dtype | None,
) -> Iterator[tuple[int, np.ndarray]]:
    for start in range(0, len(paths), _BATCH_IMAGES):
        images = [load(path) for path in paths[start : start + _BATCH_IMAGES]]
        yield start, encode(encoder, images, autocast=autocast)


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:
        return 0
