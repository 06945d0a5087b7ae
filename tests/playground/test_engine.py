"""What the engine answers is what predict answers; a job that nobody waits for ends."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from spinevl.config.options import PredictOptions
from spinevl.inference.api import SpineModel
from spinevl.inference.predictor import Predictor
from spinevl.models.generate import Sampling
from spinevl.playground.engine import ChatOptions, Engine, question_with_images
from spinevl.playground.one_at_a_time import Job, OneAtATime
from spinevl.schema.errors import UserError
from spinevl.schema.example import Example, Key
from spinevl.schema.image_ref import ImageRef

SIDE = 64


def slices(engine: Engine, folder: Path) -> dict[int | str, Path]:
    rng = np.random.default_rng(0)
    files = {}
    for slot in engine.slots:
        files[slot] = folder / f"{slot}.png"
        Image.fromarray(rng.integers(0, 256, (SIDE, SIDE), dtype=np.uint8)).save(files[slot])
    return files


def test_a_study_is_answered_as_predict_answers_it(
    engine: Engine, spine_model: SpineModel, tmp_path: Path
) -> None:
    files = slices(engine, tmp_path)
    assert list(files) == [6, "C2-C3", "C3-C4", "C4-C5", "C5-C6", "C6-C7"]
    found = engine.ask_study(files).result()
    arrays = {slot: np.asarray(Image.open(path)) for slot, path in files.items()}
    assert found == spine_model.predict({"patient": arrays})
    assert [one.task for one in found or ()].count("positioning") == 6


@pytest.mark.parametrize("shown", ["", "image", "image image", "image3d"])
def test_greedy_answers_are_those_of_predict(
    engine: Engine, spine_model: SpineModel, tmp_path: Path, shown: str
) -> None:
    rng = np.random.default_rng(1)
    images = []
    for number, modality in enumerate(shown.split()):
        path = tmp_path / f"{number}.{'png' if modality == 'image' else 'npy'}"
        if modality == "image":
            Image.fromarray(rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)).save(path)
        else:
            np.save(path, rng.normal(0, 300, (4, 6, 6)).astype(np.float32))
        images.append(ImageRef(str(path), modality=modality))
    first = question_with_images("Curve?", shown.split())
    rounds = ((first, "an <image> answer"), ("Sure?", None))
    whole = engine.ask(rounds, images, ChatOptions(new_tokens=12)).result()

    given = ((first, "an  answer"), ("Sure?", None))
    example = Example(Key("1", ""), tuple(images), given)
    settings = PredictOptions(max_new_tokens=12)
    predictor = Predictor(spine_model.checkpoint.model, engine._decode, options=settings)
    ((_, expected),) = predictor.answers([example])
    assert whole == expected.rounds[-1][1]
    assert whole


def test_text_grows_until_it_is_whole(engine: Engine) -> None:
    options = ChatOptions(Sampling(temperature=1.0, top_p=0.9, repetition_penalty=1.2), 20)
    updates = engine.ask((("Hello?", None),), (), options).updates(every=9)
    texts = [one.value for one in updates if one.value is not None]
    assert len(texts) > 1
    assert texts == sorted(texts, key=len)


def test_questions_beyond_the_limits_are_refused(engine: Engine) -> None:
    image = ImageRef("0.png")
    long = (("a" * 9000, None),)
    for rounds, images, tokens, named in (
        (long, (), 8, "limits.characters"),
        ((("  <image>", None),), (image,), 8, "text"),
        ((("a", "b"),) * 50 + (("a", None),), (), 8, "limits.turns"),
        ((("a", None),), (image,) * 17, 8, "limits.images"),
        ((("a", None),), (), 2000, "limits.new_tokens"),
    ):
        with pytest.raises(UserError, match=named):
            engine.ask(rounds, images, ChatOptions(new_tokens=tokens))
    with pytest.raises(UserError, match="expected a placeholder for each new image"):
        question_with_images("See <image>", ["image", "image"])
    assert question_with_images("See <image> here", ["image"]) == "See <image> here"
    too_long = (("word " * 1500, None),)  # more than the model's positions, told with the job
    with pytest.raises(UserError, match="at most 1024 tokens"):
        engine.ask(too_long, (), ChatOptions(new_tokens=8)).result()
    assert engine.ask((("Fine?", None),), (), ChatOptions(new_tokens=2)).result() is not None


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), -1, None, "1", True, [1], 1e300])
def test_numbers_that_anybody_may_send(wrong: Any) -> None:
    sound = {"temperature": 0.5, "top_p": 1, "repetition_penalty": 1.1, "new_tokens": 8}
    assert ChatOptions.told(**sound) == ChatOptions(Sampling(0.5, 1.0, 1.1), 8)
    for name in sound:
        with pytest.raises(UserError, match=name.replace("_", ".").replace("new", "maximum")):
            ChatOptions.told(**{**sound, name: wrong})


def counting(job: Job[int]) -> Iterator[int]:
    number = 0
    while True:
        time.sleep(0.001)
        yield (number := number + 1)


def test_a_job_nobody_waits_for_frees_the_model() -> None:
    threads = threading.active_count()
    queue = OneAtATime(most=2, seconds=60)
    stopped = queue.submit(counting)
    next(stopped.updates())
    stopped.stop()
    left = queue.submit(counting)
    for update in left.updates():
        if update.value:
            break  # the listener goes
    forgotten = queue.submit(counting)  # nobody ever listens
    waiting = queue.submit(counting)
    assert queue.ahead_of(waiting) == 1
    waiting.stop()  # before its turn
    forgotten.stop()

    def once(job: Job[str]) -> Iterator[str]:
        yield "done"

    assert queue.submit(once).result() == "done"
    queue.close()
    assert threading.active_count() == threads


def test_what_fails_is_told_and_the_next_one_is_done() -> None:
    queue = OneAtATime(most=1, seconds=0.05)

    def fails(job: Job[int]) -> Iterator[int]:
        yield 1
        raise UserError("the reason")

    with pytest.raises(UserError, match="the reason"):
        queue.submit(fails).result()
    with pytest.raises(UserError, match=r"limits\.seconds=0\.05"):
        queue.submit(counting).result()
    first, second = queue.submit(counting), queue.submit(counting)
    with pytest.raises(UserError, match=r"limits\.waiting=1"):
        queue.submit(counting)
    first.stop()
    second.stop()
    queue.close()
