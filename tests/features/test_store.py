"""The feature cache: equal bits, one encoding, and nothing damaged is ever read."""

from __future__ import annotations

import json
import multiprocessing
import os
import zlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from filelock import FileLock

from spinevl.features import store
from spinevl.features.encode import encode
from spinevl.features.key import encoder_key, source_modules
from spinevl.features.store import FeatureCache, Features
from spinevl.models.encoder.base import encode_in_fixed_batches
from spinevl.models.encoder.medmclip import MedMClipEncoder
from spinevl.models.encoder.tiny import TinyEncoder
from spinevl.schema.errors import UserError
from spinevl.schema.image_ref import ImageRef

PATHS = [f"p{k}" for k in range(7)]


def load(path: str) -> np.ndarray:
    """p5 and p6 have the same pixels."""
    seed = min(int(path[1:]), 5)
    return np.random.default_rng(seed).integers(0, 255, (64, 64), dtype=np.uint8)


def encoder(*, seed: int = 0, **settings: Any) -> TinyEncoder:
    torch.manual_seed(seed)
    return TinyEncoder(image_size=64, widths=(8, 8, 16), dim=16, **settings).eval()


def table(folder: Path, paths: list[str] = PATHS, *, max_bytes: int = 10**9) -> Features:
    found = FeatureCache(folder, max_bytes=max_bytes).features(encoder(), paths, load=load)
    assert found is not None
    return found


def test_features_are_bit_equal_to_encoding_alone(tmp_path: Path) -> None:
    features = table(tmp_path)
    again = table(tmp_path)
    for path in PATHS:
        with torch.inference_mode():
            alone = encode_in_fixed_batches(encoder(), encoder().transform(load(path))[None])
        assert torch.equal(features([path]), alone)
        assert torch.equal(again([path]), alone)
    assert torch.equal(features(PATHS[::-1])[0], features(["p6"])[0])


def test_large_tables_are_copied_by_threads_alike(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    features = table(tmp_path)
    expected = features(PATHS[::-1])
    monkeypatch.setattr(store, "_COPIED_BY_THREADS", 0)
    monkeypatch.setattr(store, "np", SimpleNamespace(**{**vars(np), "stack": None}))
    assert torch.equal(features(PATHS[::-1]), expected)


def test_an_image_is_encoded_once_whatever_its_name(tmp_path: Path) -> None:
    first = table(tmp_path, PATHS[:4])
    assert (first.encoded, first.found) == (4, 0)
    second = table(tmp_path)
    assert (second.encoded, second.found) == (2, 4)  # p5 and p6 are one image
    assert table(tmp_path).encoded == 0


def test_an_image_may_have_any_identity(tmp_path: Path) -> None:
    refs = [ImageRef(path, patient="a") for path in PATHS]
    cache = FeatureCache(tmp_path, max_bytes=10**9)
    features = cache.features(encoder(), refs, load=lambda ref: load(ref.path))
    assert features is not None
    assert torch.equal(features(refs), table(tmp_path)(PATHS))


def test_the_key_holds_all_that_features_depend_on() -> None:
    keys = {
        encoder_key(encoder()),
        encoder_key(encoder(seed=1)),
        encoder_key(encoder(tokens_per_side=1)),
        encoder_key(encoder(), autocast=torch.bfloat16),
    }
    assert len(keys) == 4
    assert encoder_key(encoder()) in keys


def _setting(one: TinyEncoder) -> None:
    one.select_layer = -1  # type: ignore[assignment]


def _private(one: TinyEncoder) -> None:
    one._window = (40, 400)  # type: ignore[assignment]


def _array(one: TinyEncoder) -> None:
    one.mean = np.float32([3, 4])  # type: ignore[assignment]


def _weightless(one: TinyEncoder) -> None:
    one.stem[2] = torch.nn.GELU()


def _buffer(one: TinyEncoder) -> None:
    one.register_buffer("scale", torch.ones(1), persistent=False)


@pytest.mark.parametrize("change", [_setting, _private, _array, _weightless, _buffer])
def test_what_is_no_weight_is_in_the_key(change: Any) -> None:
    changed = encoder()
    change(changed)
    assert encoder_key(changed) != encoder_key(encoder())


def flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-200])


@pytest.mark.parametrize("damage", [flip, cut])
def test_a_damaged_segment_is_encoded_again(tmp_path: Path, damage: Any) -> None:
    whole = table(tmp_path)(PATHS)
    (file,) = tmp_path.glob("*/*.npy")
    damage(file)
    mended = table(tmp_path)
    assert mended.encoded >= 1
    assert torch.equal(mended(PATHS), whole)
    assert table(tmp_path).encoded == 0


@pytest.mark.parametrize("text", ['{"images": 3}', "[1", ""])
def test_an_index_that_is_none_is_dropped(tmp_path: Path, text: str) -> None:
    table(tmp_path)
    (index,) = tmp_path.glob("*/*.json")
    index.write_text(text)
    assert table(tmp_path).encoded == 6


@pytest.mark.parametrize("left", [".npy", ".json"])
def test_an_empty_array_or_one_half_of_a_segment_is_dropped(tmp_path: Path, left: str) -> None:
    table(tmp_path)
    for file in list(tmp_path.glob("*/*.*")):
        if file.suffix == ".npy":
            file.write_bytes(b"")
        if file.suffix in (".npy", ".json") and file.suffix != left:
            file.unlink()
    assert table(tmp_path).encoded == 6
    assert len(list(tmp_path.glob("*/*.npy"))) == len(list(tmp_path.glob("*/*.json"))) == 1


def test_the_bound_holds_for_one_encoder_too(tmp_path: Path) -> None:
    one = 4 * encoder().tokens * encoder().dim
    for k in range(6):  # a segment each
        table(tmp_path, [f"p{k}"], max_bytes=4 * one + 1000)
    size = sum(file.stat().st_size for file in tmp_path.rglob("*.npy"))
    assert size <= 4 * one + 1000
    assert table(tmp_path, ["p5"]).encoded == 0  # the last one is still there


def test_a_folder_where_a_job_is_at_work_is_left_alone(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path, max_bytes=10**9)
    cache.features(encoder(seed=1), PATHS, load=load)
    (busy,) = [file.parent for file in tmp_path.glob("*/*.npy")]
    with FileLock(busy / ".lock"):
        size = sum(file.stat().st_size for file in tmp_path.rglob("*.npy"))
        FeatureCache(tmp_path, max_bytes=size).features(encoder(), PATHS, load=load)
        assert list(busy.glob("*.npy"))


def test_more_than_the_bound_is_not_cached(tmp_path: Path) -> None:
    assert FeatureCache(tmp_path, max_bytes=100).features(encoder(), PATHS, load=load) is None
    assert not list(tmp_path.rglob("*.npy"))


def test_the_least_recently_used_encoder_is_evicted_first(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path, max_bytes=10**9)
    old, used = encoder(seed=1), encoder(seed=2)
    for number, one in enumerate((used, old)):
        cache.features(one, PATHS, load=load)
        for file in tmp_path.glob(f"{encoder_key(one)}/*.npy"):
            os.utime(file, (1000 + number, 1000 + number))
    cache.features(used, PATHS, load=load)  # used again: now old is the oldest
    size = sum(file.stat().st_size for file in tmp_path.rglob("*.npy"))
    FeatureCache(tmp_path, max_bytes=size).features(encoder(), PATHS, load=load)
    assert not list(tmp_path.glob(f"{encoder_key(old)}/*.npy"))
    assert list(tmp_path.glob(f"{encoder_key(used)}/*.npy"))


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    cache = FeatureCache(tmp_path / "file" / "features", max_bytes=10**9)
    with pytest.raises(UserError, match=r"feature_cache\.enabled=false"):
        cache.features(encoder(), PATHS, load=load)


def _job(folder: str, queue: Any) -> None:
    queue.put(table(Path(folder)).encoded)


def test_jobs_at_once_encode_each_image_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    jobs = [context.Process(target=_job, args=(str(tmp_path), queue)) for _ in range(3)]
    for job in jobs:
        job.start()
    encoded = [queue.get(timeout=120) for _ in jobs]
    for job in jobs:
        job.join()
    assert sorted(encoded) == [0, 0, 6]


def test_encode_is_the_forward() -> None:
    with torch.inference_mode():
        expected = encoder()(torch.stack([encoder().transform(load(p)) for p in PATHS]))
    ours = encode(encoder(), [encoder().transform(load(p)) for p in PATHS])
    np.testing.assert_allclose(ours, expected.numpy(), atol=1e-5)


def test_features_depend_on_the_code_that_their_encoder_uses() -> None:

    package = "spinevl.models.encoder"
    used = {f"{package}.{name}" for name in ("base", "medmclip", "resize", "tower")}
    assert set(source_modules(MedMClipEncoder)) == used


def test_features_that_are_not_finite_are_neither_kept_nor_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = TinyEncoder.forward

    def overflows(self: TinyEncoder, pixels: torch.Tensor) -> torch.Tensor:
        features = forward(self, pixels)
        bad = (pixels == encoder().transform(load("p3"))).flatten(1).all(1)
        features[bad, 0, 0] = torch.inf
        return features

    with monkeypatch.context() as patch:
        patch.setattr(TinyEncoder, "forward", overflows)
        with pytest.raises(UserError, match="p3"):
            table(tmp_path)
    assert table(tmp_path).encoded == 6
    # as an earlier version would have kept it
    (array,) = tmp_path.glob("*/*.npy")
    stored = np.load(array)
    stored[2, 1, 1] = np.nan
    np.save(array, stored)
    index = json.loads(array.with_suffix(".json").read_text())
    index["crc32"][2] = zlib.crc32(stored[2])
    array.with_suffix(".json").write_text(json.dumps(index))
    again = table(tmp_path)
    assert (again.encoded, again.found) == (1, 5)
    assert torch.isfinite(again(PATHS)).all()


def test_what_a_killed_job_was_writing_is_removed(tmp_path: Path) -> None:
    table(tmp_path, PATHS[:3])
    (home,) = (one for one in tmp_path.iterdir() if one.is_dir())
    left = home / ".x.json.00000000-1-1-0123abcd.tmp"  # as io.temporary names it
    left.touch()
    table(tmp_path)
    assert not left.exists()
    assert table(tmp_path).encoded == 0
