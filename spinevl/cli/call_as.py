"""Call a command of this process under another command line."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def call_as(argv: list[str], **environment: str) -> Iterator[None]:
    """Another ``sys.argv`` and some more environment variables, as long as this lasts."""
    old_argv, old = sys.argv, {name: os.environ.get(name) for name in environment}
    sys.argv = argv
    os.environ.update(environment)
    try:
        yield
    finally:
        sys.argv = old_argv
        for name, value in old.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
