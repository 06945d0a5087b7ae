"""Several processes that work on one job: started through torchrun, and ended with this one.

This process starts an *agent* (``spinevl.distributed.agent``, torchrun with a guard) on each
machine, and the agent its *workers* (``spinevl.distributed.entry``), one for each device. Whatever
ends this process ends them all. The first worker's lines go to the terminal; what each worker says
is kept in ``OUT/workers/``.
"""

from __future__ import annotations

import codecs
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from spinevl.io.cores import CORES, available_cores, machine_cores
from spinevl.io.machine import MEMORY_FIX
from spinevl.schema.errors import UserError, refused

FOLDER = "workers"
"""Below the job's folder: a log for each worker, and why it failed where it did."""

_MOST_A_CORE = 2  # each process has all libraries in memory; with many the machine stands still
_GRACE_S = 600  # what workers that are told to end have for saving
_FOREIGN = re.compile(
    r"MASTER_\w+|(LOCAL_|NODE_|GROUP_|ROLE_)?RANK|(LOCAL_|GROUP_|ROLE_)?WORLD_SIZE|ROLE_NAME"
    r"|TORCHELASTIC_\w+|TORCH_NCCL_ASYNC_ERROR_HANDLING|PL_GLOBAL_SEED|PL_SEED_WORKERS"
)


def launch(module: str, words: Sequence[str], *, out: Path, processes: int, nodes: int = 1) -> None:
    """Run ``module.work(words)`` in several processes at once, and wait for them.

    They find each other through torch.distributed's environment variables; ``joined`` of
    ``spinevl.distributed.group`` makes their group.

    Args:
        module: of ours, with a function ``work``; what is wrong with the input it raises as
            UserError.
        words: what ``work`` gets.
        out: the job's folder.
        processes: on each machine.
        nodes: how many machines of the SLURM job that this process belongs to.

    Raises:
        UserError: what a worker has raised; or one has failed in another way, with its exit code
            and its log.
        KeyboardInterrupt: this process was told to end; the workers were told first, and have
            ended.
    """
    command = _command(processes, nodes)
    folder = out / FOLDER
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    with subprocess.Popen(
        [*command, "-m", "spinevl.distributed.entry", module, str(folder), *words],
        env=environment(os.environ, processes),
        stdin=subprocess.PIPE,  # closed with this process: how agents elsewhere know
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,  # Ctrl-C comes to this process alone, which passes it on
    ) as agent:
        _wait(agent, folder / "0.log")
    if agent.returncode:
        raise _failure(folder, processes * nodes, agent.returncode)


def environment(present: Mapping[str, str], processes: int) -> dict[str, str]:
    """The variables of an agent: none of another launcher's, and its share of cores.

    ``python -m`` looks for modules in the working directory first. There it does so only where this
    process does too, as the command ``spinevl`` does not.

    Args:
        present: this process's.
        processes: that share the machine.
    """
    own = {name: value for name, value in present.items() if not _FOREIGN.fullmatch(name)}
    cores = str(max(1, available_cores() // processes))
    if str(Path.cwd()) not in {str(Path(one).absolute()) for one in sys.path}:
        own["PYTHONSAFEPATH"] = "1"
    return {"OMP_NUM_THREADS": cores, "TORCH_CPP_LOG_LEVEL": "ERROR", **own, CORES: cores}


def check_processes(key: str, count: int) -> None:
    """Refuse more processes on the CPU than the machine has room for.

    Args:
        key: that asks for them.
        count: how many it asks for.

    Raises:
        UserError: see above.
    """
    most = _MOST_A_CORE * (cores := machine_cores())
    if count > most:
        expected = f"at most {most} processes on the CPU, {_MOST_A_CORE} for each core"
        fix = f"write {key}={cores} or less"
        raise refused(f"{key}={count}", expected, f"{cores} cores", fix)


def check_nodes(nodes: int) -> None:
    """Refuse several machines where no SLURM job holds as many.

    Raises:
        UserError: see above.
    """
    if nodes == 1:
        return
    held = os.environ.get("SLURM_JOB_NUM_NODES") or os.environ.get("SLURM_NNODES") or "0"
    if not held.isdecimal() or int(held) < nodes or not shutil.which("srun"):
        found = f"a SLURM job of {held}" if held != "0" else "no SLURM job"
        fix = f"start the command in one (sbatch or salloc with --nodes={nodes})"
        raise refused(f"trainer.num_nodes={nodes}", "a SLURM job of as many nodes", found, fix)


def _command(processes: int, nodes: int) -> list[str]:
    agent = [sys.executable, "-m", "spinevl.distributed.agent"]
    run = [f"--nproc-per-node={processes}", f"--shutdown-timeout={_GRACE_S}"]
    if nodes == 1:
        return [*agent, str(os.getpid()), "--standalone", *run]
    check_nodes(nodes)
    with socket.socket() as free:
        free.bind(("", 0))
        endpoint = f"{socket.gethostname()}:{free.getsockname()[1]}"
    srun = ["srun", f"--nodes={nodes}", f"--ntasks={nodes}", "--ntasks-per-node=1"]
    if cores := os.environ.get("SLURM_CPUS_PER_TASK"):  # which srun does not take over by itself
        srun.append(f"--cpus-per-task={cores}")
    rendezvous = [f"--nnodes={nodes}", "--rdzv-backend=c10d", f"--rdzv-endpoint={endpoint}"]
    number = f"--rdzv-id={os.environ.get('SLURM_JOB_ID', '0')}"
    return [*srun, "--kill-on-bad-exit=1", *agent, "stdin", *rendezvous, number, *run]


def _wait(agent: subprocess.Popen[bytes], file: Path) -> None:
    """Until it has ended. Signals that tell this process to end go to the agent first."""
    teller = threading.Thread(target=_tell, args=(agent, file), name="worker 0", daemon=True)
    teller.start()
    with _passed_on(agent):
        try:
            agent.wait()
        except BaseException:
            _end(agent)
            raise
        finally:
            teller.join()


def _end(agent: subprocess.Popen[bytes]) -> None:
    """Wait for an agent that was told to end; a second Ctrl-C kills it, and with it its workers."""
    if agent.poll() is None:
        agent.send_signal(signal.SIGTERM)
    try:
        agent.wait(_GRACE_S + 60)
    except BaseException:
        agent.kill()
        raise


@contextmanager
def _passed_on(agent: subprocess.Popen[bytes]) -> Iterator[None]:
    """Pass SIGUSR1 on to the workers, and let SIGTERM raise KeyboardInterrupt where nobody does."""
    if threading.current_thread() is not threading.main_thread():  # Python takes signals there
        yield
        return

    def usr1(number: int, frame: Any) -> None:
        with suppress(ProcessLookupError):
            agent.send_signal(number)

    former = {signal.SIGUSR1: signal.signal(signal.SIGUSR1, usr1)}
    if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        former[signal.SIGTERM] = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


def _tell(agent: subprocess.Popen[bytes], file: Path) -> None:
    """Show and keep what the first worker writes, as it comes: a progress bar has no lines."""
    assert agent.stdout is not None
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    with file.open("ab", buffering=0) as kept:
        while text := agent.stdout.read1(2**16):  # type: ignore[attr-defined]
            with suppress(OSError):  # a full disk stops whoever needs the room
                kept.write(text)
            with suppress(OSError, ValueError):  # nobody reads any more
                sys.stderr.write(decoder.decode(text))
                sys.stderr.flush()


def _failure(folder: Path, processes: int, code: int) -> BaseException:
    """Why the workers failed: as they say themselves, or how the first to fail has ended."""
    told = [_read(file) for file in sorted(folder.glob("*.json"), key=_time)]
    for one in told:
        if problems := one.get("problems"):
            return UserError(problems)
    if not told:
        where = folder / "agent-0.log"
        return UserError(
            f"torchrun ended with exit code {code} and no worker's reason; see {where}"
        )
    crashed = [one for one in told if "error" in one]
    if not crashed and told[0].get("exit_code") == 128 + signal.SIGINT:
        return KeyboardInterrupt()  # a worker ends so after a signal, when all is saved
    if crashed:  # a fault of ours, or of a library
        print(crashed[0].get("stack", ""), file=sys.stderr, flush=True)
    ended = next((one for one in told if "exit_code" in one), {})
    number = crashed[0]["rank"] if crashed else ended.get("rank", 0)
    code = ended.get("exit_code", code) if ended.get("rank", number) == number else 1
    how = f"with exit code {code}"
    if code < 0:
        with suppress(ValueError):
            how = f"through {signal.Signals(-code).name}"
    why = f" ({crashed[0]['error']})" if crashed else ""
    if code == -signal.SIGKILL:
        why = f", for want of memory as a rule: {MEMORY_FIX}"
    return UserError(
        f"worker {number} of {processes} ended {how}{why}; its log: {folder / f'{number}.log'}"
    )


def _read(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError):  # it was killed as it wrote
        return {}
    return found if isinstance(found, dict) else {}


def _time(file: Path) -> tuple[int, str]:
    return file.stat().st_mtime_ns, file.name
