"""Many requests of several clients at the server itself: nothing fails and nothing grows."""

from __future__ import annotations

import gc
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from PIL import Image

from spinevl.config.options.playground import LimitOptions
from spinevl.inference.api import SpineModel
from spinevl.playground.engine import Engine
from spinevl.playground.serve import server
from spinevl.playground.uploads import Uploads

pytestmark = pytest.mark.browser


class Client:
    """What the page in a browser sends, in a new tab for each request."""

    def __init__(self, address: str) -> None:
        import httpx

        self.http = httpx.Client(base_url=address, timeout=60)
        config = self.http.get("/config").json()
        named = {one["props"].get("elem_id"): one["id"] for one in config["components"]}
        steps = config["dependencies"]
        (self.take,) = (one["id"] for one in steps if one["inputs"][:1] == [named["patient"]])
        (self.study,) = (one["id"] for one in steps if [named["ask-study"], "click"] in
                         one["targets"])  # fmt: skip
        (self.ask,) = (one["id"] for one in steps if [named["ask"], "click"] in one["targets"])

    def call(self, tab: str, step: int, *data: Any) -> str:
        body = {"data": data, "fn_index": step, "session_hash": tab}
        assert self.http.post("/gradio_api/queue/join", json=body).status_code == 200
        with self.http.stream("GET", f"/gradio_api/queue/data?session_hash={tab}") as stream:
            for line in stream.iter_lines():
                if '"process_completed"' in line:
                    told = json.loads(line.removeprefix("data:"))
                    assert told["success"], told
                    return str(told["output"])
        raise AssertionError("no answer")

    def visit(self, who: str, number: int, images: list[Path]) -> None:
        tab = f"{who}{number}"
        if number % 4:
            assert "Model" in self.call(tab, self.ask, "Hello?", 0, 1, 3, 1)
            return
        sent = [("files", (one.name, one.read_bytes())) for one in images]
        paths = self.http.post("/gradio_api/upload", files=sent).json()
        files = [{"path": one, "meta": {"_type": "gradio.FileData"}} for one in paths]
        assert "sagittal slice 6" in self.call(tab, self.take, files, "C2-C3")
        assert "spine-bar" in self.call(tab, self.study, "C2-C3")


def test_200_requests_of_4_clients(spine_model: SpineModel, tmp_path: Path) -> None:
    limits = LimitOptions(visitors=20)
    engine = Engine(spine_model, limits)
    rng = np.random.default_rng(0)
    images = []
    for slot in engine.slots:
        name = "sag_6.png" if slot == 6 else f"tra_{str(slot).replace('C', '')}.png"
        images.append(tmp_path / name)
        Image.fromarray(rng.integers(0, 256, (64, 64), dtype=np.uint8)).save(images[-1])
    process = psutil.Process()

    def held() -> tuple[int, int, int]:
        gc.collect()
        return process.memory_info().rss, process.num_fds(), threading.active_count()

    with (
        Uploads(limits, parent=tmp_path) as uploads,
        server(engine, uploads, [], told="", host="127.0.0.1", port=0) as (made, address, run),
    ):
        thread = threading.Thread(target=run)
        thread.start()
        while not made.started:
            thread.join(0.02)
        clients = [Client(address) for _ in "abcd"]

        def visit(who: int, numbers: range) -> None:
            for number in numbers:
                clients[who].visit("abcd"[who], number, images)

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(visit, range(4), [range(20)] * 4))
            before = held()
            list(pool.map(visit, range(4), [range(20, 70)] * 4))
            after = held()
        assert after[0] - before[0] < 30e6
        assert max(after[1] - before[1], after[2] - before[2]) <= 4  # what the server keeps for use
        folders = [one for one in uploads.folder.iterdir() if one != uploads.incoming]
        assert len(folders) <= limits.visitors
        made.should_exit = True
        thread.join()
    engine.close()
