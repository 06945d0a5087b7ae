"""The images of one patient, dropped as single files or as a zip."""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path

from spinevl.io.image_file import load_image
from spinevl.io.temporary import remove
from spinevl.playground.archive import Slot, read_archive, slot_of
from spinevl.playground.uploads import PNG, Received, Uploads, told_as
from spinevl.schema.errors import Problems, refused
from spinevl.schema.image_ref import ImageRef
from spinevl.schema.study_layout import StudyLayout

PATIENT = "patient"
"""What an uploaded patient is called."""


def take_patient(
    uploads: Uploads,
    files: Sequence[Received],
    into: Path,
    *,
    layout: StudyLayout,
    wanted: Sequence[Slot],
) -> dict[Slot, Path]:
    """Check a patient's images and keep those that are asked for.

    Args:
        uploads: whose limits are kept.
        files: PNGs named as the layout names them, with ``_`` or ``-`` where it has a folder
            (``sag_6.png``, ``tra_2-3.png``), or one zip in the layout.
        into: a folder of ``uploads.new_folder``.
        layout: of the study that the checkpoint was trained on.
        wanted: the images that its questions show.

    Raises:
        UserError: with every image that is missing or refused; then none is kept.
    """
    uploads.require_fit(files)
    zips = [one for one in files if one.is_zip]
    if zips and len(files) > 1:
        raise refused("the upload", "one zip, or PNG files", "both", "drop one of them")
    if zips:
        contents = read_archive(
            zips[0].path,
            where=zips[0].shown,
            layout=layout,
            wanted=wanted,
            max_bytes=uploads.limits.upload_bytes,
        )
    else:
        contents = _loose(files, layout, wanted)
    kept: dict[Slot, Path] = {}
    problems = Problems()
    try:
        for slot in wanted:
            with problems.collected():
                kept[slot] = _take_slice(slot, contents, into, layout, uploads.limits.pixels)
        problems.raise_any()
    except BaseException:
        for path in kept.values():
            remove(path)
        raise
    return kept


def _take_slice(
    slot: Slot,
    contents: Mapping[Slot, tuple[str, bytes]],
    into: Path,
    layout: StudyLayout,
    max_pixels: int,
) -> Path:
    if slot not in contents:
        name = file_name(layout, slot)
        raise refused("the upload", name, "no such file", "add it, or name it so")
    told, content = contents[slot]
    if not content.startswith(PNG):
        found = f"content that begins with {content[:8]!r}"
        raise refused(told, "an 8-bit grey PNG", found, "convert it")
    path = into / f"{uuid.uuid4().hex}.png"
    path.write_bytes(content)
    try:
        with told_as(path, told):
            load_image(path, side_px=layout.side_px, max_pixels=max_pixels)
    except BaseException:
        remove(path)
        raise
    return path


def file_name(layout: StudyLayout, slot: Slot) -> str:
    """What a patient's image is called in a layout, without the patient: ``sag/6.png``."""
    slices, levels = ([slot], []) if isinstance(slot, int) else ([], [slot])
    (image,) = layout.images("", PATIENT, slices=slices, levels=levels)
    return image.path.lstrip("/").removeprefix(f"{PATIENT}/")


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
