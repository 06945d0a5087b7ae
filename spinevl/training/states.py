"""The states of a training on disk, from which the same command goes on after any end.

``OUT/resume/step-00000123/`` is one state. It is written beside its place and renamed there; its
``manifest.json``, written last, holds the sha256 of every file and of its own content, and what the
state was made with. Whatever differs from its manifest is not used, and the state before it is.
"""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

from spinevl.data.study import Study
from spinevl.distributed.ranks import of_first, world_size
from spinevl.io.files import write_text_atomic
from spinevl.io.hashing import sha256, sha256_of_text
from spinevl.io.json_file import read_json_object
from spinevl.io.temporary import beside, put_away, remove_leftovers
from spinevl.report.metrics_file import STATES_FOLDER, TRAIN_FILE
from spinevl.schema.dotted import leaves
from spinevl.schema.errors import Problems, UserError, escaped
from spinevl.training.spec import TrainSpec
from spinevl.training.state_file import STATE, TornState, require_state

log = logging.getLogger(__name__)

MANIFEST = "manifest.json"
DONE = "done.json"
FORMAT = 1
_NAME = re.compile(r"step-\d{8,}")


@dataclass(frozen=True)
class Place:
    """Where in a training a state was saved.

    Attributes:
        answers: whether in the stage that trains on answers, see training.stage.
        step, epoch: optimizer steps and whole epochs that are done, of all stages.
        batch: batches that are done of the next epoch; 0 at its start.
    """

    answers: bool
    step: int
    epoch: int
    batch: int


@dataclass(frozen=True)
class State:
    """A state whose files are as they were written.

    Attributes:
        folder: where it lies.
        place: where in the training.
        world: how many processes wrote it.
        logger: what continues the logger's run.
    """

    folder: Path
    place: Place
    world: int
    logger: Mapping[str, Any]


class States:
    """The states of one training.

    Args:
        out: the job's folder.
        made: what the training is made with, see made_with.
        keep: how many states there are at most.
    """

    def __init__(self, out: Path, made: Mapping[str, Any], *, keep: int) -> None:
        self.out = out
        self.folder = out / STATES_FOLDER
        self.made = made
        self.keep = keep

    def start(self, *, anew: bool) -> State | None:
        """The last state that is whole, to go on from; a line says which were not.

        Args:
            anew: whether the training starts from the beginning whatever there is.

        Raises:
            UserError: it is of a training with another config or other data, see _require_same.
        """
        state, error = of_first(lambda: self._start(anew=anew), UserError)
        if error:
            raise error
        return state

    def _start(self, *, anew: bool) -> State | None:
        remove_leftovers(self.folder, locked=True)
        if anew:
            (self.folder / DONE).unlink(missing_ok=True)
            self._clear()
            return None
        torn = []
        for folder in self._all():
            try:
                state = self._read(folder)
            except TornState as error:
                torn.append(str(error))
                continue
            _tell(torn, f"the state before it is used, {folder.name}")
            log.info("the training goes on after step %d", state.place.step)
            return state
        _tell(torn, "there is no other state, and the training starts again")
        return None

    def is_done(self) -> bool:
        """Whether the training has come to its end, and what it left is there.

        Raises:
            UserError: another training has, see _require_same.
        """
        done, error = of_first(self._is_done, UserError)
        if error:
            raise error
        return bool(done)

    def _is_done(self) -> bool:
        if not (self.folder / DONE).is_file():
            return False
        _require_same(self.folder, read_json_object(self.folder / DONE), self.made)
        return (self.out / TRAIN_FILE).is_file() and (self.out / "checkpoint").is_dir()

    def finish(self) -> None:
        """Note that the training has come to its end, which needs no state; the first calls it."""
        made = json.dumps(self.made, indent=1, ensure_ascii=False)
        write_text_atomic(self.folder / DONE, made)
        self._clear()

    def begin(self, step: int) -> Path:
        """A new folder, which becomes a state when it is published."""
        self.folder.mkdir(parents=True, exist_ok=True)
        new = beside(self.path(step))
        new.mkdir()
        return new

    def publish(self, new: Path, state: State) -> None:
        """Put a folder in its place, with its manifest; remove those before the last ``keep``."""
        files = [one for one in sorted(new.rglob("*")) if one.is_file()]
        for file in files:
            _to_disk(file)
        content = {
            "format": FORMAT,
            "place": vars(state.place),
            "made": self.made,
            "world": state.world,
            "logger": state.logger,
            "checkpoint": (self.out / "checkpoint").is_dir(),
            "versions": _versions(),
            "files": {str(one.relative_to(new)): sha256(one) for one in files},
        }
        signed = {**content, "sha256": _digest(content)}
        write_text_atomic(new / MANIFEST, json.dumps(signed, indent=1, ensure_ascii=False))
        _to_disk(new / MANIFEST)
        if state.folder.exists():  # it was torn, or the training would have gone on from it
            put_away(state.folder)
        new.rename(state.folder)
        _to_disk(self.folder)
        # one of a later step was torn, or the training would have gone on from it
        past = [one for one in self._all() if _step_of(one) <= state.place.step]
        for old in self._all():
            if old not in past[: self.keep]:
                put_away(old)

    def path(self, step: int) -> Path:
        """The folder of the state after a step."""
        return self.folder / f"step-{step:08d}"

    def _read(self, folder: Path) -> State:
        """Raises TornState for a state that is not whole, UserError for one of another training."""
        try:
            content = read_json_object(folder / MANIFEST)
        except UserError as error:
            raise TornState(error.problems[0]) from error
        if content.pop("sha256", None) != _digest(content):
            raise TornState(f"{folder / MANIFEST}: damaged, as its own sha256 tells")
        try:
            files, made, world = content["files"], content["made"], content["world"]
            place, logger = Place(**content["place"]), content["logger"]
            versions = content["versions"]
            if content["format"] != FORMAT:
                raise TornState(f"{folder}: it was saved by another version of spinevl")
            if self.path(place.step) != folder:
                raise TornState(f"{folder / MANIFEST}: it is of step {place.step}")
            _require_same(folder, made, self.made, world=(world, world_size()))
            for name, digest in files.items():
                if not (folder / name).is_file() or sha256(folder / name) != digest:
                    raise TornState(f"{folder / name}: damaged or missing, as {MANIFEST} tells")
            require_state(folder / STATE, world=world)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise TornState(f"{folder / MANIFEST}: damaged ({error})") from error
        if content["checkpoint"] and not (self.out / "checkpoint").is_dir():
            raise TornState(f"{self.out / 'checkpoint'}: the best weights so far are gone")
        for name, here in _versions().items():
            if versions.get(name) != here:
                then = versions.get(name)
                log.warning("%s: saved with %s %s, this is %s", folder, name, then, here)
        return State(folder, place, world, logger)

    def _clear(self) -> None:
        """Remove all states."""
        for one in self._all():
            put_away(one)

    def _all(self) -> list[Path]:
        """The folders of all states, the last one first."""
        try:
            found = [one for one in self.folder.iterdir() if _NAME.fullmatch(one.name)]
        except FileNotFoundError:
            return []
        return sorted(found, key=_step_of, reverse=True)


def _step_of(folder: Path) -> int:
    return int(folder.name.removeprefix("step-"))


def made_with(spec: TrainSpec, study: Study) -> dict[str, Any]:
    """What a training is made with, config and data: dotted key -> value."""
    data = json.loads(json.dumps(study.fingerprint(), default=str))
    return {**dict(leaves(spec.decisive())), **dict(leaves(data, "data files"))}


def _require_same(
    folder: Path,
    made: Mapping[str, Any],
    now: Mapping[str, Any],
    *,
    world: tuple[int, int] = (1, 1),
) -> None:
    """Refuse a state that was made with another config, other data or on other processes.

    Args:
        folder: of the state.
        made, now: dotted key -> value, then and now.
        world: how many processes there were, and are.

    Raises:
        UserError: with a line for each difference.
    """
    problems = Problems()
    fix = "repeat the command that began it, or start anew with resume=never"
    for key in sorted({*made, *now}):
        if made.get(key) != now.get(key):
            was, is_now = (_shown(one.get(key)) for one in (made, now))
            problems.add(f"{folder}: {key} of the training that was begun", was, is_now, fix)
    was, is_now = map(str, world)
    if was != is_now and not problems:
        # each process has its own random states, share of the batches and, under ZeRO, of AdamW
        fix = (
            f"train on {was} (trainer.devices times trainer.num_nodes), start anew with "
            "resume=never, or train in another folder from the best weights so far with "
            f"checkpoint={folder.parents[1] / 'checkpoint'}"
        )
        problems.add(f"{folder}: devices of the training that was begun", was, is_now, fix)
    problems.raise_any()


def _digest(content: Mapping[str, Any]) -> str:
    """The sha256 of a manifest's content, however it is laid out."""
    return sha256_of_text(json.dumps(content, sort_keys=True))


def _tell(torn: Sequence[str], what: str) -> None:
    for line in torn:
        log.warning("%s; %s", line, what)


def _versions() -> dict[str, str]:
    return {"torch": torch.__version__, "pytorch-lightning": pl.__version__}


def _shown(value: Any) -> str:
    return escaped(json.dumps(value, ensure_ascii=False, default=str), longest=80)


def _to_disk(path: Path) -> None:
    """Wait until the system has written a file or a folder, for a machine that loses power."""
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)
