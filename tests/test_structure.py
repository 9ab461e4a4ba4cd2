"""The house: no circle of files, no crowded folder, and a page about it whose paths exist."""

from __future__ import annotations

import ast
import re
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("core", "metrics", "faces", "tracking", "gan", "classifier", "tuning", "pipelines")
MOST_FILES = 15
FILES = sorted(file for package in PACKAGES for file in (ROOT / package).rglob("*.py"))


def module(file: Path) -> str:
    return file.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".").removesuffix(".__init__")


def imported(file: Path, modules: set[str]) -> set[str]:
    """Our modules that a file imports, inside functions too; not those that only a type checker needs."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body = []
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    found = names & modules
    return {name for name in found if not any(other.startswith(f"{name}.") for other in found)}


def test_no_circle_of_files() -> None:
    modules = {module(file) for file in FILES}
    graph = {module(file): imported(file, modules) - {module(file)} for file in FILES}
    assert graph["pipelines.run"] >= {"tuning.study"}
    TopologicalSorter(graph).prepare()  # raises CycleError, which names the circle


@pytest.mark.parametrize("folder", sorted({file.parent for file in FILES}), ids=lambda folder: folder.name)
def test_no_folder_is_crowded(folder: Path) -> None:
    assert len(list(folder.glob("*.py"))) <= MOST_FILES


def test_what_the_page_on_architecture_names_exists() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    paths = re.findall(r"`([\w/]+(?:/|\.py|\.yaml|\.md))`", page)
    assert len(paths) > 30
    assert [path for path in paths if not (ROOT / path).exists()] == []
    for name, path in re.findall(r"`([A-Z_]+)` (?:in|of) `([\w/]+\.py)`", page):
        assert re.search(rf"^{name}\b", (ROOT / path).read_text(encoding="utf-8"), re.MULTILINE), f"{name} in {path}"
