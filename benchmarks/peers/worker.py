"""A peer's process as the benchmark sees it."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.peers.environments import reason

ROOT = Path(__file__).parents[2]


class PeerFailed(Exception):
    """A peer that stopped, said an error or took too long; the reason in one line."""


class Worker:
    """A process that answers commands; it sleeps while it is not asked.

    Args:
        command: starts it; it runs ``protocol.serve``.
        log: takes what it prints.
        environment: variables besides ours.
    """

    def __init__(
        self, command: Sequence[str], *, log: Path, environment: Mapping[str, str] | None = None
    ) -> None:
        self.log = log
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("w") as errors:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                cwd=ROOT,
                env={**os.environ, **(environment or {})},
                start_new_session=True,
            )
        self._lines: queue.Queue[str | None] = queue.Queue()
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put(None)

    def ask(self, command: str, *, timeout: float, **arguments: Any) -> dict[str, Any]:
        """The answer to a command.

        Raises:
            PeerFailed: an error, no answer in time, or no process any more.
        """
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps({"command": command, "with": arguments}) + "\n")
            self._process.stdin.flush()
            line = self._lines.get(timeout=timeout)
        except queue.Empty:
            raise PeerFailed(f"{command}: no answer within {timeout:.0f} s") from None
        except OSError:
            line = None
        if line is None:
            self._lines.put(None)  # for whoever asks again
            raise PeerFailed(f"{command}: stopped; {reason(self.log.read_text(errors='replace'))}")
        told = json.loads(line)
        if "error" in told:
            raise PeerFailed(f"{command}: {told['error']}")
        return dict(told["answer"])

    def close(self) -> None:
        """End the process and all that it has started."""
        with contextlib.suppress(OSError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError):
                if stream:
                    stream.close()
