"""Two processes train as one does on the same global batches, whatever divides the work.

One start of torchrun trains all of them. An epoch has 5 patients in global batches of 2, so that
its last step is smaller than the others, and one process has no patient of it.
"""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from small_llm import write_small_llm

from spinevl.config.compose import compose
from spinevl.config.options import FeatureCacheOptions, PredictOptions
from spinevl.config.plain import plain
from spinevl.data.study import open_study
from spinevl.distributed.launch import launch
from spinevl.inference.predictor import load_predictor
from spinevl.training.spec import SPEC_FILE, TrainSpec
from spinevl.training.worker import train

pytestmark = pytest.mark.distributed

TINY = [
    *("data.n_train=5", "data.n_dev=3", "data.n_test=1", "task=[qd]"),
    *("trainer.accelerator=cpu", "trainer.progress_bar=false", "trainer.max_epochs=2"),
    *("warmup.fraction=0.5", "encoder.dim=16", "llm.width=32", "tuning.lora.dropout=0"),
    # Adam divides by the gradient's size: of a weight without a gradient it makes noise a step
    *(f"optim.lr.{part}=1e-4" for part in ("encoder", "connector", "llm", "heads")),
]
STRATEGIES = ["ddp", *(f"deepspeed_zero{n}" for n in ("1", "2", "3", "3_offload"))]
# what one process trains on, and what of it each of two is told
ONCE = ["trainer.batch_patients=2", "trainer.accumulate=1"]
TWICE = ["trainer.batch_patients=2", "trainer.accumulate=2"]
REFERENCES = {
    "once": ONCE,
    "twice": TWICE,
    "lora": [*TWICE, "tuning=lora", "tuning.encoder=frozen"],
    "medmvl": [*ONCE, "tuning=lora", "checkpoint=GOLDEN"],
    "shares": [*TWICE, "llm=hf", "llm.path=LLM"],  # ZeRO-3 reads its weights as shares
    "shares-lora": [*TWICE, "llm=hf", "llm.path=LLM", "tuning=lora"],
}
CASES = [
    *((reference, strategy) for reference in ("once", "twice") for strategy in STRATEGIES),
    *((reference, f"deepspeed_zero{n}") for reference in ("lora", "medmvl") for n in (2, 3)),
    *(("shares", strategy) for strategy in STRATEGIES[-2:]),
    ("shares-lora", "deepspeed_zero3"),
]
OTHER = ("once", "other")  # with another learning rate
HALVES = [("half", f"deepspeed_zero{n}") for n in (2, 3)]  # bfloat16 weights: whole, and as shares

Trained = Callable[[str, str], tuple[list[dict[str, str]], dict[str, torch.Tensor]]]


def name_of(reference: str, strategy: str) -> str:
    return f"{reference}-{strategy}"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where each training has a folder."""
    return tmp_path_factory.mktemp("parity")


@pytest.fixture(scope="module")
def trained(folders: Path, shared: Path) -> Trained:
    """(reference, strategy or ``one``) -> the rows of metrics.csv, and the weights."""
    out = folders
    golden = shared / "goldens/clip_mlp_qwen2/checkpoint"
    llm = write_small_llm(out / "llm", max_position_embeddings=1024)

    def write(folder: Path, *overrides: str) -> Path:
        folder.mkdir()
        told = [one.replace("GOLDEN", str(golden)).replace("=LLM", f"={llm}") for one in overrides]
        if "llm=hf" in told:
            told.remove("llm.width=32")
        if any(one.startswith("checkpoint=") for one in told):
            told = [one for one in told if not one.startswith(("encoder.", "llm."))]
        cfg = compose("train", [f"cache_dir={out}/cache", *told])
        TrainSpec.from_config(plain(cfg)).write(folder / SPEC_FILE)
        return folder

    for reference, options in REFERENCES.items():
        train(write(out / name_of(reference, "one"), *TINY, *options))
    half = ["trainer.batch_patients=1", "trainer.devices=2"]
    shares = [
        write(
            out / name_of(*case), *TINY, *REFERENCES[case[0]], *half, f"trainer.strategy={case[1]}"
        )
        for case in CASES
    ]
    other = [*TINY, *ONCE, *half, "trainer.strategy=ddp", "optim.lr.llm=2e-4"]
    shares.append(write(out / name_of(*OTHER), *other))
    half_options = ["llm=hf", "llm.path=LLM", *half, "trainer.precision=bf16-mixed"]
    for case in HALVES:
        told = f"trainer.strategy={case[1]}"
        shares.append(write(out / name_of(*case), *TINY, *ONCE, *half_options, told))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).parent))
        launch("parity_work", [str(one) for one in shares], out=out, processes=2)

    def found(reference: str, kind: str) -> tuple[list[dict[str, str]], dict[str, torch.Tensor]]:
        folder = out / name_of(reference, kind)
        with (folder / "metrics.csv").open() as file:
            rows = list(csv.DictReader(file))
        return rows, load_file(folder / "checkpoint/model.safetensors")

    return found


def logprobs(folder: Path) -> list[float]:
    """Of every option of every question that a folder's checkpoint answers on dev."""
    spec = TrainSpec.read(folder / SPEC_FILE)
    study = open_study(spec.study, ("dev",))
    predictor = load_predictor(
        folder / "checkpoint",
        study,
        options=PredictOptions(),
        feature_cache=FeatureCacheOptions(enabled=False),
        device="cpu",
    )
    answers = dict(predictor.answers(study.examples("dev")))
    return [x for _, answer in sorted(answers.items()) for x in (answer.logprobs or {}).values()]


def distance(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    assert sorted(one) == sorted(other)
    return max(float((one[name] - other[name]).abs().max()) for name in one)


@pytest.mark.parametrize(("reference", "strategy"), CASES)
def test_two_processes_train_as_one(trained: Trained, reference: str, strategy: str) -> None:
    rows, weights = trained(reference, strategy)
    expected, one = trained(reference, "one")
    assert [row["step"] for row in rows] == [row["step"] for row in expected]
    for row, wanted in zip(rows, expected, strict=True):
        for key in ("loss", "loss/answer", "loss/auxiliary", "grad_norm", "dev/score"):
            assert (row[key] == "") == (wanted[key] == ""), key
            if row[key]:  # six digits are written
                assert float(row[key]) == pytest.approx(float(wanted[key]), rel=2e-5), key
    assert distance(weights, one) < 1e-5


@pytest.mark.parametrize("strategy", ["deepspeed_zero2", "deepspeed_zero3"])
@pytest.mark.parametrize("reference", ["once", "medmvl"])
def test_their_checkpoints_predict_alike(
    trained: Trained, folders: Path, reference: str, strategy: str
) -> None:
    found, expected = (logprobs(folders / name_of(reference, s)) for s in (strategy, "one"))
    assert len(found) > 3
    assert found == pytest.approx(expected, rel=0, abs=1e-5)


def test_another_learning_rate_is_seen(trained: Trained, folders: Path) -> None:
    """The comparisons can fail."""
    assert distance(trained(*OTHER)[1], trained("once", "one")[1]) > 1e-4
    found, expected = (logprobs(folders / name_of(*one)) for one in (OTHER, ("once", "one")))
    assert found != pytest.approx(expected, rel=0, abs=1e-5)


def test_bfloat16_shares_train_as_whole_weights(trained: Trained) -> None:
    (rows, weights), (expected, whole) = (trained(*case) for case in HALVES)
    for row, wanted in zip(rows, expected, strict=True):
        assert float(row["loss"]) == pytest.approx(float(wanted["loss"]), rel=1e-9)
    assert {name: one.dtype for name, one in weights.items()} == {
        name: one.dtype for name, one in whole.items()
    }
    assert distance(weights, whole) < 1e-7
