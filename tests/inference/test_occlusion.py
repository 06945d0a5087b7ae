"""Occlusion maps against asking about each covered image alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from spinevl.inference.occlusion import occlusion_maps
from spinevl.inference.predictor import Predictor
from spinevl.models.connector.mlp import MLPConnector
from spinevl.models.encoder.tiny import TinyEncoder
from spinevl.models.llm import TinyLLM
from spinevl.models.vlm import VLM
from spinevl.schema.example import Example, Key
from spinevl.schema.image_ref import ImageRef

OPTIONS = ("A.normal", "B.straight", "C.reverse")
IMAGES = {
    "sag": np.random.default_rng(0).integers(0, 255, (64, 64), dtype=np.uint8),
    "tra": np.random.default_rng(1).integers(0, 255, (64, 64), dtype=np.uint8),
}


@pytest.fixture(scope="module")
def model() -> VLM:
    torch.manual_seed(0)
    encoder = TinyEncoder(image_size=64, widths=(8, 8, 16), tokens_per_side=2, dim=16)
    llm = TinyLLM(width=32, layers=2, heads=4)
    for parameter in llm.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    connector = MLPConnector(in_dim=16, out_dim=llm.dim, in_tokens=4, in_grid=(2, 2))
    return VLM(encoder, connector, llm).eval().requires_grad_(False)


def question(*names: str) -> Example:
    images = tuple(ImageRef(name, patient="p") for name in names)
    rounds = (("<image>" * len(names) + "\nCurve?", None),)
    return Example(Key("p", "qd"), images, rounds, kind="option", options=OPTIONS)


def probability(model: VLM, example: Example, images: dict[str, np.ndarray]) -> list[float]:
    (answer,) = Predictor(model, lambda image: images[image.path]).predict([example])
    assert answer.probabilities is not None
    return [answer.probabilities[k] for k in range(3)]


@pytest.mark.parametrize("batch_size", [1, 5, 16])
def test_a_cell_is_what_covering_it_alone_does(model: VLM, batch_size: int) -> None:
    example = question("sag", "tra")
    before = probability(model, example, IMAGES)
    label = int(np.argmax(before))
    steps: list[int] = []
    maps = occlusion_maps(
        model,
        [example],
        lambda image: IMAGES[image.path],
        cells=3,
        batch_size=batch_size,
        each_step=lambda: steps.append(1),
    )
    sag, tra = list(maps)
    assert [sag.image.path, tra.image.path] == ["sag", "tra"]
    assert len(steps) == 2 * (9 + 1)
    for one in (sag, tra):
        assert (one.label, one.drops.shape) == (label, (3, 3))
        assert one.probability == pytest.approx(before[label], abs=1e-6)
        assert len(np.unique(one.drops)) > 4
    edges = [0, 21, 43, 64]
    for row, column in ((0, 0), (1, 2), (2, 1)):
        covered = IMAGES["tra"].copy()
        rows, columns = slice(*edges[row : row + 2]), slice(*edges[column : column + 2])
        covered[rows, columns] = int(IMAGES["tra"].mean())
        after = probability(model, example, {**IMAGES, "tra": covered})
        assert tra.drops[row, column] == pytest.approx(before[label] - after[label], abs=1e-5)


def test_slices_that_are_asked_apart_have_a_map_each_of_the_merged_answer(model: VLM) -> None:
    both = [question("sag"), question("tra")]
    found = list(occlusion_maps(model, both, lambda image: IMAGES[image.path], cells=2))
    assert [one.image.path for one in found] == ["sag", "tra"]
    merged = np.log([probability(model, one, IMAGES) for one in both]).sum(0)
    assert {one.label for one in found} == {int(merged.argmax())}


def test_what_is_asked_to_stop_stops(model: VLM) -> None:
    def stop() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(occlusion_maps(model, [question("sag")], lambda _: IMAGES["sag"], each_step=stop))
