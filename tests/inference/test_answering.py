"""One checkpoint asked on several devices, whose processes are played one after another."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from vllm_environment import fake_environment

from spinevl.build.trust import Trust
from spinevl.build.worker_words import read_worker_words
from spinevl.config.compose import compose
from spinevl.distributed import launch as distributed_launch
from spinevl.inference import answering, worker
from spinevl.inference.answer import Outcome
from spinevl.inference.devices import device_count
from spinevl.inference.predictor import Predictor
from spinevl.inference.writer import Writer
from spinevl.models import packed
from spinevl.models.encoder.tiny import TinyEncoder
from spinevl.schema.errors import UserError
from spinevl.schema.example import Example
from spinevl.stages import predict, report, train

SIDE = 64
TINY = [
    *("trainer.max_epochs=1", "trainer.dev_checks=1", "trainer.progress_bar=false"),
    *(f"encoder.image_size={SIDE}", "encoder.dim=16", "encoder.widths=[8,8,16]"),
    *("llm.width=32", "llm.layers=1", "llm.heads=2", "warmup=none"),
]


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of 4 patients, 7 more for dev, and 5 conversations."""
    folder = tmp_path_factory.mktemp("answering")
    rng = np.random.default_rng(0)
    labels = [{"id": f"p{k:02d}", "qd": k % 3, "sl": k % 2} for k in range(11)]
    for one in labels:
        for number in "56":
            file = folder / "images" / str(one["id"]) / "sag" / f"{number}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 255, (SIDE, SIDE), dtype=np.uint8)).save(file)
    (folder / "labels.json").write_text(json.dumps(labels))
    talk: list[dict[str, Any]] = [
        {"id": str(k), "image": f"p{k:02d}/sag/5.png", "conversations": turns("<image>\nC3?", "a")}
        for k in range(4)
    ]
    talk.insert(2, {"id": "text", "conversations": turns("MRI?", "yes", "Sure?", "a scan")})
    (folder / "talk.json").write_text(json.dumps(talk))
    cohort = [
        *("data=cervai", f"data.labels={folder}/labels.json", f"data.train_images={folder}/images"),
        *(f"data.side_px={SIDE}", "data.slices=[5,6]", "sag_image=[5,6]", "task=[qd,sl]"),
        *("split=head", "split.n_train=4", f"cache_dir={folder}/cache"),
    ]
    (folder / "job").mkdir()
    train.main(compose("train", [*cohort, *TINY]), out=folder / "job")
    return folder


def turns(*texts: str) -> list[dict[str, str]]:
    return [{"from": ("human", "gpt")[k % 2], "value": text} for k, text in enumerate(texts)]


def asked(work: Path, *overrides: str, verb: str = "predict") -> Any:
    words = [f"checkpoint={work}/job/checkpoint", f"cache_dir={work}/cache", "subset=dev"]
    return compose(verb, [*words, *overrides])


def talking(work: Path, *overrides: str) -> Any:
    words = [f"checkpoint={work}/job/checkpoint", f"cache_dir={work}/cache", "data=conversations"]
    files = [f"data.test={work}/talk.json", f"data.images={work}/images"]
    return compose("predict", [*words, *files, "predict.max_new_tokens=3", *overrides])


def played(module: str, words: list[str], *, out: Path, processes: int) -> None:
    """All processes of a launch, in this one."""
    assert module == worker.__name__
    folder, trust = read_worker_words(words)
    for rank in range(processes):
        worker.answer_share(folder, rank=rank, of=processes, trust=trust)


@pytest.fixture
def several(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Plays processes; how many each launch started."""
    started: list[int] = []

    def launch(module: str, words: list[str], *, out: Path, processes: int) -> None:
        started.append(processes)
        played(module, words, out=out, processes=processes)

    monkeypatch.setattr(answering, "launch", launch)
    monkeypatch.setattr(distributed_launch, "machine_cores", lambda: 16)
    return started


@pytest.fixture
def asks(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Whom models are asked about, in order."""
    seen: list[str] = []
    real = Predictor._answers

    def counted(self: Predictor, batches: Any) -> Any:
        seen.extend(one.key.patient for batch in batches for group in batch for _, one in group)
        return real(self, batches)

    monkeypatch.setattr(Predictor, "_answers", counted)
    return seen


def contents(out: Path) -> dict[str, bytes]:
    return {str(one.relative_to(out)): one.read_bytes() for one in out.rglob("*") if one.is_file()}


def answered(cfg: Any, out: Path) -> dict[str, bytes]:
    out.mkdir(exist_ok=True)
    predict.main(cfg, out=out)
    return contents(out)


@pytest.mark.parametrize("devices", [2, 3, 20])
@pytest.mark.parametrize("cached", [True, False])
def test_patients_are_answered_as_on_one_device(
    work: Path, tmp_path: Path, several: list[int], devices: int, cached: bool
) -> None:
    options = ["predict.batch_size=2", f"feature_cache.enabled={cached}"]
    one = answered(asked(work, *options), tmp_path / "one")
    assert set(one) == {"predictions.jsonl"}
    assert several == []
    many = answered(asked(work, *options, f"predict.devices={devices}"), tmp_path / "many")
    assert several == [min(devices, 7)]
    if devices < 4:  # as many batches of two as on one device
        assert many == one
    assert set(many) == set(one)
    for line, other in zip(lines(many), lines(one), strict=True):
        assert line.pop("probabilities") == pytest.approx(other.pop("probabilities"), abs=1e-6)
        assert line == other


def lines(found: dict[str, bytes]) -> list[dict[str, Any]]:
    return [json.loads(one) for one in found["predictions.jsonl"].splitlines()]


def test_conversations_are_answered_as_on_one_device(
    work: Path, tmp_path: Path, several: list[int]
) -> None:
    one = answered(talking(work), tmp_path / "one")
    assert set(one) == {"answers.jsonl", "conversations.json"}
    assert answered(talking(work, "predict.devices=2"), tmp_path / "two") == one
    assert several == [2]


@pytest.mark.parametrize("devices", ["null", "2"])
def test_what_cannot_be_answered_is_told_when_all_others_are(
    work: Path, tmp_path: Path, several: list[int], monkeypatch: pytest.MonkeyPatch, devices: str
) -> None:
    said = Writer.decoded

    def decoded(self: Writer, example: Example, tokens: Any, outcome: Outcome) -> str | None:
        return said(self, example, None if example.key.patient in lost else tokens, outcome)

    monkeypatch.setattr(Writer, "decoded", decoded)
    lost = {"0", "text"}  # the first of each process
    out = tmp_path / "out"
    cfg = talking(work, f"predict.devices={devices}")
    with pytest.raises(UserError) as caught:
        answered(cfg, out)
    problems = list(caught.value.problems)
    assert [one.split("expected")[0].split("(")[1] for one in problems] == ["id 0): ", "id text): "]
    kept = [json.loads(one) for one in (out / "answers.jsonl").read_text("utf-8").splitlines()]
    assert sorted(one["index"] for one in kept) == [1, 3, 4]
    lost = set()
    found = answered(cfg, out)
    assert found == answered(talking(work), tmp_path / "one")
    assert several == ([2, 2] if devices == "2" else [])


def test_each_process_has_a_vllm_of_its_own(work: Path, tmp_path: Path, several: list[int]) -> None:
    one = answered(talking(work), tmp_path / "one")
    words = [f"predict.vllm_python={fake_environment(tmp_path)}", "predict.engine=vllm"]
    out = tmp_path / "two"
    out.mkdir()
    cfg = talking(work, "predict.devices=2", *words)
    predict.main(cfg, out=out, trust=Trust.from_words(words))
    found = contents(out)
    assert found.keys() - one.keys() == {"vllm.0.log", "vllm.1.log"}
    assert found["conversations.json"] == one["conversations.json"]
    assert several == [2]


def test_a_report_asks_everything_of_one_set_of_processes(
    work: Path, tmp_path: Path, several: list[int]
) -> None:
    def metrics(name: str, *overrides: str) -> Any:
        (tmp_path / name).mkdir()
        cfg = asked(work, "predict.batch_size=2", *overrides, verb="report")
        report.main(cfg, out=tmp_path / name)
        assert not list((tmp_path / name).glob(".*"))
        return json.loads((tmp_path / name / "metrics.json").read_text())

    one = metrics("one")
    assert "swapped_images" in one["controls"]
    assert metrics("two", "predict.devices=2") == one
    assert several == [2]


@pytest.mark.parametrize("then", [1, 2, 3])
def test_a_killed_job_goes_on_from_all_shares_on_any_number_of_devices(
    work: Path,
    tmp_path: Path,
    asks: list[str],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    then: int,
) -> None:
    options = ["predict.batch_size=1"]
    one = answered(asked(work, *options), tmp_path / "one")
    asks.clear()
    monkeypatch.setattr(answering, "launch", _killed_after(5))
    cfg = asked(work, *options, "predict.devices=2")
    out = tmp_path / "job"
    with pytest.raises(KeyboardInterrupt):
        answered(cfg, out)
    shares = sorted(out.glob(".predictions.dev.*-of-2.jsonl"))
    assert len(shares) == 2
    shares[1].write_bytes(shares[1].read_bytes()[:-9])  # killed in the middle of a line
    kept = sum(len(share.read_text().splitlines()) for share in shares) - 1
    asks.clear()
    monkeypatch.setattr(answering, "launch", played)
    caplog.set_level(logging.INFO)
    assert answered(asked(work, *options, f"predict.devices={then}"), out) == one
    assert f"goes on from {kept} of 14 answers in {out}/.predictions.dev.jsonl" in caplog.text
    assert len(asks) == 14 - kept


def _killed_after(answers: int) -> Callable[..., None]:
    """A launch that is killed as its second process has given some answers."""

    def launch(module: str, words: list[str], *, out: Path, processes: int) -> None:
        folder, trust = read_worker_words(words)
        worker.answer_share(folder, rank=0, of=processes, trust=trust)
        real = Predictor._answers

        def cut(self: Predictor, batches: Any) -> Any:
            for number, answer in enumerate(real(self, batches)):
                if number == answers:
                    raise KeyboardInterrupt
                yield answer

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Predictor, "_answers", cut)
            worker.answer_share(folder, rank=1, of=processes, trust=trust)

    return launch


@pytest.mark.parametrize("words", ["closed", "talk"])
def test_jobs_answer_with_packed_weights_as_with_plain_layers(
    words: str, work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only a head that scores no options is packed, too."""
    monkeypatch.setattr(packed, "onednn_is_faster", lambda: True)
    heads: list[type] = []
    real = Predictor._answers

    def seen(self: Predictor, batches: Any) -> Any:
        llm = self.model.llm
        kinds = {type(one) for one in llm.model.base_model.modules()}
        assert (packed.PackedLinear in kinds) != self.options.plain_layers
        heads.append(type(llm.model.get_output_embeddings()))
        return real(self, batches)

    monkeypatch.setattr(Predictor, "_answers", seen)
    ask = asked if words == "closed" else talking
    fast = answered(ask(work), tmp_path / "fast")
    plain = answered(ask(work, "predict.plain_layers=true"), tmp_path / "plain")
    assert heads == [torch.nn.Linear if words == "closed" else packed.PackedLinear, torch.nn.Linear]
    if words == "talk":
        assert fast["conversations.json"] == plain["conversations.json"]
        return
    found, expected = (
        [json.loads(line) for line in one["predictions.jsonl"].splitlines()]
        for one in (fast, plain)
    )
    assert len(found) == len(expected) > 0
    for row, wanted in zip(found, expected, strict=True):
        assert row.pop("probabilities") == pytest.approx(wanted.pop("probabilities"), abs=1e-5)
        assert row == wanted


def test_what_is_all_answered_asks_no_model(
    work: Path, tmp_path: Path, asks: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = answered(talking(work), tmp_path)
    monkeypatch.delattr(answering, "load_predictor")
    assert answered(talking(work, "predict.devices=2"), tmp_path) == first


def test_the_patient_is_named_that_a_process_cannot_answer(
    work: Path, tmp_path: Path, several: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ["predict.batch_size=1", "predict.devices=2", "feature_cache.enabled=false"]
    whole = answered(asked(work, *options), tmp_path / "whole")
    bad = np.asarray(Image.open(work / "images/p07/sag/6.png"))
    transform = TinyEncoder.transform

    def overflows(self: TinyEncoder, image: np.ndarray) -> torch.Tensor:
        pixels = transform(self, image)
        return pixels * torch.nan if np.array_equal(image, bad) else pixels

    out = tmp_path / "job"
    with monkeypatch.context() as patch:
        patch.setattr(TinyEncoder, "transform", overflows)
        with pytest.raises(UserError, match="record p07 qd") as caught:
            answered(asked(work, *options), out)
    assert all("record p07 " in one for one in caught.value.problems)
    kept = (out / ".predictions.dev.jsonl").read_text("utf-8").splitlines()
    asked_of_all = len(whole["predictions.jsonl"].splitlines())
    assert len([one for one in kept if "index" in one]) == asked_of_all - len(caught.value.problems)
    assert answered(asked(work, *options), out) == whole


def test_what_does_not_fit_is_refused_before_anything_is_written(
    work: Path, tmp_path: Path, several: list[int]
) -> None:
    cfg = talking(work, "predict.max_new_tokens=100000", "predict.devices=2")
    with pytest.raises(UserError, match=r"record 0 \(id 0\): .*predict\.max_new_tokens=100000"):
        answered(cfg, tmp_path)
    assert set(contents(tmp_path)) == {".predict/spec.json"}


def test_an_image_that_changes_meanwhile_is_told(
    work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def launch(module: str, words: list[str], *, out: Path, processes: int) -> None:
        os.utime(work / "images/p05/sag/5.png")
        played(module, words, out=out, processes=processes)

    monkeypatch.setattr(answering, "launch", launch)
    with pytest.raises(UserError, match=r"record p05 qd: .*and none to 1 others.*run the command"):
        answered(asked(work, "predict.devices=2"), tmp_path)
    kept = (tmp_path / ".predictions.dev.jsonl").read_text().splitlines()
    assert len(kept) == 12


def test_how_many_devices_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed_launch, "machine_cores", lambda: 2)
    assert [device_count(asked, "cpu") for asked in (None, "auto", 3, "3")] == [1, 1, 3, 3]
    assert [device_count(asked, "mps") for asked in (None, "auto", 1)] == [1, 1, 1]
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert [device_count(asked, "cuda") for asked in (None, "auto", 1, 4)] == [1, 4, 1, 4]
    with pytest.raises(UserError, match=r"predict\.devices=5: .*5 GPUs.*4"):
        device_count(5, "cuda")
    with pytest.raises(UserError, match=r"predict\.devices=2"):
        device_count(2, "mps")
