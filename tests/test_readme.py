"""The commands of the README, run as they stand on a small study."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path

import pytest
from command import spinevl

README = Path(__file__).resolve().parents[1] / "README.md"
SMALL = ["trainer.max_epochs=1", "trainer.dev_checks=1", "trainer.progress_bar=false"]
TINY = [
    *("encoder.widths=[8,8,16]", "encoder.dim=16"),
    *("llm.width=32", "llm.layers=1", "llm.heads=2"),
]
# What makes a command small: the page's own numbers are for a whole study.
SMALLER = {
    "run data=cervai": [*SMALL, *TINY, "split.n_train=12"],
    "run data=phantom": [*SMALL, *TINY, "split.n_train=12", "data.n_test=4"],
    "run -m": [*SMALL, *TINY, "data.n_train=4", "data.n_dev=2", "data.n_test=2"],
    "run experiment=phantom_full": [
        *(*SMALL, *TINY),
        *("data.n_train=4", "data.n_dev=2", "data.n_test=2"),
    ],
    "build data=cervai": ["split.n_train=12"],
    "run encoder=siglip": [
        *SMALL,
        *("data.n_train=4", "data.n_dev=2", "data.n_test=2"),
        *("encoder.path=siglip", "encoder.pretrained=false"),
        *("llm.path=qwen", "llm.pretrained=false"),
    ],
    "run experiment=demo": [*SMALL, *TINY, "data.n_train=4", "data.n_dev=2", "data.n_test=2"],
    # several GPUs: here they are composed alone, and trained in tests/distributed
    "run trainer=ddp": ["--cfg", "job"],
    "train trainer=deepspeed_zero3": ["--cfg", "job"],
    "playground": ["--cfg", "job"],  # served in tests/playground
    "predict checkpoint=MedM": ["predict.max_new_tokens=4"],
    "train checkpoint=MedM": SMALL,
}


def commands() -> list[str]:
    """Every spinevl line of the page's bash blocks; what make runs is tested elsewhere."""
    blocks = re.findall(r"```bash\n(.*?)```", README.read_text("utf-8"), re.DOTALL)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    return [line for line in lines if line.startswith("spinevl ")]


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the files that the page names: a small phantom study in the CervAI layout."""
    folder = tmp_path_factory.mktemp("readme")
    numbers = ["data.n_train=12", "data.n_dev=4", "data.n_test=4"]
    run(folder, "run", *numbers, *SMALL, *TINY, "hydra.run.dir=outputs/demo")
    (cohort,) = (folder / "cache/phantom").iterdir()
    for name, file in (
        ("labels.json", "train.json"),
        ("boxes.json", "boxes.json"),
        ("test_template.json", "template.json"),
        ("test_truth.json", "test_labels.json"),
    ):
        shutil.copy(cohort / name, folder / file)
    shutil.copytree(cohort / "images", folder / "images")
    tasks = ("qd", "sl", "zjppt", "zyzg", "positioning")
    prompts = dict.fromkeys(tasks, "[image]A question about [object]? [options]")
    (folder / "templates.json").write_text(json.dumps(prompts))
    _stand_ins(folder)
    return folder


def _stand_ins(folder: Path) -> None:
    """Small models under the names of the page's large ones, and two questions."""
    from transformers import AutoConfig, AutoTokenizer

    from spinevl.checkpoints.format import Checkpoint
    from spinevl.checkpoints.medmvl import MedMVLFormat
    from spinevl.models.assemble import assemble

    tokenizer = AutoTokenizer.from_pretrained(README.parent / "spinevl/models/tiny_tokenizer")
    tokenizer.add_special_tokens({"eos_token": "<|im_end|>"})
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 2048}
    config = AutoConfig.for_model("qwen2", vocab_size=len(tokenizer) + 8, **sizes, **heads)
    for part in (tokenizer, config):
        part.save_pretrained(folder / "qwen")
    tower = {"num_attention_heads": 4, "image_size": 64, "patch_size": 16}
    AutoConfig.for_model("siglip_vision_model", **sizes, **tower).save_pretrained(folder / "siglip")
    processor = {"do_resize": True, "size": {"height": 64, "width": 64}, "do_normalize": True}
    processor |= {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "do_rescale": True}
    (folder / "siglip/preprocessor_config.json").write_text(json.dumps(processor))
    nodes = {
        "encoder": {
            "_target_": "spinevl.models.encoder.hf.HFVisionEncoder",
            "path": str(folder / "siglip"),
            "kind": "siglip",
            "select_layer": -1,
            "select_feature": "cls_patch",
            "pretrained": False,
        },
        "connector": {"_target_": "spinevl.models.connector.mlp.MLPConnector", "_partial_": True},
        "llm": {
            "_target_": "spinevl.models.llm.HFCausalLM",
            "path": str(folder / "qwen"),
            "conversation": "medmvl",
            "end_token": "<|im_end|>",
            "pretrained": False,
        },
        "tuning": {
            **dict.fromkeys(("encoder", "connector", "llm"), "full"),
            "lora": {"r": 4, "alpha": 8, "dropout": 0.0, "targets": None},
        },
    }
    (folder / "MedM-VL-2D-3B-en").mkdir()
    MedMVLFormat().write(folder / "MedM-VL-2D-3B-en", Checkpoint(assemble(nodes), nodes))
    image = next((folder / "images").rglob("6.png")).relative_to(folder / "images")
    turns = [{"from": "human", "value": "<image>\nCurve?"}, {"from": "gpt", "value": "Straight."}]
    question = {"id": "1", "image": str(image), "conversations": turns}
    (folder / "questions.json").write_text(json.dumps([question, {**question, "id": "2"}]))


def run(folder: Path, *arguments: str) -> None:
    uncached = ("export", "evaluate", "leaderboard")
    cache = [] if arguments[0] in uncached else [f"cache_dir={folder}/cache"]
    done = spinevl(*arguments, *cache, cwd=folder)
    assert done.returncode == 0, f"spinevl {' '.join(arguments)}\n{done.stderr}"


def test_the_page_has_commands() -> None:
    assert len(commands()) >= 7
    unused = [start for start in SMALLER if not any(f" {start}" in line for line in commands())]
    assert not unused


@pytest.mark.parametrize("command", commands())
def test_a_command_of_the_page(study: Path, command: str) -> None:
    _, *arguments = shlex.split(command, comments=True)
    text = " ".join(arguments)
    smaller = next((more for start, more in SMALLER.items() if text.startswith(start)), [])
    for needed in ("outputs/predict/answers.json", "outputs/siglip/checkpoint"):
        if any(one.endswith(f"={needed}") for one in arguments):  # of the line above on the page
            assert (study / needed).exists()
    run(study, *arguments, *smaller)


def test_the_python_of_the_page(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (block,) = re.findall(
        r"```python\n(import spinevl\n.*?)```", README.read_text("utf-8"), re.DOTALL
    )
    monkeypatch.chdir(study)
    said: list[tuple[object, ...]] = []
    exec(block, {"print": lambda *values: said.append(values)})
    assert len(said) == 4 * 18
