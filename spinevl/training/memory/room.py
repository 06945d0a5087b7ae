"""How much memory a device has for a training."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")
_PROC = Path("/proc")


@dataclass(frozen=True)
class Room:
    """The memory that one process of a training may use.

    Attributes:
        size: bytes.
        what: of which device, in words.
    """

    size: int
    what: str


def room_on(device: str, *, processes: int = 1) -> Room | None:
    """The memory of each process.

    Args:
        device: ``cpu``, ``cuda`` or another.
        processes: that share the memory of this machine; each GPU has its own.

    Returns:
        None where it is not known.
    """
    if device == "cuda":
        import torch

        # of the smallest, for all get equal shares
        cards = map(torch.cuda.get_device_properties, range(torch.cuda.device_count()))
        card = min(cards, key=lambda one: one.total_memory)
        return Room(card.total_memory, card.name)
    if device != "cpu":
        return None
    bounds = [*_free_of_machine(_PROC), *_free_of_cgroup(_CGROUPS, _PROC)]
    if not bounds:
        return None
    size = min(bounds) // processes
    return Room(size, "this machine" if processes == 1 else f"each of {processes} processes")


def _free_of_machine(proc: Path) -> Iterator[int]:
    """What programs may still take, swap included."""
    try:
        lines = (proc / "meminfo").read_text().splitlines()
        kilobytes = {
            name: int(rest.split()[0]) for name, _, rest in (x.partition(":") for x in lines)
        }
        yield 1024 * (kilobytes["MemAvailable"] + kilobytes.get("SwapFree", 0))
    except (OSError, KeyError, ValueError, IndexError):
        return


def _free_of_cgroup(root: Path, proc: Path) -> Iterator[int]:
    """What the limits of this process's control groups leave, those of version 1 and 2."""
    try:
        own = (proc / "self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in own:
        _, controllers, name = line.split(":", 2)
        if not controllers:
            base, limit, used = root, "memory.max", "memory.current"
        elif "memory" in controllers.split(","):
            base, limit, used = root / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes"
        else:
            continue
        at = base / name.strip("/")
        for folder in (at, *at.parents):
            yield from _left(folder, limit, used)
            if folder == base:
                break


def _left(folder: Path, limit: str, used: str) -> Iterator[int]:
    try:
        bound = int((folder / limit).read_text())  # "max" is no bound
        stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        taken = int((folder / used).read_text()) - int(stat.get("inactive_file", 0))
    except (OSError, ValueError):
        return
    yield max(0, bound - taken)
