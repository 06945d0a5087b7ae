"""Our own worker of the benchmark against peers, with a tiny model and one patient."""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import subject
from benchmarks.peers import __main__ as peers
from benchmarks.peers import material
from benchmarks.peers.ours_predict import Ours
from benchmarks.peers.ours_train import Training
from benchmarks.peers.rounds import Result


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache with the questions of a patient, and a checkpoint in ``random``."""
    cache = tmp_path_factory.mktemp("peers")
    with pytest.MonkeyPatch.context() as patch:
        _one_patient(patch)
        material.make_random(cache / "random", cache, dtype="float32", patients=1, **subject.SMALL)
    return cache


@pytest.fixture(autouse=True)
def _asks_one_patient(monkeypatch: pytest.MonkeyPatch) -> None:
    _one_patient(monkeypatch)


def _one_patient(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(material, "ASKED", 1)
    patch.setattr(material, "LEARNED", 0)


def _ours(cache: Path, scratch: Path, **options: Any) -> Ours:
    asked = {
        "material": cache / "random",
        "cache": cache,
        "scratch": scratch,
        "dtype": "float32",
        "scoring": "trie",
        "attention": "blocks",
        "device": "cpu",
        "threads": torch.get_num_threads(),
        "patients": 1,
        "conversations": 2,
        "vllm": None,
        "generates": False,
        "plain": False,
    }
    return Ours(argparse.Namespace(**{**asked, **options}))


@pytest.mark.parametrize("dtype", ["float32", "auto"])
def test_questions_are_answered_alike_with_empty_and_filled_caches(
    folder: Path, tmp_path: Path, dtype: str
) -> None:
    ours = _ours(folder, tmp_path, dtype=dtype)
    loaded = ours.load()
    assert loaded["precision"] in ("float32", "bfloat16")
    assert 0 < loaded["flop_a_patient"]["warm"] < loaded["flop_a_patient"]["cold"]
    cold, warm = ours.choose(warm=False), ours.choose(warm=True)
    assert len(cold["choices"]) == 18
    assert cold["choices"] == warm["choices"]
    assert all(math.isclose(sum(one), 1, abs_tol=1e-3) for one in cold["probabilities"])


def test_answers_are_written_for_everything_that_is_generated(folder: Path, tmp_path: Path) -> None:
    ours = _ours(folder, tmp_path, generates=True)
    ours.load()
    for what, count in (("closed", 18), ("boxes", 18), ("conversations", 2)):
        told = ours.generate(what=what, max_new_tokens=3)
        assert len(told["texts"]) == count
        assert told["seconds"] > 0


def test_the_plain_loop_answers_beside_ours(folder: Path, tmp_path: Path) -> None:
    ours = _ours(folder, tmp_path, plain=True)
    ours.load()
    assert ours.plain(batch_size=9, patients=1)["seconds"] > 0


@pytest.mark.parametrize("packing", ["tree", "plain"])
def test_steps_of_training_are_timed(folder: Path, tmp_path: Path, packing: str) -> None:
    told = {
        "material": folder / "random",
        "cache": folder,
        "scratch": tmp_path,
        "adapters": tmp_path / "adapters.safetensors",
        "dtype": "float32",
        "threads": torch.get_num_threads(),
        "packing": packing,
        "device": "cpu",
        "attention": "blocks",
    }
    ours = Training(argparse.Namespace(**told))
    assert ours.load()["trained"] > 0
    assert (tmp_path / "adapters.safetensors").is_file()
    assert ours.start(rate=1e-3)["seconds"] > 0
    found = ours.steps(patients=[0, 0])
    assert found["losses"][1] < found["losses"][0]
    assert found["questions"] == 2 * 18
    assert (found["tokens"][0] == found["tokens"][1]) is (packing == "plain")


def test_what_fails_of_ours_ends_the_benchmark_and_a_peer_does_not() -> None:
    sections = {
        "predict float32": {
            "vLLM, empty caches": Result(failed="load: no memory"),
            "ours, cold": Result(seconds=[1.0]),
            "ours, warm features": Result(failed="load: TypeError: None"),
        },
        "generation float32": {
            "conversations, ours, engine=vllm": Result(failed="no such wheel", there=False)
        },
    }
    ours = "predict float32: ours, warm features: load: TypeError: None"
    assert peers._broken(sections) == [ours]
    sections["generation float32"] = {
        "conversations, ours, engine=vllm": Result(failed="crashed"),
        "16 tokens, vLLM": Result(seconds=[1.0]),
        "16 tokens, plain loop": Result(failed="on another device"),
    }
    more = ["conversations, ours, engine=vllm: crashed", "16 tokens, plain loop: on another device"]
    assert peers._broken(sections) == [ours, *(f"generation float32: {one}" for one in more)]
    sections["generation float32"]["conversations, vLLM"] = Result(failed="crashed")
    assert peers._broken(sections) == [ours, f"generation float32: {more[1]}"]
