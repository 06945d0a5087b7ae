"""``spinevl VERB [hydra flags and overrides]``: every verb is a Hydra app of its own.

Nothing heavy is imported here: Hydra comes in once a verb is known, torch inside the stage.
"""

from __future__ import annotations

import difflib
import logging
import os
import signal
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

from spinevl.cli.call_as import call_as
from spinevl.cli.verbs import ALONE, VERBS
from spinevl.io.memory import keep_memory
from spinevl.schema.errors import as_lines

USAGE = """\
usage: spinevl VERB [hydra flags] [key=value ...]

{verbs}

Every verb is a Hydra app: 'spinevl VERB --help' lists its groups and keys, '--cfg job' prints the
composed config, '-m' sweeps. 'spinevl completion bash' (or zsh, fish) prints a completion script.
'spinevl sbatch VERB -m ...' prints the script that SLURM would get for a sweep.

  spinevl run experiment=demo
  spinevl run -m 'sag_image=[6],[5,6,7]' seed=0,1
"""


def main(argv: Sequence[str] | None = None) -> int:
    """The console script. Returns the exit code: 0, 1 for a user's mistake, 2 for no verb."""
    if argv is None:  # the process is ours
        keep_memory()
    try:
        with _own_logging():
            code = _command(list(sys.argv[1:] if argv is None else argv))
        sys.stdout.flush()
    except BrokenPipeError:  # whoever read the output, such as head, has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    return code


@contextmanager
def _own_logging() -> Iterator[None]:
    """Leave the handlers of the root logger as they were: a job's log file may be gone by then."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        yield
    finally:
        for one in root.handlers:
            if one not in handlers:
                one.close()
        root.handlers[:] = handlers
        root.setLevel(level)


def _command(arguments: list[str]) -> int:
    first = arguments[0] if arguments else "--help"
    if first in ("-h", "--help", "help"):
        width = max(map(len, VERBS))
        print(USAGE.format(verbs="\n".join(f"  {v.ljust(width)}  {t}" for v, t in VERBS.items())))
        return 0
    if "--version" in arguments:
        from spinevl.jobs.provenance import code

        print(f"spinevl {code()}")
        return 0
    if first == "completion":
        return _completion(arguments[1:])
    if first == "sbatch":
        return _sbatch(arguments[1:])
    if first not in VERBS:
        close = difflib.get_close_matches(first, VERBS, 1)
        hint = f"did you mean {close[0]}? " if close else ""
        refuse([f"no verb {first!r}; {hint}verbs: {' '.join(VERBS)}"])
        return 2
    return _run_verb(first, arguments[1:])


def refuse(problems: Iterable[str]) -> None:
    """Print each problem on a line of its own."""
    for line in as_lines(list(problems)):
        print(f"spinevl: {line}", file=sys.stderr)


def _run_verb(verb: str, arguments: list[str]) -> int:
    """Run the verb's Hydra app; mistakes become lines, and what is our fault a traceback."""
    import hydra

    from spinevl.build.trust import Trust
    from spinevl.cli.callbacks import finish_leaderboard, log_sweep, sweep_over
    from spinevl.cli.job import Job, JobFailed
    from spinevl.cli.signals import stoppable
    from spinevl.cli.words import asks_for_sweep, flags_first, own_folders, sweep_words
    from spinevl.config.compose import register
    from spinevl.config.conf_dir import CONF_DIR
    from spinevl.schema.errors import UserError

    if (flag := _completion_flag(arguments)) is not None:
        return _completion(flag.split("=", 1)[::-1] if "query" not in flag else ["query", verb])
    register()
    arguments = flags_first(arguments)
    if {"--help", "-h"} & set(arguments):
        return _manual(verb, arguments)
    try:
        Trust.from_words(arguments)  # told here, before a sweep repeats it for every job
    except UserError as error:
        refuse(error.problems)
        return 1
    if verb in ALONE and asks_for_sweep(arguments):
        refuse([f"spinevl {verb} -m: expected one {verb}, found a sweep; leave out -m"])
        return 1
    if any(argument.startswith("--e") for argument in arguments):
        refuse(["--experimental-rerun reads a pickle, which can run code; repeat the command"])
        return 1
    own = next(iter(own_folders(arguments)), None)
    sweep = sweep_words(verb, arguments, own=own)
    job = Job(verb, tuple(arguments), sweep.lacking)
    sweep_over(job)
    app = hydra.main(config_path=str(CONF_DIR), config_name=verb, version_base="1.3")(job)
    wants_traceback = os.environ.get("HYDRA_FULL_ERROR") == "1"
    try:
        # told so, Hydra raises errors instead of printing their stack
        argv = [f"spinevl {verb}", *sweep.words]
        with stoppable() as stopped, call_as(argv, HYDRA_FULL_ERROR="1"):
            app()
        log_sweep()
    except KeyboardInterrupt:
        finish_leaderboard()
        log_sweep()
        refuse(["interrupted"])
        return stopped.code
    except SystemExit as stop:  # a job or Hydra's argument parser has said why
        return stop.code if isinstance(stop.code, int) else 1
    except JobFailed as error:
        log_sweep()
        refuse([str(error)])
        return 1
    except Exception as error:
        # Jobs catch their own errors, so this one is Hydra's: a config that does not compose.
        if wants_traceback:
            raise
        from spinevl.cli.config_errors import explain
        from spinevl.io.machine import machine_problem

        if problem := machine_problem(error):
            refuse([problem])
            return 1
        if type(error).__module__.startswith("submitit."):  # a job was cancelled, or its node died
            finish_leaderboard()
            refuse([f"a job of the sweep left no result: {str(error).splitlines()[0]}"])
            return 1
        refuse(explain(error, verb=verb, arguments=arguments))
        return 1
    return 0


def _manual(verb: str, arguments: list[str]) -> int:
    from spinevl.cli.config_errors import explain
    from spinevl.cli.help import page

    try:
        text = page(verb, arguments)
    except Exception as error:
        refuse(explain(error, verb=verb, arguments=arguments))
        return 1
    print(text)
    return 0


def _sbatch(arguments: Sequence[str]) -> int:
    """Print the script that SLURM would get for a command."""
    verb = arguments[0] if arguments else ""
    if verb not in VERBS:
        refuse([f"sbatch {verb}: expected a verb and what follows it, such as sbatch run -m ..."])
        return 2
    from spinevl.cli.config_errors import explain
    from spinevl.cli.sbatch import script
    from spinevl.cli.words import flags_first

    words = flags_first(arguments[1:])
    try:
        print(script(verb, words))
    except Exception as error:
        refuse(explain(error, verb=verb, arguments=words))
        return 1
    return 0


def _completion_flag(arguments: Sequence[str]) -> str | None:
    """``install=bash`` of ``-sc install=bash``, as Hydra spells it; None where not asked."""
    for flag in ("-sc", "--shell-completion", "--shell_completion"):
        if flag in arguments:
            rest = [a for a in arguments if "=" in a and a.split("=")[0] in _COMPLETION_ACTIONS]
            return rest[0] if rest else "install=bash"
    return None


_COMPLETION_ACTIONS = ("install", "uninstall", "query")


def _completion(arguments: Sequence[str]) -> int:
    from spinevl.cli import completion

    first = arguments[0] if arguments else ""
    if first == "query":
        print("\n".join(completion.query(os.environ.get("COMP_LINE", ""))))
        return 0
    if first in completion.SCRIPTS:
        uninstall = arguments[1:2] == ["uninstall"]
        print(completion.REMOVAL[first] if uninstall else completion.SCRIPTS[first])
        return 0
    refuse([f"completion {first}: choose a shell of {' '.join(completion.SCRIPTS)}"])
    return 2
