"""A peer for tests: it serves the protocol in a process of its own, and can fail in every way."""

from __future__ import annotations

import os
import sys
import time
from typing import Any

from benchmarks.peers import protocol


def load() -> dict[str, Any]:
    """Prints as libraries do; nothing of it may reach the answers."""
    print("a banner", flush=True)
    os.system("echo a banner of a child")
    return {"versions": {"fake": "1.0"}, "imports": protocol.memory("VmRSS")}


def double(*, value: int) -> dict[str, Any]:
    """A command with an argument."""
    return {"seconds": 0.5 * value, "doubled": 2 * value}


def memory() -> dict[str, Any]:
    """As the real ones."""
    return {"peak": protocol.memory("VmHWM")}


def refuse() -> dict[str, Any]:
    """An error of a library."""
    raise ValueError("no such kernel\nand a second line")


def die() -> dict[str, Any]:
    """A crash."""
    print("Error: out of memory", file=sys.stderr, flush=True)
    os._exit(9)


def hang() -> dict[str, Any]:
    """No answer."""
    time.sleep(60)
    return {}


if __name__ == "__main__":
    served = (load, double, memory, refuse, die, hang)
    protocol.serve({one.__name__: one for one in served})
