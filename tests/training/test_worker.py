"""A training in a process of its own, which has the job's folder and the words of its command."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from spinevl.build.trust import Trust
from spinevl.build.user_modules import serve
from spinevl.config.compose import compose
from spinevl.config.plain import plain
from spinevl.schema.image_ref import ImageRef
from spinevl.training import prepare, worker
from spinevl.training.fit import fit
from spinevl.training.prepare import open_for_training, starting_model, training_data
from spinevl.training.spec import SPEC_FILE, TrainSpec

TINY = [
    *("data.n_train=4", "data.n_dev=2", "data.n_test=1", "task=[qd]"),
    *("trainer.max_epochs=1", "trainer.progress_bar=false"),
    *("encoder.widths=[8,8,16]", "encoder.dim=16", "llm.width=32"),
]
OWN = """
from spinevl.models.encoder.tiny import TinyEncoder

class Mine(TinyEncoder):
    pass
"""


def spec(folder: Path, *overrides: str) -> TrainSpec:
    return TrainSpec.from_config(
        plain(compose("train", [*TINY, f"cache_dir={folder}/cache", *overrides]))
    )


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Path]:
    """A job's folder whose spec names an encoder of the user's own, in ``mine.py`` beside it."""
    (tmp_path / "conf").mkdir()
    (tmp_path / "mine.py").write_text(OWN)
    (tmp_path / "out").mkdir()
    one = spec(tmp_path)
    one.parts["encoder"]["_target_"] = "mine.Mine"
    one.write(tmp_path / "out" / SPEC_FILE)
    yield tmp_path
    sys.modules.pop("mine", None)


def test_another_process_trains_the_same_weights(tmp_path: Path) -> None:
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
    fit(spec(tmp_path), tmp_path / "here")
    (tmp_path / "there" / SPEC_FILE).write_bytes((tmp_path / "here" / SPEC_FILE).read_bytes())
    # the working directory is no place for code
    (tmp_path / "pytorch_lightning.py").write_text(f"open({str(tmp_path / 'RAN')!r}, 'w')\n")
    command = [sys.executable, "-m", "spinevl.training.worker", "there"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "checkpoint in there/checkpoint" in done.stderr
    assert not (tmp_path / "RAN").exists()
    for file in ("model.safetensors", "config.json"):
        contents = [
            (tmp_path / one / "checkpoint" / file).read_bytes() for one in ("here", "there")
        ]
        assert contents[0] == contents[1], file
    scores = [
        json.loads((tmp_path / one / "train.json").read_text())["dev_history"]
        for one in ("here", "there")
    ]
    assert scores[0] == scores[1]


def test_loader_processes_may_be_spawned_and_find_the_users_modules(own: Path) -> None:
    """As on macOS, where nothing of this process is inherited."""
    one = TrainSpec.read(own / "out" / SPEC_FILE)
    one.trainer.num_workers = 1
    trust = Trust(("mine",))
    serve(trust, [own])
    study = open_for_training(one, ("train", "dev"), trust=trust)
    model, _ = starting_model(one, trust)
    assert type(model.encoder).__module__ == "mine"
    data = training_data(one, study, model, {})
    steps = data.train_dataloader()
    steps.loader.multiprocessing_context = "spawn"
    (spawned,) = steps
    data.num_workers = 0
    (here,) = data.train_dataloader()
    assert torch.equal(spawned.input_ids, here.input_ids)
    assert torch.equal(spawned.pixel_values, here.pixel_values)


@pytest.mark.parametrize("form", ["two words", "one word"])
def test_the_users_modules_are_named_on_the_workers_command_line(own: Path, form: str) -> None:
    folder = ["--config-dir", str(own / "conf")]
    words = folder if form == "two words" else ["=".join(folder)]
    words += Trust(("mine",)).to_words()
    assert worker.main([str(own / "out"), *words]) == 0
    stored = json.loads((own / "out/checkpoint/config.json").read_text())
    assert stored["parts"]["encoder"]["_target_"] == "mine.Mine"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "encoder: _target_ mine.Mine is not allowed; if you trust it, add 'trusted_targets="),
        (["trusted_targets=[mine]"], "encoder: mine.Mine: there is no package mine here; install"),
        (["trusted_targets=mine"], "trusted_targets=mine: expected a list of packages"),
        (["--config-dir", "CONF", "trusted_targets=[other]"], "encoder: _target_ mine.Mine is not"),
        (["seed=3"], "seed=3: a worker takes its keys from the files in "),
    ],
)
def test_what_a_worker_is_not_told_is_not_trusted(
    own: Path, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    """The spec has no say in it, wherever its modules lie."""
    words = [word.replace("CONF", str(own / "conf")) for word in words]
    assert worker.main([str(own / "out"), *words]) == 1
    err = capsys.readouterr().err
    assert err.startswith(f"spinevl: {said}")
    assert err.count("\n") == 1
    assert "mine" not in sys.modules
    assert not (own / "out/checkpoint").exists()


def test_every_problem_of_a_spec_is_a_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert worker.main([str(tmp_path)]) == 1
    assert str(tmp_path / SPEC_FILE) in capsys.readouterr().err
    spec(tmp_path).write(tmp_path / SPEC_FILE)
    content = json.loads((tmp_path / SPEC_FILE).read_text())
    content["seed"], content["trainer"]["max_epochs"] = -1, 0
    (tmp_path / SPEC_FILE).write_text(json.dumps(content))
    assert worker.main([str(tmp_path)]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert all(line.startswith(f"spinevl: {tmp_path / SPEC_FILE}: ") for line in lines)
    assert "trainer.max_epochs=0" in "".join(lines)
    assert not (tmp_path / "checkpoint").exists()


@pytest.mark.parametrize(
    ("where", "value", "said"),
    [
        (("parts", "llm"), None, "llm"),
        (("parts", "connector"), {}, "connector"),
        (("study", "sag_type"), "jont", "study.sag_type=jont"),
        (("study", "test_answers"), "zeros", "study.test_answers=zeros"),
    ],
)
def test_a_spec_that_no_training_can_follow_is_a_line(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    where: tuple[str, str],
    value: Any,
    said: str,
) -> None:
    spec(tmp_path).write(tmp_path / SPEC_FILE)
    content = json.loads((tmp_path / SPEC_FILE).read_text())
    content[where[0]][where[1]] = value
    (tmp_path / SPEC_FILE).write_text(json.dumps(content))
    assert worker.main([str(tmp_path)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{tmp_path / SPEC_FILE}: " in line
    assert said in line


def test_images_whose_features_are_not_kept_are_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flat, volume = ImageRef("a.png"), ImageRef("b.nii", modality="image3d")
    checked: list[ImageRef] = []
    monkeypatch.setattr(prepare, "check_images", lambda images, *_, **__: checked.extend(images))
    inputs = {"image": SimpleNamespace(features=len), "image3d": SimpleNamespace(features=None)}
    data: Any = SimpleNamespace(
        train=[SimpleNamespace(images=(flat, volume))],
        dev=[],
        collate=SimpleNamespace(inputs=inputs),
    )
    study: Any = SimpleNamespace(images_checked=False)
    prepare.encode_once(spec(tmp_path), study, None, data)  # type: ignore[arg-type]
    assert checked == [volume]
