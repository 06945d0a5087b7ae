"""What a command line calls a part."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from spinevl.config.conf_dir import CONF_DIR
from spinevl.config.option_names import option_of

FILES = [file for group in ("encoder", "connector", "llm") for file in
         sorted((CONF_DIR / group).glob("*.yaml"))]  # fmt: skip


@pytest.mark.parametrize("file", FILES, ids=lambda file: f"{file.parent.name}={file.stem}")
def test_every_shipped_option_is_called_by_its_name(file: Path) -> None:
    node: Any = OmegaConf.to_container(OmegaConf.load(file))
    assert option_of(file.parent.name, node) == f"{file.parent.name}={file.stem}"


def test_an_encoder_of_another_path_is_still_of_its_option() -> None:
    node = {"_target_": "spinevl.models.encoder.hf.HFVisionEncoder", "kind": "dinov2", "path": "x"}
    assert option_of("encoder", node) == "encoder=dinov2"


def test_parts_of_ones_own_are_called_by_path_or_class() -> None:
    own = {"_target_": "spinevl.models.llm.HFCausalLM", "path": "me/mine"}
    assert option_of("llm", own) == "llm.path=me/mine"
    assert option_of("connector", {"_target_": "mypkg.Wide"}) == "connector._target_=mypkg.Wide"
