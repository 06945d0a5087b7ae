"""The one reader of JSON and JSON lines: every file is held to the same rules.

Text is UTF-8, with or without a byte order mark. Refused are other encodings, zero bytes (a file
that was not written to its end holds them), keys that stand twice, nesting without end, numbers
that are not finite or have more than 64 bits, and halves of characters (lone
surrogates), which no file and no tokenizer can take. A line of JSON lines ends at ``\\n`` (or
``\\r\\n``) alone; blank lines are skipped.
"""

from __future__ import annotations

import json
import logging
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from spinevl.io.regular_file import read_regular
from spinevl.schema.errors import Problems, UserError, refused

log = logging.getLogger(__name__)

T = TypeVar("T")

MAX_BYTES = 4 * 2**30
MAX_DEPTH = 100
_MARKS = (  # the marks of UTF-32 before those of UTF-16, which they begin with
    (b"\xff\xfe\x00\x00", "UTF-32"),
    (b"\x00\x00\xfe\xff", "UTF-32"),
    (b"\xff\xfe", "UTF-16"),
    (b"\xfe\xff", "UTF-16"),
)
_KINDS = {
    dict: "an object",
    list: "a list",
    str: "a string",
    bool: "a truth value",
    int: "an integer",
    float: "a number",
    type(None): "null",
}
_UNUSABLE = (KeyError, TypeError, ValueError, AttributeError, UserError)


def kind_of(value: Any) -> str:
    """What a value of a JSON file is, as JSON calls it."""
    return _KINDS[type(value)]


def read_text(path: str | Path, *, expected: str) -> str:
    """The text of a UTF-8 file, without a byte order mark.

    Raises:
        UserError: missing, no regular file, too large, in another encoding, or with zero bytes.
    """

    def check(block: bytes, start: int) -> None:
        if start == 0:
            _refuse_encoding(block, str(path), expected)
        if (place := block.find(0)) >= 0:
            found = f"a zero byte at {start + place}: no text, or not written to its end"
            raise refused(str(path), f"{expected} in UTF-8", found, "copy or export it again")

    return _decoded(_content(path, expected, check), str(path), expected)


def read_json(path: str | Path, *, expected: str) -> Any:
    """The content of a JSON file. Raises UserError where it is not as the module says."""
    text = read_text(path, expected=expected)
    try:
        return _parsed(text)
    except ValueError as error:
        found = f"no JSON ({error})" if text.strip() else "an empty file"
        raise refused(str(path), expected, found, "mend or export the file again") from error


def read_json_list(path: str | Path, *, expected: str) -> list[Any]:
    """The same for a file that holds a list with at least one entry."""
    content = read_json(path, expected=expected)
    if not isinstance(content, list) or not content:
        found = "an empty list" if content == [] else kind_of(content)
        raise refused(str(path), expected, found, "give a list with one object for each record")
    return content


def read_json_object(path: str | Path) -> dict[str, Any]:
    """The same for a file that holds an object."""
    expected = "a JSON object"
    content = read_json(path, expected=expected)
    if not isinstance(content, dict):
        raise refused(str(path), expected, kind_of(content), "mend it or copy it again")
    return content


def read_json_lines(
    path: str | Path, *, expected: str, fix: str, problems: Problems
) -> Iterator[tuple[str, dict[str, Any]]]:
    """(where, object) of each line of a file of JSON lines.

    Args:
        path: the file.
        expected: what a line holds.
        fix: what to do about a line that is no JSON object.
        problems: where such lines are noted.

    Raises:
        UserError: a file that cannot be read.
    """
    text = read_text(path, expected=f"lines, each {expected}")
    for number, line in enumerate(text.split("\n"), start=1):  # not splitlines: U+2028 is text
        if not line.strip():
            continue
        where = f"{path}: line {number}"
        try:
            entry = _parsed(line)
        except ValueError as error:
            problems.add(where, expected, f"no JSON ({error})", fix)
            continue
        if isinstance(entry, dict):
            yield where, entry
        else:
            problems.add(where, expected, kind_of(entry), fix)


def field(entry: Mapping[str, Any], name: str, *kinds: type, where: str, fix: str) -> Any:
    """The value of a key of an object, which must be of one of some kinds; ``type(None)`` is null.

    Raises:
        UserError: the key is missing, or of another kind.
    """
    if name not in entry:
        raise refused(where, f"the key {name!r}", "none", fix)
    value = entry[name]
    if type(value) not in kinds:
        expected = " or ".join(_KINDS[kind] for kind in kinds)
        raise refused(f"{where}: {name}", expected, f"{kind_of(value)}, {value!r}", fix)
    return value


def resume_json_lines(path: Path, read: Callable[[dict[str, Any]], T]) -> list[T]:
    """What is whole of the lines that an interrupted job wrote; the rest is told in one line.

    Args:
        path: the file; it may be missing.
        read: makes an entry of a line's object; it raises where the line is none of ours.
    """
    if not path.exists():
        return []
    whole, damaged = [], []
    lines = _content(path, "the progress of a job").removeprefix(b"\xef\xbb\xbf").split(b"\n")
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            entry = _parsed(line.decode("utf-8"))
            whole.append(read(_object(entry)))
        except _UNUSABLE:
            damaged.append(number)
    if damaged:
        log.warning(
            "%s: %d of %d lines are cut short or damaged, first line %d; they are done again",
            *(path, len(damaged), len(damaged) + len(whole), damaged[0]),
        )
    return whole


def _object(entry: Any) -> dict[str, Any]:
    if not isinstance(entry, dict):
        raise TypeError(kind_of(entry))
    return entry


def _content(
    path: str | Path, expected: str, check: Callable[[bytes, int], None] | None = None
) -> bytes:
    """The bytes of a regular file, within bounds; see read_regular."""
    return read_regular(
        path,
        expected=expected,
        max_bytes=MAX_BYTES,
        limit="at most 4 GiB",
        too_large="split the file",
        check=check,
    )


def _refuse_encoding(content: bytes, where: str, expected: str) -> None:
    """Raise UserError where the beginning of a file shows UTF-16 or UTF-32, and how to convert."""
    encoding = next((name for mark, name in _MARKS if content.startswith(mark)), None)
    head = content[:4]
    if encoding is None and b"\0" in head and any(head):  # no mark: as JSON tells them
        encoding = json.detect_encoding(head)[:6].upper()
    if encoding not in (None, "UTF-8"):
        fix = f"convert it: iconv -f {encoding} -t UTF-8 {where} > NEW"
        raise refused(where, f"{expected} in UTF-8", encoding, fix)


def _decoded(content: bytes, where: str, expected: str) -> str:
    """The text of UTF-8. Raises UserError for bytes that are none, and how to convert them."""
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        if error.reason == "unexpected end of data":
            found, fix = "a file that is cut inside its last character", "copy it again"
        else:
            found = f"byte 0x{content[error.start]:02x} at {error.start}, as in Latin-1 or GBK"
            fix = f"convert it: iconv -f LATIN1 -t UTF-8 {where} > NEW"
        raise refused(where, f"{expected} in UTF-8", found, fix) from error


def parse_json(content: bytes) -> Any:
    """The value of JSON that was received. Raises ValueError for what the module refuses."""
    return _parsed(content.decode("utf-8"))


def _parsed(text: str) -> Any:
    """The value of a JSON text. Raises ValueError for what the module refuses."""
    try:
        value = _decode(text)
        if text.count("[") + text.count("{") > MAX_DEPTH:  # else it cannot be deeper
            _check_depth(value)
        if "\\u" in text:  # only escapes can write half a character
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except UnicodeEncodeError:
        raise ValueError("a string holds half a character, a lone surrogate") from None
    return value


def _decode(text: str) -> Any:
    try:
        return _DECODER.decode(text)
    except _UnfitNumber as error:
        for found in _STRING_OR_NUMBER.finditer(text):
            if found[0] == error.number:
                line = text.count("\n", 0, found.start()) + 1
                column = found.start() - text.rfind("\n", 0, found.start())
                raise ValueError(f"{error}: line {line} column {column}") from None
        raise


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object; of a key that stands twice, JSON readers would drop one without a word."""
    content = dict(pairs)
    if len(content) < len(pairs):
        repeated = next(key for key, n in Counter(key for key, _ in pairs).items() if n > 1)
        of = f" of id {content['id']!r}" if "id" in content else ""
        raise ValueError(f"key {repeated!r}{of} stands twice")
    return content


def _check_depth(value: Any) -> None:
    """Raise RecursionError for a nesting that code which walks through it may not survive."""
    level = [value] if isinstance(value, (dict, list)) else []
    for _ in range(MAX_DEPTH):
        inner = (one.values() if isinstance(one, dict) else one for one in level)
        level = [one for values in inner for one in values if isinstance(one, (dict, list))]
        if not level:
            return
    raise RecursionError


class _UnfitNumber(ValueError):
    """A number of a JSON text that no file may have."""

    def __init__(self, number: str, why: str) -> None:
        super().__init__(why)
        self.number = number


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise _UnfitNumber(text, f"the number {_short(text)} is not finite")
    return value


def _of_64_bits(text: str) -> int:
    if len(text) > 20 or abs(int(text)) >= 2**64:
        raise _UnfitNumber(text, f"the number {_short(text)} has more than 64 bits")
    return int(text)


def _no_constant(text: str) -> None:
    raise _UnfitNumber(text, f"{text} is not finite")


def _short(text: str) -> str:
    return text if len(text) <= 24 else f"{text[:24]}..."


_STRING_OR_NUMBER = re.compile(
    r'"(?:[^"\\]|\\.)*"|NaN|-?Infinity|-?[0-9]+(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?', re.DOTALL
)
_DECODER = json.JSONDecoder(
    object_pairs_hook=_without_repeats,
    parse_float=_finite,
    parse_int=_of_64_bits,
    parse_constant=_no_constant,
)
