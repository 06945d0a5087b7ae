"""What a peer's process does: it loads once, then answers commands, a JSON line each.

Standard library only: this runs in environments where nothing of ours is installed.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

Command = Callable[..., Mapping[str, Any]]


def serve(commands: Mapping[str, Command]) -> None:
    """Answer the commands on standard input until it ends.

    A command is ``{"command": NAME, "with": {ARGUMENTS}}``; the answer is ``{"answer": {...}}``, or
    ``{"error": REASON}``. What libraries print goes to standard error.
    """
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    for line in sys.stdin:
        asked = json.loads(line)
        try:
            told: dict[str, Any] = {"answer": commands[asked["command"]](**asked["with"])}
        except Exception as error:
            traceback.print_exc()
            told = {"error": f"{type(error).__name__}: {error}".splitlines()[0][:300]}
        answers.write(json.dumps(told) + "\n")
        answers.flush()


def memory(name: str) -> int:
    """``VmRSS`` or ``VmHWM`` of this process in bytes: what is resident, and the most that was."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.partition(f"{name}:")[2].split()[0])


def peak(device: str) -> int:
    """The most memory in bytes: of this process on the CPU, of its tensors on a GPU."""
    if device == "cpu":
        return memory("VmHWM")
    import torch

    return torch.cuda.max_memory_allocated(device)


def versions(*names: str) -> dict[str, str]:
    """The versions of installed packages; those of others are left out."""
    from importlib.metadata import PackageNotFoundError, version

    found = {}
    for name in names:
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found
