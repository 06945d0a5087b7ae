"""Fine-tune and compare vision-language models on spine MRI."""

from __future__ import annotations

import os
import sys
from typing import Any

__all__ = ["UserError", "load"]

# ``python -m spinevl`` (or ``-m spinevl.training.worker``) puts the working directory in front of
# everything that is installed. A folder of data is not a place for code, and the console script
# does not look there either. It stays where it holds this package: a checkout that is not
# installed. As long as Python looks for the module to run, the first argument is ``-m``.
_HOME = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))  # noqa: PTH100, PTH120
_OTHERS = os.path.abspath(sys.path[0]) != _HOME if sys.path else False  # noqa: PTH100
if _OTHERS and sys.argv[:1] == ["-m"] and not sys.flags.safe_path:
    del sys.path[0]


def __getattr__(name: str) -> Any:
    if name == "UserError":  # what is raised for a mistake in the input; its ``problems`` are lines
        from spinevl.schema.errors import UserError

        return UserError
    raise AttributeError(f"module 'spinevl' has no attribute {name!r}")


def load(checkpoint: Any, **options: Any) -> Any:
    """Load a checkpoint folder; see spinevl.inference.api.load for the options."""
    from spinevl.inference.api import load as load_checkpoint

    return load_checkpoint(checkpoint, **options)
