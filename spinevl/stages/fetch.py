"""Download what a config needs, so that jobs can run where there is no network."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from spinevl.build.trust import NOTHING, Trust
from spinevl.config.plain import plain
from spinevl.io.files import expanded
from spinevl.models.source import HUB, HUB_ID, fetch
from spinevl.schema.errors import UserError


@dataclass(frozen=True)
class Repository:
    """A repository of the Hugging Face hub that a config names.

    Attributes:
        key: the config key that names it.
        name: ``OWNER/NAME``.
        weights: whether its weights are needed.
        code: whether its Python code is.
    """

    key: str
    name: str
    weights: bool = True
    code: bool = False


def main(cfg: DictConfig, *, out: Path, trust: Trust = NOTHING) -> None:
    """Fetch each model and tokenizer, and print how jobs find them.

    Raises:
        UserError: with every repository that could not be fetched.
    """
    config: Any = plain(cfg)
    into = expanded(config["models_dir"], "models_dir").resolve() if config["models_dir"] else None
    problems: list[str] = []
    found = list(needed(config, trust))
    for one in found:
        try:
            folder = fetch(one.name, what=one.key, into=into, weights=one.weights, code=one.code)
        except UserError as error:
            problems += error.problems
            continue
        size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
        print(f"{one.key}={one.name}: {size / 1e9:.2f} GB in {folder}")
    if problems:
        raise UserError(problems)
    if not found:
        print("nothing to fetch: no part of this config comes from the Hugging Face hub")
        return
    where = f"HF_HUB_CACHE={shlex.quote(str(into))} " if into else ""
    print(f"jobs without network: {where}HF_HUB_OFFLINE=1 spinevl ...")


def needed(config: Mapping[str, Any], trust: Trust = NOTHING) -> Iterator[Repository]:
    """The repositories that a config names; folders of this machine are none."""
    checkpoint = str(config.get("checkpoint") or "")
    if checkpoint:  # it brings its parts
        if checkpoint.startswith(HUB):
            yield Repository("checkpoint", checkpoint.removeprefix(HUB))
        return
    seen = set()
    for part in ("encoder", "encoder3d", "llm"):
        node = config.get(part) or {}
        path = str(node.get("path") or "")
        if not HUB_ID.fullmatch(path) or Path(path).expanduser().is_dir() or path in seen:
            continue
        seen.add(path)
        code = part == "llm" and trust.remote_code
        yield Repository(f"{part}.path", path, bool(node.get("pretrained", True)), code)
