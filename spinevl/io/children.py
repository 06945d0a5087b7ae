"""Child processes end with the process that started them, however it ends."""

from __future__ import annotations

import functools
import os
import threading
import time

_EVERY_S = 0.5


@functools.cache
def end_with_parent(parent: int) -> None:
    """End this process soon after process ``parent``, which has started it, is gone.

    Called in the child, once or again. A thread asks the system, on every platform; Linux's own
    signal for this (PR_SET_PDEATHSIG) comes when a thread of the parent ends, and not the process.
    """
    threading.Thread(target=_watch, args=(parent,), name="parent", daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_EVERY_S)
    os._exit(1)
