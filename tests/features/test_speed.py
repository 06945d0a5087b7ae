"""Features are kept where reading them is not slower than making them."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from spinevl.config.options import FeatureCacheOptions
from spinevl.features import speed, store
from spinevl.features.encode import encode
from spinevl.features.key import image_key
from spinevl.features.speed import Speed, seconds_to_read
from spinevl.features.store import FeatureCache
from spinevl.inference import encode as job_encode
from spinevl.models.encoder.tiny import TinyEncoder

PATHS = [f"p{k}" for k in range(5)]
CPU = torch.device("cpu")


def load(path: str) -> np.ndarray:
    return np.random.default_rng(int(path[1:])).integers(0, 255, (64, 64), dtype=np.uint8)


def encoder() -> TinyEncoder:
    torch.manual_seed(0)
    return TinyEncoder(image_size=64, widths=(8, 8, 16), dim=16).eval()


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few images are enough to judge by."""
    monkeypatch.setattr(store, "_ENOUGH_IMAGES", 1)


def cache(folder: Path) -> FeatureCache:
    return FeatureCache(folder, max_bytes=10**9, only_if_faster=True)


def records(folder: Path) -> list[Path]:
    return list(folder.glob("*/speed/*.json"))


def test_a_job_that_encodes_measures_both(tmp_path: Path) -> None:
    cache(tmp_path).features(encoder(), PATHS, load=load)
    (record,) = records(tmp_path)
    told = json.loads(record.read_text())
    assert 0 < told["encode"] < 60
    assert 0 < told["read"] < 60
    record.write_text('{"encode": 2.0, "read": 1.0}')
    again = cache(tmp_path).features(encoder(), PATHS, load=load)
    assert again is not None
    assert again.encoded == 0
    assert record.read_text() == '{"encode": 2.0, "read": 1.0}'  # nothing to measure
    cache(tmp_path).features(encoder(), ["p9"], load=load)
    assert record.read_text() != '{"encode": 2.0, "read": 1.0}'


def test_where_the_disk_is_slower_images_are_encoded_by_whoever_needs_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(store, "seconds_to_read", lambda file, read: 1e3)
    first = cache(tmp_path).features(encoder(), PATHS, load=load)
    assert first is not None  # they are there, once they were made
    pixels = [encoder().transform(load(one)) for one in PATHS]
    np.testing.assert_array_equal(first(PATHS), encode(encoder(), pixels))
    monkeypatch.setattr(store, "image_key", None)  # no image is looked at
    assert cache(tmp_path).features(encoder(), PATHS, load=load) is None
    monkeypatch.setattr(store, "image_key", image_key)
    assert "reading its features 200000.0, and each is used in 1 pass(es)" in caplog.text
    often = cache(tmp_path).features(encoder(), PATHS, load=load, uses=10**9)
    assert often is not None  # each is read once, and would be encoded in every epoch
    kept = replace(cache(tmp_path), only_if_faster=False).features(encoder(), PATHS, load=load)
    assert kept is not None
    assert kept.found == len(PATHS)


def test_all_processes_of_a_training_decide_alike(tmp_path: Path) -> None:
    asked: list[bool] = []

    def others_say_no(pays: bool) -> bool:
        asked.append(pays)
        return False

    alike = replace(cache(tmp_path), agreed=others_say_no)
    assert alike.features(encoder(), PATHS, load=load) is None
    assert asked == [True]


@pytest.mark.parametrize(
    "text",
    [
        *("", "[]", "{}", '{"encode": 1e-9}', '{"encode": 1e-9, "read": -1.0}'),
        *('{"encode": 1e-9, "read": NaN}', '{"encode": 1e-9, "read": "much"}'),
    ],
)
def test_a_damaged_record_decides_nothing(tmp_path: Path, text: str) -> None:
    cache(tmp_path).features(encoder(), PATHS, load=load)
    (record,) = records(tmp_path)
    record.write_text(text)
    found = cache(tmp_path).features(encoder(), PATHS, load=load)
    assert found is not None
    assert found.found == len(PATHS)


def test_a_device_is_judged_by_its_own_record_of_the_last_week(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Speed(encode=1.0, read=2.0).write(tmp_path, CPU)
    assert Speed.measured(tmp_path, CPU) == Speed(1.0, 2.0)
    assert [Speed(1.0, 2.0).keeping_pays(uses) for uses in (1, 2)] == [False, True]
    now = speed.time.time()
    monkeypatch.setattr(speed.time, "time", lambda: now + 8 * 24 * 3600)
    assert Speed.measured(tmp_path, CPU) is None
    monkeypatch.undo()
    monkeypatch.setattr(speed, "name_of", lambda device: "another")
    assert Speed.measured(tmp_path, CPU) is None


def test_a_folder_that_takes_no_record_is_no_reason_to_fail(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "speed").write_text("a file in its place")
    Speed(1.0, 2.0).write(tmp_path, CPU)
    assert "the speed of features is not kept" in caplog.text


def test_few_images_are_not_judged_by(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "_ENOUGH_IMAGES", len(PATHS) + 1)
    cache(tmp_path).features(encoder(), PATHS, load=load)
    assert records(tmp_path) == []


def test_a_jobs_cache_asks_all_ranks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_encode, "gathered", lambda pays: [pays, False])
    made = job_encode.feature_cache_in(tmp_path, FeatureCacheOptions())
    assert made.only_if_faster
    assert made.features(encoder(), PATHS, load=load) is None
    always = FeatureCacheOptions(only_if_faster=False)
    assert not job_encode.feature_cache_in(tmp_path, always).only_if_faster


def test_the_shortest_reading_counts_and_none_comes_from_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "a"
    file.write_bytes(bytes(100))
    done: list[str] = []
    ticks = iter([0.0, 5.0, 10.0, 12.0, 20.0, 29.0])
    monkeypatch.setattr(speed, "_forget", lambda one: done.append("forget"))
    monkeypatch.setattr(speed.time, "perf_counter", lambda: next(ticks))
    assert seconds_to_read(file, lambda one: done.append(one.name)) == 2.0
    assert done == ["forget", "a"] * 3


def test_no_more_is_read_than_it_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    original = store._read_segment

    def counted(file: Path, keys: set[str], shape: tuple[int, int]) -> dict[str, object]:
        asked.append(len(keys))
        return original(file, keys, shape)

    monkeypatch.setattr(store, "_read_segment", counted)
    monkeypatch.setattr(store, "_MEASURED_BYTES", 4 * encoder().tokens * encoder().dim * 2)
    cache(tmp_path).features(encoder(), PATHS, load=load)
    assert asked == [2, 2, 2, len(PATHS)]
