"""What a checkpoint is, and what every format of one offers."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch

from spinevl.build.allowlist import OURS, Allowed
from spinevl.build.build import build_stored
from spinevl.config.tasks import build_tasks
from spinevl.io.json_file import read_json_object
from spinevl.io.tensors import WEIGHTS
from spinevl.models.held import Held
from spinevl.models.vlm import VLM
from spinevl.schema.errors import UserError, refused
from spinevl.schema.task import Task

CONFIG = "config.json"


@dataclass(frozen=True)
class Checkpoint:
    """A model and how it came about.

    Attributes:
        model: the model; in evaluation mode where it was read.
        parts: the config nodes that it was assembled from.
        study: what it was trained on; empty where that is not known.
        parent: the checkpoint that its training started from.
        folder: where it was read from.
        allowed: the classes that its tasks may be built from, besides the parts.
        weights: of the model by name, where several processes hold parts of them.
    """

    model: VLM
    parts: Mapping[str, Any]
    study: Mapping[str, Any] = field(default_factory=dict)
    parent: str | None = None
    folder: Path | None = None
    allowed: Allowed = OURS
    weights: Mapping[str, torch.Tensor] | None = None

    @property
    def config(self) -> dict[str, Any]:
        """All but the model, JSON-ready."""
        return {"parts": dict(self.parts), "study": dict(self.study), "parent": self.parent}

    @property
    def tasks(self) -> dict[str, Task]:
        """The tasks that it was trained for; none where it was trained on conversations."""
        stored = functools.partial(build_stored, allowed=self.allowed)
        return build_tasks(self.study.get("task") or {}, build=stored, where="study.task")


class CheckpointFormat(Protocol):
    """A layout of a checkpoint on disk.

    Attributes:
        name: what ``export format=`` and messages call it.
    """

    name: str

    def detect(self, folder: Path, config: Mapping[str, Any]) -> bool:
        """Whether ``folder`` holds a checkpoint of this format.

        Args:
            folder: any.
            config: its ``config.json``; empty where it has none.
        """

    def read(
        self,
        folder: Path,
        config: Mapping[str, Any],
        *,
        allowed: Allowed = OURS,
        held: Held | None = None,
    ) -> Checkpoint:
        """The checkpoint in ``folder``.

        Args:
            folder, config: which ``detect`` accepts.
            allowed: the classes that may be built; the checkpoint has no say in it.
            held: how the weights are held, and in which types.

        Raises:
            UserError: a damaged checkpoint, or a format that is only written.
        """

    def parts(
        self, folder: Path, config: Mapping[str, Any], *, allowed: Allowed = OURS
    ) -> dict[str, Any]:
        """The nodes of which ``read`` builds the model, all checked.

        Args:
            folder, config, allowed: see read.

        Raises:
            UserError: see read.
        """

    def write(self, folder: Path, checkpoint: Checkpoint) -> None:
        """Write into an empty folder; the model may be changed (adapters merged) by it.

        Raises:
            UserError: a model that the format cannot hold, before anything is written.
        """


def config_of(folder: Path) -> dict[str, Any]:
    """The ``config.json`` of a folder; empty where there is none."""
    return read_json_object(folder / CONFIG) if (folder / CONFIG).is_file() else {}


def read_config(folder: Path) -> dict[str, Any]:
    """The ``config.json`` of a checkpoint. Raises UserError where the folder has none."""
    require_config(folder)
    return config_of(folder)


def require_config(folder: Path) -> None:
    """Raise UserError where a folder has no ``config.json``."""
    if not (folder / CONFIG).is_file():
        raise no_checkpoint(folder, f"no {CONFIG}" if folder.exists() else "no such folder")


def no_checkpoint(folder: Path, found: str) -> UserError:
    """The error for a folder that no format recognises."""
    expected = f"a folder with {CONFIG} and {WEIGHTS}, of this version of spinevl or of MedM-VL"
    fix = "give the checkpoint/ folder that train or run wrote, or MedM-VL's"
    return refused(f"checkpoint={folder}", expected, found, fix)


def only_written(folder: Path, name: str) -> UserError:
    """The error for a checkpoint of a format that is written but cannot be read."""
    return UserError(
        f"checkpoint={folder}: format={name} is only written, and cannot be read back; give the "
        "checkpoint/ folder that it was exported from, or export with format=medmvl"
    )
