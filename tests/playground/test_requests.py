"""Many requests of several clients at the server itself: nothing fails and nothing grows."""

from __future__ import annotations

import gc
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import psutil
import pytest
from http_client import Client, served
from PIL import Image

from spinevl.config.options.playground import LimitOptions
from spinevl.inference.api import SpineModel
from spinevl.playground.engine import Engine
from spinevl.playground.uploads import Uploads

pytestmark = pytest.mark.browser


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

    with Uploads(limits, parent=tmp_path) as uploads, served(engine, uploads) as address:
        clients = [Client(address) for _ in "abcd"]

        def visit(who: int, numbers: range) -> None:
            for number in numbers:
                clients[who].visit("abcd"[who], number, images)

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(visit, range(4), [range(12)] * 4))
            before = held()
            list(pool.map(visit, range(4), [range(12, 62)] * 4))
            after = held()
        assert after[0] - before[0] < 30e6
        assert max(after[1] - before[1], after[2] - before[2]) <= 4  # what the server keeps for use
        folders = [one for one in uploads.folder.iterdir() if one != uploads.incoming]
        assert len(folders) <= limits.visitors
    engine.close()
