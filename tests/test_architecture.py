"""Who may import whom, and that importing does no work."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

import spinevl

PACKAGE = Path(spinevl.__file__).parent
MODULES = {
    ".".join(("spinevl", *file.relative_to(PACKAGE).with_suffix("").parts)): file
    for file in sorted(PACKAGE.rglob("*.py"))
}

# from top to bottom; a package imports only packages that stand below its own line
LAYERS = (
    {"cli"},
    {"stages"},
    {"jobs"},
    {"training", "inference", "report"},
    {"evaluation", "checkpoints"},
    {"features", "data"},
    {"models", "sources"},
    {"config"},
    {"build"},
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


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_downwards(module: str) -> None:
    of = layer(module)
    ours = {layer(name) for name in imports(MODULES[module], module) if name.startswith("spinevl.")}
    if of in MAY_IMPORT:
        assert ours <= MAY_IMPORT[of] | {of}
    if of not in {"stages", "cli"}:
        assert "stages" not in ours
    if of not in KNOW_HYDRA:
        outside = {name.split(".")[0] for name in imports(MODULES[module], module)}
        assert not outside & {"hydra", "omegaconf"}


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
        or module in ("spinevl.cli.main", "spinevl.config.conf", "spinevl.stages.build")
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
