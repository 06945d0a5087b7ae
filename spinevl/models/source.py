"""Where pretrained parts come from, and one clear line where they can't be had."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from spinevl.schema.errors import Problem, UserError


@contextmanager
def checked_source(path: str, *, what: str) -> Iterator[None]:
    """Turn a failure to load from a Hugging Face id or directory into a UserError.

    Args:
        path: the id or directory.
        what: the config key that names it.
    """
    try:
        yield
    except (OSError, ValueError, KeyError) as error:
        local = Path(path).is_dir()
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(
            Problem(
                f"{what}={path}",
                "a directory with its config and safetensors weights"
                if local
                else "a local directory, or a Hugging Face id that can be reached",
                reason,
                "check the directory" if local else "check the name, or download it beforehand",
            )
        ) from error


# what a checkpoint is made of; no code, no pickles
_FILES = ("*.safetensors", "*.safetensors.index.json", "*.json", "*.txt", "*.model", "*.jinja")


def checkpoint_folder(name: str) -> Path:
    """The folder of a checkpoint: a local one, or that of a Hugging Face id, downloaded.

    Raises:
        UserError: neither.
    """
    folder = Path(name).expanduser()
    if folder.is_dir() or not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        return folder  # what is not there is told by who reads it
    from huggingface_hub import snapshot_download

    with checked_source(name, what="checkpoint"):
        return Path(snapshot_download(name, allow_patterns=list(_FILES)))
