"""Pretrained parts by Hugging Face id or directory, and one clear error where loading fails."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from spinevl.io.files import expanded
from spinevl.io.finite import require_finite_weights
from spinevl.io.folders import recovered
from spinevl.io.json_file import read_json_object
from spinevl.io.tensors import pickles_in
from spinevl.models.held import DType, torch_dtype
from spinevl.schema.errors import UserError, refused


@contextmanager
def checked_source(path: str, *, what: str, into: Path | None = None) -> Iterator[None]:
    """Turn a failure to load from a Hugging Face id or directory into a UserError.

    What transformers and tokenizers raise for a damaged file is any error.

    Args:
        path: the id or directory.
        what: the config key that names it.
        into: see fetch.
    """
    local = Path(path).is_dir()
    if local:
        _check_descriptions(Path(path), f"{what}={path}")
    try:
        with nullcontext() if local else _hub_or_cache(path, what=what, into=into):
            yield
    except (UserError, RuntimeError, MemoryError):  # told already, or not about the files
        raise
    except Exception as error:
        reason = (str(error).strip().splitlines() or [""])[0]
        if not isinstance(error, OSError | ValueError):
            reason = f"what transformers cannot read ({type(error).__name__}: {reason})"
        raise refused(
            f"{what}={path}",
            "a directory with its config and safetensors weights" if local else _EXPECTED,
            reason,
            "check the directory" if local else _FETCH,
        ) from error


_EXPECTED = "a local directory, or a Hugging Face id that can be reached"
_FETCH = (
    "check the name, or download it where there is a network: 'spinevl fetch' in place of the "
    "verb, with the same overrides"
)
_PATIENCE_S = 5.0


@contextmanager
def _hub_or_cache(name: str, *, what: str, into: Path | None) -> Iterator[None]:
    """Let the hub's library read what was downloaded, without its many tries, if no hub answers.

    Raises:
        UserError: no hub answers, and the repository was never downloaded.
    """
    from huggingface_hub import constants

    offline = constants.HF_HUB_OFFLINE
    if not offline and (not _ID.fullmatch(name) or _hub_answers(constants.ENDPOINT)):
        yield
        return
    cache = into or Path(constants.HF_HUB_CACHE)
    if _ID.fullmatch(name) and not (cache / f"models--{name.replace('/', '--')}").is_dir():
        why = "HF_HUB_OFFLINE is set" if offline else f"{constants.ENDPOINT} does not answer"
        raise refused(f"{what}={name}", _EXPECTED, f"neither, and no copy here ({why})", _FETCH)
    constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = offline


@functools.cache
def _hub_answers(endpoint: str) -> bool:
    """Whether the Hugging Face hub can be reached; asked once for each process."""
    from huggingface_hub.utils import get_session

    try:
        get_session().head(endpoint, timeout=_PATIENCE_S)
    except Exception:  # of whichever HTTP library the hub's uses
        return False
    return True


_MAX_BYTES = 2**28  # of a description; a large tokenizer.json has some 2**25


def _check_descriptions(folder: Path, where: str) -> None:
    """Refuse what transformers would read without bounds, or otherwise than we do."""
    for file in sorted(folder.iterdir()):
        described = file.suffix in (".json", ".jinja", ".txt", ".model") and file.is_file()
        if described and (size := file.stat().st_size) > _MAX_BYTES:
            found = f"{file.name} of {size} bytes"
            raise refused(where, f"files of at most {_MAX_BYTES} bytes", found, "copy it again")
    if (folder / "config.json").exists():
        read_json_object(folder / "config.json")


HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_ID = re.compile(r"([\w.-]+/)?[\w.-]+")  # those of the hub's first models have no owner

# the files of a checkpoint; no code, no pickles
_FILES = (
    *("*.safetensors", "*.safetensors.index.json", "*.json", "*.txt", "*.model", "*.jinja"),
    "README.md",  # names the licence
)


HUB = "hf:"
"""In front of an id it names a repository of the hub, and not a folder."""


def checkpoint_folder(name: str) -> Path:
    """The folder of a checkpoint: a local one, or that of ``hf:OWNER/NAME``, downloaded.

    Without ``hf:`` no hub is ever asked: ``outputs/chekpoint`` may be a path with a typo.

    Raises:
        UserError: neither.
    """
    if name.startswith(HUB):
        return _downloaded(name.removeprefix(HUB), what="checkpoint")
    folder = recovered(expanded(name, "checkpoint"))
    if not folder.exists() and HUB_ID.fullmatch(name):
        fix = f"check the path; a repository of the Hugging Face hub is checkpoint={HUB}{name}"
        raise refused(f"checkpoint={name}", "the folder of a checkpoint", "no such folder", fix)
    return folder  # another folder that is not there is reported by whoever reads it


def source_folder(path: str, *, what: str) -> Path:
    """The folder of a pretrained part: a local one, or that of a Hugging Face id, downloaded.

    Raises:
        UserError: neither.
    """
    folder = expanded(path, what)
    return folder if folder.is_dir() or not HUB_ID.fullmatch(path) else _downloaded(path, what=what)


def _downloaded(
    name: str, *, what: str, into: Path | None = None, files: Sequence[str] = _FILES
) -> Path:
    """The files of a Hugging Face repository. Raises UserError where it cannot be reached."""
    from huggingface_hub import snapshot_download

    with checked_source(name, what=what, into=into):
        return Path(snapshot_download(name, cache_dir=into, allow_patterns=list(files)))


def fetch(
    name: str, *, what: str, into: Path | None = None, weights: bool = True, code: bool = False
) -> Path:
    """Download what a part or a checkpoint is made of, for processes without network.

    Args:
        name: the id of its repository, ``OWNER/NAME``.
        what: the config key that names it.
        into: a folder in place of the hub's cache, which HF_HUB_CACHE then names.
        weights: whether its weights are needed.
        code: whether its Python code is.

    Returns:
        The folder of its files.

    Raises:
        UserError: it cannot be reached, or has no safetensors weights.
    """
    files = [one for one in _FILES if weights or "safetensors" not in one]
    folder = _downloaded(name, what=what, into=into, files=[*files, *(["*.py"] if code else [])])
    if weights and next(folder.rglob("*.safetensors"), None) is None:
        fix = "choose another; other weights are pickles, which are not read"
        raise refused(f"{what}={name}", "safetensors weights", "none in the repository", fix)
    return folder


def pretrained_model(
    model_class: Any, path: str, *, what: str, dtype: DType = "float32", **options: Any
) -> Any:
    """A model of transformers with all its weights, in one type however they are stored.

    Args:
        model_class: a class with ``from_pretrained``.
        path: a Hugging Face id or directory.
        what: the config key that names it.
        dtype: the type; no weight but the one that is read exists in another.
        options: others of ``from_pretrained``.

    Raises:
        UserError: only a pickle, a damaged file, or weights missing, of another shape or not
            finite.
    """
    from safetensors import SafetensorError

    where = f"{what}={path}"
    pickles = pickles_in(Path(path))
    if pickles and not any(Path(path).glob("*.safetensors")):
        found = f"only {pickles[0]}, a pickle, which is not read"
        raise refused(where, "safetensors weights", found, "save it as safetensors")
    try:
        model, report = model_class.from_pretrained(
            path,
            dtype=torch_dtype(dtype),
            use_safetensors=True,
            ignore_mismatched_sizes=True,  # reported below, with their names
            output_loading_info=True,
            **options,
        )
    except SafetensorError as error:
        raise UserError(
            f"{where}: not a whole safetensors file ({error}); copy it again"
        ) from error
    wrong = sorted({*report["missing_keys"], *(name for name, *_ in report["mismatched_keys"])})
    state = model.state_dict()
    require_all_weights(where, f"weights of {len(state)} names", wrong)
    require_finite_weights(state, where=where)
    return model


def require_all_weights(where: str, expected: str, wrong: Sequence[str]) -> None:
    """Raise UserError where weights are missing or of another shape, and name the first."""
    if wrong:
        found = f"{len(wrong)} missing or of another shape, first {wrong[0]}"
        fix = "check that the weights belong to its config.json"
        raise refused(where, expected, found, fix)


_ATTENTION = (None, "", "eager", "sdpa")


def refuse_kernels(config: Any, *, what: str, path: str) -> None:
    """Refuse a config.json that names attention code: transformers would fetch and import it.

    Raises:
        UserError: for the config or one within it.
    """
    within = [getattr(config, name, None) for name in getattr(config, "sub_configs", None) or ()]
    for one in (config, *within):
        named = getattr(one, "_attn_implementation", None)
        for name in named.values() if isinstance(named, dict) else (named,):
            if name not in _ATTENTION:
                expected, fix = "none, eager or sdpa", "take it out of config.json"
                raise refused(f"{what}={path}: _attn_implementation", expected, str(name), fix)
