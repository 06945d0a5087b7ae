"""``predict`` with two processes of its own: equal answers, and none lost when it is killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from spinevl.build.trust import Trust
from spinevl.build.user_modules import serve
from spinevl.config.compose import compose
from spinevl.stages import predict, train

pytestmark = pytest.mark.distributed

SIDE = 64
SHARES = ".predictions.dev.*-of-2.jsonl"
PATIENTS = 24
SLOW = """
import os, time
from spinevl.models.encoder.tiny import TinyEncoder

class SlowEncoder(TinyEncoder):
    def transform(self, image):
        time.sleep(float(os.environ.get("SPINEVL_TEST_SLOW", "0")))
        return super().transform(image)
"""
TRUST = Trust(("slow_parts",))


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of 4 patients with an encoder of the user's own, and 24 more for dev."""
    folder = tmp_path_factory.mktemp("devices")
    (folder / "conf").mkdir()
    (folder / "conf/slow_parts.py").write_text(SLOW)
    serve(TRUST, [folder / "conf"])
    rng = np.random.default_rng(0)
    labels = [{"id": f"p{k:02d}", "qd": k % 3} for k in range(4 + PATIENTS)]
    for one in labels:
        file = folder / "images" / str(one["id"]) / "sag/6.png"
        file.parent.mkdir(parents=True)
        Image.fromarray(rng.integers(0, 255, (SIDE, SIDE), dtype=np.uint8)).save(file)
    (folder / "labels.json").write_text(json.dumps(labels))
    words = [
        *("data=cervai", f"data.labels={folder}/labels.json", f"data.train_images={folder}/images"),
        *(f"data.side_px={SIDE}", "data.slices=[6]", "task=[qd]", "split=head", "split.n_train=4"),
        *("trainer.max_epochs=1", "trainer.progress_bar=false", "trainer.accelerator=cpu"),
        *(f"encoder.image_size={SIDE}", "encoder.dim=16", "encoder.widths=[8,8,16]", "warmup=none"),
        *("llm.width=32", "llm.layers=1", "llm.heads=2", f"cache_dir={folder}/cache"),
        *("encoder._target_=slow_parts.SlowEncoder", "trusted_targets=[slow_parts]"),
    ]
    (folder / "job").mkdir()
    train.main(compose("train", words), out=folder / "job", trust=TRUST)
    return folder


def words(work: Path) -> list[str]:
    asked = [f"checkpoint={work}/job/checkpoint", "subset=dev", f"cache_dir={work}/cache"]
    return [*asked, "predict.batch_size=1", "trusted_targets=[slow_parts]"]


def started(work: Path, out: str, *, slow_s: float = 0) -> subprocess.Popen[str]:
    """The command on two devices."""
    spinevl = [sys.executable, "-m", "spinevl", "predict", "--config-dir", f"{work}/conf"]
    own = {"CUDA_VISIBLE_DEVICES": "", "SPINEVL_TEST_MARK": f"{work}/{out}"}
    return subprocess.Popen(
        [*spinevl, *words(work), "predict.devices=2", f"hydra.run.dir={work}/{out}"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, **own, "SPINEVL_TEST_SLOW": str(slow_s)},
    )


@pytest.fixture(scope="module")
def one(work: Path) -> bytes:
    """What one device writes."""
    (work / "one").mkdir()
    predict.main(compose("predict", words(work)), out=work / "one", trust=TRUST)
    return (work / "one/predictions.jsonl").read_bytes()


def test_two_processes_write_what_one_device_writes(work: Path, one: bytes) -> None:
    with started(work, "two") as process:
        said, _ = process.communicate(timeout=150)
    assert process.returncode == 0, said
    assert (work / "two/predictions.jsonl").read_bytes() == one
    assert not list((work / "two").glob(".predict*"))


def test_a_killed_job_goes_on_with_the_same_command(work: Path, one: bytes) -> None:
    out = work / "killed"
    with started(work, "killed", slow_s=0.25) as process:
        deadline = time.monotonic() + 120
        while process.poll() is None and not written(out) and time.monotonic() < deadline:
            time.sleep(0.01)
        process.kill()
        process.communicate()
    assert process.returncode == -signal.SIGKILL
    deadline = time.monotonic() + 20
    while (alive := marked(str(out))) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert alive == []
    kept = written(out)
    assert 0 < kept < PATIENTS
    with started(work, "killed") as process:
        said, _ = process.communicate(timeout=150)
    assert process.returncode == 0, said
    assert f"goes on from {kept} of {PATIENTS} answers in {out}" in said
    assert (out / "predictions.jsonl").read_bytes() == one
    assert not list(out.glob(".predict*"))


def written(out: Path) -> int:
    """How many answers lie in the shares."""
    return sum(file.read_bytes().count(b"\n") for file in out.glob(SHARES))


def marked(mark: str) -> list[int]:
    """The processes of the killed command that still run."""
    found = []
    for one in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            state = (one / "stat").read_text().rpartition(")")[2].split()[0]
            if state not in "ZX" and mark.encode() in (one / "environ").read_bytes():
                found.append(int(one.name))
    return found
