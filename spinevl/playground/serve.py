"""Serve the page until the command is interrupted."""

from __future__ import annotations

import errno
import ipaddress
import os
import secrets
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from spinevl.playground.engine import Engine
from spinevl.playground.guard import Guard
from spinevl.playground.page import make_app
from spinevl.playground.samples import Sample
from spinevl.playground.uploads import Uploads
from spinevl.playground.visitors import Visitors
from spinevl.schema.errors import UserError, refused

TOKEN = "SPINEVL_PLAYGROUND_TOKEN"
"""The environment variable of a token; without it one is drawn where one is needed."""

_CONNECTIONS = 256
_SHORTEST = 16


@contextmanager
def server(
    engine: Engine,
    uploads: Uploads,
    samples: Sequence[Sample],
    *,
    told: str,
    host: str,
    port: int,
) -> Iterator[tuple[Any, str, Callable[[], None]]]:
    """The server, ready to run.

    Args:
        engine, samples, told: see make_app.
        uploads: where what browsers send is kept.
        host: an address of this machine; beyond loopback a token is needed.
        port: 0 takes a free one.

    Yields:
        The server, the address to open, and what runs it.

    Raises:
        UserError: no such address, the port is taken, or Gradio is not installed.
    """
    loopback = is_loopback(host)
    token = token_for(loopback=loopback)
    visitors = Visitors(uploads)
    app, events = make_app(engine, visitors, samples, told=told)
    hosts = {"127.0.0.1", "localhost", "[::1]"} if loopback else None
    import uvicorn

    guard = Guard(app, uploads, events, hosts=hosts, token=token)

    class Server(uvicorn.Server):
        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            guard.stopping.set()
            await super().shutdown(sockets)

    with _listening(host, port) as listening, visitors:
        config = uvicorn.Config(
            guard,
            log_config=None,
            log_level="error",  # it warns of each request that is none
            ws="none",
            access_log=False,
            server_header=False,
            limit_concurrency=_CONNECTIONS,
            timeout_graceful_shutdown=2,
        )
        made = Server(config)
        address = _address(host, listening.getsockname()[1], token)
        yield made, address, lambda: made.run(sockets=[listening])


def _address(host: str, port: int, token: str | None) -> str:
    """What to open: where every address is served, this machine by its name."""
    name = socket.gethostname() if host in ("0.0.0.0", "::") else host
    name = f"[{name}]" if ":" in name else name
    return f"http://{name}:{port}/" + (f"?token={token}" if token else "")


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        raise refused(
            f"host={host}", "an address of this machine", "none", "write 127.0.0.1 or 0.0.0.0"
        ) from None


def token_for(*, loopback: bool) -> str | None:
    """What a browser must know: the one that was set, or a new one; None where none is needed."""
    token = os.environ.get(TOKEN)
    if token is not None and (len(token) < _SHORTEST or not token.isalnum()):
        raise UserError(
            f"{TOKEN}: expected {_SHORTEST} or more letters and digits, found {len(token)} "
            "characters; leave it unset, and one is drawn"
        )
    return token or (None if loopback else secrets.token_hex(16))


@contextmanager
def _listening(host: str, port: int) -> Iterator[socket.socket]:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    with listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((host, port))
        except OSError as error:
            reason = error.strerror or str(error)
            wanted, fix = "a free port", "choose another port"
            if error.errno == errno.EADDRNOTAVAIL or isinstance(error, socket.gaierror):
                wanted = "an address of this machine"
                fix = "write host=127.0.0.1, or 0.0.0.0 for all of them"
            raise refused(f"host={host} port={port}", wanted, reason, fix) from error
        yield listening
