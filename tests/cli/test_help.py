"""The help page says what each key means, and comes at once."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from spinevl.cli.help import key_help, page
from spinevl.cli.verbs import VERBS
from spinevl.config.options import SCHEMAS


@pytest.mark.parametrize("verb", VERBS)
def test_each_key_of_the_schema_stands_beside_its_meaning(verb: str) -> None:
    loggers = verb in ("train", "run", "doctor", "fetch")
    text = page(verb, ["logger=[wandb,tensorboard]"] if loggers else [])
    for dotted, meaning in key_help(SCHEMAS[verb]).items():
        if verb in ("predict", "report") and dotted.startswith(
            "prompts."
        ):  # null until it is chosen
            continue
        leaf = dotted.rpartition(".")[2]
        assert re.search(rf"^ *{leaf}:.*  # {re.escape(meaning)}$", text, re.MULTILINE), dotted


def test_keys_of_objects_are_explained_from_their_files_and_classes() -> None:
    text = page("run", ["split=files", "llm=hf", "encoder@encoder3d=medmclip"])
    for line in (
        r"  train: \?\?\? +# file of the train patients' ids",
        r"  path: \?\?\? +# Hugging Face id or directory",
        r"  n_train: 320 +# patients to draw for train",
        r"  max_length: null +# longest sequence in tokens",
    ):
        assert re.search(f"^{line}", text, re.MULTILINE), line


def test_lists_and_texts_stand_on_one_line_and_task_keys_are_explained() -> None:
    text = page("run", ["task=[qd,zyzg]"])
    for line in (
        r"  widths: \[32, 64, 128\] +# channels of the convolutions",
        r"sag_image: \[6\] +# sagittal slices",
        r"    weight: 0.2 +# its share of the official score",
        r"    choices: \[A.normal, B.mild stenosis, .*\] +# the answer text of each label",
        r'    zyzg: "\[image\]<image>\\nCentral canal',
    ):
        assert re.search(f"^{line}", text, re.MULTILINE), line


def test_interpolations_are_shown_with_their_value() -> None:
    assert re.search(r"    llm: 0.0002 +# learning rate of the LLM", page("train", ["tuning=lora"]))


def test_a_users_part_is_explained_from_its_file(tmp_path: Path) -> None:
    (tmp_path / "encoder").mkdir()
    (tmp_path / "encoder" / "mine.yaml").write_text("_target_: mypkg.Mine\ndim: 3  # its width\n")
    text = page("run", [f"--config-dir={tmp_path}", "encoder=mine"])
    assert re.search(r"^  dim: 3 +# its width$", text, re.MULTILINE)
