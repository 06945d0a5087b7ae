"""A study of a few phantoms, and trainings of tiny models on it."""

from __future__ import annotations

from collections.abc import Callable
from importlib import resources
from pathlib import Path

import pytest
from transformers import AutoTokenizer, CLIPImageProcessorPil, CLIPVisionConfig, Qwen2Config

from spinevl.data.study import Study, open_study
from spinevl.training.spec import TrainSpec

Make = Callable[..., TrainSpec]


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
