"""MedM-VL's JSON of conversations, read and refused."""

from __future__ import annotations

import json
import math
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from spinevl.build.allowlist import OURS
from spinevl.build.build import build, build_stored
from spinevl.schema.errors import UserError
from spinevl.sources.conversations import ConversationSource


def turns(*texts: str) -> list[dict[str, str]]:
    return [{"from": ("human", "gpt")[k % 2], "value": text} for k, text in enumerate(texts)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a.png", "b.png"):
        Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / name)
    np.save(tmp_path / "v.npy", np.zeros((4, 8, 8), np.float32))
    return tmp_path


def read(folder: Path, records: Any, *, answered: bool = True, **options: Any) -> Any:
    file = folder / "train.json"
    file.write_text(json.dumps(records))
    source = ConversationSource(train=str(file), **options)
    return [example for _, example in source.read("train", answered=answered)]


def test_images_and_volumes_stand_in_the_order_of_their_placeholders(folder: Path) -> None:
    record = {
        "id": "x",
        "task": "report",
        "image": ["a.png", "b.png"],
        "image3d": "v.npy",
        "conversations": turns("<image>\nand <image3d>?", "Yes.", "And <image>?", " No. "),
    }
    text_only = {"conversations": turns("What is MRI?", "A scan.")}
    first, second = read(folder, [record, text_only])
    assert [(image.modality, Path(image.path).name) for image in first.images] == [
        ("image", "a.png"),
        ("image3d", "v.npy"),
        ("image", "b.png"),
    ]
    assert first.rounds == (("<image>\nand <image3d>?", "Yes."), ("And <image>?", "No."))
    assert (first.key.patient, first.key.task, first.truth) == ("x", "report", "No.")
    assert (second.key.patient, second.images, second.key.task) == ("1", (), "")


def test_what_a_model_is_asked_for_is_not_shown_to_it(folder: Path) -> None:
    records = [
        {"conversations": turns("One?", "1", "Two?", "2")},
        {"conversations": turns("One?", "1", "Two?")},
    ]
    for example, truth in zip(read(folder, records, answered=False), ("2", None), strict=True):
        assert example.rounds == (("One?", "1"), ("Two?", None))
        assert example.truth == truth


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"conversations": turns("Q?")}, "record 0 (id 0): expected an answer to question 1"),
        ({"conversations": turns("Q?", "  ")}, "expected an answer to question 1, found none"),
        ({"conversations": turns("<image>?", "A")}, "expected one <image> in the conversation for"),
        ({"conversations": turns("Q?", "A"), "image": "a.png"}, "for each of its 1 files, found 0"),
        (
            {"conversations": turns("<image>?", "A"), "image": "gone.png"},
            "expected the file gone.png under",
        ),
        (
            {"id": "p7", "conversations": [{"from": "gpt", "value": "A"}]},
            """(id p7): turn 1: expected "from": "human", found 'gpt'""",
        ),
        ({"conversations": []}, "conversations: expected a list of turns, found []"),
        ({"conversations": [{"from": "human"}]}, "turn 1: expected {"),
        ("text", "record 0: expected an object, found a string"),
        ({"id": ["p7"], "conversations": turns("Q?", "A")}, "id: expected a string or an integer"),
        ({"task": 3, "conversations": turns("Q?", "A")}, "(id 0): task: expected a string or null"),
        (
            {"conversations": turns("<image>?", "A"), "image": "\0"},
            "expected a path, found '\\x00'",
        ),
    ],
)
def test_a_record_that_cannot_be_used_is_named(folder: Path, record: Any, message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        read(folder, [record])


def test_all_problems_of_a_file_are_told_at_once(folder: Path) -> None:
    good = {"conversations": turns("Q?", "A")}
    with pytest.raises(UserError) as caught:
        read(folder, [good, {"conversations": []}, good, 3])
    assert len(caught.value.problems) == 2


@pytest.mark.parametrize("name", ["../a.png", "{folder}/a.png", "sub/../../a.png", "sub/../b.png"])
def test_what_a_record_writes_does_not_leave_the_images_folder(folder: Path, name: str) -> None:
    (folder / "in/sub").mkdir(parents=True)
    (folder / "in/b.png").symlink_to(folder / "a.png")
    name = name.format(folder=folder)
    record = {"conversations": turns("<image>?", "A"), "image": name}
    with pytest.raises(UserError, match=r"record 0 .*data\.images=") as caught:
        read(folder, [record], images=str(folder / "in"))
    assert name in str(caught.value)


def test_links_are_followed_and_keep_their_names(folder: Path) -> None:
    """As DVC, git-annex and datalad keep images: under a hash, without an ending."""
    (folder / "in").mkdir()
    (folder / "a.png").rename(folder / "0f3c")
    (folder / "v.npy").rename(folder / "77ab")
    (folder / "in/a.png").symlink_to("../0f3c")
    (folder / "in/v.npy").symlink_to(folder / "77ab")
    (folder / "images").symlink_to("in")
    record = {
        "conversations": turns("<image><image3d>?", "A"),
        "image": "a.png",
        "image3d": "v.npy",
    }
    for images in ("in", "images"):
        (example,) = read(folder, [record], images=str(folder / images))
        assert [image.path for image in example.images] == [
            f"{folder}/{images}/a.png",
            f"{folder}/{images}/v.npy",
        ]
        source = ConversationSource()
        assert [source.decode(one).shape for one in example.images] == [(8, 8, 3), (4, 8, 8)]
    whole = record | {"image": f"{folder}/in/a.png"}  # where the link leads
    assert len(read(folder, [whole], images=str(folder / "images"))) == 1


def test_what_a_record_names_is_a_file(folder: Path) -> None:
    (folder / "gone.png").symlink_to("nowhere")
    os.mkfifo(folder / "pipe.png")
    for name, said in (("gone.png", "link"), ("pipe.png", "pipe"), ("../", "folder")):
        record = {"id": "p3", "conversations": turns("<image>?", "A"), "image": name}
        with pytest.raises(UserError, match=rf"\(id p3\): expected the file {name} .*{said}"):
            read(folder, [record])


def test_a_subset_without_a_file_is_named() -> None:
    with pytest.raises(UserError, match=r"data\.train is not set"):
        ConversationSource().read("train", answered=True)


@pytest.mark.parametrize(
    "window",
    [(1000, -1000), (5, 5), (-math.inf, math.inf), (-1000, math.inf), (math.nan, 1), (0, 1, 2), 7],
)
def test_a_window_has_two_finite_ends_in_order(window: Any) -> None:
    """The same in Python, on the command line and in the study of a checkpoint."""
    node = {"_target_": "spinevl.sources.conversations.ConversationSource", "window": window}
    for make in (
        lambda: ConversationSource(window=window),
        lambda: build(node, ConversationSource, where="data"),
        lambda: build_stored(node, ConversationSource, allowed=OURS, where="data"),
    ):
        with pytest.raises(UserError, match=r"data\.window=.*2 finite numbers, in rising order"):
            make()


def test_a_window_of_other_numbers_is_taken() -> None:
    assert ConversationSource(window=[0, 1]).window == (0.0, 1.0)  # type: ignore[arg-type]
    assert ConversationSource(window=None).window is None


@pytest.mark.parametrize("ratio", [-1, math.inf, math.nan, "2"])
def test_a_ratio_is_a_finite_number(ratio: Any) -> None:
    with pytest.raises(UserError, match=r"data\.ratios=.*finite numbers, 0 or more"):
        ConversationSource(ratios={"report": ratio})
