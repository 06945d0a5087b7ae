"""Shell completion for an app with verbs.

Hydra completes ``prog overrides``; ours is ``spinevl VERB overrides``. So the shell hands us the
whole line, we complete the verb ourselves and give Hydra the line without it.
"""

from __future__ import annotations

import contextlib
import io

_BASH = """\
_spinevl_complete() {
    local line="${COMP_LINE:0:$COMP_POINT}" choice
    local word="${line##* }" cut=""
    # where "=" ends a shell word, only what stands behind it is to be completed
    case "$COMP_WORDBREAKS" in *=*) case "$word" in *=*) cut="${word%=*}=" ;; esac ;; esac
    COMPREPLY=()
    while IFS= read -r choice; do
        case "$choice" in "$word"*) COMPREPLY+=("${choice#"$cut"}") ;; esac
    done < <(COMP_LINE="$line" spinevl completion query 2>/dev/null)
}
complete -o nospace -o default -F _spinevl_complete spinevl"""

_ZSH = f"autoload -U +X bashcompinit && bashcompinit\n{_BASH}"

_FISH = """\
complete -c spinevl -f -a \
    '(env COMP_LINE=(commandline -cp) spinevl completion query 2>/dev/null)'"""

SCRIPTS = {"bash": _BASH, "zsh": _ZSH, "fish": _FISH}
REMOVAL = {
    "bash": "complete -r spinevl; unset -f _spinevl_complete",
    "zsh": "compdef -d spinevl; unfunction _spinevl_complete",
    "fish": "complete -c spinevl -e",
}


def query(line: str) -> list[str]:
    """What may stand at the end of a command line such as ``spinevl run enc``."""
    from spinevl.cli.verbs import VERBS

    words = line.split()
    ended = line.endswith(" ")
    if len(words) < 2 or (len(words) == 2 and not ended):
        start = words[1] if len(words) == 2 else ""
        return [f"{verb} " for verb in VERBS if verb.startswith(start)]
    if words[1] not in VERBS:
        return []
    rest = " ".join(words[2:]) + (" " if ended and words[2:] else "")
    return _ask_hydra(words[1], f"spinevl {rest}")


def _ask_hydra(verb: str, line: str) -> list[str]:
    import hydra

    from spinevl.cli.call_as import call_as
    from spinevl.config.compose import register
    from spinevl.config.conf_dir import CONF_DIR

    register()
    answer = io.StringIO()
    try:
        with (
            call_as(["spinevl", "-sc", "query=bash"], COMP_LINE=line),
            contextlib.redirect_stdout(answer),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            hydra.main(config_path=str(CONF_DIR), config_name=verb, version_base="1.3")(
                lambda cfg: None
            )()
    except (Exception, SystemExit):  # a line that does not compose has no completion
        return []
    words = answer.getvalue().split()
    hidden = ("hydra/", "hydra.") if "hydra" not in line else ()
    return [word for word in words if not word.startswith(hidden)] if hidden else words
