"""Processes that a killed one has started end too."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress

PARENT = """
import multiprocessing, os, sys, time
from spinevl.io.children import end_with_parent
def work(parent):
    end_with_parent(parent)
    end_with_parent(parent)
    print(os.getpid(), flush=True)
    while True:
        sum(range(10**5))
if __name__ == "__main__":
    child = multiprocessing.get_context("fork").Process(target=work, args=(os.getpid(),))
    child.start()
    child.join()
"""


def gone(pid: int) -> bool:
    with suppress(ProcessLookupError):
        os.kill(pid, 0)
        with open(f"/proc/{pid}/stat") as file:  # noqa: PTH123
            return " Z " in file.read()  # nobody has asked for its exit code
    return True


def test_a_child_at_work_ends_with_its_killed_parent() -> None:
    parent = subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True)
    assert parent.stdout
    child = int(parent.stdout.readline())
    assert not gone(child)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    deadline = time.monotonic() + 20
    while not gone(child) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert gone(child)
