"""A small, valid study with every kind of file that a command reads, and the commands on it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

SIDE = 64
LEVELS = {"zjppt": 5, "zyzg": 11}
VERTEBRAE = ("C2", "C3", "C4", "C5", "C6", "C7")
AXIAL = ("2", "2-3", "3", "3-4", "4", "4-5", "5", "5-6", "6", "6-7", "7")

COHORT = [
    *("data=cervai", "data.labels=labels.json", "data.boxes=boxes.json"),
    *("data.train_images=images", f"data.side_px={SIDE}", "split=head", "split.n_train=4"),
]
MODEL = [
    *(f"encoder.image_size={SIDE}", "encoder.dim=16", "encoder.widths=[8,8,16]"),
    *("llm.width=32", "llm.layers=1", "llm.heads=2"),
]
SHORT = [
    *("trainer.max_epochs=1", "trainer.dev_checks=1", "trainer.progress_bar=false"),
    *("trainer.accelerator=cpu", "warmup=none"),
]
CONVERSATIONS = [
    *("data=conversations", "data.train=talk.json", "data.dev=talk.json", "data.images=files"),
    "data.window=[0,100]",
]
# a language model of transformers, whose tokenizer and chat template lie in the checkpoint
TALKER = [*MODEL[:3], "llm=hf", "llm.path=llama", "llm.pretrained=false"]
TOWER = {
    "model_type": "medm-pretrain",
    "frame_size": 8,
    "frame_patch_size": 2,
    "image_size": 16,
    "image_patch_size": 8,
    "hidden_size": 16,
    "image_num_heads": 2,
    "image_num_layers": 1,
    "image_mlp_dim": 16,
    "dropout_rate": 0.0,
}

# What each command is called in the table of counts, and the words after `spinevl`.
COMMANDS: dict[str, list[str]] = {
    "doctor": ["doctor", *COHORT, *MODEL, *SHORT],
    "doctor talk": ["doctor", *CONVERSATIONS, *TALKER, *SHORT],
    "doctor answers": [
        *("doctor", "data=cervai", "answers=answers.json", "data.test_labels=labels.json"),
    ],
    "doctor records": ["doctor", *COHORT, "data.boxes=null", *MODEL, *SHORT, "records=records"],
    "doctor split": [
        *("doctor", *COHORT[:-2], "split=files"),
        *("split.train=train_ids.json", "split.dev=dev_ids.json", *MODEL, *SHORT),
    ],
    "build": ["build", *COHORT, "prompts.path=prompts.json", "task=[qd,sl,zjppt,zyzg,positioning]"],
    "evaluate answers": ["evaluate", "labels=labels.json", "answers=answers.json"],
    "evaluate predictions": [
        *("evaluate", "labels=dev_labels.json", "predictions=predictions.jsonl"),
        "train_labels=labels.json",
    ],
    "train": ["train", *COHORT, *MODEL, *SHORT],
    "predict": ["predict", "checkpoint=checkpoint", "subset=dev"],
    "predict talk": [
        *("predict", "checkpoint=talker", "data=conversations", "data.test=talk.json"),
        *("data.images=files", "data.window=[0,100]", "predict.max_new_tokens=3"),
    ],
    "doctor volumes": [
        *("doctor", "data=conversations", "data.train=volumes.json", "data.images=files"),
        *("data.window=[0,100]", "encoder=medmclip", "encoder.path=tower"),
        *("encoder.pretrained=false", "connector=spatial_pooling", *MODEL[3:], *SHORT),
    ],
    "export": ["export", "checkpoint=talker", "format=peft"],
}


def make_study(folder: Path) -> None:
    """Write the study's files into ``folder``; the two checkpoints are trained for one epoch."""
    rng = np.random.default_rng(0)
    ids = [f"case-{k}" for k in range(6)]
    for one in ids:
        for plane, names in (("sag", "567"), ("tra", AXIAL)):
            for name in names:
                pixels = rng.integers(0, 255, (SIDE, SIDE), dtype=np.uint8)
                _save(folder / f"images/{one}/{plane}/{name}.png", pixels)
    labels = [_label(one, k, rng) for k, one in enumerate(ids)]
    boxes = [{"id": one} | {v: ["(5,5)(20,20)"] * 3 for v in VERTEBRAE} for one in ids]
    _write(folder / "labels.json", labels)
    _write(folder / "dev_labels.json", labels[4:])
    _write(folder / "answers.json", labels)
    _write(folder / "boxes.json", boxes)
    _write(folder / "train_ids.json", ids[:4])
    _write(folder / "dev_ids.json", ids[4:])
    words = "[image]What is there at [label]? [options]"
    tasks = ("qd", "sl", "zjppt", "zyzg", "positioning")
    templates = {task: words + ("<image>" if task in LEVELS else "") for task in tasks}
    _write(folder / "prompts.json", templates)
    _write_talk(folder, rng)
    _write_llama(folder / "llama")
    _train(folder)


def copy_study(study: Path, to: Path) -> None:
    """The study's files as hard links; a mutation writes the file that it changes anew."""
    shutil.copytree(study, to, copy_function=lambda a, b: Path(b).hardlink_to(a))


def _label(one: str, k: int, rng: np.random.Generator) -> dict[str, Any]:
    graded = {task: rng.integers(0, 4, n).tolist() for task, n in LEVELS.items()}
    return {"id": one, "qd": k % 3, "sl": k % 2, **graded}


def _write_talk(folder: Path, rng: np.random.Generator) -> None:
    """Conversations about a PNG, an npy and NIfTI volumes, and about nothing."""
    import nibabel

    _save(folder / "files/a.png", rng.integers(0, 255, (SIDE, SIDE, 3), dtype=np.uint8))
    _save(folder / "files/b.jpg", rng.integers(0, 255, (SIDE, SIDE), dtype=np.uint8))
    turns = [{"from": "human", "value": "<image>\nCurve?"}, {"from": "gpt", "value": "Straight."}]
    text = [{"from": "human", "value": "What is MRI?"}, {"from": "gpt", "value": "A scan."}]
    records = [
        {"id": "1", "image": "a.png", "conversations": turns},
        {"id": "2", "image": ["b.jpg"], "conversations": turns},
        {"id": "3", "conversations": text},
    ]
    _write(folder / "talk.json", records)
    turns = [{"from": "human", "value": "<image3d>\nCord?"}, {"from": "gpt", "value": "Free."}]
    names = ("v.npy", "v.nii", "v.nii.gz")
    volumes = [{"id": name, "image3d": name, "conversations": turns} for name in names]
    _write(folder / "volumes.json", volumes)
    (folder / "tower").mkdir()
    _write(folder / "tower/config.json", TOWER)
    volume = rng.integers(0, 100, (8, 20, 20)).astype(np.float32)
    np.save(folder / "files/v.npy", volume)
    nifti = nibabel.Nifti1Image(volume, np.diag([2.0, 1.0, 1.0, 1.0]))
    nifti.set_sform(nifti.affine, code=1)
    nifti.set_qform(nifti.affine, code=1)
    for name in ("v.nii", "v.nii.gz"):
        nibabel.save(nifti, folder / "files" / name)


def _write_llama(folder: Path) -> None:
    """A Llama of one layer, with spinevl's own small tokenizer."""
    from transformers import AutoConfig, AutoTokenizer

    import spinevl

    tokenizer = AutoTokenizer.from_pretrained(
        Path(spinevl.__file__).parent / "models/tiny_tokenizer"
    )
    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 2048}
    ids = {"vocab_size": len(tokenizer), "eos_token_id": tokenizer.eos_token_id}
    AutoConfig.for_model("llama", **sizes, **heads, **ids).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _train(folder: Path) -> None:
    import contextlib

    from spinevl.cli.main import main

    with contextlib.chdir(folder):
        cache = "cache_dir=cache"
        build = ["build", *COHORT, "hydra.run.dir=records", cache]
        talk = ["train", *CONVERSATIONS, *TALKER, *SHORT, "tuning.llm=lora"]
        for arguments in (
            build,
            [*COMMANDS["train"], "hydra.run.dir=out1", cache],
            [*COMMANDS["predict"], "hydra.run.dir=out3", cache],
            [*talk, "hydra.run.dir=out2", cache],
        ):
            assert main(arguments) == 0, arguments
            for made, name in (
                ("out1/checkpoint", "checkpoint"),
                ("out2/checkpoint", "talker"),
                ("out3/predictions.jsonl", "predictions.jsonl"),
            ):
                if Path(made).exists():
                    shutil.move(made, name)
        for name in ("out1", "out2", "out3"):
            shutil.rmtree(name)


def _save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def _write(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value), "utf-8")
