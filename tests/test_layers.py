"""The direction of imports within the package, and the files that a wheel holds."""

import ast
import tomllib
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest
from setuptools import find_packages

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "fastinfogan"
# From the top down: a module imports from its own layer and from those below. `training` and
# `terms` also import `networks`; what no layer names is a leaf that any of them may import.
LAYERS = (
    "commands",
    "sharing",
    "evaluation",
    "runs",
    "training",
    "presets",
    "config",
    "terms",
    "networks",
    "losses",
    "latents",
    "philox",
)
COMMANDS = {
    path.stem
    for path in PACKAGE.glob("*.py")
    if "def main(" in path.read_text() and path.stem not in ("__main__", "cli")
}
ABOVE_ALL = {"__init__", "__main__"}  # hand names on, start commands, run trainings


def modules() -> dict[str, Path]:
    names = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(ROOT).with_suffix("").parts
        names[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return names


MODULES = modules()


def imports_of(name: str, path: Path) -> set[str]:
    """Return the package's modules that one of them imports when it is imported itself."""
    package = name if path.stem == "__init__" else name.rpartition(".")[0]
    imported = set()
    tree = ast.parse(path.read_text())
    nodes = [node for node in tree.body if isinstance(node, ast.ImportFrom)]
    for node in nodes:
        base = package.split(".")[: len(package.split(".")) - (node.level - 1)]
        target = ".".join([*base, *([node.module] if node.module else [])])
        if not node.level:
            target = node.module or ""
        for alias in node.names:
            whole = f"{target}.{alias.name}"
            imported.add(whole if whole in MODULES else target)
    return {target for target in imported if target in MODULES}


IMPORTS = {name: imports_of(name, path) for name, path in MODULES.items()}


def layer_of(name: str) -> str | None:
    first = name.split(".")[1] if "." in name else "__init__"
    if first in COMMANDS:
        return "commands"
    return first if first in LAYERS else None


def test_the_commands_are_found():
    assert {"train", "evaluate", "sample"} <= COMMANDS


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_no_command_imports_another_command(name):
    other = {f"fastinfogan.{command}" for command in COMMANDS - {name}}
    assert not IMPORTS[f"fastinfogan.{name}"] & other


@pytest.mark.parametrize("name", sorted(n for n in MODULES if layer_of(n)))
def test_imports_point_down(name):
    own = LAYERS.index(layer_of(name) or "")
    above = [
        target
        for target in IMPORTS[name]
        if layer_of(target) and LAYERS.index(layer_of(target) or "") < own
    ]
    assert not above, f"{name} imports {above} from above"


def test_there_is_no_cycle():
    # A package's __init__ hands on the names of its modules, which may import siblings.
    graph = {
        name: {target for target in targets if not name.startswith(f"{target}.")}
        for name, targets in IMPORTS.items()
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"an import cycle: {' -> '.join(error.args[1])}")


def test_no_layer_imports_a_command():
    above = {f"fastinfogan.{command}" for command in COMMANDS}
    for name, targets in IMPORTS.items():
        if name.split(".")[-1] not in ABOVE_ALL and layer_of(name) != "commands":
            assert not targets & above, name


def test_at_most_22_modules_stand_directly_in_the_package():
    assert len([path for path in PACKAGE.glob("*.py") if path.stem != "__init__"]) <= 22


def test_a_wheel_holds_every_module_and_every_data_file():
    config = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    find = config["packages"]["find"]
    included = {name for where in find["where"] for name in find_packages(ROOT / where, ["tests"])}
    for folder in {path.parent for path in PACKAGE.rglob("*.py")}:
        assert ".".join(folder.relative_to(ROOT).parts) in included
    assert "fastinfogan_kernels" in included
    kept = {
        path for pattern in config["package-data"]["fastinfogan"] for path in PACKAGE.glob(pattern)
    }
    skipped = (".py", ".pyc")
    for path in PACKAGE.rglob("*"):
        if path.is_file() and path.suffix not in skipped:
            assert path in kept, f"{path} is in no wheel"
