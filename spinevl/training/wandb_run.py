"""A run of Weights & Biases: online where it can be, and told what may leave this machine."""

from __future__ import annotations

import functools
import http.client
import logging
import netrc
import os
import ssl
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from spinevl.config.options import WandbOptions
from spinevl.io.files import made_folder
from spinevl.schema.errors import UserError
from spinevl.training.private import Names, is_path

log = logging.getLogger(__name__)

_NOT_ONLINE = ("offline", "disabled", "dryrun")
_LONGEST_TAG = 64  # of W&B
STEP = "trainer/global_step"  # as Lightning calls the x-axis

# How long W&B's server may take: to answer at all, to start a run, and to take the rest at its end.
# What it has not got by then stays in the run's folder.
_ANSWER_SECONDS, _START_SECONDS, _END_SECONDS = 5, 60, 300


def offline_line(options: WandbOptions) -> str | None:
    """The line that says why a run that is to be online is logged offline; None where it is not."""
    reason = _why_offline(options)
    return _offline_line(reason) if reason else None


def start_run(
    options: WandbOptions,
    *,
    out: Path,
    config: Mapping[str, Any],
    names: Names,
    run: str | None = None,
) -> Any:
    """Start the run of a job, or go on with it.

    Args:
        options: of the logger.
        out: the job's folder, where its files go unless ``save_dir`` names another.
        config: the job's, as plain values.
        names: tells ids and paths.
        run: the id of the run to go on with; None starts one.

    Raises:
        UserError: the folder cannot be made, or W&B refuses an offline run.
    """
    from wandb.errors import Error

    offline = options.offline or offline_line(options) is not None
    folder = made_folder(options.save_dir, "logger.wandb.save_dir") if options.save_dir else out
    told = {"config": names.config(config), "tags": [*options.tags, *tags(config, names)]}
    told["tags"] = list(dict.fromkeys(tag[:_LONGEST_TAG] for tag in told["tags"]))
    try:
        return _start(options, folder, {**told, "id": run}, offline=offline)
    except Error as error:  # such as a key that W&B does not know
        if offline:
            raise UserError(f"logger=wandb: {_one_line(error)}") from error
        log.warning("%s", _offline_line(_one_line(error)))
        return _start(options, folder, {**told, "id": run}, offline=True)


def _start(options: WandbOptions, folder: Path, told: dict[str, Any], *, offline: bool) -> Any:
    import wandb

    # W&B takes down the command line, the folder and what is printed: paths, and perhaps patients
    hidden: dict[str, Any] = {"console": "off", "x_disable_meta": True, "host": "hidden"}
    settings = wandb.Settings(
        init_timeout=_START_SECONDS,
        finish_timeout=_END_SECONDS,
        disable_git=True,
        disable_code=True,
        **({} if options.patients else hidden),
    )
    mode = os.environ.get("WANDB_MODE", "").lower()
    run = wandb.init(
        project=options.project,
        entity=options.entity,
        name=options.name,
        group=options.group,
        job_type=options.job_type,
        dir=folder,
        mode="offline" if offline else None if mode in _NOT_ONLINE else "online",
        resume="allow" if told["id"] and not offline else None,
        settings=settings,
        **told,
    )
    run.define_metric(STEP)
    run.define_metric("*", step_metric=STEP, step_sync=True)
    return run


def end_run(exit_code: int = 0) -> None:
    """End the job's run: the next job of a sweep would go on in it, and ask again whether the
    server answers.

    Args:
        exit_code: 0 ends it as finished, 255 as killed, any other as failed.
    """
    _answers.cache_clear()
    wandb = sys.modules.get("wandb")
    if wandb is not None and wandb.run is not None:
        wandb.finish(exit_code=exit_code)


def tags(config: Mapping[str, Any], names: Names) -> Iterator[str]:
    """What one filters runs by: tasks, slices, parts, what of them is trained, fold and seed."""
    yield from (f"task={name}" for name in config.get("task") or {})
    if slices := config.get("sag_image"):
        yield f"sag_image={','.join(map(str, slices))}"
        yield f"sag_type={config.get('sag_type')}"
    for part in ("encoder", "connector", "encoder3d", "connector3d", "llm"):
        if node := config.get(part):
            path = str(node.get("path") or "")
            name = names.of(path) if is_path(path, "path") else path.rpartition("/")[2]
            yield f"{part}={name or str(node.get('_target_', '')).rpartition('.')[2]}"
    tuning = config.get("tuning") or {}
    yield from (f"tuning.{part}={mode}" for part, mode in tuning.items() if isinstance(mode, str))
    if (fold := (config.get("split") or {}).get("fold")) is not None:
        yield f"fold={fold}"
    if "seed" in config:
        yield f"seed={config['seed']}"


def _why_offline(options: WandbOptions) -> str | None:
    """Why a run that is to be online cannot be; None where it can, or is to be offline anyway."""
    if options.offline or os.environ.get("WANDB_MODE", "").lower() in _NOT_ONLINE:
        return None
    url = os.environ.get("WANDB_BASE_URL") or "https://api.wandb.ai"
    if not _has_wandb_key(urlparse(url).hostname or ""):
        return "there is no API key ('wandb login' or WANDB_API_KEY gives one)"
    return None if _answers(url) else f"{url} does not answer"


def _offline_line(reason: str) -> str:
    return (
        f"logger=wandb: {reason}; the run is logged offline, and 'wandb sync' with its folder "
        "wandb/offline-run-* sends it later"
    )


def _has_wandb_key(host: str) -> bool:
    """Whether W&B finds a key where it looks for one, without a question on the terminal."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    files = [os.environ.get("NETRC"), "~/.netrc", "~/_netrc"]
    for file in filter(None, files):
        try:
            if netrc.netrc(Path(file).expanduser()).authenticators(host):
                return True
        except (OSError, RuntimeError, netrc.NetrcParseError):  # RuntimeError: no home directory
            continue
    return False


@functools.lru_cache(maxsize=8)
def _answers(url: str) -> bool:
    """Whether a server answers at all, through the proxy where one is set; asked once a job."""
    try:
        with urllib.request.urlopen(url, timeout=_ANSWER_SECONDS):
            return True
    except (urllib.error.HTTPError, ssl.SSLError):  # W&B brings certificates of its own
        return True
    except (OSError, ValueError, http.client.HTTPException) as error:
        return isinstance(getattr(error, "reason", None), ssl.SSLError)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
