"""The page in a real browser. Every request that leaves this machine is a failure.

``make test-browser`` runs these; where Chromium or Gradio is missing, they fail.
"""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
import socket
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from http_client import served
from PIL import Image

from spinevl.config.options.playground import LimitOptions
from spinevl.inference.api import SpineModel
from spinevl.inference.predictor import Predictor
from spinevl.playground.archive import Slot
from spinevl.playground.engine import ChatOptions, Engine
from spinevl.playground.patient_files import PATIENT, file_name
from spinevl.playground.samples import Sample
from spinevl.playground.serve import TOKEN
from spinevl.playground.uploads import Uploads
from spinevl.schema.patient import Patient
from spinevl.sources.conversations import ConversationSource

pytestmark = pytest.mark.browser

PATIENCE_MS = 30_000


class Page:
    """The running page, and what is behind it."""

    def __init__(self, address: str, engine: Engine, uploads: Uploads) -> None:
        self.address, self.engine, self.uploads = address, engine, uploads

    def files(self) -> list[Path]:
        """What visitors' folders hold; what was received goes within a minute."""
        folders = [one for one in self.uploads.folder.iterdir() if one != self.uploads.incoming]
        return [one for folder in folders for one in folder.rglob("*") if one.is_file()]


def png(seed: int, mode: str = "L", *, side: int = 64) -> bytes:
    rng = np.random.default_rng(seed)
    file = io.BytesIO()
    Image.fromarray(rng.integers(0, 256, (side, side), dtype=np.uint8)).convert(mode).save(
        file, "PNG"
    )
    return file.getvalue()


def patient(engine: Engine, seed: int) -> dict[Slot, bytes]:
    return {slot: png(100 * seed + k) for k, slot in enumerate(engine.slots)}


def zipped(engine: Engine, images: dict[Slot, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for slot, content in images.items():
            archive.writestr(f"p1/{file_name(engine.layout, slot)}", content)
    return file.getvalue()


@pytest.fixture(scope="module")
def page(spine_model: SpineModel, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    """The server in a thread of its own; it may connect to this machine alone."""
    folder = tmp_path_factory.mktemp("page")
    limits = LimitOptions(upload_mb=1, megapixels=1, waiting=4)
    engine = Engine(spine_model, limits)
    images = {}
    for slot, content in patient(engine, 9).items():
        images[slot] = folder / f"{slot}.png"
        images[slot].write_bytes(content)
    sample = Sample("phantom 1", images, Patient(PATIENT, {"qd": 1}))
    connect = socket.socket.connect

    def guarded(self: socket.socket, address: Any) -> None:
        if self.family != socket.AF_UNIX and address[0] not in ("127.0.0.1", "::1"):
            raise AssertionError(f"the server connects to {address}")
        connect(self, address)

    with pytest.MonkeyPatch.context() as patch:
        patch.delenv(TOKEN, raising=False)
        patch.setattr(socket.socket, "connect", guarded)
        with (
            Uploads(limits, parent=folder) as uploads,
            served(engine, uploads, [sample]) as address,
        ):
            yield Page(address, engine, uploads)
        engine.close()


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    names = ("chromium", "chromium-browser", "google-chrome")
    path = next(filter(None, map(shutil.which, names)), None)
    if path is None:
        pytest.fail("the browser tests need Chromium: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def visit(chromium: Any, page: Page) -> Iterator[Callable[..., Any]]:
    """Opens a tab of its own; what it asks elsewhere, or its scripts get wrong, fails the test."""
    wrong: list[str] = []
    contexts = []

    def opened(width: int = 1280) -> Any:
        context = chromium.new_context(viewport={"width": width, "height": 900})
        context.set_default_timeout(PATIENCE_MS)
        contexts.append(context)

        def seen(request: Any) -> None:
            if not request.url.startswith((page.address, "data:", "blob:")):
                wrong.append(request.url)

        context.on("request", seen)
        tab = context.new_page()
        tab.on("pageerror", lambda error: wrong.append(str(error)))
        tab.on("dialog", lambda dialog: (wrong.append("a dialog"), dialog.dismiss()))
        tab.goto(page.address)
        tab.wait_for_selector("text=Not for clinical use")
        tab.wait_for_selector("#patient input[type=file]", state="attached")
        return tab

    yield opened
    for context in contexts:
        context.close()
    assert wrong == []


def choose(tab: Any, where: str, *files: tuple[str, bytes]) -> None:
    payload = [{"name": n, "mimeType": "application/octet-stream", "buffer": b} for n, b in files]
    tab.set_input_files(f"{where} input[type=file]", payload)


def drop(tab: Any, where: str, name: str, content: bytes) -> None:
    """As a hand does it, with the events of a drop."""
    transfer = tab.evaluate_handle(
        """([name, text]) => {
          const bytes = Uint8Array.from(atob(text), (one) => one.charCodeAt(0));
          const transfer = new DataTransfer();
          transfer.items.add(new File([bytes], name));
          return transfer;
        }""",
        [name, base64.b64encode(content).decode()],
    )
    for event in ("dragenter", "dragover", "drop"):
        tab.dispatch_event(f"{where} button", event, {"dataTransfer": transfer})


def read_strip(tab: Any) -> dict[tuple[str, str], str]:
    """(task, level) -> the probabilities as a screen reader tells them."""
    tab.wait_for_selector("#strip .spine-bar")
    rows = tab.query_selector_all("#strip tr[data-level]")
    return {
        (
            row.evaluate("one => one.closest('table').dataset.task"),
            row.get_attribute("data-level"),
        ): row.query_selector(".spine-bar").get_attribute("aria-label")
        for row in rows
    }


def expected(page: Page, images: dict[Slot, bytes], folder: Path) -> dict[tuple[str, str], str]:
    files = {}
    for slot, content in images.items():
        files[slot] = folder / f"{slot}.png"
        files[slot].write_bytes(content)
    told = {}
    for one in page.engine.ask_study(files).result() or []:
        if one.probabilities is not None:
            choices = page.engine.tasks[one.task].choices
            shares = [f"{choices[k]} {100 * p:.1f}%" for k, p in sorted(one.probabilities.items())]
            told[one.task, one.object] = ", ".join(shares)
    return told


def chat(tab: Any) -> None:
    tab.get_by_role("tab", name="Chat").click()
    tab.wait_for_selector("#question textarea")


def ask(tab: Any, question: str) -> None:
    tab.fill("#question textarea", question)
    tab.click("#ask")


def type_number(tab: Any, label: str, value: int) -> None:
    """Type into a number field that has just been shown.

    While it is being set up it may still be given its first value. The slider beside it shows what
    the page will send.
    """
    field = tab.get_by_label(f"number input for {label}")
    slider = tab.get_by_label(f"range slider for {label}")
    field.wait_for()
    tab.wait_for_timeout(200)  # nobody types sooner
    field.fill(str(value))
    field.blur()
    assert (field.input_value(), slider.input_value()) == (str(value), str(value))


def test_a_dropped_patient_is_answered(
    page: Page, visit: Callable[..., Any], tmp_path: Path
) -> None:
    images = patient(page.engine, 1)
    tab = visit()
    drop(tab, "#patient", "p1.zip", zipped(page.engine, images))
    tab.wait_for_selector("#sagittal img[alt='sagittal slice 6']")
    tab.click("#ask-study")
    assert read_strip(tab) == expected(page, images, tmp_path)
    tab.get_by_label("C4-C5", exact=True).click()
    tab.wait_for_selector("#axial img[alt='axial slice C4-C5']")
    tab.wait_for_selector("#strip tr.chosen[data-level='C4-C5']")
    assert "vertebra boxes" in tab.inner_text("#strip")
    tab.get_by_text("Why this answer").click()
    tab.wait_for_selector("text=Such a map does not show")
    tab.click("#show-why")  # curvature, which has no level
    tab.wait_for_selector("#map figure rect >> nth=63")
    assert "curvature: " in tab.inner_text("#map")
    tab.click("#why-task input")
    tab.get_by_role("option", name="disc protrusion").click()
    tab.click("#show-why")
    tab.wait_for_selector("#map >> text=axial C4-C5")
    assert len(tab.query_selector_all("#map rect")) == 2 * 64
    # a sample instead: its truth stands beside the answers
    tab.click("#sample input")
    tab.get_by_role("option", name="phantom 1").click()
    tab.wait_for_selector("#strip .spine-bar", state="detached")
    tab.wait_for_selector("#map rect", state="detached")
    tab.click("#ask-study")
    read_strip(tab)
    said = tab.inner_text("#strip [data-task=qd] .said")
    assert "✓" in said or "true: B.straight curvature" in said


def test_bad_files_are_told_and_removed(page: Page, visit: Callable[..., Any]) -> None:
    tab = visit()
    before = len(page.files())
    choose(tab, "#patient", ("sag_6.png", b"hello"))
    tab.wait_for_selector("#study-message [role=alert]")
    assert "sag_6.png" in tab.inner_text("#study-message")
    choose(tab, "#patient", ("<img src=x onerror=alert(1)>.zip", b"PK"))
    tab.wait_for_selector("#study-message >> text=onerror")
    choose(tab, "#patient", ("big.zip", b"0" * 1_300_000))  # the server takes no more than 1 MB
    tab.click("#ask-study")
    tab.wait_for_selector("#study-message >> text=there is no patient yet")
    chat(tab)
    choose(tab, "#images", ("evil.svg", b"<svg onload=alert(1)></svg>"))
    tab.wait_for_selector("#chat-message >> text=evil.svg")
    ask(tab, "  ")
    tab.wait_for_selector("#chat-message >> text=the question")
    assert len(page.files()) == before
    choose(tab, "#images", ("small.png", png(1, "RGB", side=32)))  # the model reads 64 x 64
    tab.wait_for_selector("#pending img")
    ask(tab, "This?")
    tab.wait_for_selector("#chat-message >> text=small.png")
    assert str(page.uploads.folder) not in tab.inner_text("#chat-message")
    assert tab.input_value("#question textarea") == "This?"


def test_a_conversation_in_turns(page: Page, visit: Callable[..., Any], tmp_path: Path) -> None:
    tab = visit()
    chat(tab)
    volume = io.BytesIO()
    np.save(volume, np.zeros((3, 4, 5), np.float32))
    image = png(5, "RGB")
    choose(tab, "#images", ("a.png", image), ("a.png", image), ("v.npy", volume.getvalue()))
    tab.wait_for_function("document.querySelectorAll('#pending img').length == 3")
    tab.get_by_text("How it answers").click()
    type_number(tab, "Maximum tokens", 7)
    ask(tab, "What is <b>this</b>?")
    tab.wait_for_selector("#history .spine-model")
    assert "What is <b>this</b>?" in tab.inner_text("#history .spine-user")
    ask(tab, "Sure?")
    tab.wait_for_function("document.querySelectorAll('#history .spine-model').length == 2")
    with tab.expect_download() as download:
        tab.click("#download")
    file = tmp_path / "conversation.json"
    file.write_bytes(Path(download.value.path()).read_bytes())
    for name, content in (("a.png", image), ("a-2.png", image), ("v.npy", volume.getvalue())):
        (tmp_path / name).write_bytes(content)
    ((record, example),) = ConversationSource(test=str(file)).read("test", answered=False)
    assert record["image"] == ["a.png", "a-2.png"]
    assert example.rounds[0][0] == "<image><image><image3d>\nWhat is <b>this</b>?"
    rounds = (example.rounds[0], ("Sure?", None))
    answer = page.engine.ask(rounds, example.images, ChatOptions(new_tokens=7)).result()
    assert record["conversations"][-1]["value"] == answer  # greedy: what predict answers
    tab.click("#clear")
    tab.wait_for_selector("#history .spine-model", state="detached")


def test_stop_frees_the_model_and_two_have_their_own(
    page: Page, visit: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = visit(), visit()
    images = patient(page.engine, 2), patient(page.engine, 3)
    for tab, own in zip((first, second), images, strict=True):
        choose(tab, "#patient", ("p.zip", zipped(page.engine, own)))
        tab.wait_for_selector("#sagittal img")
    for tab in (first, second):
        tab.click("#ask-study")
    for tab, own in zip((first, second), images, strict=True):
        assert read_strip(tab) == expected(page, own, tmp_path)

    def slowly(self: Predictor, example: Any, sampling: Any) -> Iterator[str]:
        for k in range(2000):
            time.sleep(0.02)
            yield "word " * (k + 1)

    chat(first)
    with monkeypatch.context() as patch:
        patch.setattr(Predictor, "stream", slowly)
        ask(first, "Tell me")
        first.wait_for_selector("#answer >> text=word word")
    assert first.query_selector("#history .spine-model") is None
    chat(second)
    ask(second, "And I?")
    second.wait_for_selector("#chat-message >> text=1 before you")
    first.click("#stop")
    second.wait_for_selector("#history .spine-model")
    first.wait_for_selector("#history .spine-model")
    assert re.fullmatch(r"Model\s+(word\s*){2,400}", first.inner_text("#history .spine-model"))
    assert "word word" not in second.inner_text("#history")


def test_who_closes_the_tab_leaves_nothing(page: Page, visit: Callable[..., Any]) -> None:
    tab = visit()
    before = set(page.files())
    choose(tab, "#patient", ("p.zip", zipped(page.engine, patient(page.engine, 4))))
    tab.wait_for_selector("#sagittal img")
    own = set(page.files()) - before
    assert len(own) == len(page.engine.slots)
    tab.close()
    deadline = time.monotonic() + 30
    while any(one.exists() for one in own):
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.parametrize("width", [1280, 400])
def test_nothing_is_wider_than_the_window(
    page: Page, visit: Callable[..., Any], width: int
) -> None:
    tab = visit(width)
    choose(tab, "#patient", ("p.zip", zipped(page.engine, patient(page.engine, 5))))
    tab.wait_for_selector("#sagittal img")
    tab.click("#ask-study")
    read_strip(tab)
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    chat(tab)
    ask(tab, "word" * 100)
    tab.wait_for_selector("#history .spine-model")
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    told = json.loads(tab.evaluate("JSON.stringify(window.gradio_config.analytics_enabled)"))
    assert told is False
