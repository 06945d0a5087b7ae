"""Requests that no browser makes, at the server itself: each is refused, and nothing is left."""

from __future__ import annotations

import gc
import re
import socket
import tempfile
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Any

import psutil
import pytest
from hostile_files import IMAGES, ODD_NAMES, ZIPS, damaged
from http_client import Client, served

from spinevl.playground.engine import Engine
from spinevl.playground.uploads import Uploads

pytestmark = pytest.mark.browser

ALERT = re.compile(r'role="alert">(.*?)</div>')
UPLOAD = "/gradio_api/upload"
DATA = "/gradio_api/queue/data?session_hash="


@pytest.fixture
def client(
    engine: Engine,
    uploads: Uploads,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> Iterator[Client]:
    """A client of a server that writes to its folder alone, and says nothing in the terminal."""
    monkeypatch.delenv("SPINEVL_PLAYGROUND_TOKEN", raising=False)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "elsewhere"))
    with served(engine, uploads) as address:
        yield Client(address)
        assert sorted(tmp_path.iterdir()) == [uploads.folder, tmp_path / "elsewhere"]
    assert list((tmp_path / "elsewhere").iterdir()) == []
    assert capfd.readouterr().err == ""


def hostile() -> Iterable[tuple[str, str, bytes]]:
    """(where it is dropped, name, content)"""
    files = chain(
        (("show", *one) for one in IMAGES.items()),
        (("take", *one) for one in ZIPS.items()),
        ((where, one, b"hello") for one in ODD_NAMES for where in ("show", "take")),
        (("take" if one[0].endswith("zip") else "show", *one) for one in damaged(100)),
    )
    return islice(files, 0, None, 3)  # test_uploads has them all, without the server


def test_hostile_uploads(client: Client, tmp_path: Path) -> None:
    process = psutil.Process()
    before, refusals = 0, 0
    for number, (where, name, content) in enumerate(hostile()):
        told = client.send(f"tab{number % 4}", getattr(client, where), (name, content))
        alerts = ALERT.findall(told)
        assert str(tmp_path) not in told
        assert "Traceback" not in told
        if len(told) < 200:  # the server itself has refused it
            assert told.isprintable()
            alerts.append(told)
        assert len(alerts) <= 1
        if not alerts:  # it was hardly damaged
            assert name in ("a.png", "b.npy", "c.zip", "d.zip"), name
        refusals += len(alerts)
        if number == 40:
            gc.collect()
            before = process.memory_info().rss
    gc.collect()
    assert process.memory_info().rss - before < 30e6
    assert refusals > 70


def test_bodies_that_no_page_posts(client: Client) -> None:
    for body in (b"", b"{", b"null", b"[]", b"[" * 10**5, b"9" * 10**5, b'{"data": [NaN]}'):
        for path in ("queue/join", "cancel", "reset"):
            assert client.http.post(f"/gradio_api/{path}", content=body).status_code == 400, body


def test_values_that_no_page_sends(client: Client) -> None:
    """Of each event; what is answered is told in the page and not in the terminal."""
    values: tuple[Any, ...] = (None, 5, "x", [], {}, [1], [{"path": "/etc/passwd"}], "\0")
    for step, count in client.steps.items():
        for value in values:
            answer = client.join("bad", step, *[value] * count)
            assert answer.status_code in (200, 400, 403), (step, value)
            if answer.status_code == 200:
                client.read("bad")
        assert client.join("bad", step, *[None] * (count + 1)).status_code == 400
    more = {"event_data": {"a": 1}, "trigger_id": 10**6, "batched": True, "simple_format": True}
    assert client.join("more", client.study, None, **more).status_code == 200


def test_addresses_that_no_page_opens(client: Client) -> None:
    for path in (
        *(DATA, f"{DATA}unknown", "/gradio_api/queue/data", "/static/", "/?__theme=%00"),
        *(
            f"/assets/{'a' * 3000}",
            "/assets/%00",
            "/static/%2e%2e/x",
            "/?deep_link=../x",
            "/?page=x",
        ),
        *("/gradio_api/file=/etc/passwd", "/gradio_api/info?page=x"),
    ):
        assert b"root:" not in client.http.get(path).content


def test_uploads_that_are_no_form(client: Client) -> None:
    def part(told: str, rest: str = "x\r\n--B--\r\n") -> bytes:
        return f"--B\r\nContent-Disposition: {told}\r\n\r\n{rest}".encode()

    file = 'form-data; name="files"; filename="a.png"'
    bodies = [
        *(b"", b"x" * 999, b"--B\r\n", part("form-data"), part('form-data; name="files"')),
        *(part('form-data; name="files"; filename=".."'), part(file, "cut"), part(file) * 3),
        part(file, "x\r\n") * 2000,
    ]
    for query in ("", "?upload_id=abc"):
        for kind in ("multipart/form-data", "multipart/form-data; boundary=B"):
            for body in bodies:
                answer = client.http.post(
                    UPLOAD + query, content=body, headers={"content-type": kind}
                )
                assert answer.status_code in (200, 400, 413, 500)


def test_requests_that_are_cut(client: Client) -> None:
    host, port = client.http.base_url.host, client.http.base_url.port
    start = f"POST {UPLOAD} HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Length: 5000\r\n"
    kind = "Content-Type: multipart/form-data; boundary=B\r\n\r\n"
    part = '--B\r\nContent-Disposition: form-data; name="files"; filename="a"\r\n\r\nabc'
    upgrade = (
        f"GET / HTTP/1.1\r\nHost: {host}:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    )
    key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    for sent in (
        start + kind + part,
        start.replace("upload", "queue/join") + "\r\n{",
        upgrade + key,
    ):
        with socket.create_connection((host, port)) as one:
            one.sendall(sent.encode())
    assert client.http.get("/config").status_code == 200
