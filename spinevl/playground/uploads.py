"""The files that browsers send: a private folder, and what is taken into it.

No name that a browser tells becomes a path: a file is kept under a name made here.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from spinevl.config.options.playground import LimitOptions
from spinevl.io.image_file import load_image, load_rgb
from spinevl.io.regular_file import open_regular
from spinevl.io.temporary import beside, remove, remove_leftovers
from spinevl.io.volume_file import Window, load_volume
from spinevl.playground.archive import Slot, read_archive, slot_of
from spinevl.playground.pictures import thumbnail
from spinevl.schema.errors import Problems, UserError, escaped, refused
from spinevl.schema.image_ref import ImageRef, Modality
from spinevl.schema.study_layout import StudyLayout

PATIENT = "patient"
"""What an uploaded patient is called."""

_FOLDER = "spinevl-playground"
# the first bytes tell the decoder; Pillow then tries no other one
_PNG = b"\x89PNG\r\n\x1a\n"
_IMAGES = {_PNG: ".png", b"\xff\xd8\xff": ".jpg", b"BM": ".bmp"}
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
        if not given.is_relative_to(self.incoming) or given.resolve() != given.absolute():
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
            self._require_few(files)
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
        self._require_small(file)
        self.require_room()
        kept = into / f"{uuid.uuid4().hex}{suffix}"
        shutil.copyfile(file.path, kept)
        try:
            with _told_as(kept, file.shown):
                if modality == "image3d":
                    pixels = load_volume(kept, window=window, max_voxels=self.limits.voxels)
                else:
                    pixels = load_rgb(kept, max_pixels=self.limits.pixels)
        except BaseException:
            remove(kept)
            raise
        return Shown(ImageRef(str(kept), modality=modality), file.shown, thumbnail(pixels))

    def take_patient(
        self, files: Sequence[Received], into: Path, layout: StudyLayout, wanted: Sequence[Slot]
    ) -> dict[Slot, Path]:
        """Check a patient's images and keep those that are asked for.

        Args:
            files: PNGs named as the layout names them, with ``_`` or ``-`` where it has a folder
                (``sag_6.png``, ``tra_2-3.png``), or one zip in the layout.
            into: a folder of ``new_folder``.
            layout: of the study that the checkpoint was trained on.
            wanted: the images that its questions show.

        Raises:
            UserError: with every image that is missing or refused; then none is kept.
        """
        kept: dict[Slot, Path] = {}
        try:
            self._require_few(files)
            for file in files:
                self._require_small(file)
            self.require_room()
            zips = [one for one in files if one.is_zip]
            if zips and len(files) > 1:
                raise refused("the upload", "one zip, or PNG files", "both", "drop one of them")
            if zips:
                contents = read_archive(
                    zips[0].path,
                    where=zips[0].shown,
                    layout=layout,
                    wanted=wanted,
                    max_bytes=self.limits.upload_bytes,
                )
            else:
                contents = _loose(files, layout, wanted)
            problems = Problems()
            for slot in wanted:
                with problems.collected():
                    kept[slot] = self._take_slice(slot, contents, into, layout)
            problems.raise_any()
        except BaseException:
            for path in kept.values():
                remove(path)
            raise
        return kept

    def _take_slice(
        self,
        slot: Slot,
        contents: Mapping[Slot, tuple[str, bytes]],
        into: Path,
        layout: StudyLayout,
    ) -> Path:
        if slot not in contents:
            name = file_name(layout, slot)
            raise refused("the upload", name, "no such file", "add it, or name it so")
        told, content = contents[slot]
        if not content.startswith(_PNG):
            found = f"content that begins with {content[:8]!r}"
            raise refused(told, "an 8-bit grey PNG", found, "convert it")
        path = into / f"{uuid.uuid4().hex}.png"
        path.write_bytes(content)
        try:
            with _told_as(path, told):
                load_image(path, side_px=layout.side_px, max_pixels=self.limits.pixels)
        except BaseException:
            remove(path)
            raise
        return path

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

    def _require_few(self, files: Sequence[Received]) -> None:
        if not files:
            raise refused("the upload", "a file", "none", "drop one")
        if len(files) > self.limits.files:
            wanted = f"at most {self.limits.files} files (limits.files)"
            raise refused("the upload", wanted, str(len(files)), "drop fewer")

    def _require_small(self, file: Received) -> None:
        size = _size(file.path)
        if size > self.limits.upload_bytes:
            wanted = f"at most limits.upload_mb={self.limits.upload_mb:g}"
            raise refused(file.shown, wanted, f"{size / 1e6:.1f} MB", "make it smaller")
        if not size:
            raise refused(file.shown, "a file with content", "0 bytes", "export it again")


def file_name(layout: StudyLayout, slot: Slot) -> str:
    """What a patient's image is called in a layout, without the patient: ``sag/6.png``."""
    slices, levels = ([slot], []) if isinstance(slot, int) else ([], [slot])
    (image,) = layout.images("", PATIENT, slices=slices, levels=levels)
    return image.path.lstrip("/").removeprefix(f"{PATIENT}/")


@contextmanager
def _told_as(path: Path, name: str) -> Iterator[None]:
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


def _loose(
    files: Sequence[Received], layout: StudyLayout, wanted: Sequence[Slot]
) -> dict[Slot, tuple[str, bytes]]:
    """The content of single files, each with its name for messages."""
    found: dict[Slot, tuple[str, bytes]] = {}
    owners: dict[str, str] = {}
    problems = Problems()
    for file in files:
        if (known := _identified(file.shown, layout)) is None:
            example = file_name(layout, wanted[0]).replace("/", "_")
            wish = f"a name such as {example}, which says what the image shows"
            problems.add(file.shown, wish, "another", "rename it, or send a zip")
            continue
        image, owner = known
        owners.setdefault(owner, file.shown)
        if (slot := slot_of(image)) in found:
            problems.add(file.shown, "each image once", "another of it", "drop one")
        elif slot in wanted:
            found[slot] = (file.shown, file.path.read_bytes())
    if len(owners) > 1:
        beside = " beside ".join(list(owners.values())[:2])
        problems.add("the upload", "the images of one patient", beside, "drop one patient")
    problems.raise_any()
    return found


def _identified(name: str, layout: StudyLayout) -> tuple[ImageRef, str] | None:
    """What a file shows by its name alone, and whose it is; None where it does not say.

    Where the layout has a folder the name has ``_``, ``-`` or a space, and the patient may stand in
    front: ``sag_6.png``, ``p1_sag_6.png``.
    """
    if image := layout.identify(name):
        return image, image.patient
    for cut in re.finditer("[_ -]", name):
        owner, folder = re.fullmatch(r"(?:(.*)[_ -])?(.*)", name[: cut.start()]).groups()  # type: ignore[union-attr]
        if image := layout.identify(f"{PATIENT}/{folder}/{name[cut.end() :]}"):
            return image, owner or ""
    return None


def _size(path: Path) -> int:
    try:
        return path.lstat().st_size
    except OSError:  # removed in between
        return 0
