"""A chat template rendered once in a process of its own, which is given little time and memory.

A checkpoint's template is a program: sandboxed, it reads and writes nothing, but it may loop
without end or write without end. This file is run as a script, and imports nothing of ours.
"""

from __future__ import annotations

import json
import subprocess
import sys
from functools import lru_cache
from typing import Any

_SECONDS = 2
_BYTES = 2 * 2**30
_CHARACTERS = 10**6
_OUT_OF_MEMORY, _TOO_LONG = 3, 4


@lru_cache(maxsize=64)
def excess_of(template: str) -> str | None:
    """What a template needs too much of, for a short conversation; None where it is within bounds.

    A template that fails otherwise is left to whoever renders it.
    """
    try:
        done = subprocess.run(
            [sys.executable, "-I", __file__],
            input=json.dumps(template).encode(),
            capture_output=True,
            check=False,
            timeout=10 * _SECONDS,
        )
    except subprocess.TimeoutExpired:
        return f"more than {_SECONDS} seconds"
    except OSError:  # no process can be started here
        return None
    if done.returncode < 0:  # ended by the signal of a limit
        return f"more than {_SECONDS} seconds of computing"
    return {
        _OUT_OF_MEMORY: f"more than {_BYTES // 2**30} GiB of memory",
        _TOO_LONG: f"more than {_CHARACTERS:,} characters of text",
    }.get(done.returncode)


def _render(template: str) -> int:
    """The exit code that says how rendering went."""
    import jinja2.ext
    import jinja2.nodes
    import jinja2.sandbox

    class Generation(jinja2.ext.Extension):
        """``{% generation %}`` of transformers, which marks answers and writes nothing."""

        tags = {"generation"}  # noqa: RUF012  # as Jinja declares it

        def parse(self, parser: Any) -> Any:
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = json.dumps
    environment.globals |= {"strftime_now": str, "raise_exception": _fail}
    turn = [
        {"role": "user", "content": "Which of these do the images show? " * 20},
        {"role": "assistant", "content": "A.normal"},
    ]
    rendered = environment.from_string(template).generate(
        messages=turn * 2, bos_token="<s>", eos_token="</s>", pad_token="", unk_token=""
    )
    written = 0
    for part in rendered:
        written += len(part)
        if written > _CHARACTERS:
            return _TOO_LONG
    return 0


def _fail(message: str) -> None:
    raise ValueError(message)


def _limit() -> None:
    import resource

    resource.setrlimit(resource.RLIMIT_CPU, (_SECONDS, _SECONDS))
    resource.setrlimit(resource.RLIMIT_AS, (_BYTES, _BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


if __name__ == "__main__":
    asked = json.loads(sys.stdin.buffer.read())
    try:
        _limit()
        sys.exit(_render(asked))
    except MemoryError:
        sys.exit(_OUT_OF_MEMORY)
    except Exception:
        sys.exit(0)
