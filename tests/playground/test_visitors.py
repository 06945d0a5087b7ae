"""Visitors have their own files, which go with them; nothing grows from request to request."""

from __future__ import annotations

import gc
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import psutil
from PIL import Image

from spinevl.config.options.playground import LimitOptions
from spinevl.inference.api import SpineModel
from spinevl.playground import pictures
from spinevl.playground.engine import ChatOptions, Engine
from spinevl.playground.samples import phantom_samples
from spinevl.playground.uploads import Uploads
from spinevl.playground.visitors import Visitors
from spinevl.schema.box import Box
from spinevl.schema.image_ref import ImageRef
from spinevl.schema.prediction import Prediction
from spinevl.schema.study_layout import StudyLayout


def test_visitors_leave_with_their_files(tmp_path: Path) -> None:
    with Uploads(LimitOptions(visitors=2), parent=tmp_path) as uploads:
        visitors = Visitors(uploads)
        first = visitors.of("../../a")  # a name is a key and no path
        assert first.folder.parent == uploads.folder
        second = visitors.of("b")
        assert visitors.of("../../a") is first
        third = visitors.of("c")  # b was idle longest
        assert not second.folder.exists()
        assert visitors.of("../../a") is first
        visitors.leave("c")
        assert not third.folder.exists()
        visitors.leave("nobody")
    with Uploads(LimitOptions(idle_minutes=1e-9), parent=tmp_path) as uploads:
        visitors = Visitors(uploads)
        first = visitors.of("a")
        new, old = uploads.incoming / "new", uploads.incoming / "old"
        new.write_bytes(b"x")
        old.write_bytes(b"x")
        os.utime(old, (0, 0))
        visitors.remove_idle()
        assert not first.folder.exists()
        assert list(uploads.incoming.iterdir()) == [new]


def test_100_requests_of_4_visitors(spine_model: SpineModel, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    images: dict[str, dict[int | str, Path]] = {}
    limits = LimitOptions(waiting=8)
    engine = Engine(spine_model, limits)
    for one in "abcd":
        images[one] = {slot: tmp_path / f"{one}-{slot}.png" for slot in engine.slots}
        for path in images[one].values():
            Image.fromarray(rng.integers(0, 256, (64, 64), dtype=np.uint8)).save(path)
    expected = {one: engine.ask_study(images[one]).result() for one in images}
    assert len({str(one) for one in expected.values()}) == 4

    def visit(one: str, times: int) -> None:
        for number in range(times):
            if number % 5 == 0:
                assert engine.ask_study(images[one]).result() == expected[one]
            elif number % 5 == 1:
                engine.ask((("Stop?", None),), (), ChatOptions(new_tokens=500)).stop()
            else:
                image = ImageRef(str(images[one][6]))
                rounds = ((f"<image>\n{one}?", None),)
                assert engine.ask(rounds, (image,), ChatOptions(new_tokens=3)).result() is not None

    process = psutil.Process()

    def held() -> tuple[int, int, int]:
        gc.collect()
        return process.memory_info().rss, process.num_fds(), threading.active_count()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(visit, images, [5] * 4))
        before = held()
        list(pool.map(visit, images, [25] * 4))
        after = held()
    assert after[0] - before[0] < 10e6
    assert after[1:] == before[1:]
    engine.close()


def test_texts_are_escaped() -> None:
    bad = "<script>alert(1)</script>"
    for made in (
        pictures.problem([bad]),
        pictures.status(bad),
        pictures.turn("You", bad),
        pictures.thumbnails([(bad, "data:")]),
    ):
        assert bad not in made
        assert "&lt;script&gt;" in made


def test_the_strip_and_the_boxes(spine_model: SpineModel, tmp_path: Path) -> None:
    answers = [
        Prediction("p", "zjppt", "C2-C3", (6,), 1, {0: 0.25, 1: 0.625, 2: 0.125, 3: 0}, "B"),
        Prediction("p", "positioning", "C4", (6,), None, None, "", Box(5, 6, 25, 36)),
        Prediction("p", "positioning", "C5", (6,), None, None, "<b>"),
    ]
    made = pictures.strip(spine_model.tasks, answers, "C2-C3")
    assert 'data-level="C2-C3" class=chosen' in made
    assert "A.normal 25.0%, B.bulging 62.5%, C.protrusion 12.5%, D.extrusion 0.0%" in made
    assert '"row">C4</th><td>slice 6: [5, 6, 25, 36]</td>' in made
    assert '"row">C5</th><td>slice 6: no box in the answer &#x27;&lt;b&gt;&#x27;</td>' in made
    Image.new("L", (64, 64)).save(tmp_path / "6.png")
    shown = pictures.slices({6: tmp_path / "6.png"}, [6], answers)
    assert 'viewBox="0 0 64 64"' in shown
    assert '<rect x="5" y="6" width="20" height="30"' in shown
    assert "C5" not in shown


def test_a_checkpoint_without_boxes_says_so(spine_model: SpineModel) -> None:
    closed = {name: one for name, one in spine_model.tasks.items() if one.closed}
    assert "not trained on <code>positioning</code>" in pictures.note_on_boxes(closed)
    assert "vertebra boxes" in pictures.note_on_boxes(spine_model.tasks)


def test_samples_are_what_the_checkpoint_asks_for(tmp_path: Path) -> None:
    samples = phantom_samples(StudyLayout(), [6, "C2-C3"], tmp_path, count=2)
    assert [list(one.images) for one in samples] == [[6, "C2-C3"]] * 2
    assert all(path.is_file() for one in samples for path in one.images.values())
    assert samples[0].truth.label("qd", 0) in (0, 1, 2)
    assert phantom_samples(StudyLayout(side_px=64), [6], tmp_path) == []
    assert phantom_samples(StudyLayout(slices=(99,)), [99], tmp_path, count=2) == []
    assert phantom_samples(StudyLayout(), [], tmp_path) == []
