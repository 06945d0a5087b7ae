"""Which jobs are the same."""

from __future__ import annotations

import copy
import json
import os
from contextlib import chdir
from pathlib import Path
from typing import Any

import pytest

from spinevl.data.study_spec import PATHS
from spinevl.jobs import identity as identities
from spinevl.jobs.identity import differences, identity, parts
from spinevl.models import source

CONFIG: dict[str, Any] = {
    "seed": 0,
    "sag_image": [5, 6],
    "optim": {"lr": {"llm": 1e-3}},
    "trainer": {"max_epochs": 3, "num_workers": 0, "progress_bar": True},
    "predict": {
        "mode": "choice",
        "batch_size": 16,
        "devices": None,
        "packing": "tree",
        "attention": "blocks",
        "compile": "none",
    },
    "cache_dir": "/a",
    "logger": {"wandb": None},
}


def changed(path: str, value: Any) -> dict[str, Any]:
    config = copy.deepcopy(CONFIG)
    *parents, last = path.split(".")
    node = config
    for name in parents:
        node = node[name]
    node[last] = value
    return config


def test_it_does_not_depend_on_the_order_of_keys() -> None:
    turned = dict(reversed(CONFIG.items()))
    assert identity(turned) == identity(CONFIG)
    assert len(identity(CONFIG)) == 16


@pytest.mark.parametrize(
    ("path", "value"),
    [
        *(("seed", 1), ("sag_image", [6, 5]), ("optim.lr.llm", 2e-3), ("trainer.max_epochs", 4)),
        ("predict.mode", "generate"),
    ],
)
def test_what_changes_a_result_makes_another_job(path: str, value: Any) -> None:
    assert identity(changed(path, value)) != identity(CONFIG)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        *(("cache_dir", "/b"), ("logger.wandb", {}), ("trainer.num_workers", 4)),
        *(("predict.devices", 2), ("predict.batch_size", 1), ("predict.packing", "off")),
        *(("predict.attention", "flex"), ("predict.compile", "default")),
    ],
)
def test_where_and_how_fast_does_not(path: str, value: Any) -> None:
    assert identity(changed(path, value)) == identity(CONFIG)


def named(tmp_path: Path) -> dict[str, Any]:
    """A config that names a file, a folder of images and a checkpoint."""
    for name in ("labels.json", "images/p1/6.png", "checkpoint/model.safetensors"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    data = {"labels": f"{tmp_path}/labels.json", "train_images": f"{tmp_path}/images"}
    return {**CONFIG, "data": data, "checkpoint": f"{tmp_path}/checkpoint"}


@pytest.mark.parametrize("name", ["labels.json", "images/p1/6.png", "checkpoint/model.safetensors"])
def test_what_the_named_files_hold_counts(tmp_path: Path, name: str) -> None:
    config = named(tmp_path)
    before = identity(config)
    assert identity(config) == before
    (tmp_path / name).write_text("other")
    assert identity(config) != before


def test_a_file_more_or_less_counts(tmp_path: Path) -> None:
    config = named(tmp_path)
    before = identity(config)
    (tmp_path / "images/p2").mkdir()
    (tmp_path / "images/p2/6.png").touch()
    assert identity(config) != before


def test_a_folder_that_contains_the_jobs_own_does_not(tmp_path: Path) -> None:
    config = {**CONFIG, "data": {"images": str(tmp_path)}}
    before = identity(config, out=tmp_path / "out")
    (tmp_path / "out").mkdir()
    (tmp_path / "out/metrics.csv").touch()
    assert identity(config, out=tmp_path / "out") == before
    assert identity(config, out=tmp_path.parent / "elsewhere") != before


@pytest.mark.parametrize("key", PATHS)
def test_every_key_that_names_files_counts(tmp_path: Path, key: str) -> None:
    (tmp_path / "x").write_text("one")
    with chdir(tmp_path):  # a name without a slash
        before = identity({"data": {key: "x"}})
        (tmp_path / "x").write_text("two")
        assert identity({"data": {key: "x"}}) != before


def test_a_linked_folder_counts_by_its_files_and_may_lead_back(tmp_path: Path) -> None:
    (tmp_path / "store/p1/t2").mkdir(parents=True)
    (tmp_path / "store/p1/t2/6.png").write_text("one")
    (tmp_path / "store/p1/t2/back").symlink_to(tmp_path / "store")
    (tmp_path / "images").mkdir()
    (tmp_path / "images/p1").symlink_to(tmp_path / "store/p1")
    config = {"data": {"images": f"{tmp_path}/images"}}
    before = identity(config)
    (tmp_path / "store/p1/t2/6.png").write_text("changed")
    assert identity(config) != before


def test_what_a_checkpoint_was_trained_on_counts_unless_the_config_names_other(
    tmp_path: Path,
) -> None:
    named(tmp_path)
    (tmp_path / "other.json").write_text("other")
    study = {"data": {"labels": f"{tmp_path}/labels.json", "train_images": f"{tmp_path}/images"}}
    (tmp_path / "checkpoint/config.json").write_text(json.dumps({"study": study}))
    asked = {"checkpoint": f"{tmp_path}/checkpoint", "data": None}
    other = {**asked, "data": {"labels": f"{tmp_path}/other.json"}}
    export = {"checkpoint": asked["checkpoint"]}
    before = [identity(one) for one in (asked, other, export)]
    for name in ("labels.json", "images/p1/6.png"):
        (tmp_path / name).write_text(f"changed {name}")
        after = [identity(one) for one in (asked, other, export)]
        assert [one == two for one, two in zip(before, after, strict=True)] == [False, True, True]
        before = after


@pytest.mark.parametrize("text", ["", "[]", '{"study": 3}', '{"study": {"data": "x"}}'])
def test_a_checkpoint_that_cannot_be_read_is_left_to_its_reader(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    assert len(identity({"checkpoint": str(tmp_path), "data": None})) == 16


@pytest.mark.parametrize("as_trained", [False, True])
def test_the_images_beside_conversations_count(tmp_path: Path, as_trained: bool) -> None:
    records: list[Any] = [{"image": ["a.png", "b.png"]}, {"image3d": "deep/c.nii"}, {}]
    (tmp_path / "deep").mkdir()
    (tmp_path / "test.json").write_text(json.dumps(records))
    data = {"train": None, "test": f"{tmp_path}/test.json", "images": None}
    (tmp_path / "config.json").write_text(json.dumps({"study": {"data": data}}))
    config = {"checkpoint": f"{tmp_path}/config.json", "data": data}
    if as_trained:
        config = {"checkpoint": str(tmp_path), "data": None}
    out = tmp_path / "outputs/now"  # which the folder of the images contains
    (tmp_path / "b.png").touch()
    seen = {identity(config, out=out)}
    for name in ("a.png", "b.png", "deep/c.nii"):
        (tmp_path / name).write_text("changed")
        seen.add(identity(config, out=out))
    assert len(seen) == 4
    (tmp_path / "unrelated.png").touch()
    assert identity(config, out=out) in seen
    records.append("no record")
    (tmp_path / "test.json").write_text(json.dumps(records))
    assert identity(config, out=out) not in seen


@pytest.mark.parametrize("text", ["[image]Grade [label]: [options]?/" * 200, "~nobody/x", "a\0/b"])
def test_texts_that_are_no_paths_are_just_texts(text: str) -> None:
    assert len(identity({"prompts": {"templates": {"qd": text}}})) == 16


def test_a_file_that_was_only_touched_or_copied_is_the_same(tmp_path: Path) -> None:
    config = named(tmp_path)
    before = identity(config)
    for file in tmp_path.rglob("*.*"):
        os.utime(file, ns=(1, 1))
    assert identity(config) == before


def test_beyond_a_size_or_a_total_files_count_by_their_stamp(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = tmp_path / "images"
    images.mkdir()
    for name in "abc":
        (images / f"{name}.png").write_bytes(b"0123456789")
    config = {"data": {"images": str(images)}}

    def touched_counts(name: str) -> bool:
        before = identity(config)
        os.utime(images / f"{name}.png")
        return identity(config) != before

    monkeypatch.setattr(identities, "_MOST_HASHED_BYTES", 25)  # a and b
    assert [touched_counts(name) for name in "abc"] == [False, False, True]
    monkeypatch.setattr(identities, "_HASHED_BYTES", 9)
    assert touched_counts("a")


def test_a_pipe_among_the_images_is_not_waited_for(tmp_path: Path) -> None:
    config = named(tmp_path)
    os.mkfifo(tmp_path / "images/p1/7.png")
    assert len(identity(config)) == 16


def test_differences_are_named_by_key_and_by_the_key_of_the_files(tmp_path: Path) -> None:
    config = named(tmp_path)
    before = parts(config)
    (tmp_path / "images/p1/6.png").write_text("other")
    optim = {"lr": {"llm": 2e-3, "encoder": 1}}
    assert sorted(differences(before, parts({**config, "optim": optim}))) == [
        "optim.lr.encoder (absent, now 1)",
        "optim.lr.llm (0.001, now 0.002)",
        "the files of data.train_images",
    ]
    (said,) = differences({"a": "x" * 1000}, {"a": "\n"})
    assert len(said) < 200
    assert said.isprintable()


def test_the_data_of_a_checkpoint_of_the_hub_count_like_a_local_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    named(tmp_path)
    study = {"data": {"labels": f"{tmp_path}/labels.json"}}
    (tmp_path / "checkpoint/config.json").write_text(json.dumps({"study": study}))
    monkeypatch.setattr(source, "_downloaded", lambda name, what: tmp_path / "checkpoint")
    config = {"checkpoint": "hf:someone/spine", "data": None}
    before = identity(config)
    (tmp_path / "labels.json").write_text("other")
    after = identity(config)
    assert after != before
    (tmp_path / "checkpoint/model.safetensors").write_text("another revision")
    assert identity(config) != after
