"""Read MedM-VL's JSON of conversations: 2D, 3D, several images, text only, several turns."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from spinevl.build.roles import role
from spinevl.data.packing.conversation import PLACEHOLDER
from spinevl.io.json_file import read_json_list
from spinevl.schema.dialogue import Dialogue, Picture
from spinevl.schema.errors import Problem, UserError, collected
from spinevl.schema.image_ref import MODALITIES

EXPECTED = "a list of {id, conversations, image, image3d, task}"


@role("source of conversations", concrete=True)
class ConversationSource:
    """Conversations in files: what ``data=conversations`` builds.

    Args:
        train, dev, test: JSON files; those of a job's subsets must be named.
        images: the folder that image paths are relative to and must not leave; without it they
            are relative to the JSON file, or absolute.
        window: (low, high) of volumes in HU, clipped and scaled to [0, 255]; None where they hold
            [0, 255] already.
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
        window: Sequence[float] | None = (-1000.0, 1000.0),
        ratios: Mapping[str, float] | None = None,
    ) -> None:
        if window is not None and not _is_window(window):
            raise ValueError(f"data.window={window}: expected two numbers [low, high], low < high")
        self.files = {"train": train, "dev": dev, "test": test}
        self.images = Path(images).expanduser().absolute() if images else None
        self.window = None if window is None else (float(window[0]), float(window[1]))
        if ratios is not None and not isinstance(ratios, Mapping):
            raise ValueError(f"data.ratios={ratios}: expected {{task: number}}")
        self.ratios = dict(ratios or {})
        for task, ratio in self.ratios.items():
            if not isinstance(ratio, (int, float)) or not ratio >= 0:
                raise ValueError(f"data.ratios.{task}={ratio}: expected a number, 0 or more")

    def dialogues(self, subset: str, *, answered: bool) -> list[Dialogue]:
        """The conversations of ``train``, ``dev`` or ``test``, checked; images are there.

        Args:
            subset: which.
            answered: whether each question must have its answer, as training needs it. Where not,
                the answer of the last question is taken off: it is what a model is asked for.

        Raises:
            UserError: with every problem found.
        """
        file = self.files[subset]
        if not file:
            raise UserError(f"data.{subset} is not set: name a JSON file, {EXPECTED}")
        path = Path(file).expanduser()
        root = self.images or path.absolute().parent
        problems: list[Problem | str] = []
        result = []
        for number, record in enumerate(read_json_list(path, expected=EXPECTED)):
            with collected(problems):
                result.append(self._read(record, number, path, root, answered))
        if problems:
            raise UserError(problems)
        return result

    def sha256(self) -> dict[str, str]:
        """The sha256 of each file that is named, by subset."""
        return {
            subset: hashlib.sha256(Path(file).expanduser().read_bytes()).hexdigest()
            for subset, file in self.files.items()
            if file
        }

    def _read(self, record: Any, number: int, path: Path, root: Path, answered: bool) -> Dialogue:
        where = f"{path}: record {number}"
        if not isinstance(record, dict):
            raise _problem(where, "an object", type(record).__name__, "mend it")
        one = str(record.get("id", number))
        where = f"{where} (id {one})"
        rounds = _rounds(record.get("conversations"), where)
        truth = rounds[-1][1]
        if not answered:
            rounds = [*rounds[:-1], (rounds[-1][0], None)]
        for k, (_, answer) in enumerate(rounds):
            if not answer and (answered or k < len(rounds) - 1):
                raise _problem(where, f"an answer to question {k + 1}", "none", "add it")
        text = " ".join(part for turn in rounds for part in turn if part)
        pictures = self._pictures(record, text, root, where)
        task = str(record.get("task") or "")
        return Dialogue(one, task, pictures, tuple(rounds), where, truth)

    def _pictures(
        self, record: Mapping[str, Any], text: str, root: Path, where: str
    ) -> tuple[Picture, ...]:
        shown = [placeholder.strip("<>") for placeholder in PLACEHOLDER.findall(text)]
        files = {}
        for modality in MODALITIES:
            named = record.get(modality) or []
            named = [named] if isinstance(named, str) else named
            if not isinstance(named, list) or not all(isinstance(one, str) for one in named):
                raise _problem(f"{where}: {modality}", "a path or a list", repr(named), "mend it")
            if len(named) != shown.count(modality):
                raise _problem(
                    where,
                    f"one <{modality}> in the conversation for each of its {len(named)} files",
                    str(shown.count(modality)),
                    "add or drop placeholders",
                )
            files[modality] = iter([self._file(one, root, where) for one in named])
        return tuple((modality, next(files[modality])) for modality in shown)

    def _file(self, name: str, root: Path, where: str) -> str:
        path = (root / name).resolve()
        if self.images is not None and not path.is_relative_to(root.resolve()):
            raise _problem(where, f"files under data.images={root}", name, "move or drop it")
        if not path.is_file():
            raise _problem(where, f"the file {name} under {root}", "none", "add it")
        return str(path)


def _is_window(window: Any) -> bool:
    if not isinstance(window, (list, tuple)) or len(window) != 2:
        return False
    low, high = window
    return isinstance(low, (int, float)) and isinstance(high, (int, float)) and low < high


def _rounds(turns: Any, where: str) -> list[tuple[str, str | None]]:
    """(question, answer) of alternating human and gpt turns; the last answer may be missing."""
    if not isinstance(turns, list) or not turns:
        raise _problem(f"{where}: conversations", "a list of turns", repr(turns), "mend it")
    rounds: list[tuple[str, str | None]] = []
    for number, turn in enumerate(turns):
        here = f"{where}: turn {number + 1}"
        if not isinstance(turn, dict) or not isinstance(turn.get("value"), str):
            raise _problem(here, '{"from": ..., "value": text}', repr(turn)[:80], "mend it")
        wanted = "gpt" if number % 2 else "human"
        if turn.get("from") != wanted:
            found = repr(turn.get("from"))
            raise _problem(here, f'"from": "{wanted}"', found, "let human and gpt alternate")
        if wanted == "human":
            rounds.append((turn["value"], None))
        else:
            rounds[-1] = (rounds[-1][0], turn["value"].strip() or None)
    return rounds


def _problem(where: str, expected: str, found: str, fix: str) -> UserError:
    return UserError(Problem(where, expected, found, fix))
