"""What stands between browsers and the server: who may ask, and for what.

Gradio's server offers far more than this page uses: it fetches addresses, serves files by their
path, edits itself. Only the routes below pass, and no address that a browser names is opened.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import re
from collections.abc import Collection, Mapping
from contextlib import suppress
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qs, urlsplit

from spinevl.playground.uploads import Uploads
from spinevl.schema.errors import UserError

_COOKIE = "spinevl_token"
_MAX_JSON_BYTES = 1_000_000
_MULTIPART_BYTES = 1_000_000  # the frame of an upload
_GET = re.compile(
    r"/|/config/?|/theme\.css|/favicon\.ico|/manifest\.json|/robots\.txt|/(assets|static)/[\w./@-]+"
    r"|/gradio_api/(info|startup-events|app_id|queue/data|upload_progress|heartbeat/\w+)/?"
)
_POST = re.compile(r"/gradio_api/(queue/join|upload|cancel|reset)/?")
_POLICY = (
    "default-src 'self'; img-src 'self' data: blob:; font-src 'self' data:; "
    "style-src 'self' 'unsafe-inline'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; "
    "worker-src 'self' blob:; connect-src 'self' blob: data:; object-src 'none'; base-uri 'self'; "
    "form-action 'self'; frame-ancestors 'none'"
)
_HEADERS = (
    (b"content-security-policy", _POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
)


class Guard:
    """An ASGI application around another one.

    Args:
        app: the page's.
        uploads: where files may be sent to.
        hosts: the names by which browsers may call this server; None takes any. A page elsewhere
            whose name is made to point here would have its own.
        token: what a browser must know; None lets everybody in.

    Attributes:
        stopping: set where the server is to stop, so that no stream keeps it.
    """

    def __init__(
        self, app: Any, uploads: Uploads, *, hosts: Collection[str] | None, token: str | None
    ) -> None:
        self.app = app
        self.uploads = uploads
        self.hosts = hosts
        self.token = token
        self.stopping = asyncio.Event()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in
                   scope["headers"]}  # fmt: skip
        try:
            if await self._signed_in(scope, headers, send):
                self._require_allowed(scope, headers)
                receive = await self._checked_body(scope, headers, receive)
                await self._until_stopped(scope, receive, _with_headers(send))
        except _Refused as refused:
            await _answer(send, refused.status, refused.reason)

    async def _until_stopped(self, scope: Any, receive: Any, send: Any) -> None:
        """The page's answer, whose stream ends when the server is to stop."""
        open_ = False

        async def noted(message: Any) -> None:
            nonlocal open_
            open_ = message["type"] == "http.response.start" or bool(message.get("more_body"))
            await send(message)

        answer = asyncio.ensure_future(self.app(scope, receive, noted))
        stopping = asyncio.ensure_future(self.stopping.wait())
        try:
            await asyncio.wait({answer, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if answer.done():
                answer.result()  # raises what it raised
        finally:
            stopping.cancel()
            answer.cancel()
        with suppress(asyncio.CancelledError):
            await answer
        if open_:
            await send({"type": "http.response.body", "body": b""})

    async def _signed_in(self, scope: Any, headers: Mapping[str, str], send: Any) -> bool:
        """Whether the request goes on; a right token in the address becomes a cookie."""
        if self.hosts is not None and _name(headers.get("host", "")) not in self.hosts:
            raise _Refused(421, "this address is not one of the playground's")
        origin = headers.get("origin")
        if origin is not None and urlsplit(origin).netloc != headers.get("host"):
            raise _Refused(403, "the request comes from another page")
        if self.token is None or self._knows(_cookie(headers)):
            return True
        given = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[0]
        if scope["path"] != "/" or not self._knows(given):
            raise _Refused(401, "open the address with the token that the command has printed")
        cookie = f"{_COOKIE}={self.token}; HttpOnly; SameSite=Strict; Path=/"
        await _answer(send, 303, "", (b"location", b"/"), (b"set-cookie", cookie.encode()))
        return False

    def _knows(self, given: str) -> bool:
        return self.token is not None and hmac.compare_digest(given.encode(), self.token.encode())

    def _require_allowed(self, scope: Any, headers: Mapping[str, str]) -> None:
        """Raise for a route that the page does not use, and for an upload that has no room."""
        path, method = scope["path"], scope["method"]
        allowed = {"GET": _GET, "HEAD": _GET, "POST": _POST}.get(method)
        if allowed is None or not allowed.fullmatch(path) or ".." in path:
            raise _Refused(404, "no such page")
        if method != "POST":
            return
        limits = self.uploads.limits
        most = _MAX_JSON_BYTES
        if path.startswith("/gradio_api/upload"):
            most = limits.upload_bytes + _MULTIPART_BYTES
        length = headers.get("content-length", "")
        if "transfer-encoding" in headers or not re.fullmatch("[0-9]{1,15}", length):
            raise _Refused(411, "the request does not say how long it is")
        if int(length) > most:
            raise _Refused(413, f"more than limits.upload_mb={limits.upload_mb:g}")
        if most != _MAX_JSON_BYTES:
            try:
                self.uploads.require_room(int(length))
            except UserError as error:
                raise _Refused(507, error.lines[0]) from error

    async def _checked_body(self, scope: Any, headers: Mapping[str, str], receive: Any) -> Any:
        """The body of a JSON request once it names no file but those that were uploaded here."""
        if scope["method"] != "POST" or scope["path"].startswith("/gradio_api/upload"):
            return receive
        content = b""
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise _Refused(400, "the request was cut short")
            content += message.get("body", b"")
            if not message.get("more_body"):
                break
        try:
            body = json.loads(content or b"{}")
            named = list(_files_named(body))
        except (ValueError, RecursionError):
            raise _Refused(400, "the request is no JSON") from None
        for one in named:
            try:
                self.uploads.received(one if isinstance(one, str) else "", None)
            except UserError:
                raise _Refused(403, "the request names a file that was not uploaded") from None
        left = [{"type": "http.request", "body": content, "more_body": False}]

        async def again() -> Any:
            return left.pop() if left else await receive()

        return again


class _Refused(Exception):
    def __init__(self, status: int, reason: str) -> None:
        self.status, self.reason = status, reason


def _files_named(body: Any) -> Any:
    """What a request names as files: the ``path`` of each object that has one."""
    waiting = [body]
    while waiting:
        one = waiting.pop()
        if isinstance(one, dict):
            if "path" in one:
                yield one["path"]
            waiting += one.values()
        elif isinstance(one, list):
            waiting += one


def _name(host: str) -> str:
    """``127.0.0.1:7860`` -> ``127.0.0.1``"""
    return host.rpartition(":")[0] if re.search(r":[0-9]*\Z", host) else host


def _cookie(headers: Mapping[str, str]) -> str:
    try:
        known = SimpleCookie(headers.get("cookie", "")).get(_COOKIE)
    except CookieError:
        return ""
    return known.value if known else ""


def _with_headers(send: Any) -> Any:
    async def sent(message: Any) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message.get("headers", ()), *_HEADERS]}
        await send(message)

    return sent


async def _answer(send: Any, status: int, text: str, *more: tuple[bytes, bytes]) -> None:
    headers = [(b"content-type", b"text/plain; charset=utf-8"), *more, *_HEADERS]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": text.encode()})
