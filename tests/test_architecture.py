"""Who may import whom, and that importing does no work."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import spinevl

PACKAGE = Path(spinevl.__file__).parent
DOCS = Path(__file__).parents[1] / "docs"
MODULES = {
    ".".join(("spinevl", *file.relative_to(PACKAGE).with_suffix("").parts)): file
    for file in sorted(PACKAGE.rglob("*.py"))
}

# from top to bottom; a package imports only packages that stand below its own line
LAYERS = (
    {"cli"},
    {"stages"},
    {"jobs"},
    {"training", "playground"},
    {"inference", "report"},
    {"evaluation", "checkpoints"},
    {"features", "data"},
    {"models", "sources"},
    {"config"},
    {"build"},
    {"distributed"},
    {"io"},
    {"schema"},
)
KNOW_HYDRA = {"cli", "config", "stages"}


def imports(file: Path, module: str, *, top_level_only: bool = False) -> set[str]:
    """Absolute names of what a file imports, except for type checking."""
    tree = ast.parse(file.read_text("utf-8"))
    nodes = list(tree.body) if top_level_only else list(ast.walk(tree))
    for_types = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        for inner in ast.walk(node)
    }
    found = set()
    for node in nodes:
        if id(node) in for_types:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def layer(module: str) -> str:
    """``spinevl.sources.cervai`` -> ``data``"""
    return ([*module.split("."), ""])[1]


RANK = {package: rank for rank, line in enumerate(LAYERS) for package in line}


def own_imports(module: str) -> set[str]:
    """The modules of ours that a module imports."""
    named = {name for name in imports(MODULES[module], module) if name.startswith("spinevl.")}
    return {name if name in MODULES else name.rpartition(".")[0] for name in named}


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_downwards(module: str) -> None:
    own = layer(module)
    if own in ("__init__", "__main__"):
        return
    for name in own_imports(module):
        other = layer(name)
        assert other == own or RANK[other] > RANK[own], f"{module} imports {name}"
    if own not in KNOW_HYDRA:
        outside = {name.split(".")[0] for name in imports(MODULES[module], module)}
        assert not outside & {"hydra", "omegaconf"}


def test_no_import_goes_round_in_a_circle() -> None:
    waiting = {module: own_imports(module) & set(MODULES) for module in MODULES}
    while free := {module for module, needs in waiting.items() if not needs}:
        waiting = {m: needs - free for m, needs in waiting.items() if m not in free}
    assert not waiting


def test_the_picture_shows_the_layers() -> None:
    """``docs/architecture.svg``: a box for each line, from top to bottom."""
    boxes = (DOCS / "architecture.svg").read_text("utf-8").split("<rect x=")[1:]
    shown = [set(re.findall(r'class="name"[^>]*>(\w+)<', box)) for box in boxes]
    assert tuple(shown) == LAYERS


def test_the_page_names_files_that_exist() -> None:
    """Every path in backticks; names in capitals stand for the reader's own."""
    page = (DOCS / "architecture.md").read_text("utf-8")
    named = [one for one in re.findall(r"`([\w./]+)`", page) if "/" in one or one.endswith(".py")]
    named = [one for one in named if not re.search(r"[A-Z]{2}", one) and "my_" not in one]
    assert len(named) > 30
    roots = (DOCS.parent, PACKAGE)
    assert [one for one in named if not any((root / one).exists() for root in roots)] == []


def test_no_stage_imports_a_stage() -> None:
    stages = [module for module in MODULES if layer(module) == "stages"]
    assert stages
    for module in stages:
        assert not {name for name in own_imports(module) if layer(name) == "stages"}


def test_the_command_line_is_light_at_import() -> None:
    for module in ("spinevl", "spinevl.cli.main", "spinevl.__main__"):
        file = MODULES.get(module, PACKAGE / "__init__.py")
        heads = {name.split(".")[0] for name in imports(file, module, top_level_only=True)}
        assert not heads & {"torch", "numpy", "hydra", "omegaconf", "transformers", "matplotlib"}


def test_scoring_and_building_load_no_torch() -> None:
    """One process imports them all and says what came along."""
    light = [
        module
        for module in MODULES
        if layer(module) in ("schema", "evaluation")
        or module in ("spinevl.cli.main", "spinevl.config.tasks", "spinevl.stages.build")
        or module in ("spinevl.stages.evaluate", "spinevl.cli.callbacks", "spinevl.cli.help")
    ]
    code = (
        "import importlib, json, logging, os, random, sys\n"
        "state = random.getstate(), dict(os.environ), list(logging.getLogger().handlers)\n"
        f"for name in {light!r}: importlib.import_module(name)\n"
        "assert state == (random.getstate(), dict(os.environ), logging.getLogger().handlers)\n"
        "print(json.dumps([m for m in ('torch', 'transformers', 'pytorch_lightning', 'matplotlib')"
        " if m in sys.modules]))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert json.loads(result.stdout.splitlines()[-1]) == []


def test_configs_of_hydra_stay_above() -> None:
    """Below ``cli``, ``config`` and ``stages`` everything works on plain data and typed specs."""
    for module, file in MODULES.items():
        if layer(module) not in KNOW_HYDRA:
            text = file.read_text("utf-8")
            assert not {"DictConfig", "ListConfig"} & set(re.findall(r"\w+", text)), module


def test_options_are_compared_by_their_text() -> None:
    """In Python an option may be told as a text, which equals the member of its enum."""
    for module, file in MODULES.items():
        found = re.findall(r"\bis (?:not )?[A-Z][A-Za-z]+\.[a-z_]+\b", file.read_text("utf-8"))
        assert not found, module


def test_a_stage_is_short() -> None:
    for module in (module for module in MODULES if layer(module) == "stages"):
        for node in ast.walk(ast.parse(MODULES[module].read_text("utf-8"))):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                assert node.end_lineno is not None
                lines = node.end_lineno - node.lineno + 1
                assert lines <= 45, f"{module}.{node.name} has {lines} lines"
