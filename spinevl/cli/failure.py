"""How a job says that it failed: lines for what people can mend, a stack for what we must."""

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
