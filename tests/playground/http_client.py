"""The server as it is, and what the page in a browser sends to it."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from spinevl.playground.engine import Engine
from spinevl.playground.samples import Sample
from spinevl.playground.serve import server
from spinevl.playground.uploads import Uploads


@contextmanager
def served(engine: Engine, uploads: Uploads, samples: Sequence[Sample] = ()) -> Iterator[str]:
    """The address of a server that runs in a thread of its own."""
    with server(engine, uploads, samples, told="a tiny model", host="127.0.0.1", port=0) as (
        made,
        address,
        run,
    ):
        thread = threading.Thread(target=run)
        thread.start()
        while not made.started:
            thread.join(0.02)
        try:
            yield address
        finally:
            made.should_exit = True
            thread.join()


class Client:
    """What the page in a browser sends."""

    def __init__(self, address: str) -> None:
        import httpx

        self.http = httpx.Client(base_url=address, timeout=60)
        config = self.http.get("/config").json()
        named = {one["props"].get("elem_id"): one["id"] for one in config["components"]}
        steps = config["dependencies"]
        (self.take,) = (one["id"] for one in steps if one["inputs"][:1] == [named["patient"]])
        (self.show,) = (one["id"] for one in steps if one["inputs"][:1] == [named["images"]])
        (self.study,) = (one["id"] for one in steps if [named["ask-study"], "click"] in
                         one["targets"])  # fmt: skip
        (self.ask,) = (one["id"] for one in steps if [named["ask"], "click"] in one["targets"])
        self.steps: dict[int, int] = {one["id"]: len(one["inputs"]) for one in steps if
                                      one["backend_fn"]}  # fmt: skip

    def join(self, tab: str, step: int, *data: Any, **more: Any) -> Any:
        """Begin an event."""
        body = {"data": data, "fn_index": step, "session_hash": tab, **more}
        return self.http.post("/gradio_api/queue/join", json=body)

    def call(self, tab: str, step: int, *data: Any) -> str:
        """Begin an event, and wait for what it ends with."""
        assert self.join(tab, step, *data).status_code == 200
        return self.read(tab)

    def read(self, tab: str) -> str:
        """Wait for what an event ends with."""
        with self.http.stream("GET", f"/gradio_api/queue/data?session_hash={tab}") as stream:
            for line in stream.iter_lines():
                if '"process_completed"' in line:
                    told = json.loads(line.removeprefix("data:"))
                    assert told["success"], told
                    return str(told["output"])
        raise AssertionError("no answer")

    def upload(self, *files: tuple[str, bytes]) -> Any:
        """Send files; what the server answers."""
        return self.http.post("/gradio_api/upload", files=[("files", one) for one in files])

    def send(self, tab: str, step: int, *files: tuple[str, bytes]) -> str:
        """Send files, and hand them to an event; what the visitor is told."""
        answer = self.upload(*files)
        if answer.status_code != 200:
            return str(answer.text)
        taken = [{"path": one, "meta": {"_type": "gradio.FileData"}} for one in answer.json()]
        return self.call(tab, step, taken, *["C2-C3"] * (self.steps[step] - 1))

    def visit(self, who: str, number: int, images: list[Path]) -> None:
        """A visit in a new tab."""
        tab = f"{who}{number}"
        if number % 4:
            assert "Model" in self.call(tab, self.ask, "Hello?", 0, 1, 3, 1)
            return
        sent = [(one.name, one.read_bytes()) for one in images]
        assert "sagittal slice 6" in self.send(tab, self.take, *sent)
        assert "spine-bar" in self.call(tab, self.study, "C2-C3")
