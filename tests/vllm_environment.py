"""An environment of its own with a stand-in for vLLM."""

from __future__ import annotations

import sys
from pathlib import Path

FAKE = Path(__file__).with_name("fake_vllm")


def fake_environment(folder: Path) -> str:
    """The interpreter of the environment, made in ``folder``."""
    python = folder / "fake-python"
    python.write_text(f"#!/bin/sh\nPYTHONPATH='{FAKE}' exec '{sys.executable}' \"$@\"\n")
    python.chmod(0o755)
    return str(python)
