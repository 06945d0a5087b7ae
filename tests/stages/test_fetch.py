"""Models are fetched into a folder, from which jobs load them without a network."""

from __future__ import annotations

import fnmatch
import os
import shutil
import subprocess
import sys
from importlib import resources
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest

from spinevl.build.trust import Trust
from spinevl.cli.main import main
from spinevl.config.compose import compose
from spinevl.config.plain import plain
from spinevl.models import source
from spinevl.stages.fetch import Repository, needed


class Hub:
    """A hub that has repositories of its own, and puts them where the real one does."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.asked: list[tuple[str, Any, list[str]]] = []

    def add(self, name: str, *files: str) -> Path:
        folder = self.folder / name
        folder.mkdir(parents=True)
        for file in files:
            (folder / file).write_text(file)
        return folder

    def download(self, name: str, *, cache_dir: Any, allow_patterns: list[str]) -> str:
        self.asked.append((name, cache_dir, allow_patterns))
        if not (self.folder / name).is_dir():
            raise OSError(f"no repository {name}")
        cache = Path(cache_dir or self.folder / "hub")
        into = cache / f"models--{name.replace('/', '--')}"
        snapshot = into / "snapshots" / "c0ffee"
        snapshot.mkdir(parents=True)
        (into / "refs").mkdir()
        (into / "refs/main").write_text("c0ffee")
        for file in (self.folder / name).iterdir():
            if any(fnmatch.fnmatch(file.name, one) for one in allow_patterns):
                shutil.copy(file, snapshot)
        return str(snapshot)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    monkeypatch.chdir(tmp_path)
    found = Hub(tmp_path / "remote")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", found.download)
    monkeypatch.setattr(source, "_hub_answers", lambda endpoint: True)
    return found


WEIGHTS = ("config.json", "model.safetensors", "model.safetensors.index.json", "tokenizer.json")


def test_every_part_of_a_config_is_fetched(
    hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.add("google/siglip2-base-patch16-256", *WEIGHTS, "pytorch_model.bin", "flax_model.msgpack")
    hub.add(
        "Qwen/Qwen2.5-0.5B-Instruct", *WEIGHTS, "modeling.py", "chat_template.jinja", "README.md"
    )
    words = ["encoder=siglip2", "llm=qwen2_5_0_5b", "models_dir=my models"]
    assert main(["fetch", *words]) == 0
    out = capsys.readouterr().out
    folder = tmp_path / "my models"
    assert f"HF_HUB_CACHE='{folder}' HF_HUB_OFFLINE=1" in out
    assert "encoder.path=google/siglip2-base-patch16-256" in out
    assert [name for name, *_ in hub.asked] == [
        "google/siglip2-base-patch16-256",
        "Qwen/Qwen2.5-0.5B-Instruct",
    ]
    fetched = {one.name for one in folder.rglob("snapshots/*/*")}
    assert fetched == {*WEIGHTS, "chat_template.jinja", "README.md"}  # no pickle, no code
    assert not (tmp_path / "outputs").exists() or not any((tmp_path / "outputs").rglob("*.json"))


def test_a_job_loads_what_was_fetched_without_a_network(hub: Hub, tmp_path: Path) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    folder = hub.add("me/small")
    tokenizer = AutoTokenizer.from_pretrained(
        str(resources.files("spinevl.models") / "tiny_tokenizer")
    )
    tokenizer.save_pretrained(folder)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2}
    config = AutoConfig.for_model("llama", vocab_size=len(tokenizer), **sizes, **heads)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    assert main(["fetch", "llm=hf", "llm.path=me/small", "models_dir=models"]) == 0
    shutil.rmtree(hub.folder)
    told = {"HF_HUB_CACHE": str(tmp_path / "models"), "HF_HUB_OFFLINE": "1"}
    code = "from spinevl.models.llm import HFCausalLM; print(HFCausalLM(path='me/small').dim)"
    job = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **told, "HF_HOME": str(tmp_path / "none")},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert job.stdout == "16\n", job.stderr


def test_weights_are_left_out_where_none_are_read(hub: Hub) -> None:
    hub.add("me/small", *WEIGHTS)
    assert main(["fetch", "llm=hf", "llm.path=me/small", "llm.pretrained=false"]) == 0
    ((_, into, patterns),) = hub.asked
    assert into is None
    assert "*.safetensors" not in patterns
    assert "*.json" in patterns


def test_every_problem_is_told(hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    hub.add("me/pickle", "config.json", "pytorch_model.bin")
    words = ["llm=hf", "llm.path=me/pickle", "encoder=clip", "encoder.path=me/absent"]
    assert main(["fetch", *words, "models_dir=m"]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert "encoder.path=me/absent" in lines[0]
    assert "no repository me/absent" in lines[0]
    assert "llm.path=me/pickle" in lines[1]
    assert "safetensors" in lines[1]


def test_a_config_without_the_hub_needs_nothing(
    hub: Hub, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["fetch"]) == 0
    assert "nothing to fetch" in capsys.readouterr().out
    assert hub.asked == []


def test_what_a_config_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def of(*words: str, trust: Trust | None = None) -> list[Repository]:
        config: Any = plain(compose("fetch", words, complete=False))
        return list(needed(config, trust or Trust()))

    monkeypatch.chdir(tmp_path)
    assert of("checkpoint=hf:me/whole") == [Repository("checkpoint", "me/whole")]
    assert of("checkpoint=outputs/mine", "llm=qwen3_4b") == []
    both = of("encoder=clip", "encoder@encoder3d=m3dclip")
    assert [one.key for one in both] == ["encoder.path", "encoder3d.path"]
    (tmp_path / "openai/clip-vit-large-patch14-336").mkdir(parents=True)
    assert of("encoder=clip") == []  # a folder of that name comes first
    code = of("llm=hf", "llm.path=me/own", trust=Trust(remote_code=True))
    assert code == [Repository("llm.path", "me/own", code=True)]
    assert of("llm=smollm2_135m") == []  # a package
