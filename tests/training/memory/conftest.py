"""A study of a few phantoms, and trainings of tiny models on it."""

from __future__ import annotations

from collections.abc import Callable
from importlib import resources
from pathlib import Path

import pytest
from transformers import AutoTokenizer, CLIPImageProcessorPil, CLIPVisionConfig, Qwen2Config

from spinevl.config.compose import compose
from spinevl.config.plain import plain
from spinevl.data.study import Study, open_study
from spinevl.training.spec import TrainSpec

Make = Callable[..., TrainSpec]


@pytest.fixture(scope="session")
def make_spec(tmp_path_factory: pytest.TempPathFactory) -> Make:
    """Overrides -> a training on six phantoms, on the CPU."""
    cache = tmp_path_factory.mktemp("memory")
    words = [
        *("data.n_train=6", "data.n_dev=2", "data.n_test=1", "task=[qd]"),
        *("trainer.max_epochs=1", "trainer.progress_bar=false", "trainer.accelerator=cpu"),
        f"cache_dir={cache}",
    ]

    def make(*more: str) -> TrainSpec:
        tiny = () if "llm=hf" in more else ("encoder.dim=16", "llm.width=32")
        return TrainSpec.from_config(plain(compose("train", [*words, *tiny, *more])))

    return make


@pytest.fixture(scope="session")
def study(make_spec: Make) -> Study:
    """The study of every spec that ``make_spec`` makes without other data."""
    return open_study(make_spec().study, ("train", "dev"))


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """A job's folder."""
    folder = tmp_path / "out"
    folder.mkdir()
    return folder


@pytest.fixture(scope="session")
def of_transformers(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The words for an encoder and an LLM of transformers, small and with random weights."""
    folder = tmp_path_factory.mktemp("parts")
    CLIPVisionConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=32,
        patch_size=16,
    ).save_pretrained(folder / "clip")
    size = {"height": 32, "width": 32}
    processor = CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size=size)
    processor.save_pretrained(folder / "clip")
    tokenizer = resources.files("spinevl.models") / "tiny_tokenizer"
    AutoTokenizer.from_pretrained(str(tokenizer)).save_pretrained(folder / "llm")
    Qwen2Config(
        vocab_size=640,
        hidden_size=64,
        intermediate_size=192,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=False,
    ).save_pretrained(folder / "llm")
    return [
        *("encoder=clip", f"encoder.path={folder}/clip", "encoder.pretrained=false"),
        *("llm=hf", f"llm.path={folder}/llm", "llm.pretrained=false", "tuning=lora", "warmup=none"),
    ]
