"""What a job needs to let vLLM write: the LLM in a folder while it answers, and a process."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path

from spinevl.build.trust import NOTHING, Trust
from spinevl.checkpoints.decoder import write_decoder
from spinevl.checkpoints.load import load_checkpoint
from spinevl.config.options import Engine, PredictOptions
from spinevl.inference.precision import held_in, ready
from spinevl.inference.spec import FOLDER, PredictSpec
from spinevl.inference.vllm_process import VLLMProcess, vllm_version
from spinevl.io.temporary import remove

log = logging.getLogger(__name__)

_LLM = "llm"


def version_for(options: PredictOptions, trust: Trust) -> str | None:
    """The version of vLLM that generates; None where none is asked for. See vllm_version."""
    return vllm_version(trust.vllm_python) if options.engine == Engine.vllm else None


@contextmanager
def llm_in(out: Path, spec: PredictSpec, *, trust: Trust = NOTHING) -> Iterator[None]:
    """Keep the LLM of a checkpoint in a job's folder, where the processes of vLLM read it.

    Raises:
        UserError: an LLM that vLLM cannot be given.
    """
    folder = out / FOLDER / _LLM
    remove(folder)  # of a job that was killed
    try:
        held = held_in(spec.options.precision)
        loaded = load_checkpoint(Path(spec.checkpoint), allowed=trust.allowed, held=held)
        llm = ready(loaded.model, spec.options.precision).llm
        del loaded
        write_decoder(folder, llm)
        del llm
        log.info("vLLM %s writes the answers", spec.vllm)
        yield
    finally:
        remove(folder)
        with suppress(OSError):  # what else is there is told of elsewhere
            folder.parent.rmdir()


def process_for(
    spec: PredictSpec,
    *,
    out: Path,
    trust: Trust,
    device: str | None = None,
    rank: int = 0,
    of: int = 1,
) -> AbstractContextManager[VLLMProcess | None]:
    """The vLLM of one of ``of`` processes that answer, which starts when it is needed.

    None where the options ask for none.
    """
    if spec.options.engine != Engine.vllm:
        return nullcontext()
    return VLLMProcess(
        trust.vllm_python,
        model=(out / FOLDER / _LLM).absolute(),
        prompts=(out / FOLDER / f"prompts-{rank}").absolute(),
        log=out / ("vllm.log" if of == 1 else f"vllm.{rank}.log"),
        device=device or spec.device,
    )
