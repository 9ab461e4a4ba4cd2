"""Names that reach a path."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.names import MOST_BYTES, checked, file_name, is_safe, leads_away

BAD = [
    "",
    " ",
    ".",
    "..",
    ".hidden",
    "a/b",
    "a\\b",
    "../../../x",
    "/etc",
    "a\0b",
    "a\nb",
    "\x1b[31m",
    "x" * 101,
    "é" * 51,
]


@pytest.mark.parametrize("name", BAD)
def test_a_bad_name_is_refused_and_can_be_made_safe(name: str) -> None:
    with pytest.raises(ValueError, match="cannot be a folder's"):
        checked(name)
    assert is_safe(file_name(name))


@pytest.mark.parametrize("name", ["ff++", "Celeb-DF (v2)", "orl-swap", "a..b", "Gesichter-älter", "x" * MOST_BYTES])
def test_a_good_name_stays_as_it_is(name: str) -> None:
    assert checked(name) == file_name(name) == name


@given(st.text(max_size=300))
def test_any_text_becomes_a_name_within_the_folder(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    folder = tmp_path_factory.getbasetemp() / "names"
    name = file_name(text)
    assert is_safe(name)
    assert (folder / name).resolve().parent == folder.resolve()
    assert Path(name).name == name


def test_two_names_that_look_alike_stay_apart() -> None:
    assert len({file_name(name) for name in ("a/b", "a\\b", "a-b", "a//b")}) == 4


@pytest.mark.parametrize(
    ("name", "away"),
    [
        ("../x", True),
        ("a/../b", True),
        ("a\\..\\b", True),
        ("/a", True),
        ("a\0", True),
        ("a/b", False),
        ("a..b", False),
    ],
)
def test_what_leads_away(name: str, away: bool) -> None:
    assert leads_away(name) is away
