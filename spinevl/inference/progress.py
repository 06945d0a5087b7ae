"""Answers on disk as they come, so that an interrupted job goes on where it was cut."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import astuple, replace
from pathlib import Path
from typing import Any

from spinevl.config.check import checked
from spinevl.config.options import PREDICT_NO_MATTER, PredictOptions
from spinevl.inference.answer import Answer
from spinevl.io.files import write_text_atomic
from spinevl.io.hashing import stamp
from spinevl.io.json_file import resume_json_lines
from spinevl.schema.example import Example


class Progress:
    """The file of answers that a job has so far, a line each.

    Lines whose example, checkpoint and settings are the same as now are kept; all others, and
    lines that are cut short or damaged, are asked again. Processes that share the examples each
    write a file of their own, a share, which ``merge`` takes in.

    Args:
        file: JSON lines of index, key and answer.
        keys: of the examples in order, see answer_keys.
        options: how many each has; a line with scores of other ones is not kept.

    Attributes:
        done: index -> answer, of ``file`` alone until the shares are read.
    """

    def __init__(
        self, file: Path, keys: Sequence[str], options: Sequence[int] | None = None
    ) -> None:
        self.file = file
        self.keys = keys
        self.options = options
        self.done: dict[int, Answer] = dict(self._read(file))

    def _read(self, file: Path) -> Iterator[tuple[int, Answer]]:
        for index, key, answer in resume_json_lines(file, _entry):
            if not 0 <= index < len(self.keys) or self.keys[index] != key:
                continue
            scored = set(answer.logprobs or ())
            if self.options is None or scored in (set(), {*range(self.options[index])}):
                yield index, answer

    def share(self, rank: int, of: int) -> Progress:
        """The share of one of several processes, which must all see the same ``done``."""
        return Progress(self._beside(f"{rank}-of-{of}"), self.keys, self.options)

    def read_shares(self) -> list[Path]:
        """Add what shares hold, of however many processes, to ``done``. Returns their files."""
        shares = sorted(self.file.parent.glob(self._beside("[0-9]*-of-[0-9]*").name))
        for share in shares:
            self.done.update(self._read(share))
        return shares

    def merge(self) -> None:
        """Write all that is done into ``file``, in order, and remove the shares."""
        shares = self.read_shares()
        if self.done or self.file.exists():
            lines = [self._line(index, answer) for index, answer in sorted(self.done.items())]
            write_text_atomic(self.file, "".join(lines))
        for share in shares:
            share.unlink(missing_ok=True)

    def record(self, answers: Iterable[tuple[int, Answer]]) -> dict[int, Answer]:
        """Write every answer as it comes, in the end in order; returns all that are known."""
        self.merge()  # what is added stands on a line of its own
        with self.file.open("a", encoding="utf-8") as file:
            for index, answer in answers:
                self.done[index] = answer
                file.write(self._line(index, answer))
                file.flush()
        self.merge()
        return self.done

    def _beside(self, name: str) -> Path:
        """The path of a share: hidden, since it is no result."""
        return self.file.with_name(f".{self.file.stem.lstrip('.')}.{name}.jsonl")

    def _line(self, index: int, answer: Answer) -> str:
        entry: dict[str, Any] = {"index": index, "key": self.keys[index], "rounds": answer.rounds}
        if answer.logprobs is not None:
            entry["logprobs"] = answer.logprobs
        return json.dumps(entry, ensure_ascii=False) + "\n"


def _entry(entry: Mapping[str, Any]) -> tuple[int, str, Answer]:
    """(index, key, answer) of a line. Raises where it is of another shape."""
    index, key, rounds = entry["index"], entry["key"], entry["rounds"]
    pairs = tuple((question, answer) for question, answer in rounds)
    if type(index) is not int or not all(type(text) is str for pair in pairs for text in pair):
        raise TypeError("no progress of ours")
    table = entry.get("logprobs")
    if not pairs or table == {}:
        raise ValueError("no answer of ours")
    logprobs = None if table is None else {int(k): float(v) for k, v in table.items()}
    return index, key, Answer(pairs, logprobs)


def answer_keys(
    examples: Sequence[Example], *, checkpoint: Path, options: PredictOptions, settings: Any = None
) -> list[str]:
    """What each answer depends on, as a key: example, images, checkpoint and settings.

    Args:
        examples: what is asked.
        checkpoint: the folder; an edited file changes every key.
        options: of predict; PREDICT_NO_MATTER of them change none.
        settings: what else decides how the images are read.
    """
    files = sorted(file for file in checkpoint.rglob("*") if file.is_file())
    default = PredictOptions()
    no_matter: dict[str, Any] = {name: getattr(default, name) for name in PREDICT_NO_MATTER}
    decides = astuple(replace(checked(options, at="predict"), **no_matter))
    common = repr(([(file.name, stamp(file)) for file in files], decides, settings))
    stamps: Mapping[str, Any] = {
        path: stamp(Path(path)) if Path(path).is_file() else None  # told where it is decoded
        for path in {one.path for e in examples for one in e.images}
    }
    return [
        hashlib.sha256(
            f"{common}{one!r}{[stamps[image.path] for image in one.images]}".encode()
        ).hexdigest()[:16]
        for one in examples
    ]
