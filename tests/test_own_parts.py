"""The README's own LLM and encoder, written out as the page has them and run."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from command import spinevl

README = Path(__file__).resolve().parents[1] / "README.md"
SMALL = ["data.n_train=4", "data.n_dev=2", "data.n_test=2", "trainer.max_epochs=1"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The files that the page names by their first line, and a small model to stand in for its."""
    from transformers import AutoConfig, AutoTokenizer

    folder = tmp_path_factory.mktemp("own")
    blocks = re.findall(r"```(?:yaml|python)\n# (my_\S+)\n(.*?)```", README.read_text(), re.DOTALL)
    assert [name for name, _ in blocks] == [
        "my_conf/llm/falcon.yaml",
        "my_parts/patches.py",
        "my_conf/encoder/patches.yaml",
    ]
    for name, text in blocks:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    tiny = README.parent / "spinevl/models/tiny_tokenizer"
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    config = AutoConfig.for_model(
        "llama",
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        eos_token_id=tokenizer.eos_token_id,
    )
    config.save_pretrained(folder / "falcon")
    tokenizer.save_pretrained(folder / "falcon")
    yield folder
    for name in [one for one in sys.modules if one.partition(".")[0] == "my_parts"]:
        del sys.modules[name]


def test_one_yaml_and_one_file_with_a_yaml_are_enough(folder: Path) -> None:
    own = ["--config-dir", "my_conf", "encoder=patches", "llm=falcon"]
    stand_in = ["llm.path=falcon", "llm.pretrained=false", "tuning.encoder=frozen"]
    command = ["train", *own, *stand_in, *SMALL, "trainer.progress_bar=false"]
    cache = f"cache_dir={folder}/cache"
    refused = spinevl(*command, "hydra.run.dir=refused", cache, cwd=folder)
    assert refused.returncode == 1
    assert "trusted_targets=[my_parts]" in refused.stderr
    assert "Traceback" not in refused.stderr

    trust = "trusted_targets=[my_parts]"
    command += [trust, "connector=resampler", "hydra.run.dir=out", cache]
    done = spinevl(*command, cwd=folder)
    assert done.returncode == 0, done.stderr
    told = json.loads((folder / "out/train.json").read_text())
    assert told["images_encoded"] == 6 * 12  # frozen: each image once

    # another process: the checkpoint knows its parts, and needs the trust but not the stand-in
    (folder / "falcon").rename(folder / "gone")
    again = ["--config-dir", "my_conf", "checkpoint=out/checkpoint", trust]
    command = [sys.executable, "-m", "spinevl", "predict", *again, "hydra.run.dir=answers", cache]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(json.loads((folder / "answers/answers.json").read_text())) == 2
