"""What lies in a job's folder besides its results."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from spinevl.io.files import write_text_atomic
from spinevl.io.json_file import read_json_object

CONFIG_FILE = "job_config.json"


def write_config(out: Path, config: Mapping[str, Any]) -> None:
    """Write what the job was asked: its resolved config, which every part of it reads from here."""
    text = json.dumps(config, indent=2, ensure_ascii=False)
    write_text_atomic(out / CONFIG_FILE, f"{text}\n")


def read_config(out: Path) -> dict[str, Any]:
    """The resolved config of the job in a folder. Raises UserError where there is none."""
    return read_json_object(out / CONFIG_FILE)
