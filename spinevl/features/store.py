"""Features of a frozen encoder, kept on disk: every image is encoded once, whoever asks for it.

A folder an encoder holds segments, an array ``{name}.npy`` [n, tokens, dim] that is mapped into
memory and its index ``{name}.json``. A segment is written beside and renamed, its array last, so
a reader never gets half of one. Jobs and ranks that need the same images take turns: the first
encodes them, the others find them.
"""

from __future__ import annotations

import json
import logging
import math
import os
import uuid
import zlib
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock, Timeout

from spinevl.features.encode import encoded_in_parts
from spinevl.features.key import encoder_key, image_key
from spinevl.features.speed import Speed, seconds_to_read
from spinevl.io.files import write_text_atomic
from spinevl.io.json_file import read_json_object
from spinevl.io.temporary import remove_leftovers
from spinevl.models.encoder.base import Encoder
from spinevl.schema.errors import UserError

log = logging.getLogger(__name__)

_SEGMENT_IMAGES = 1024
_ENOUGH_IMAGES = 48  # are encoded before their speed is kept
_MEASURED_BYTES = 2**26
_COPIED_BY_THREADS = 2**24  # bytes, from which on threads are faster than one

Encode = Callable[[Sequence[Hashable]], Iterable[np.ndarray]]


@dataclass(frozen=True)
class Features:
    """Encoder features by image.

    Attributes:
        encoded: images that had to be encoded for this table.
        found: images that the cache had already.
    """

    encoded: int
    found: int
    _rows: Mapping[Hashable, np.ndarray]

    def __call__(self, images: Sequence[Hashable]) -> torch.Tensor:
        """The features of some images, float32 [len(images), tokens, dim]."""
        rows = [self._rows[image] for image in images]
        table = np.empty((len(rows), *rows[0].shape), dtype=np.float32)
        if table.nbytes < _COPIED_BY_THREADS:
            np.stack(rows, out=table)
        else:
            with ThreadPoolExecutor(torch.get_num_threads()) as pool:
                deque(pool.map(np.copyto, table, rows), maxlen=0)
        return torch.from_numpy(table)


@dataclass(frozen=True)
class FeatureCache:
    """A folder of features, shared by the jobs of a machine.

    Attributes:
        folder: where every encoder gets a folder of its own.
        max_bytes: the bound; least recently used segments are evicted first.
        only_if_faster: features are used only where reading them is not known to be slower than
            encoding.
        agreed: turns this process's decision into one that all ranks share.
    """

    folder: Path
    max_bytes: int
    only_if_faster: bool = False
    agreed: Callable[[bool], bool] = bool

    def features(
        self,
        encoder: Encoder,
        images: Sequence[Hashable],
        *,
        load: Callable[[Any], np.ndarray],
        autocast: torch.dtype | None = None,
        key: str | None = None,
        uses: int = 1,
    ) -> Features | None:
        """The features of all ``images``, encoded in batches where the cache lacks them.

        Args:
            encoder: frozen, in evaluation mode, on the device that it is to run on.
            images: whatever names an image, such as its path; images with the same pixels are
                encoded once.
            load: an image's name -> its pixels, as Encoder.transform takes them.
            autocast: the precision that training encodes in, if not float32.
            key: the encoder_key of both, where it is known.
            uses: how often each image will be asked for, such as the epochs of a training, whose
                ranks must all call this.

        Returns:
            The features; None where they are more than the cache may hold, or slower to read
            than to make.

        Raises:
            UserError: the folder cannot be written, or features are not finite.
        """
        home = self.folder / (key or encoder_key(encoder, autocast=autocast))
        device = next(encoder.parameters()).device
        if not self.agreed(self._pays(home, device, uses)):
            return None
        shown = list(dict.fromkeys(images))
        with ThreadPoolExecutor() as pool:  # decoders and hashes let go of the interpreter's lock
            keys = dict(zip(shown, pool.map(lambda one: image_key(load(one)), shown), strict=True))
        first_of = {key: image for image, key in reversed(keys.items())}
        size = 4 * encoder.tokens * encoder.dim * len(first_of)
        if size > self.max_bytes:
            log.warning(
                "features are not cached: those of %d images take %.1f GB, feature_cache.max_gb "
                "is %.1f",
                len(first_of),
                size / 1e9,
                self.max_bytes / 1e9,
            )
            return None
        try:
            times: list[tuple[float, int]] = []
            encode = partial(
                encoded_in_parts,
                encoder,
                load=load,
                autocast=autocast,
                took=lambda seconds, n: times.append((seconds / n, n)),
            )
            shape = (encoder.tokens, encoder.dim)
            encoded, rows, reading = _read_or_encode(home, first_of, shape, encode)
            if reading is not None and encoded >= _ENOUGH_IMAGES:  # of few, fixed costs count most
                most = max(n for _, n in times)
                Speed(min(each for each, n in times if n == most), reading).write(home, device)
            self._evict(used={Path(row.filename) for row in rows.values()})
        except OSError as error:
            raise UserError(
                f"cache_dir: {error.filename or home}: {error.strerror or error}; make room, name "
                "another cache_dir, or set feature_cache.enabled=false"
            ) from error
        found = len(first_of) - encoded
        log.info(
            "features of %d images: %d encoded, %d in the cache", len(first_of), encoded, found
        )
        return Features(encoded, found, {image: rows[key] for image, key in keys.items()})

    def _pays(self, home: Path, device: torch.device, uses: int) -> bool:
        """Whether kept features are to be used, by what earlier jobs have measured."""
        speed = Speed.measured(home, device) if self.only_if_faster else None
        if speed is None or speed.keeping_pays(uses):
            return True
        log.info(
            "features are not kept: encoding an image takes %.1f ms here, reading its features "
            "%.1f, and each is used in %d pass(es); feature_cache.only_if_faster=false keeps them",
            1e3 * speed.encode,
            1e3 * speed.read,
            uses,
        )
        return False

    def _evict(self, *, used: set[Path]) -> None:
        """Remove least recently used segments, but none that is ``used``, until the bound holds.

        A job that has one mapped goes on reading it: its pages live until it is unmapped. Folders
        that another job has locked are left alone.
        """
        with FileLock(self.folder / ".lock"):
            segments = list(self.folder.resolve().glob("*/*.npy"))  # as a mapped file names itself
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


def _read_or_encode(
    home: Path, first_of: Mapping[str, Hashable], shape: tuple[int, int], encode: Encode
) -> tuple[int, dict[str, Any], float | None]:
    """How many images (by key) had to be encoded, the rows of all, and an image's seconds to read.

    These are measured where a segment is written, and None elsewhere.
    """
    reading = None
    home.mkdir(parents=True, exist_ok=True)
    with FileLock(home / ".lock"):
        _sweep(home)
        remove_leftovers(home, locked=True)
        rows = _read(home, set(first_of), shape)
        missing = [key for key in first_of if key not in rows]
        for start in range(0, len(missing), _SEGMENT_IMAGES):
            keys = missing[start : start + _SEGMENT_IMAGES]
            segment = _write(home, keys, shape, encode([first_of[key] for key in keys]))
            if reading is None:  # measured before it is mapped, which would keep it in memory
                some = keys[: max(1, _MEASURED_BYTES // (4 * math.prod(shape)))]
                read = partial(_read_segment, keys=set(some), shape=shape)
                reading = seconds_to_read(segment, read) / len(some)
            if len(missing) > _SEGMENT_IMAGES:
                log.info("encoded %d of %d images", start + len(keys), len(missing))
        if missing:
            rows |= _read(home, set(missing), shape)
    return len(missing), rows, reading


def _read(home: Path, keys: set[str], shape: tuple[int, int]) -> dict[str, Any]:
    """The rows of ``keys`` that intact segments hold; what is damaged counts as missing.

    Each row is a view of its segment's memory map.
    """
    rows: dict[str, Any] = {}
    for file in sorted(home.glob("*.npy"), key=_stat):
        if found := _read_segment(file, keys, shape):
            rows |= found
            os.utime(file)
    return rows


def _read_segment(file: Path, keys: set[str], shape: tuple[int, int]) -> dict[str, Any]:
    """See _read; a segment without an index, or with another shape, is removed."""
    try:
        index = read_json_object(file.with_suffix(".json"))
        array = np.load(file, mmap_mode="r", allow_pickle=False)
        entries = list(zip(index["images"], index["crc32"], strict=True))
        if array.shape != (len(entries), *shape) or array.dtype != np.float32:
            raise ValueError(f"an array of {array.dtype} {array.shape}")
    except (ValueError, KeyError, TypeError, EOFError, UserError) as error:
        log.warning("%s is damaged (%s); its images are encoded again", file, error)
        _remove(file)
        return {}

    def intact(number: int) -> bool:
        row = array[number]
        return zlib.crc32(row) == entries[number][1] and bool(np.isfinite(row).all())

    asked = [number for number, (key, _) in enumerate(entries) if key in keys]
    rows: dict[str, Any] = {}
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:  # both let go of the lock
        for number, whole in zip(asked, pool.map(intact, asked), strict=True):
            if whole:
                rows[entries[number][0]] = array[number]
            else:
                log.warning("%s: image %d is damaged and encoded again", file, number)
    return rows


def _write(
    home: Path, keys: Sequence[str], shape: tuple[int, int], parts: Iterable[np.ndarray]
) -> Path:
    """Write features [n, *shape] into a segment of their own; the index first, then the array."""
    name = uuid.uuid4().hex
    beside = home / f"{name}.part"
    header = {
        "descr": np.lib.format.dtype_to_descr(np.dtype(np.float32)),
        "fortran_order": False,
        "shape": (len(keys), *shape),
    }
    checks = []
    # written, not mapped: a full disk is then an OSError, not a process killed by a signal
    with beside.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        for features in parts:
            file.write(np.ascontiguousarray(features).data)
            checks += [zlib.crc32(np.ascontiguousarray(one).data) for one in features]
        file.flush()
        os.fsync(file.fileno())
    index = {"images": list(keys), "crc32": checks}
    write_text_atomic(home / f"{name}.json", json.dumps(index))
    return beside.rename(home / f"{name}.npy")


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


def _stat(file: Path) -> tuple[float, int]:
    """When a file was last used, and its bytes; zeros where it has just gone."""
    try:
        found = file.stat()
    except FileNotFoundError:
        return 0.0, 0
    return found.st_mtime, found.st_size
