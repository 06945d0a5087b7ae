"""Which requests reach the server behind the guard."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any

import pytest

from spinevl.playground.guard import Guard
from spinevl.playground.serve import TOKEN, is_loopback, token_for
from spinevl.playground.uploads import Uploads
from spinevl.schema.errors import UserError

HERE = {"127.0.0.1", "localhost"}


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
    return Guard(echo, uploads, hosts=HERE, token=None)


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
    path, body = "/gradio_api/queue/join", b"{}"
    assert ask(guard, path, body, origin="http://127.0.0.1:7860")[0] == 200
    assert ask(guard, path, body, origin="http://example.com")[0] == 403
    assert ask(guard, path, body, origin="null")[0] == 403
    assert ask(guard, host="example.com:7860")[0] == 421  # a name that was made to point here
    assert ask(guard, host="127.0.0.1.example.com")[0] == 421
    assert ask(guard, host="localhost")[0] == 200


def test_only_uploaded_files_are_named(guard: Guard, uploads: Uploads) -> None:
    (uploads.incoming / "a").mkdir()
    there = uploads.incoming / "a" / "x.png"
    there.write_bytes(b"x")
    path = "/gradio_api/queue/join"
    good = json.dumps({"data": [[{"path": str(there), "orig_name": "x"}], "say path: /etc"]})
    assert ask(guard, path, good.encode())[:2] == (200, f"echo {good}")
    for name in ("/etc/passwd", f"{uploads.incoming}/../../x", "http://127.0.0.1/", None, ["a"]):
        body = json.dumps({"data": [{"deep": [{"path": name}]}]}).encode()
        assert ask(guard, path, body)[0] == 403, name
    for body in (b"{", b"\xff", b"[" * 100_000):
        assert ask(guard, path, body)[0] == 400


def test_bodies_are_bounded(guard: Guard, uploads: Uploads) -> None:
    assert ask(guard, "/gradio_api/upload", b"x", content_length="99999999")[0] == 413
    assert ask(guard, "/gradio_api/queue/join", b"x", content_length="1000001")[0] == 413
    assert ask(guard, "/gradio_api/upload", b"x", content_length="")[0] == 411
    assert ask(guard, "/gradio_api/upload", b"x", content_length="-1")[0] == 411
    chunked = {"content_length": "1", "transfer_encoding": "chunked"}  # the length means nothing
    assert ask(guard, "/gradio_api/upload", b"x", **chunked)[0] == 411
    assert ask(guard, "/gradio_api/upload", b"x" * 9)[0] == 200
    (uploads.folder / "much").write_bytes(b"0" * uploads.limits.total_bytes)
    status, text, _ = ask(guard, "/gradio_api/upload", b"x")
    assert status == 507
    assert "limits.total_mb" in text


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
        guard, sent = Guard(endless, uploads, hosts=None, token=None), []

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
    guard = Guard(echo, uploads, hosts=None, token="secret0123456789")
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
