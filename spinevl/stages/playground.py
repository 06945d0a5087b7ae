"""A page in the browser that asks one checkpoint, until the command is interrupted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from spinevl.build.trust import NOTHING, Trust
from spinevl.config.plain import plain
from spinevl.schema.errors import UserError

DEMO = Path("outputs/demo/checkpoint")


def main(cfg: DictConfig, *, out: Path, trust: Trust = NOTHING) -> None:
    """Serve the page. Writes nothing but the cache of phantoms and a temporary folder.

    Raises:
        UserError: no checkpoint, a port that is taken, or Gradio is not installed.
    """
    from spinevl.config.check import from_plain
    from spinevl.config.options.playground import LimitOptions
    from spinevl.inference.api import load
    from spinevl.io.files import made_folder
    from spinevl.playground.engine import Engine
    from spinevl.playground.samples import phantom_samples
    from spinevl.playground.serve import server
    from spinevl.playground.uploads import Uploads

    config: Any = plain(cfg)
    checkpoint = config["checkpoint"] or _demo()
    limits = from_plain(LimitOptions, config["limits"], at="limits")
    model = load(checkpoint, batch_patients=1, trusted_targets=trust.targets)
    engine = Engine(model, limits)
    try:
        cache = made_folder(config["cache_dir"], "cache_dir")
        samples = phantom_samples(engine.layout, engine.slots, cache)
        with (
            Uploads(limits) as uploads,
            server(
                engine,
                uploads,
                samples,
                told=f"checkpoint {checkpoint}",
                host=config["host"],
                port=config["port"],
            ) as (_, address, run),
        ):
            print(f"the playground is at {address} until Ctrl-C; not for clinical use", flush=True)
            run()
    finally:
        engine.close()


def _demo() -> str:
    """The demo's checkpoint, which is told."""
    if not DEMO.is_dir():
        raise UserError(
            f"checkpoint is not set, and the demo's is not there ({DEMO}): make it with 'spinevl "
            "run experiment=demo hydra.run.dir=outputs/demo', or name another"
        )
    print(f"checkpoint is not set: asking the demo's, {DEMO}")
    return str(DEMO)
