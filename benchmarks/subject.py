"""The fixed model and patients that are measured: seeds, no download."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from spinevl.data.examples import patient_examples
from spinevl.models.vlm import VLM
from spinevl.schema.cohort import StudyRequest
from spinevl.schema.example import Example
from spinevl.schema.task import Task
from spinevl.sources.phantom.source import PhantomSource

SMALL = {"width": 192, "layers": 2}
"""Sizes of a tiny model, with which a benchmark is tried."""


def parts(
    folder: Path, *, width: int = 768, image_size: int = 224, patch: int = 32, layers: int = 12
) -> dict[str, Any]:
    """Config nodes of a CLIP ViT-B encoder, mlp2x_gelu and a Qwen2 decoder with random weights.

    Args:
        folder: where the two Hugging Face configs are written.
        width: of the decoder; heads of 64, a third of them for keys and values.
        image_size, patch: of the encoder: (image_size / patch)^2 tokens an image.
        layers: of the decoder.
    """
    from transformers import CLIPImageProcessorPil, CLIPVisionConfig

    encoder = folder / f"clip-{image_size}-{patch}"
    CLIPVisionConfig(
        hidden_size=768,
        intermediate_size=3072,
        num_hidden_layers=12,
        num_attention_heads=12,
        image_size=image_size,
        patch_size=patch,
    ).save_pretrained(encoder)
    size = {"height": image_size, "width": image_size}
    CLIPImageProcessorPil(size={"shortest_edge": image_size}, crop_size=size).save_pretrained(
        encoder
    )
    llm = decoder(
        folder / f"qwen2-{width}-{layers}",
        vocab_size=32000,
        hidden_size=width,
        intermediate_size=width * 8 // 3,
        num_hidden_layers=layers,
        num_attention_heads=width // 64,
        num_key_value_heads=max(1, width // 192),
        max_position_embeddings=8192,
        tie_word_embeddings=False,
    )
    return {
        "encoder": {
            "_target_": "spinevl.models.encoder.hf.HFVisionEncoder",
            "path": str(encoder),
            "kind": "clip",
            "pretrained": False,
        },
        "connector": {
            "_target_": "spinevl.models.connector.mlp.MLPConnector",
            "_partial_": True,
            "layers": 2,
        },
        "llm": {
            "_target_": "spinevl.models.llm.HFCausalLM",
            "path": str(llm),
            "pretrained": False,
        },
        "tuning": {
            "encoder": "frozen",
            "connector": "full",
            "llm": "lora",
            "lora": {"r": 16, "alpha": 32, "dropout": 0.0, "targets": None},
        },
    }


def decoder(folder: Path, **sizes: Any) -> Path:
    """A folder with the config of a Qwen2 decoder of these sizes, and a tokenizer."""
    from transformers import Qwen2Config

    Qwen2Config(**sizes).save_pretrained(folder)
    for file in (Path(__file__).parents[1] / "spinevl/models/tiny_tokenizer").iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


def model(nodes: dict[str, Any]) -> VLM:
    """The model of these nodes, the same weights each time."""
    import torch

    from spinevl.models.assemble import assemble

    torch.manual_seed(0)
    return assemble(nodes).eval()


def tasks() -> dict[str, Task]:
    """The four graded tasks: 18 closed questions a patient."""
    from spinevl.config.tasks import official_tasks

    return {name: task for name, task in official_tasks().items() if task.closed}


def patients(
    cache: Path,
    *,
    count: int,
    sag_image: tuple[int, ...] = (6,),
    asked: Mapping[str, Task] | None = None,
    separate: bool = False,
) -> list[Example]:
    """The questions of ``count`` phantoms with their answers, patient by patient.

    Args:
        cache: where the phantoms are rendered.
        count: of patients.
        sag_image, separate: the sagittal slices, and whether each is asked about on its own.
        asked: other tasks than the closed ones.
    """
    from omegaconf import OmegaConf

    from spinevl.config.conf_dir import CONF_DIR

    chosen = asked or tasks()
    prompts: Any = OmegaConf.load(CONF_DIR / "prompts" / "en.yaml")
    cohort = PhantomSource(n_train=max(count, 2), n_dev=1, n_test=1).load(
        StudyRequest(chosen, chosen, sag_image, {"train"}, lambda: cache)
    )
    return [
        example
        for patient in cohort.patients[:count]
        for task in chosen.values()
        for example in patient_examples(
            [patient],
            task=task,
            template=prompts.templates[task.name],
            sag_image=list(sag_image),
            separate=separate,
            with_answers=True,
        )
    ]
