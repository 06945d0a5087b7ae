"""torchrun with a guard: ``python -m spinevl.distributed.agent PARENT TORCHRUN_ARGUMENTS``.

It starts the workers of one machine, ends with the process that has started it (``PARENT`` is its
number, or ``stdin`` where that is on another machine: its end is then the end of stdin), and passes
SIGUSR1 on to its workers. SIGTERM and SIGINT torchrun passes on itself, and waits for them.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import traceback
from collections.abc import Sequence
from contextlib import redirect_stderr, suppress
from pathlib import Path
from typing import Any

from spinevl.distributed.ranks import AGENT
from spinevl.io.children import end_with_parent
from spinevl.io.process import children


def main(words: Sequence[str]) -> int:
    """Run torchrun. Returns its exit code."""
    parent, *arguments = words
    signal.signal(signal.SIGUSR1, _pass_on)
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)  # SLURM's to all; the job that started us ends us
    if parent == "stdin":
        threading.Thread(target=_end_with_stdin, name="parent", daemon=True).start()
    else:
        end_with_parent(int(parent))
    os.environ[AGENT] = str(os.getpid())
    folder = Path(arguments[arguments.index("spinevl.distributed.entry") + 2])
    node = os.environ.get("SLURM_PROCID", "0")
    # what torchrun says is for its log alone: the workers say what is wrong
    with (folder / f"agent-{node}.log").open("w", encoding="utf-8") as file, redirect_stderr(file):
        from torch.distributed.elastic.multiprocessing.api import SignalException
        from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
        from torch.distributed.run import parse_args, run

        try:
            run(parse_args(arguments))
        except ChildFailedError as error:
            number, failure = error.get_first_failure()
            told = {"rank": number, "exit_code": failure.exitcode}
            (folder / f"agent-{node}.json").write_text(json.dumps(told), encoding="utf-8")
            return 1
        except SignalException as stop:
            return 128 + stop.sigval
        except Exception:
            traceback.print_exc()
            return 1
    return 0


def _pass_on(number: int, frame: Any) -> None:
    for worker in children(os.getpid()):
        with suppress(ProcessLookupError):
            os.kill(worker, number)


def _end_with_stdin() -> None:
    while os.read(0, 2**10):
        pass
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
