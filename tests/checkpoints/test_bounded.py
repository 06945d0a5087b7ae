"""A checkpoint whose config asks for more than its weights hold is refused before it is built."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from spinevl.checkpoints.format import Checkpoint
from spinevl.checkpoints.load import load_checkpoint
from spinevl.checkpoints.native import save_checkpoint
from spinevl.models.assemble import assemble
from spinevl.schema.errors import UserError


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory, tiny_parts: dict[str, Any]) -> Path:
    folder = tmp_path_factory.mktemp("saved") / "checkpoint"
    save_checkpoint(folder, Checkpoint(assemble(tiny_parts), tiny_parts))
    return folder


@pytest.fixture(scope="module")
def of_folders(
    shared: Path, tmp_path_factory: pytest.TempPathFactory, tiny_parts: dict[str, Any]
) -> Path:
    models, folder = shared / "goldens/models", tmp_path_factory.mktemp("hf") / "checkpoint"
    encoder = {
        "_target_": "spinevl.models.encoder.hf.HFVisionEncoder",
        "path": str(models / "enc_clip"),
        "kind": "clip",
    }
    llm = {
        "_target_": "spinevl.models.llm.HFCausalLM",
        "path": str(models / "llm_qwen2"),
        "conversation": "medmvl",
    }
    parts = {**tiny_parts, "encoder": encoder, "llm": llm}
    save_checkpoint(folder, Checkpoint(assemble(parts), parts))
    return folder


def problem(folder: Path) -> str:
    begun = time.monotonic()
    with pytest.raises(UserError) as caught:
        load_checkpoint(folder)
    assert time.monotonic() - begun < 20
    assert len(caught.value.problems) <= 2
    return str(caught.value)


def edited(folder: Path, out: Path, file: str, *, path: tuple[str, ...], value: Any) -> Path:
    shutil.copytree(folder, out)
    content = json.loads((out / file).read_text())
    node = content
    for name in path[:-1]:
        node = node[name]
    node[path[-1]] = value
    (out / file).write_text(json.dumps(content))
    return out


@pytest.mark.parametrize(
    ("part", "key", "value"),
    [
        ("llm", "layers", 10_000_000),
        ("llm", "width", 10**9),
        ("llm", "width", 2**40),
        ("connector", "layers", 10_000_000),
        ("encoder", "dim", 10**9),
        ("encoder", "widths", [8] * 100_000),
        ("llm", "width", "x"),
        ("llm", "layers", -1),
        ("llm", "heads", 0),
        ("llm", "width", 17),
        ("encoder", "image_size", 1.5),
        ("tuning", "llm", "some"),
        ("tuning", "lora", 3),
    ],
)
def test_sizes_that_the_weights_do_not_have(
    saved: Path, tmp_path: Path, part: str, key: str, value: Any
) -> None:
    where = ("parts", part, key)
    said = problem(edited(saved, tmp_path / "c", "config.json", path=where, value=value))
    assert f"{part}" in said or "weights" in said or "no model can be built" in said


@pytest.mark.parametrize(
    ("file", "key", "value"),
    [
        ("llm/config.json", "num_hidden_layers", 10_000_000),
        ("llm/config.json", "hidden_size", 10**9),
        ("llm/config.json", "intermediate_size", 10**10),
        ("llm/config.json", "vocab_size", 10**12),
        ("llm/config.json", "num_attention_heads", 0),
        ("llm/config.json", "hidden_size", "x"),
        ("encoder/config.json", "image_size", 10**7),
        ("encoder/config.json", "patch_size", 0),
    ],
)
def test_sizes_of_the_folders_within(
    of_folders: Path, tmp_path: Path, file: str, key: str, value: Any
) -> None:
    problem(edited(of_folders, tmp_path / "c", file, path=(key,), value=value))


def test_a_template_without_bounds_is_refused(of_folders: Path, tmp_path: Path) -> None:
    shutil.copytree(of_folders, tmp_path / "c")
    loop = "{% for a in range(90000) %}{{ messages[0].content }}{% endfor %}"
    (tmp_path / "c/llm/chat_template.jinja").write_text(loop)
    assert "chat template" in problem(tmp_path / "c")


def test_a_tokenizer_beyond_the_embedding_table_is_refused(
    of_folders: Path, tmp_path: Path
) -> None:
    shutil.copytree(of_folders, tmp_path / "c")
    file = tmp_path / "c/llm/tokenizer.json"
    content = json.loads(file.read_text())
    rows = json.loads((tmp_path / "c/llm/config.json").read_text())["vocab_size"]
    token = {**content["added_tokens"][-1], "id": rows + 7, "content": "<beyond>"}
    content["added_tokens"].append(token)
    content["model"]["vocab"]["<beyond>"] = rows + 7
    file.write_text(json.dumps(content))
    said = problem(tmp_path / "c")
    assert f"ids below {rows}" in said
    assert f"ids up to {rows + 7}" in said


def test_a_checkpoint_loads_within_its_own_bounds(saved: Path) -> None:
    assert load_checkpoint(saved).model.llm.dim == 16


def test_so_does_one_of_folders(of_folders: Path) -> None:
    assert load_checkpoint(of_folders).model.llm.dim > 0
