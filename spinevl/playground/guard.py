"""What stands between browsers and the server: who may ask, and for what.

Gradio's server offers far more than this page uses: it fetches addresses, serves files by their
path, edits itself. Only the routes below pass, and no address that a browser names is opened.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
import re
from collections.abc import Collection, Mapping
from contextlib import suppress
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qs

from spinevl.io.json_file import parse_json
from spinevl.playground.page_events import PageEvents
from spinevl.playground.unread import Unread
from spinevl.playground.uploads import Uploads
from spinevl.schema.errors import UserError, escaped

log = logging.getLogger(__name__)

_COOKIE = "spinevl_token"
_MAX_JSON_BYTES = 1_000_000
_MULTIPART_BYTES = 1_000_000  # the frame of an upload
_BODY_SECONDS = 60.0  # until the next piece of what is posted
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
        events: what the page may post.
        hosts: the names by which browsers may call this server; None takes any. A page elsewhere
            whose name is made to point here would have its own.
        token: what a browser must know; None lets everybody in.

    Attributes:
        stopping: set where the server is to stop, so that no stream keeps it.
    """

    def __init__(
        self,
        app: Any,
        uploads: Uploads,
        events: PageEvents,
        *,
        hosts: Collection[str] | None,
        token: str | None,
    ) -> None:
        self.app = app
        self.uploads = uploads
        self.events = events
        self.hosts = hosts
        self.token = token
        self.stopping = asyncio.Event()
        self._unread = Unread(tabs=uploads.limits.visitors)

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
                if scope["method"] == "POST":
                    receive = _in_time(receive)
                receive = await self._checked_body(scope, receive)
                await self._until_stopped(scope, receive, _with_headers(self._noted(scope, send)))
        except _Refused as refused:
            await _answer(send, refused.status, refused.reason)

    async def _until_stopped(self, scope: Any, receive: Any, send: Any) -> None:
        """The page's answer, whose stream ends when the server is to stop."""
        begun = open_ = False

        async def noted(message: Any) -> None:
            nonlocal begun, open_
            begun = True
            open_ = message["type"] == "http.response.start" or bool(message.get("more_body"))
            await send(message)

        answer = asyncio.ensure_future(self.app(scope, receive, noted))
        stopping = asyncio.ensure_future(self.stopping.wait())
        try:
            await asyncio.wait({answer, stopping}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopping.cancel()
            answer.cancel()
        with suppress(asyncio.CancelledError):
            try:
                await answer
            except Exception as error:
                _tell(error, scope)
        if not begun:
            raise _Refused(500, "the page has no answer to this")
        if open_:
            await send({"type": "http.response.body", "body": b""})

    async def _signed_in(self, scope: Any, headers: Mapping[str, str], send: Any) -> bool:
        """Whether the request goes on; a right token in the address becomes a cookie."""
        if self.hosts is not None and _name(headers.get("host", "")) not in self.hosts:
            raise _Refused(421, "this address is not one of the playground's")
        origin = headers.get("origin")
        if origin is not None and origin.partition("://")[2] != headers.get("host"):
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
            raise _Refused(413, f"more than {most:,} bytes (limits.upload_mb={limits.upload_mb:g})")
        if most != _MAX_JSON_BYTES:
            try:
                self.uploads.require_room(int(length))
            except UserError as error:
                raise _Refused(507, error.lines[0]) from error

    async def _checked_body(self, scope: Any, receive: Any) -> Any:
        """The body of a JSON request, made anew, once it names no file but uploaded ones."""
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
        route = scope["path"].rstrip("/").rpartition("/")[2]
        try:
            body = self.events.request(route, parse_json(content))
        except ValueError as error:
            raise _Refused(400, f"the page sends no such request ({error})") from None
        try:
            for one in _files_named(body):
                self.uploads.received(one, None)
        except UserError:
            raise _Refused(403, "the request names a file that was not uploaded") from None
        if route == "join" and not self._unread.begin(body["session_hash"]):
            raise _Refused(429, "this tab has not read the answers that it has asked for")
        left = [{"type": "http.request", "body": json.dumps(body).encode(), "more_body": False}]

        async def again() -> Any:
            return left.pop() if left else await receive()

        return again

    def _noted(self, scope: Any, send: Any) -> Any:
        """``send``, which notes what of the answers a tab has read."""
        if not scope["path"].startswith("/gradio_api/queue/data"):
            return send
        tab = parse_qs(scope["query_string"].decode("latin-1")).get("session_hash", [""])[0]

        async def noted(message: Any) -> None:
            await send(message)
            self._unread.read(tab, message.get("body", b""))

        return noted


def _in_time(receive: Any) -> Any:
    """``receive``, for which a browser that sends nothing more is gone."""

    async def received() -> Any:
        try:
            return await asyncio.wait_for(receive(), _BODY_SECONDS)
        except TimeoutError:
            return {"type": "http.disconnect"}

    return received


def _tell(error: Exception, scope: Any) -> None:
    """One line in the terminal, but for an upload that was cut and a tab from before a restart."""
    unknown = getattr(error.__cause__ or error, "status_code", None) == 404
    if not unknown and type(error).__name__ != "ClientDisconnect":
        told = escaped(f"{scope['method']} {scope['path']}: {type(error).__name__}: {error}")
        log.error("the page failed at %s", told, exc_info=log.isEnabledFor(logging.DEBUG))


class _Refused(Exception):
    def __init__(self, status: int, reason: str) -> None:
        self.status, self.reason = status, reason


def _files_named(body: Mapping[str, Any]) -> list[str]:
    """The paths of the files among an event's values."""
    return [file["path"] for one in body.get("data", ()) if isinstance(one, list) for file in one]


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
