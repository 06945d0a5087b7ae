"""Every reader of JSON treats the same odd file alike: one line that names it, or the same data."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from spinevl.checkpoints.format import read_config
from spinevl.config.tasks import official_tasks
from spinevl.data.prompt import read_templates
from spinevl.data.records import read_records
from spinevl.data.split import _read_ids
from spinevl.evaluation.answer_files import read_predictions, read_submission
from spinevl.features.store import _read as read_features
from spinevl.inference.answer import Answer
from spinevl.inference.progress import Progress
from spinevl.io import json_file
from spinevl.io.json_file import read_json, read_json_object
from spinevl.jobs.folder import read_config as read_job_config
from spinevl.jobs.status import read_status
from spinevl.report.metrics_file import read_metrics
from spinevl.schema.errors import UserError
from spinevl.schema.study_layout import StudyLayout
from spinevl.sources.conversations import ConversationSource
from spinevl.sources.labels import read_boxes, read_labels, read_template
from spinevl.training.spec import TrainSpec

TASKS = official_tasks()
QD = {"qd": TASKS["qd"]}
RECORD = {
    "id": "病1",
    "task": "qd",
    "image": ["/x/病1/sag/6.png"],
    "object": "",
    "answer": TASKS["qd"].choices[0],
    "conversations": [{"from": "human", "value": "<image>\u2028Which?"}],
}
PREDICTION = {
    "id": "病1",
    "task": "qd",
    "object": "",
    "slices": [6],
    "choice": 0,
    "probabilities": None,
    "text": "A\u2028b\u0085c",
    "box": None,
}
TURNS = [{"from": "human", "value": "病\u2028?"}, {"from": "gpt", "value": "Yes"}]


def submission(path: Path) -> Any:
    return read_submission(path, ids=["病1"], tasks=QD)


def conversations(path: Path) -> Any:
    return ConversationSource(train=str(path)).read("train", answered=True)


def records(path: Path) -> Any:
    return read_records(path, task=TASKS["qd"], layout=StudyLayout())


def spec(path: Path) -> Any:
    return TrainSpec.read(path)


# name of the file, a good content, the reader
READERS: dict[str, tuple[str, Any, Callable[[Path], Any]]] = {
    "labels": ("l.json", [{"id": "病1", "qd": 0}], lambda p: read_labels(p, tasks=QD)),
    "template": ("t.json", [{"id": "病1", "qd": 0}], lambda p: read_template(p, tasks=QD)),
    "boxes": (
        "b.json",
        [{"id": "病1", **{f"C{k}": ["(1,1)(2,2)"] * 3 for k in range(2, 8)}}],
        read_boxes,
    ),
    "answers": ("a.json", [{"id": "病1", "qd": 0}], submission),
    "records": ("r.json", [RECORD], records),
    "conversations": ("c.json", [{"id": "病1", "conversations": TURNS}], conversations),
    "split": ("s.json", ["病1"], lambda p: _read_ids(str(p))),
    "templates": ("prompts.json", {"qd": "[image]\u2028病?"}, read_templates),
    "checkpoint": ("config.json", {"model_type": "病\u2028"}, lambda p: read_config(p.parent)),
    "job config": ("job_config.json", {"seed": 0, "x": "病"}, lambda p: read_job_config(p.parent)),
    "any object": ("x.json", {"x": "病"}, read_json_object),
}
LINES: dict[str, tuple[str, Any, Callable[[Path], Any]]] = {
    "predictions": ("p.jsonl", PREDICTION, lambda p: read_predictions(p, tasks=QD)),
}
ALL = READERS | LINES


def good(name: str, folder: Path) -> tuple[Path, str, Callable[[Path], Any]]:
    file, content, read = ALL[name]
    return folder / file, json.dumps(content, ensure_ascii=False), read


@pytest.mark.parametrize("name", ALL)
def test_what_is_the_same_data_is_read_alike(name: str, tmp_path: Path) -> None:
    path, text, read = good(name, tmp_path)
    path.write_text(text + "\n", "utf-8")
    expected = read(path)
    assert "病" in repr(expected)
    for same in (
        text.encode("utf-8-sig"),
        f"{text}\r\n\r\n".encode(),
        f"\n\n{text}\n \n".encode(),
        json.dumps(json.loads(text)).encode(),
    ):
        path.write_bytes(same)
        assert read(path) == expected


def cases(text: str) -> dict[str, tuple[bytes, str]]:
    """How a file is spoilt -> (its bytes, what the message says)."""
    encoded = text.encode()
    latin = text.replace("病", "é").encode("latin-1", "replace")
    return {
        "UTF-16": (text.encode("utf-16"), "UTF-16"),
        "UTF-16 LE without a mark": (text.encode("utf-16-le"), "UTF-16"),
        "UTF-16 BE without a mark": (text.encode("utf-16-be"), "UTF-16"),
        "UTF-32": (text.encode("utf-32"), "UTF-32"),
        "UTF-32 BE without a mark": (text.encode("utf-32-be"), "UTF-32"),
        "Latin-1": (latin, "0xe9"),
        "GBK": (text.encode("gbk", "replace"), "0xb2"),
        "a repeated key": (
            (encoded[:-2] + b', "id": "a", "id": "b"}]')
            if encoded[:1] == b"["
            else encoded[:-1] + b', "id": "a", "id": "b"}',
            "'id'",
        ),
        "deep lists": (b"[" * 100_000, "nested"),
        "deep objects": (b'{"a":' * 5000 + b"1" + b"}" * 5000, "nested"),
        "NaN": (b'{"a": NaN}', "NaN"),
        "-Infinity": (b"[-Infinity]", "-Infinity"),
        "1e999": (b'{"a": 1e999}', "1e999"),
        "a huge integer": (b"[1" + b"0" * 5000 + b"]", "64 bits"),
        "half a character": (b'{"a": "\\ud83d"}', "surrogate"),
        "another type": (b'"text"', "a string"),
        "a truth value": (b"true", "a truth value"),
        "null": (b"null", "null"),
        "cut": (encoded[:-1], "no JSON"),
        "zeros for its end": (encoded[:-2] + bytes(5000), "zero byte"),
        "zeros alone": (bytes(100), "zero byte"),
        "not JSON": (b"hello", "no JSON"),
    }


@pytest.mark.parametrize("how", cases("x"))
@pytest.mark.parametrize("name", ALL)
def test_a_spoilt_file_is_refused_in_a_line_that_names_it(
    name: str, how: str, tmp_path: Path
) -> None:
    path, text, read = good(name, tmp_path)
    content, said = cases(text)[how]
    if how == "a repeated key" and name == "split":
        return  # a list of strings has no keys
    path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        read(path)
    (line,) = caught.value.problems
    assert str(path) in line
    assert said in line
    assert line.isprintable()


@pytest.mark.parametrize("name", ALL)
def test_a_file_that_is_none_is_refused(name: str, tmp_path: Path) -> None:
    path, _, read = good(name, tmp_path)
    if name not in ("checkpoint", "job config"):
        with pytest.raises(UserError, match="no such file"):
            read(path)
    path.write_bytes("病".encode()[:2])
    with pytest.raises(UserError, match="last character"):
        read(path)
    path.unlink()
    if name != "checkpoint":  # no format recognises a folder whose config.json is no file
        os.mkfifo(path)
        with pytest.raises(UserError, match="pipe"):
            read(path)


def test_an_empty_file_and_one_beyond_all_bounds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "x.json"
    file.write_text("\n")
    with pytest.raises(UserError, match="an empty file"):
        read_json(file, expected="labels")
    monkeypatch.setattr(json_file, "MAX_BYTES", 5)
    file.write_text("[1, 2, 3]")
    with pytest.raises(UserError, match="at most 4 GiB"):
        read_json(file, expected="labels")


def test_ids_in_a_text_file_break_at_line_ends_alone(tmp_path: Path) -> None:
    file = tmp_path / "ids.txt"
    file.write_bytes("\ufeff病1\r\n\na\u2028b\n".encode())
    assert _read_ids(str(file)) == ["病1", "a\u2028b"]
    file.write_bytes("病1".encode("gbk"))
    with pytest.raises(UserError, match="iconv"):
        _read_ids(str(file))


def test_every_bad_line_is_named_and_good_ones_are_no_excuse(tmp_path: Path) -> None:
    file = tmp_path / "p.jsonl"
    line = json.dumps(PREDICTION)
    file.write_text(f"{line}\n\n[1]\n{line[:-9]}\n")
    with pytest.raises(UserError) as caught:
        read_predictions(file, tasks=QD)
    assert [one.split(": ")[1] for one in caught.value.problems] == ["line 3", "line 4"]


@pytest.mark.parametrize(
    ("number", "is_read"),
    [("1e308", True), ("-1e-400", True), ("18446744073709551615", True), ("-1" + "0" * 20, False)],
)
def test_the_bounds_of_numbers(number: str, is_read: bool, tmp_path: Path) -> None:
    file = tmp_path / "x.json"
    file.write_text(f"[{number}]")
    if is_read:
        assert read_json(file, expected="x") == [json.loads(number)]
    else:
        with pytest.raises(UserError, match="64 bits"):
            read_json(file, expected="x")


@pytest.mark.parametrize("number", ["NaN", "-Infinity", "1e999", "123456789012345678901234"])
def test_a_number_that_no_file_may_have_is_found(number: str, tmp_path: Path) -> None:
    file = tmp_path / "x.json"
    text = f'[{{"id": "{number} \\" {number}"}},\n {{"qd": 1.5, "sl": {number}}}]'
    file.write_text(text)
    column = text.split("\n")[1].index(number) + 1
    with pytest.raises(UserError, match=rf"line 2 column {column}\)"):
        read_json(file, expected="x")


@pytest.mark.parametrize("how", cases("x"))
def test_what_a_job_left_unreadable_is_passed_over(how: str, tmp_path: Path) -> None:
    """Progress, status, scores and kept features are asked again, whatever the file holds."""
    content = cases('{"index": 0, "key": "k", "rounds": [["病", "a"]]}')[how][0]
    for name in ("job.json", "metrics.json"):
        (tmp_path / name).write_bytes(content)
    assert read_status(tmp_path) is None
    assert read_metrics(tmp_path) is None
    (tmp_path / "f.json").write_bytes(content)
    (tmp_path / "f.npy").write_bytes(b"")
    assert read_features(tmp_path, {"k"}, (1, 1)) == {}
    assert not (tmp_path / "f.json").exists()
    progress = tmp_path / "answers.jsonl"
    whole = '{"index": 1, "key": "l", "rounds": [["病", "a\u2028b"]]}\n'.encode()
    progress.write_bytes(whole + content)
    assert Progress(progress, ["k", "l"]).done == {1: Answer((("病", "a\u2028b"),))}


def test_a_torn_tail_of_a_progress_file_is_told_in_one_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "answers.jsonl"
    whole = '{"index": 0, "key": "k", "rounds": [["病", "a"]]}\n'.encode()
    for cut in range(1, len(whole) - 1):
        file.write_bytes(b"\xef\xbb\xbf" + whole + b"\n" + whole[:cut])
        caplog.clear()
        assert set(Progress(file, ["k"]).done) == {0}
        (record,) = caplog.records
        assert "1 of 2 lines" in record.getMessage()
        assert "line 3" in record.getMessage()
