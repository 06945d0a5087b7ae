"""Load exports with other versions of transformers: ``python tests/exports --envs .venv-exports``.

An environment is made for each version, once; torch and the rest are taken from this one. Tiny
models of every family are exported here, and what this version says of each is compared with what
the other versions read from its files. Exits with 1 where anything differs.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

from export_cases import cases, write

from spinevl.checkpoints.interchange import TRIED

READER = Path(__file__).with_name("load_exports.py")


def environment(version: str, home: Path) -> Path:
    """The Python of an environment with a version of transformers, made where it is missing."""
    folder = home / f"transformers-{version}"
    python, ready = folder / "bin" / "python", folder / ".ready"
    if not ready.is_file():
        print(f"installing transformers {version} in {folder}", flush=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
        install = [str(python), "-m", "pip", "install", "-qq", f"transformers=={version}"]
        if subprocess.run(install).returncode:
            needs = "; 4.42.4 has wheels for Python 3.11 and 3.12" if version < "4.43" else ""
            sys.exit(f"transformers {version} could not be installed in {folder}{needs}")
        packages = next(folder.glob("lib/python*/site-packages"))
        # what it does not have itself, torch above all, is found here; its own packages go first
        (packages / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")
        ready.touch()
    return python


def main() -> int:
    """Write and load all exports; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python tests/exports")
    parser.add_argument("--envs", type=Path, default=Path(".venv-exports"), metavar="FOLDER")
    pythons = [environment(one, parser.parse_args().envs.absolute()) for one in TRIED[:-1]]
    offline = {**os.environ, "HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1"}
    codes = []
    with tempfile.TemporaryDirectory() as home:
        for case in cases():
            folder = Path(home) / case.name
            folder.mkdir()
            write(case, folder)
        for python in (sys.executable, *map(str, pythons)):
            codes.append(subprocess.run([python, str(READER), home], env=offline).returncode)
            print(flush=True)
    print("all exports are read alike" if not any(codes) else "exports are read differently")
    return int(any(codes))


if __name__ == "__main__":
    sys.exit(main())
