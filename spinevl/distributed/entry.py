"""A worker, as its agent starts it: ``python -m spinevl.distributed.entry MODULE FOLDER WORDS``.

It ends with its agent, keeps its lines and the reason of its failure in ``FOLDER``, and calls
``MODULE.work(WORDS)``. Only the first of all workers writes to the terminal.
"""

from __future__ import annotations

import atexit
import importlib
import json
import logging
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

from spinevl.distributed.ranks import AGENT, rank
from spinevl.io.children import end_with_parent
from spinevl.io.machine import machine_problem
from spinevl.io.memory import keep_memory
from spinevl.schema.errors import UserError


def main(words: Sequence[str]) -> int:
    """Work. Returns the exit code: 0, or 1 for a failure, which ``FOLDER/RANK.json`` tells."""
    module, folder, *rest = words
    # until the work has a use for it; by default it would end the process
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    end_with_parent(int(os.environ[AGENT]))
    number = rank()
    if number:
        _write_to(Path(folder) / f"{number}.log")
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        importlib.import_module(module).work(rest)
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except Exception as error:
        problems = error.problems if isinstance(error, UserError) else ()
        if not problems and (line := machine_problem(error)):
            problems = (line,)
        stack = traceback.format_exc()
        told = {"rank": number, "problems": problems, "error": _one_line(error), "stack": stack}
        (Path(folder) / f"{number}.json").write_text(json.dumps(told), encoding="utf-8")
        with (Path(folder) / f"{number}.log").open("a", encoding="utf-8") as file:
            file.write(stack)
        return 1
    return 0


def _write_to(file: Path) -> None:
    """Let all that this process and its libraries write go into a file."""
    opened = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(opened, 1)
    os.dup2(opened, 2)
    os.close(opened)


def _one_line(error: Exception) -> str:
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0]}" if text else type(error).__name__


if __name__ == "__main__":
    keep_memory()
    code = main(sys.argv[1:])
    if not code:
        atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    # After a failure a group of processes may never close: others wait in it. And when all is done,
    # threads of gloo may still run while the interpreter takes its libraries down, which aborts.
    os._exit(code)
