"""JSON and JSONL that is encoded, shaped or filled wrongly."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from fuzz_bytes import Mutation, replace

WRONG: tuple[Any, ...] = (
    *(None, True, -1, 1.5, 10**30, "", "x", "../x", "/etc/passwd", "a\x00b", "\ud800", "\x1b[31m"),
    *([], {}, [[]], {"a": 1}, float("nan"), float("inf")),
)


def _text(change: Callable[[str], str | bytes]) -> Mutation:
    def mutate(path: Path, rng: random.Random) -> None:
        new = change(path.read_text("utf-8"))
        replace(path, new.encode("utf-8", "surrogatepass") if isinstance(new, str) else new)

    return mutate


def _rows(change: Callable[[Any, random.Random], Any]) -> Mutation:
    """Change the parsed content: a whole JSON file, or one line of a JSONL file."""

    def mutate(path: Path, rng: random.Random) -> None:
        text = path.read_text("utf-8")
        if path.suffix == ".jsonl":
            lines = text.splitlines()
            k = rng.randrange(len(lines))
            lines[k] = json.dumps(change(json.loads(lines[k]), rng))
            replace(path, ("\n".join(lines) + "\n").encode())
        else:
            replace(path, json.dumps(change(json.loads(text), rng)).encode())

    return mutate


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """(container, key) of every value, at every depth."""
    keys: Any = value if isinstance(value, dict) else range(len(value))
    for key in keys:
        yield value, key
        if isinstance(value[key], dict | list):
            yield from _places(value[key])


def _wrong_value(value: Any, rng: random.Random) -> Any:
    value = copy.deepcopy(value)
    container, key = rng.choice(list(_places(value)))
    old = container[key]
    container[key] = rng.choice([one for one in WRONG if type(one) is not type(old) or one != old])
    return value


def _no_key(value: Any, rng: random.Random) -> Any:
    value = copy.deepcopy(value)
    records = [c for c, _ in _places(value) if isinstance(c, dict)]
    record = rng.choice(records) if records else value
    record.pop(rng.choice(list(record)) if isinstance(record, dict) else 0)
    return value


def _other_shape(value: Any, rng: random.Random) -> Any:
    return rng.choice([{"records": value}, [value], 3, "x", None, []])


def _twice(value: Any, rng: random.Random) -> Any:
    return [*value, rng.choice(value)] if isinstance(value, list) else [value, value]


def _repeated_key(text: str) -> str:
    return text.replace("{", '{"id": "first", "id": "second", ', 1)


# name -> (mutation, whether it must be refused)
ENCODINGS: dict[str, tuple[Mutation, bool | None]] = {
    "BOM": (_text(lambda text: "\ufeff" + text), False),
    "CRLF": (_text(lambda text: text.replace("\n", "\r\n") + "\r\n"), False),
    "UTF-16": (_text(lambda text: text.encode("utf-16")), True),
    "UTF-32": (_text(lambda text: text.encode("utf-32")), True),
    "Latin-1": (_text(lambda text: text.replace("a", "\xe4").encode("latin-1")), True),
    "a comma too many": (_text(lambda text: text.rstrip()[:-1] + "," + text.rstrip()[-1]), True),
    "nested deeply": (_text(lambda text: "[" * 100_000 + "]" * 100_000), True),
    "text behind it": (_text(lambda text: text + "\nend"), True),
    "repeated key": (_text(_repeated_key), True),
}
SHAPES: dict[str, tuple[Mutation, bool | None]] = {
    "other shape": (_rows(_other_shape), True),
    "record twice": (_rows(_twice), None),
    "key removed": (_rows(_no_key), None),
    "wrong value": (_rows(_wrong_value), None),
}
