"""Read a JSON file a user names, or say in one line why not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from spinevl.schema.errors import refused


def read_json(path: str | Path, *, expected: str) -> Any:
    """The content of a JSON file. Raises UserError where it is missing, empty or not JSON."""
    try:
        text = Path(path).read_text(encoding="utf-8-sig")  # Windows editors put a mark in front
    except FileNotFoundError:
        raise refused(str(path), expected, "no such file", "check the path") from None
    except (OSError, UnicodeDecodeError) as error:
        raise refused(str(path), f"{expected} in UTF-8", str(error), "check the file") from error
    try:
        return json.loads(text, object_pairs_hook=_object)
    except (ValueError, RecursionError) as error:
        found = "an empty file" if not text.strip() else f"no JSON ({error})"
        raise refused(str(path), expected, found, "mend or export the file again") from (error)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object; of a key that stands twice, JSON readers would drop one without a word."""
    content = dict(pairs)
    if len(content) < len(pairs):
        keys = [key for key, _ in pairs]
        repeated = next(key for key in keys if keys.count(key) > 1)
        of = f" of id {content['id']!r}" if "id" in content else ""
        raise ValueError(f"key {repeated!r}{of} stands twice")
    return content


def read_json_list(path: str | Path, *, expected: str) -> list[Any]:
    """The same for a file that holds a list."""
    content = read_json(path, expected=expected)
    if not isinstance(content, list) or not content:
        found = "an empty list" if content == [] else f"a {type(content).__name__}"
        raise refused(str(path), expected, found, "give a list of one object a patient")
    return content


def read_json_object(path: str | Path) -> dict[str, Any]:
    """The same for a file that holds an object."""
    expected = "a JSON object"
    content = read_json(path, expected=expected)
    if not isinstance(content, dict):
        found = f"a {type(content).__name__}"
        raise refused(str(path), expected, found, "mend it or copy it again")
    return content
