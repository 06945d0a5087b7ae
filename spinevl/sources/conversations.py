"""Read MedM-VL's JSON of conversations: 2D, 3D, several images, text only, several turns."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from spinevl.build.roles import role
from spinevl.config.check import argument_problems
from spinevl.config.keys import FromZero, Interval
from spinevl.io.files import expanded
from spinevl.io.hashing import sha256
from spinevl.io.image_file import load_rgb
from spinevl.io.json_file import field, kind_of, read_json_list
from spinevl.io.regular_file import open_regular
from spinevl.io.volume_file import load_volume
from spinevl.schema.conversation import PLACEHOLDER
from spinevl.schema.errors import Problems, UserError, refused
from spinevl.schema.example import Example, Key
from spinevl.schema.image_ref import MODALITIES, ImageRef

EXPECTED = "a list of {id, conversations, image, image3d, task}"


@role("source of conversations", concrete=True)
class ConversationSource:
    """Conversations in files: what ``data=conversations`` builds.

    Args:
        train, dev, test: JSON files; those of a job's subsets must be named.
        images: the folder that image paths are relative to and must not leave; without it they
            are relative to the JSON file, or absolute.
        window: (low, high) of volumes in HU, finite and low < high, clipped and scaled to
            [0, 255]; None where they hold [0, 255] already.
        ratios: task -> how often an epoch shows a task's conversations: 0.5 half of them (others
            each epoch), 2 each twice. Tasks not named are shown once.
    """

    def __init__(
        self,
        *,
        train: str | None = None,
        dev: str | None = None,
        test: str | None = None,
        images: str | None = None,
        window: Interval | None = (-1000.0, 1000.0),
        ratios: Mapping[str, FromZero] | None = None,
    ) -> None:
        given = {"window": window, "ratios": ratios}
        if found := argument_problems(type(self), given, at="data"):
            raise UserError(found)
        self.files = {"train": train, "dev": dev, "test": test}
        self.images = expanded(images, "data.images").absolute() if images else None
        self.window = None if window is None else (float(window[0]), float(window[1]))
        self.ratios = dict(ratios or {})

    def read(self, subset: str, *, answered: bool) -> list[tuple[dict[str, Any], Example]]:
        """The records of ``train``, ``dev`` or ``test`` with their examples, checked.

        Args:
            subset: which.
            answered: whether each question must have its answer, as training needs it. Where not,
                the answer of the last question is taken off: it is what a model is asked for.

        Raises:
            UserError: with every problem found, missing images among them.
        """
        file = self.files[subset]
        if not file:
            raise UserError(f"data.{subset} is not set: name a JSON file, {EXPECTED}")
        path = expanded(file)
        root = self.images or path.absolute().parent
        problems = Problems()
        result = []
        for number, record in enumerate(read_json_list(path, expected=EXPECTED)):
            with problems.collected():
                result.append((record, self._example(record, number, path, root, answered)))
        problems.raise_any()
        return result

    def decode(self, image: ImageRef) -> np.ndarray:
        """uint8 [H, W, 3], or a volume float32 [D, H, W]. Raises UserError where damaged."""
        if image.modality == "image3d":
            return load_volume(image.path, window=self.window)
        return load_rgb(image.path)

    def sha256(self) -> dict[str, str]:
        """The sha256 of each file that is named, by subset."""
        return {subset: sha256(expanded(file)) for subset, file in self.files.items() if file}

    def _example(self, record: Any, number: int, path: Path, root: Path, answered: bool) -> Example:
        where = f"{path}: record {number}"
        if not isinstance(record, dict):
            raise refused(where, "an object", kind_of(record), "mend it")
        named = {"id": number, "task": None, **record}
        one = str(field(named, "id", str, int, where=where, fix="mend it"))
        where = f"{where} (id {one})"
        task = field(named, "task", str, type(None), where=where, fix="mend it")
        rounds = _rounds(record.get("conversations"), where)
        truth = rounds[-1][1]
        if not answered:
            rounds = [*rounds[:-1], (rounds[-1][0], None)]
        for k, (_, answer) in enumerate(rounds):
            if not answer and (answered or k < len(rounds) - 1):
                raise refused(where, f"an answer to question {k + 1}", "none", "add it")
        text = " ".join(part for turn in rounds for part in turn if part)
        images = self._images(record, text, root, where)
        key = Key(one, task or "")
        return Example(key, images, tuple(rounds), truth=truth, source=where)

    def _images(
        self, record: Mapping[str, Any], text: str, root: Path, where: str
    ) -> tuple[ImageRef, ...]:
        shown: list[Any] = [placeholder.strip("<>") for placeholder in PLACEHOLDER.findall(text)]
        files = {}
        for modality in MODALITIES:
            named = record.get(modality) or []
            named = [named] if isinstance(named, str) else named
            if not isinstance(named, list) or not all(isinstance(one, str) for one in named):
                raise refused(f"{where}: {modality}", "a path or a list", repr(named), "mend it")
            if len(named) != shown.count(modality):
                raise refused(
                    where,
                    f"one <{modality}> in the conversation for each of its {len(named)} files",
                    str(shown.count(modality)),
                    "add or drop placeholders",
                )
            files[modality] = iter([self._file(one, root, where) for one in named])
        return tuple(ImageRef(next(files[one]), modality=one) for one in shown)

    def _file(self, name: str, root: Path, where: str) -> str:
        """The path of a file that a record names. Links are followed, so that images may lie in
        the store of DVC, git-annex or datalad; what a record writes cannot lead out of ``images``.
        """
        if not name.isprintable():
            raise refused(where, "a path", repr(name), "mend it")
        path = root / name
        below = path.is_relative_to(root) or path.is_relative_to(root.resolve())
        if self.images is not None and (".." in Path(name).parts or not below):
            raise refused(
                where,
                f"a path below data.images={root} without ..",
                name,
                "move the file there, or link it",
            )
        expected = f"the file {name} under {root}"
        open_regular(path, expected=expected, missing="add it", where=where).close()
        return str(path)


def _rounds(turns: Any, where: str) -> list[tuple[str, str | None]]:
    """(question, answer) of alternating human and gpt turns; the last answer may be missing."""
    if not isinstance(turns, list) or not turns:
        raise refused(f"{where}: conversations", "a list of turns", repr(turns), "mend it")
    rounds: list[tuple[str, str | None]] = []
    for number, turn in enumerate(turns):
        here = f"{where}: turn {number + 1}"
        if not isinstance(turn, dict) or not isinstance(turn.get("value"), str):
            raise refused(here, '{"from": ..., "value": text}', repr(turn), "mend it")
        wanted = "gpt" if number % 2 else "human"
        if turn.get("from") != wanted:
            found = repr(turn.get("from"))
            raise refused(here, f'"from": "{wanted}"', found, "let human and gpt alternate")
        if wanted == "human":
            rounds.append((turn["value"], None))
        else:
            rounds[-1] = (rounds[-1][0], turn["value"].strip() or None)
    return rounds
