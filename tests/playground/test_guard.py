"""Which requests reach the server behind the guard."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any

import pytest

from spinevl.playground import guard as guard_module
from spinevl.playground.guard import Guard
from spinevl.playground.page_events import PageEvents
from spinevl.playground.serve import TOKEN, is_loopback, token_for
from spinevl.playground.uploads import Uploads
from spinevl.schema.errors import UserError

HERE = {"127.0.0.1", "localhost"}
JOIN = "/gradio_api/queue/join"
EVENTS = PageEvents(
    {
        "components": [{"id": 1, "type": "file", "props": {}}],
        "dependencies": [{"id": 0, "inputs": [1], "backend_fn": True}],
    }
)


def event(*paths: object, **more: object) -> bytes:
    """The event of a page that sends files."""
    files = [{"path": one, "meta": {"_type": "gradio.FileData"}} for one in paths]
    return json.dumps({"fn_index": 0, "session_hash": "a1", "data": [files], **more}).encode()


async def echo(scope: Any, receive: Any, send: Any) -> None:
    """Answers with the body that it was sent."""
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            break
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"echo " + body})


def ask(
    guard: Guard,
    path: str = "/",
    body: bytes | None = None,
    *,
    query: str = "",
    **headers: str,
) -> tuple[int, str, dict[str, str]]:
    """The answer to a request: status, text, headers."""
    given = {"host": "127.0.0.1:7860", **{k.replace("_", "-"): v for k, v in headers.items()}}
    if body is not None:
        given.setdefault("content-length", str(len(body)))
    scope = {
        "type": "http",
        "method": "GET" if body is None else "POST",
        "path": path,
        "query_string": query.encode(),
        "headers": [(k.encode(), v.encode("latin-1")) for k, v in given.items()],
    }
    half = len(body or b"") // 2
    parts = [(body or b"")[:half], (body or b"")[half:]]
    sent: list[Mapping[str, Any]] = []

    async def receive() -> Any:
        return {"type": "http.request", "body": parts.pop(0), "more_body": bool(parts)}

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(guard(scope, receive, send))
    found = {k.decode(): v.decode() for k, v in sent[0]["headers"]}
    return sent[0]["status"], sent[1]["body"].decode(), found


@pytest.fixture
def guard(uploads: Uploads) -> Guard:
    return Guard(echo, uploads, EVENTS, hosts=HERE, token=None)


def test_the_page_comes_with_a_policy_that_calls_nobody(guard: Guard) -> None:
    status, text, headers = ask(guard)
    assert (status, text) == (200, "echo ")
    policy = headers["content-security-policy"]
    assert "default-src 'self'" in policy
    assert "http" not in policy
    assert headers["x-frame-options"] == "DENY"


@pytest.mark.parametrize(
    "path",
    [
        *("/gradio_api/file=/etc/passwd", "/gradio_api/file/etc/passwd", "/file=/etc/passwd"),
        *("/gradio_api/proxy=http://example.com", "/gradio_api/stream/a/b/c/d.ts", "/login"),
        *("/gradio_api/openapi.json", "/docs", "/monitoring", "/gradio_api/deep_link", "//"),
        *("/assets/../../etc/passwd", "/static/%2e%2e/x", "/gradio_api/vibe-code/", "/custom"),
    ],
)
def test_other_routes_are_closed(guard: Guard, path: str) -> None:
    assert ask(guard, path)[0] == 404
    assert ask(guard, path, b"{}")[0] == 404


@pytest.mark.parametrize(
    "path", ["/gradio_api/run/predict", "/gradio_api/call/ask", "/gradio_api/vibe-edit/", "/"]
)
def test_other_posts_are_closed(guard: Guard, path: str) -> None:
    assert ask(guard, path, b"{}")[0] == 404


def test_other_pages_cannot_ask(guard: Guard) -> None:
    path, body = JOIN, event()
    assert ask(guard, path, body, origin="http://127.0.0.1:7860")[0] == 200
    assert ask(guard, path, body, origin="https://127.0.0.1:7860")[0] == 200  # a proxy with TLS
    assert ask(guard, path, body, origin="http://example.com")[0] == 403
    assert ask(guard, path, body, origin="null")[0] == 403
    for other in ("", "http://[::1", "127.0.0.1:7860", "http://127.0.0.1:1", "http://127.0.0.1"):
        assert ask(guard, path, body, origin=other)[0] == 403
    assert ask(guard, host="example.com:7860")[0] == 421  # a name that was made to point here
    assert ask(guard, host="127.0.0.1.example.com")[0] == 421
    assert ask(guard, host="localhost")[0] == 200


def test_only_uploaded_files_are_named(guard: Guard, uploads: Uploads) -> None:
    (uploads.incoming / "a").mkdir()
    there = uploads.incoming / "a" / "x.png"
    there.write_bytes(b"x")
    good = event(str(there))
    assert ask(guard, JOIN, event(str(there), event_data={"path": "/etc/passwd"}))[:2] == (
        200,
        f"echo {good.decode()}",
    )
    inside = (there.parent, there.with_name("y.png"), f"{uploads.incoming}/../../x")
    for name in (*map(str, inside), "/etc/passwd", "http://127.0.0.1/", "", "\0", "x" * 9000):
        assert ask(guard, JOIN, event(name))[0] == 403, name
        assert ask(guard, JOIN, event(f"{uploads.incoming}/{name}"))[0] == 403, name


@pytest.mark.parametrize(
    "body",
    [
        *(b"", b"{", b"\xff", b"[" * 100_000, b"null", b"[]", b'{"data": []}', event(5), event([])),
        *(event().decode().encode("utf-16"), event(fn_index=1), event(session_hash="\ud800")),
        *(event(session_hash=None), event()[:-1] + b', "data": []}', event(fn_index=10**400)),
    ],
)
def test_what_the_page_never_sends_is_refused(guard: Guard, body: bytes) -> None:
    for path in (JOIN, "/gradio_api/cancel", "/gradio_api/reset/"):
        status, text, _ = ask(guard, path, body)
        assert status == 400
        assert text.isprintable()


def test_a_failure_of_the_page_is_one_line(
    uploads: Uploads, caplog: pytest.LogCaptureFixture
) -> None:
    async def fails(scope: Any, receive: Any, send: Any) -> None:
        raise KeyError("what\nthen")

    async def unknown(scope: Any, receive: Any, send: Any) -> None:
        gone = ValueError()
        gone.status_code = 404  # type: ignore[attr-defined]
        raise RuntimeError("the answer has begun") from gone

    async def stops(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await fails(scope, receive, send)

    assert ask(Guard(fails, uploads, EVENTS, hosts=HERE, token=None), "/config")[0] == 500
    assert ask(Guard(stops, uploads, EVENTS, hosts=HERE, token=None), "/config")[:2] == (200, "")
    assert ask(Guard(unknown, uploads, EVENTS, hosts=HERE, token=None), "/config")[0] == 500
    lines = [one.getMessage() for one in caplog.records]
    assert len(lines) == 2
    assert all("/config" in one and "KeyError" in one and "\n" not in one for one in lines)


def test_bodies_are_bounded(guard: Guard, uploads: Uploads) -> None:
    assert ask(guard, "/gradio_api/upload", b"x", content_length="99999999")[0] == 413
    assert ask(guard, JOIN, b"x", content_length="1000001")[0] == 413
    assert ask(guard, "/gradio_api/upload", b"x", content_length="")[0] == 411
    assert ask(guard, "/gradio_api/upload", b"x", content_length="-1")[0] == 411
    chunked = {"content_length": "1", "transfer_encoding": "chunked"}  # the length means nothing
    assert ask(guard, "/gradio_api/upload", b"x", **chunked)[0] == 411
    assert ask(guard, "/gradio_api/upload", b"x" * 9)[0] == 200
    (uploads.folder / "much").write_bytes(b"0" * uploads.limits.total_bytes)
    status, text, _ = ask(guard, "/gradio_api/upload", b"x")
    assert status == 507
    assert "limits.total_mb" in text


def test_who_sends_nothing_more_is_gone(guard: Guard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard_module, "_BODY_SECONDS", 0.05)
    sent: list[Any] = []

    async def receive() -> Any:
        await asyncio.sleep(60)

    async def send(message: Any) -> None:
        sent.append(message)

    headers = [(b"host", b"localhost"), (b"content-length", b"9")]
    scope = {
        "type": "http",
        "method": "POST",
        "path": JOIN,
        "query_string": b"",
        "headers": headers,
    }
    asyncio.run(guard(scope, receive, send))
    assert sent[0]["status"] == 400


def test_streams_end_with_the_server(uploads: Uploads) -> None:
    ended: list[bool] = []

    async def endless(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        try:
            while True:
                await send({"type": "http.response.body", "body": b"x", "more_body": True})
                await asyncio.sleep(0.01)
        finally:
            ended.append(True)

    async def stopped() -> list[Any]:
        guard, sent = Guard(endless, uploads, EVENTS, hosts=None, token=None), []

        async def send(message: Any) -> None:
            sent.append(message)
            if len(sent) == 5:
                guard.stopping.set()

        scope = {"type": "http", "method": "GET", "path": "/", "query_string": b"", "headers": []}
        await guard(scope, None, send)
        return sent

    sent = asyncio.run(stopped())
    assert ended == [True]
    assert not sent[-1].get("more_body")


def test_a_token_opens_the_page_once_it_is_known(uploads: Uploads) -> None:
    guard = Guard(echo, uploads, EVENTS, hosts=None, token="secret0123456789")
    assert ask(guard, host="10.0.0.5:7860")[0] == 401
    assert ask(guard, query="token=secret")[0] == 401
    assert ask(guard, "/config", query="token=secret0123456789")[0] == 401
    status, _, headers = ask(guard, query="token=secret0123456789")
    assert (status, headers["location"]) == (303, "/")
    cookie = headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=Strict" in cookie
    assert ask(guard, "/config", cookie=cookie.split(";")[0])[0] == 200
    assert ask(guard, "/config", cookie="spinevl_token=wrong")[0] == 401
    assert ask(guard, "/config", cookie="spinevl_token=\xe4")[0] == 401


def test_beyond_loopback_there_is_a_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(TOKEN, raising=False)
    assert [is_loopback(one) for one in ("127.0.0.1", "localhost", "::1")] == [True] * 3
    assert [is_loopback(one) for one in ("0.0.0.0", "::", "10.0.0.1")] == [False] * 3
    with pytest.raises(UserError, match="host=example"):
        is_loopback("example")
    assert token_for(loopback=True) is None
    first, second = token_for(loopback=False), token_for(loopback=False)
    assert first != second
    assert len(first or "") == 32
    monkeypatch.setenv(TOKEN, "a" * 20)
    assert token_for(loopback=True) == "a" * 20
    monkeypatch.setenv(TOKEN, "short")
    with pytest.raises(UserError, match=TOKEN):
        token_for(loopback=False)
