"""The command line within the process of the tests, where its imports are paid for once."""

from __future__ import annotations

import contextlib
import io
import subprocess
import traceback
from pathlib import Path


def spinevl(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """What ``spinevl`` with these arguments does in a folder, with what it returns and prints."""
    from spinevl.cli.main import main

    out, err = io.StringIO(), io.StringIO()
    with contextlib.chdir(cwd), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main(list(arguments))
        except Exception:
            traceback.print_exc()
            code = 1
    return subprocess.CompletedProcess(arguments, code, out.getvalue(), err.getvalue())
