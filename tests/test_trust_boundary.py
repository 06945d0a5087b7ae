"""From the command line: no checkpoint and no folder of configs gets its code to run."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import spinevl
from spinevl.checkpoints.format import Checkpoint
from spinevl.checkpoints.native import save_checkpoint
from spinevl.cli.main import main
from spinevl.models.assemble import assemble

TOKENIZER = Path(spinevl.__file__).parent / "models/tiny_tokenizer"
STUDY = {
    "task": {
        "qd": {
            "_target_": "spinevl.schema.task.Task",
            "name": "qd",
            "title": "curvature",
            "choices": ["A.a", "B.b", "C.c"],
        }
    },
    "templates": {"qd": "[image]Which: [options]?"},
    "sag_image": [6],
    "sag_type": "joint",
    "split": {"_target_": "spinevl.data.split.HeadSplit"},
    "data": {
        "_target_": "spinevl.sources.phantom.source.PhantomSource",
        "n_train": 1,
        "n_dev": 1,
        "n_test": 1,
    },
}


def model_with_code(folder: Path, ran: Path) -> dict[str, Any]:
    """The node of a language model whose folder brings Python that marks a file when it runs."""
    shutil.copytree(TOKENIZER, folder)
    code = {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnModel"}
    config = {"model_type": "own", "auto_map": code, "vocab_size": 600, "hidden_size": 16}
    config |= {"num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "own.py").write_text(
        f"open({str(ran)!r}, 'a').write('x')\n"
        "from transformers import Qwen2Config, Qwen2ForCausalLM\n"
        "class OwnConfig(Qwen2Config):\n    model_type = 'own'\n"
        "class OwnModel(Qwen2ForCausalLM):\n    config_class = OwnConfig\n"
    )
    return {
        "_target_": "spinevl.models.llm.HFCausalLM",
        "path": str(folder),
        "trust_remote_code": True,
        "pretrained": False,
        "conversation": "medmvl",
    }


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_parts: dict[str, Any]) -> Path:
    """A working directory with a tiny checkpoint."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SPINEVL_CACHE_DIR", str(tmp_path / "cache"))
    save_checkpoint(tmp_path / "tiny", Checkpoint(assemble(tiny_parts), tiny_parts, STUDY))
    return tmp_path


CHANGES: dict[str, Callable[[Any, Any], None]] = {
    "encoder.widths[0]": lambda c, node: c["parts"]["encoder"].update(widths=[node]),
    "encoder3d": lambda c, node: c["parts"].update(encoder3d=node),
    "connector": lambda c, node: c["parts"]["connector"].update(_args_=[node]),
    "llm.options": lambda c, node: c["parts"]["llm"].update(options={"a": [node]}),
    "study.task.qd": lambda c, node: c["study"]["task"].update(qd=node),
    "study.data": lambda c, node: c["study"].update(data=node),
    "study.data.labels": lambda c, node: c["study"]["data"].update(labels=node),
}


@pytest.mark.parametrize("place", CHANGES)
@pytest.mark.parametrize("command", [["predict", "subset=test"], ["export", "format=hf"]])
def test_a_checkpoint_with_a_node_that_runs_code(
    here: Path, capfd: pytest.CaptureFixture[str], place: str, command: list[str]
) -> None:
    if command[0] == "export" and place.startswith("study.data"):
        pytest.skip("export does not read the data")
    file = here / "tiny/config.json"
    config = json.loads(file.read_text())
    CHANGES[place](config, model_with_code(here / "own", here / "RAN"))
    file.write_text(json.dumps(config))
    assert main([*command, "checkpoint=tiny", "hydra.run.dir=o"]) == 1
    err = capfd.readouterr().err
    assert err.startswith(("spinevl: " + place, "spinevl: llm: "))
    assert err.count("\n") == 1
    assert not (here / "RAN").exists()


def config_folder(here: Path) -> None:
    """YAML that widens trust, that has Hydra build something, and a module of a known name."""
    for group in ("experiment", "encoder"):
        (here / "c" / group).mkdir(parents=True)
    (here / "c/experiment/trust.yaml").write_text(
        "# @package _global_\ndefaults:\n  - override /encoder: sys\ntrusted_targets: [posix]\n"
    )
    (here / "c/experiment/remote.yaml").write_text(
        "# @package _global_\ndefaults:\n  - override /llm: hf\nllm:\n"
        f"  path: {here}/own\n  pretrained: false\n  trust_remote_code: true\n"
    )
    (here / "c/experiment/callback.yaml").write_text(
        "# @package _global_\nhydra:\n  callbacks:\n"
        "    x: {_target_: transformers.AutoConfig.from_pretrained, "
        f"pretrained_model_name_or_path: {here}/own, trust_remote_code: true}}\n"
    )
    (here / "c/encoder/sys.yaml").write_text(
        f'_target_: posix.system\n_args_: ["touch {here}/RAN"]\n'
    )
    for name in ("flash_attn.py", "beside.py"):
        (here / "c" / name).write_text(f"open('{here}/RAN', 'w')\n")
        (here / name).write_text(f"open('{here}/RAN', 'w')\n")


COMMAND = ["train", "--config-dir", "c", "data=cervai", "data.labels=none.json"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["experiment=trust"], "trusted_targets: posix comes from a config file"),
        (["experiment=remote"], "llm.trust_remote_code=True: only the command line"),
        (["experiment=callback"], "hydra.callbacks.x: transformers.AutoConfig.from_pretrained is"),
        (["encoder=sys"], "encoder: _target_ posix.system is not allowed"),
        (["encoder=sys", "trusted_targets=[posix]"], "encoder: posix.system is not a class"),
    ],
)
def test_a_folder_of_configs_that_runs_code(
    here: Path, capfd: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    config_folder(here)
    model_with_code(here / "own", here / "RAN")
    assert main([*COMMAND, *words, "hydra.run.dir=o"]) == 1
    err = capfd.readouterr().err
    assert message in err
    assert err.count("\n") == 1
    assert not (here / "RAN").exists()


def test_modules_beside_a_folder_of_configs_are_not_found(here: Path) -> None:
    config_folder(here)
    (here / "c/mine.py").write_text("")
    code = (
        "import importlib.util as u, sys\n"
        "from spinevl.cli.main import main\n"
        "main(sys.argv[1:])\n"
        "print([n for n in ('flash_attn', 'beside', 'mine') if u.find_spec(n)])\n"
    )
    words = ["evaluate", "--config-dir", "c", "trusted_targets=[mine,flash_attn]"]
    result = subprocess.run(
        [sys.executable, "-P", "-c", code, *words, "hydra.run.dir=o"],
        cwd=here,
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout.splitlines()[-1] == "['mine']"
    assert not (here / "RAN").exists()


@pytest.mark.slow
def test_the_trap_is_live_where_the_command_line_trusts_the_code(tmp_path: Path) -> None:
    """The same model, asked for by name: its code runs. Otherwise the tests above show nothing."""
    node = model_with_code(tmp_path / "own", tmp_path / "RAN")
    code = (
        "import sys, json\n"
        "from spinevl.build.build import build\n"
        "from spinevl.build.trust import Trust\n"
        "from spinevl.models.llm import CausalLM\n"
        "trust = Trust.from_words(['llm.trust_remote_code=true'])\n"
        f"build(json.loads({json.dumps(node)!r}), CausalLM, trust=trust)\n"
    )
    subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "HF_MODULES_CACHE": str(tmp_path / "modules"), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        check=False,
    )
    assert (tmp_path / "RAN").exists()
