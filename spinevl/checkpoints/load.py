"""Load a checkpoint of any format."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from spinevl.build.allowlist import OURS, Allowed
from spinevl.checkpoints.adapter import AdapterFormat
from spinevl.checkpoints.format import Checkpoint, CheckpointFormat, config_of
from spinevl.checkpoints.hf import LlavaFormat
from spinevl.checkpoints.medmvl import MedMVLFormat
from spinevl.checkpoints.native import NativeFormat
from spinevl.io.folders import recovered
from spinevl.models.held import Held
from spinevl.models.source import checkpoint_folder

FORMATS: dict[str, CheckpointFormat] = {
    one.name: one for one in (NativeFormat(), MedMVLFormat(), LlavaFormat(), AdapterFormat())
}


def load_checkpoint(
    source: str | Path, *, allowed: Allowed = OURS, held: Held | None = None
) -> Checkpoint:
    """The checkpoint in a folder, or behind ``hf:OWNER/NAME`` given as a string.

    Args:
        source: where it is.
        allowed: the classes that may be built; the checkpoint has no say in it.
        held: how weights are held; by default as its training held them, ``auto`` in float32.

    Raises:
        UserError: none there, a damaged one, or one of a format that is only written.
    """
    folder = checkpoint_folder(source) if isinstance(source, str) else recovered(source)
    config = config_of(folder)
    return _format_of(folder, config).read(folder, config, allowed=allowed, held=held)


def parts_of(source: str, *, allowed: Allowed = OURS) -> dict[str, Any]:
    """The nodes of a checkpoint's parts, from which its model is built before it is filled.

    Args:
        source, allowed: see load_checkpoint.

    Raises:
        UserError: see load_checkpoint.
    """
    folder = checkpoint_folder(source)
    config = config_of(folder)
    return _format_of(folder, config).parts(folder, config, allowed=allowed)


def _format_of(folder: Path, config: Mapping[str, Any]) -> CheckpointFormat:
    """The format of a folder; what none recognises is our own, which says what is missing."""
    found = (one for one in FORMATS.values() if one.detect(folder, config))
    return next(found, FORMATS["native"])


def is_native(folder: Path) -> bool:
    """Whether a checkpoint is of our own format, and not of a program whose numbers are matched."""
    return _format_of(folder, config_of(folder)).name == "native"
