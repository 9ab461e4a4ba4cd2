"""The page docs/data.md: the layout that it shows works as it stands there, and it names every layout that there is."""

from __future__ import annotations

import re
from pathlib import Path

from faces.layouts import LAYOUTS
from faces.layouts.base import Entry, Options, Skip, Tree

PAGE = Path(__file__).parents[3] / "docs" / "data.md"


def test_the_layout_of_the_docs(tmp_path: Path) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert len(code.splitlines()) <= 40
    names: dict[str, object] = {}
    exec(compile(code, str(PAGE), "exec"), names)
    layout = names["Acme"]()  # type: ignore[operator]
    (tmp_path / "test.txt").write_text("ann\n")
    files = ("people/ann/1.mp4", "people/bob/1.mp4", "swaps/bob_on_ann/1.mp4", "notes.txt", "test.txt")
    tree = Tree(tmp_path, files, ("people", "swaps"))
    assert layout.recognise(tree).complete
    assert layout.recognise(Tree(tmp_path, files[2:3], ("swaps",))).missing == ("people/",)
    assert not layout.recognise(Tree(tmp_path, (), ())).found
    real, other, fake, stranger, listed = map(layout.rule(tree, Options()), files)
    assert isinstance(fake, Entry)
    assert (fake.label, fake.method, fake.original, fake.identity, fake.split) == (
        "fake", "swap", real.source, "ann;bob", "test",
    )  # fmt: skip
    assert (real.label, real.split, other.split) == ("real", "test", "train")
    assert isinstance(stranger, Skip)
    assert listed.known


def test_the_page_names_every_layout() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert [name for name in LAYOUTS if f"`{name}`" not in page] == []
