"""The layout that docs/data.md shows works as it stands there."""

from __future__ import annotations

import re
from pathlib import Path

from faces.layouts.base import Entry, Options, Skip, Tree

PAGE = Path(__file__).parents[3] / "docs" / "data.md"


def test_the_layout_of_the_docs() -> None:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    names: dict[str, object] = {}
    exec(compile(code, str(PAGE), "exec"), names)
    layout = names["MySet"]()  # type: ignore[operator]
    files = ("forged/p1_07.mp4", "genuine/p1_07.mp4", "notes.txt")
    tree = Tree(Path(), files, ("forged", "genuine"))
    assert layout.recognise(tree).complete
    assert layout.recognise(Tree(Path(), files[:1], ("forged",))).missing == ("the folder genuine",)
    assert not layout.recognise(Tree(Path(), (), ())).found
    fake, real, other = map(layout.rule(tree, Options()), files)
    assert isinstance(fake, Entry)
    assert isinstance(real, Entry)
    assert (fake.label, fake.method, fake.original, fake.persons) == ("fake", "forged", real.source, {"p1"})
    assert real.label == "real"
    assert isinstance(other, Skip)
