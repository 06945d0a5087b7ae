"""The files that browsers send: a private folder, and what is taken into it.

No name that a browser tells becomes a path: a file is kept under a name made here.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from spinevl.config.options.playground import LimitOptions
from spinevl.io.image_file import load_rgb
from spinevl.io.regular_file import open_regular
from spinevl.io.temporary import beside, remove, remove_leftovers
from spinevl.io.volume_file import Window, load_volume
from spinevl.playground.pictures import thumbnail
from spinevl.schema.errors import Problems, UserError, escaped, refused
from spinevl.schema.image_ref import ImageRef, Modality

_FOLDER = "spinevl-playground"
PNG = b"\x89PNG\r\n\x1a\n"
"""How a PNG begins."""

# the first bytes tell the decoder; Pillow then tries no other one
_IMAGES = {PNG: ".png", b"\xff\xd8\xff": ".jpg", b"BM": ".bmp"}
_VOLUMES = (".npy", ".nii", ".nii.gz")
_KINDS = "a PNG, JPEG, BMP or WebP image, or a volume (.npy, .nii, .nii.gz)"


@dataclass(frozen=True)
class Received:
    """A file that a browser has sent.

    Attributes:
        path: where it lies, under a name of ours or the server's.
        name: what the browser calls it.
    """

    path: Path
    name: str

    @property
    def shown(self) -> str:
        """Its name for messages: one short line, without folders."""
        return escaped(PurePosixPath(self.name.replace("\\", "/")).name or "a file", longest=80)

    @property
    def is_zip(self) -> bool:
        """Whether it says that it is one, by its name or its first bytes."""
        return self.name.lower().endswith(".zip") or self.start(4) == b"PK\x03\x04"

    def start(self, count: int) -> bytes:
        """Its first bytes."""
        with open_regular(self.path, expected="an uploaded file", where=self.shown) as file:
            return file.read(count)


@dataclass(frozen=True)
class Shown:
    """An image or a volume that a conversation shows.

    Attributes:
        image: the file, checked.
        name: what the browser calls it.
        picture: a small one, as a data URI.
    """

    image: ImageRef
    name: str
    picture: str


class Uploads:
    """The private folder of a process; use it as a context manager.

    At the end it is removed; after a crash the next start removes it.

    Args:
        limits: how much it holds.
        parent: where it lies; by default the system's folder of temporary files.
    """

    def __init__(self, limits: LimitOptions, *, parent: Path | None = None) -> None:
        self.limits = limits
        parent = parent or Path(tempfile.gettempdir())
        remove_leftovers(parent, of=_FOLDER)
        self.folder = beside(parent / _FOLDER)
        self.folder.mkdir(mode=0o700)
        self.incoming = self.folder / "incoming"
        self.incoming.mkdir(mode=0o700)

    def __enter__(self) -> Uploads:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Remove the folder with all that is in it."""
        remove(self.folder)

    def new_folder(self) -> Path:
        """An empty folder of its own for what one visitor sends."""
        folder = self.folder / uuid.uuid4().hex
        folder.mkdir(mode=0o700)
        return folder

    def size(self) -> int:
        """Bytes of all files."""
        walked = os.walk(self.folder)  # which passes over what is removed meanwhile
        return sum(_size(Path(root) / name) for root, _, names in walked for name in names)

    def require_room(self, coming: int = 0) -> None:
        """Raise UserError where the folder is full, or would be with so many bytes more."""
        if self.size() + coming > self.limits.total_bytes:
            raise UserError(
                f"the files of all visitors are more than limits.total_mb={self.limits.total_mb:g};"
                " try again when others have left, or raise the limit"
            )

    def received(self, path: str, name: str | None) -> Received:
        """A file that the server has stored for a browser.

        Raises:
            UserError: a path that is not one of these.
        """
        given = Path(os.path.normpath(path))
        name = name or given.name
        if not given.is_relative_to(self.incoming) or not _is_itself(given):
            raise refused("the upload", "a file that was uploaded here", name, "drop it again")
        return Received(given, name)

    def all_received(self, paths: Sequence[str] | None) -> list[Received]:
        """See received, for the files of one upload, under the names that the server tells."""
        return [self.received(str(path), None) for path in paths or ()]

    def take_images(
        self, files: Sequence[Received], into: Path, window: Window | None
    ) -> list[Shown]:
        """Check images and volumes, each decoded once within the limits, and keep them.

        Args:
            files: they stay where they were received, see discard_older.
            into: a folder of ``new_folder``.
            window: of volumes.

        Raises:
            UserError: with every file that is refused; then none is kept.
        """
        problems = Problems()
        taken: list[Shown] = []
        try:
            self.require_fit(files)
            for file in files:
                with problems.collected():
                    taken.append(self._take_image(file, into, window))
            problems.raise_any()
        except UserError:
            self.discard_taken(taken)
            raise
        return taken

    def _take_image(self, file: Received, into: Path, window: Window | None) -> Shown:
        suffix = _kind(file)
        modality: Modality = "image3d" if suffix in _VOLUMES else "image"
        kept = into / f"{uuid.uuid4().hex}{suffix}"
        shutil.copyfile(file.path, kept)
        try:
            with told_as(kept, file.shown):
                if modality == "image3d":
                    pixels = load_volume(kept, window=window, max_voxels=self.limits.voxels)
                else:
                    pixels = load_rgb(kept, max_pixels=self.limits.pixels)
        except BaseException:
            remove(kept)
            raise
        return Shown(ImageRef(str(kept), modality=modality), file.shown, thumbnail(pixels))

    def discard_taken(self, images: Sequence[Shown]) -> None:
        """Remove images that ``take_images`` has kept."""
        for one in images:
            remove(Path(one.image.path))

    def discard_older(self, seconds: float) -> None:
        """Remove what was received so long ago.

        It is not removed as soon as it is taken: the server keeps the same file that two visitors
        send as one.
        """
        oldest = time.time() - seconds
        for one in self.incoming.iterdir():
            with suppress(FileNotFoundError):
                if one.lstat().st_mtime < oldest:
                    remove(one)

    def require_fit(self, files: Sequence[Received]) -> None:
        """Raise UserError for an upload of no files, of too many or of too much."""
        limits = self.limits
        if not files:
            raise refused("the upload", "a file", "none", "drop one")
        if len(files) > limits.files:
            wanted = f"at most {limits.files} files (limits.files)"
            raise refused("the upload", wanted, str(len(files)), "drop fewer")
        problems = Problems()
        total = 0
        for file in files:
            total += (size := _size(file.path))
            if not size:
                problems.add(file.shown, "a file with content", "0 bytes", "export it again")
        problems.raise_any()
        if total > limits.upload_bytes:
            where = files[0].shown if len(files) == 1 else "the upload"
            wanted = f"at most limits.upload_mb={limits.upload_mb:g}"
            raise refused(where, wanted, f"{total / 1e6:.1f} MB", "make it smaller")
        self.require_room()


@contextmanager
def told_as(path: Path, name: str) -> Iterator[None]:
    """Let messages name a file as its visitor does, in place of where it lies here."""
    try:
        yield
    except UserError as error:
        raise UserError([one.replace(str(path), name) for one in error.problems]) from None


def _kind(file: Received) -> str:
    """The suffix under which a file is kept, by its content; of a volume, by its name."""
    start = file.start(12)
    if start[:4] == b"RIFF" and start[8:] == b"WEBP":
        return ".webp"
    for magic, suffix in _IMAGES.items():
        if start.startswith(magic):
            return suffix
    for suffix in sorted(_VOLUMES, key=len, reverse=True):
        if file.name.lower().endswith(suffix):
            return suffix
    raise refused(file.shown, _KINDS, f"content that begins with {start!r}", "convert it")


def _is_itself(path: Path) -> bool:
    """Whether a file is there, and no link leads to it."""
    try:
        return path.is_file() and path.resolve() == path.absolute()
    except (OSError, ValueError):  # a name that no file has
        return False


def _size(path: Path) -> int:
    try:
        return path.lstat().st_size
    except OSError:  # removed in between
        return 0
