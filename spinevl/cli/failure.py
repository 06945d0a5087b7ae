"""What a job says on stderr: that it failed, and what became of the files in its folder."""

from __future__ import annotations

import logging
import sys
import traceback
from pathlib import Path

from spinevl.io.machine import machine_problem
from spinevl.schema.errors import UserError, as_lines

log = logging.getLogger(__name__)


def tell(error: BaseException, out: Path | None = None) -> None:
    """Print a user's mistakes and a machine's failures as lines, and anything else as a stack.

    Args:
        error: what was raised.
        out: the job's folder, where it has one.
    """
    if isinstance(error, UserError):
        lines = list(error.lines)
    elif problem := machine_problem(error, out):
        lines = as_lines([problem])
    else:
        traceback.print_exception(error)
        return
    for line in lines:
        print(f"spinevl: {line}", file=sys.stderr, flush=True)
    log.debug("the job failed", exc_info=error)


def say(line: str) -> None:
    """Tell of folders on stderr alone: the job's log lies in one of them."""
    print(f"spinevl: {line}", file=sys.stderr, flush=True)
