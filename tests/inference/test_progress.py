"""Answers on disk: what an interrupted job may keep, and what it must ask again."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from spinevl.config.options import Attention, Compile, Engine, Packing, PredictMode, PredictOptions
from spinevl.inference.answer import Answer
from spinevl.inference.progress import Progress, answer_keys
from spinevl.schema.example import Example, Key
from spinevl.schema.image_ref import ImageRef

ANSWERS = {
    0: Answer((("Curve?", "A.normal"),), {0: -0.1234567890123456, 1: -2.5}),
    1: Answer((("Report?", "病人: <image>\nfine"), ("Sure?", "Yes."))),
    2: Answer((("Line?", ""),), {0: -1e-300, 1: -745.0}),
}
KEYS = ["k0", "k1", "k2"]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "answers.jsonl"
    assert Progress(file, KEYS).record(iter(ANSWERS.items())) == ANSWERS
    return file


def test_answers_are_read_back_to_the_last_digit(file: Path) -> None:
    assert Progress(file, KEYS).done == ANSWERS
    assert [json.loads(line)["index"] for line in file.read_text("utf-8").splitlines()] == [0, 1, 2]


def test_a_line_cut_short_is_asked_again_and_the_next_one_stands_alone(file: Path) -> None:
    content = file.read_bytes()
    whole = content.split(b"\n")
    for cut in (content[:-1], content[:-2], content[: content.rindex(b'"key"')], content + b'{"in'):
        file.write_bytes(cut)
        progress = Progress(file, KEYS)
        kept = set(progress.done)
        assert {0, 1} <= kept
        progress.record((index, ANSWERS[index]) for index in sorted({0, 1, 2} - kept))
        assert file.read_bytes().split(b"\n") == whole


def test_a_cut_inside_a_character_loses_that_line_alone(file: Path) -> None:
    lines = file.read_bytes().split(b"\n")
    middle = lines[1].index("病".encode()) + 1
    file.write_bytes(lines[0] + b"\n" + lines[1][:middle])
    assert set(Progress(file, KEYS).done) == {0}
    file.write_bytes(b"\n".join([lines[0], b"\xff\xfe\x00", lines[1][:middle], lines[2], b""]))
    assert Progress(file, KEYS).done == {0: ANSWERS[0], 2: ANSWERS[2]}


@pytest.mark.parametrize(
    "line",
    [
        "null",
        "[]",
        "3",
        '{"index": 1}',
        '{"index": 1, "key": "k1", "rounds": [["only a question"]]}',
        '{"index": 1, "key": "k1", "rounds": 7}',
        '{"index": 1, "key": "k1", "rounds": []}',
        '{"index": 1, "key": "k1", "rounds": [["Q?", "A"]], "logprobs": {}}',
        '{"index": "1", "key": "k1", "rounds": [["Q?", "A"]]}',
        '{"index": 9, "key": "k1", "rounds": [["Q?", "A"]]}',
        '{"index": -1, "key": "k2", "rounds": [["Q?", "A"]]}',
        '{"index": 1, "key": "k1", "rounds": [["Q?", "A"]], "logprobs": {"x": -1}}',
        '{"index": 1, "key": "k1", "rounds": [["Q?", "A"]], "logprobs": [-1]}',
    ],
)
def test_a_line_of_something_else_is_passed_over(file: Path, line: str) -> None:
    first = file.read_text("utf-8").splitlines()[0]
    file.write_text(f"{line}\n{first}\n", encoding="utf-8")
    assert Progress(file, KEYS).done == {0: ANSWERS[0]}


def test_only_lines_of_the_same_example_are_kept(file: Path) -> None:
    progress = Progress(file, ["k0", "other", "k2"])
    assert set(progress.done) == {0, 2}
    progress.record([(1, ANSWERS[1])])
    assert Progress(file, ["k0", "other", "k2"]).done == ANSWERS
    assert set(Progress(file, KEYS).done) == {0, 2}
    assert set(Progress(file, KEYS[:1]).done) == {0}


def test_shares_of_any_number_of_processes_are_merged_in_order(tmp_path: Path) -> None:
    file = tmp_path / "answers.jsonl"
    progress = Progress(file, KEYS)
    assert progress.share(0, 2).record([(2, ANSWERS[2])]) == {2: ANSWERS[2]}
    progress.share(2, 12).record([(0, ANSWERS[0])])
    progress.share(1, 2).record([])
    Progress(file, ["other", "k1", "k2"]).share(1, 3).record([(0, ANSWERS[0])])
    Progress(tmp_path / "answers_swapped.jsonl", KEYS).share(0, 2).record([(1, ANSWERS[1])])
    assert Progress(file, KEYS).done == {}
    assert len(progress.read_shares()) == 4
    assert progress.done == {0: ANSWERS[0], 2: ANSWERS[2]}
    assert not file.exists()
    assert progress.record([(1, ANSWERS[1])]) == ANSWERS
    left = [one.name for one in tmp_path.iterdir() if one.name != ".answers_swapped.0-of-2.jsonl"]
    assert left == ["answers.jsonl"]
    assert [json.loads(line)["index"] for line in file.read_text("utf-8").splitlines()] == [0, 1, 2]


@pytest.fixture
def made(tmp_path: Path) -> tuple[Path, list[Example]]:
    """A checkpoint, and two examples with an image each."""
    checkpoint = tmp_path / "checkpoint"
    (checkpoint / "llm").mkdir(parents=True)
    (checkpoint / "config.json").write_text("{}")
    (checkpoint / "llm/config.json").write_text("{}")
    examples = []
    for name in ("a", "b"):
        image = tmp_path / f"{name}.png"
        image.write_bytes(b"pixels")
        images = (ImageRef(str(image), patient=name),)
        examples.append(Example(Key(name, "qd"), images, (("<image>?", None),)))
    return checkpoint, examples


def keys(made: tuple[Path, list[Example]], **options: object) -> list[str]:
    checkpoint, examples = made
    given = {"options": PredictOptions(), **options}
    return answer_keys(examples, checkpoint=checkpoint, **given)  # type: ignore[arg-type]


def touched(file: Path) -> None:
    """The same content, written again later."""
    stamp = file.stat().st_mtime_ns + 10**9
    os.utime(file, ns=(stamp, stamp))


def test_keys_are_the_same_as_long_as_nothing_changes(
    made: tuple[Path, list[Example]],
) -> None:
    before = keys(made)
    assert len(set(before)) == 2
    assert keys(made) == before


def test_a_changed_example_or_image_changes_its_own_key_alone(
    made: tuple[Path, list[Example]],
) -> None:
    checkpoint, (one, other) = made
    before = keys(made)
    for changed in (
        replace(one, rounds=(("<image> there?", None),)),
        replace(one, options=("A", "B")),
        replace(one, images=()),
        replace(one, key=Key("c", "qd")),
    ):
        after = keys((checkpoint, [changed, other]))
        assert after[0] != before[0]
        assert after[1] == before[1]
    touched(Path(other.images[0].path))
    after = keys(made)
    assert after[0] == before[0]
    assert after[1] != before[1]


@pytest.mark.parametrize("name", ["config.json", "llm/config.json"])
def test_a_changed_checkpoint_changes_every_key(
    made: tuple[Path, list[Example]], name: str
) -> None:
    before = keys(made)
    touched(made[0] / name)
    assert not set(before) & set(keys(made))
    before = keys(made)
    (made[0] / name).write_text('{"other": 1}')
    assert not set(before) & set(keys(made))


def test_settings_that_decide_an_answer_change_every_key(
    made: tuple[Path, list[Example]],
) -> None:
    before = keys(made)
    told: Any = PredictOptions(mode="choice")  # type: ignore[arg-type]
    assert keys(made, options=told) == before  # Python code may tell a member as a text
    for options in (
        PredictOptions(max_new_tokens=4),
        PredictOptions(repetition_penalty=1.1),
        PredictOptions(mode=PredictMode.generate),
        PredictOptions(engine=Engine.vllm),
    ):
        assert not set(before) & set(keys(made, options=options))
    assert not set(before) & set(keys(made, settings=(0.0, 80.0)))
    # a smaller batch after the memory ran out keeps what is answered
    smaller = PredictOptions(
        batch_size=2, packing=Packing.off, attention=Attention.flex, compile=Compile.default
    )
    assert keys(made, options=smaller) == before
    assert keys(made, options=PredictOptions(devices=3)) == before
    assert keys(made, options=PredictOptions(vllm_python="/p")) == before


@pytest.mark.parametrize("scores", ['{"0": -1.0}', '{"0": -1.0, "1": -1.0, "2": -1.0}'])
def test_scores_of_other_options_are_asked_again(tmp_path: Path, scores: str) -> None:
    file = tmp_path / "answers.jsonl"
    line = '{"index": 0, "key": "k", "rounds": [["q", "a"]]'
    file.write_text(f'{line}, "logprobs": {scores}}}\n')
    assert not Progress(file, ["k"], [2]).done
    file.write_text(f'{line}, "logprobs": {{"1": -1.0, "0": -2.0}}}}\n')
    assert Progress(file, ["k"], [2]).done == {0: Answer((("q", "a"),), {0: -2.0, 1: -1.0})}
    file.write_text(f"{line}}}\n")
    assert Progress(file, ["k"], [2]).done == {0: Answer((("q", "a"),))}
