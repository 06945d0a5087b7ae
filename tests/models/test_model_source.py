"""What the config of a stored model may name."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from small_llm import write_small_llm
from transformers import CLIPConfig, Qwen2Config

from spinevl import models
from spinevl.models import source
from spinevl.models.encoder.hf import HFVisionEncoder
from spinevl.models.llm import HFCausalLM
from spinevl.models.source import checkpoint_folder, refuse_kernels, source_folder
from spinevl.schema.errors import UserError


@pytest.mark.parametrize("name", [None, "eager", "sdpa"])
def test_own_attention_is_fine(name: str | None) -> None:
    refuse_kernels(Qwen2Config(attn_implementation=name), what="llm.path", path="x")


def test_attention_code_of_a_hub_is_refused_at_every_depth() -> None:
    with pytest.raises(UserError, match=r"llm\.path=x: .*found evil/kernel"):
        refuse_kernels(Qwen2Config(attn_implementation="evil/kernel"), what="llm.path", path="x")
    whole = CLIPConfig()
    whole.vision_config._attn_implementation = "evil/kernel"
    with pytest.raises(UserError, match="found evil/kernel"):
        refuse_kernels(whole, what="encoder.path", path="x")


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The repositories that the hub is asked for."""
    names: list[str] = []

    def download(name: str, **_: Any) -> str:
        names.append(name)
        raise OSError("no network")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    monkeypatch.setattr(source, "_hub_answers", lambda endpoint: True)
    return names


@pytest.mark.parametrize("name", ["outputs/chekpoint", "runs/2026", "MSIIP/MedM-VL-2D"])
def test_a_path_with_a_typo_asks_no_hub(
    name: str, asked: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as caught:
        checkpoint_folder(name)
    (line,) = caught.value.problems
    assert f"checkpoint={name}: " in line
    assert f"checkpoint=hf:{name}" in line
    assert asked == []
    Path(name).mkdir(parents=True)
    assert checkpoint_folder(name) == Path(name)
    assert checkpoint_folder("a/b/c") == Path("a/b/c")  # told by whoever reads it
    assert asked == []


def test_a_repository_is_named_as_one(asked: list[str]) -> None:
    with pytest.raises(UserError, match="no network"):
        checkpoint_folder("hf:MSIIP/MedM-VL-2D")
    with pytest.raises(UserError, match=r"encoder\.path=MSIIP/other"):
        source_folder("MSIIP/other", what="encoder.path")
    assert asked == ["MSIIP/MedM-VL-2D", "MSIIP/other"]


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("config.json", "7"),
        ("config.json", '{"model_type": "qwen2", "model_type": "llama"}'),
        ("tokenizer_config.json", "[1]"),
        ("tokenizer.json", "null"),
        ("tokenizer.json", '{"records": {}}'),
        ("tokenizer.json", '{"added_tokens": 3}'),
    ],
)
def test_a_damaged_description_is_one_line(tmp_path: Path, file: str, content: str) -> None:
    small = Path(models.__file__).with_name("tiny_tokenizer")
    shutil.copytree(small, tmp_path / "llm")
    Qwen2Config(hidden_size=32, num_hidden_layers=1).save_pretrained(tmp_path / "llm")
    (tmp_path / "llm" / file).write_text(content)
    with pytest.raises(UserError) as caught:
        HFCausalLM(path=str(tmp_path / "llm"), pretrained=False)
    (line,) = caught.value.problems
    assert str(tmp_path / "llm") in line


def test_a_description_beyond_reason_is_not_read(tmp_path: Path) -> None:
    shutil.copytree(Path(models.__file__).with_name("tiny_tokenizer"), tmp_path / "llm")
    Qwen2Config(hidden_size=32, num_hidden_layers=1).save_pretrained(tmp_path / "llm")
    with (tmp_path / "llm/chat_template.jinja").open("r+") as file:
        file.truncate(2**33)  # takes no space
    with pytest.raises(UserError, match=r"chat_template\.jinja"):
        HFCausalLM(path=str(tmp_path / "llm"), pretrained=False)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The hub's cache of a machine whose requests nobody answers."""

    class Session:
        def head(self, url: str, *, timeout: float) -> None:
            tried.append(url)
            assert timeout <= 10
            raise ConnectionError("no route")

    def request(*_: Any, **__: Any) -> None:
        raise AssertionError("the hub's library must not try again")

    tried: list[str] = []
    monkeypatch.setattr("huggingface_hub.utils.get_session", Session)
    monkeypatch.setattr("huggingface_hub.file_download.http_backoff", request, raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    source._hub_answers.cache_clear()
    yield tmp_path / "hub"
    assert len(tried) <= 1  # once for each process
    source._hub_answers.cache_clear()


@pytest.mark.parametrize("set_offline", [False, True])
@pytest.mark.parametrize("name", ["me/never-fetched", "gpt2-of-mine"])
def test_what_was_never_fetched_is_one_line_at_once(
    cache: Path, monkeypatch: pytest.MonkeyPatch, name: str, set_offline: bool
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", set_offline)
    loads: list[tuple[str, Callable[[], Any]]] = [
        (f"llm.path={name}", lambda: HFCausalLM(path=name)),
        (f"encoder.path={name}", lambda: HFVisionEncoder(path=name, kind="clip")),
    ]
    if "/" in name:
        loads.append((f"checkpoint={name}", lambda: checkpoint_folder(f"hf:{name}")))
    begun = time.monotonic()
    for where, load in loads:
        with pytest.raises(UserError) as caught:
            load()
        (line,) = caught.value.problems
        assert line.startswith(f"{where}: ")
        assert "spinevl fetch" in line
        assert ("HF_HUB_OFFLINE" in line) is set_offline
    assert time.monotonic() - begun < 20


def test_what_was_fetched_is_read_without_the_hub(cache: Path, tmp_path: Path) -> None:
    write_small_llm(tmp_path / "small")
    shutil.copytree(tmp_path / "small", cache / "models--me--small/snapshots/c0ffee")
    (cache / "models--me--small/refs").mkdir()
    (cache / "models--me--small/refs/main").write_text("c0ffee")
    assert HFCausalLM(path="me/small").dim == 32
    assert huggingface_hub.constants.HF_HUB_OFFLINE is False
    (next(cache.rglob("*.safetensors"))).unlink()
    with pytest.raises(UserError, match=r"llm\.path=me/small: .*spinevl fetch"):
        HFCausalLM(path="me/small")
