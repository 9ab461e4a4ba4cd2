"""Looking at a study."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

import tuning.status
from tuning.status import StudyStatus, show


def test_ctrl_c_ends_the_looking_and_keeps_the_last_view(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning.status, "REFRESH_SECONDS", 0.0)
    now = StudyStatus("faces-1a2b3c4d", 4, 1, 0, 0, 1, 2, 0, "mean_auc", 0.75, None, None, [])
    looks: list[int] = []

    def look() -> StudyStatus:
        looks.append(len(looks))
        if len(looks) == 3:
            raise KeyboardInterrupt
        return now

    written = io.StringIO()
    show(look, live=True, console=Console(file=written))
    assert len(looks) == 3
    assert "1 of 4 done" in written.getvalue()


def test_what_a_trial_says_is_text_and_no_markup() -> None:
    trial = {"trial": 0, "state": "FAIL", "error": "[red]no face[/nothing] \x1b[31m" + "x" * 1000}
    now = StudyStatus("faces-1a2b3c4d", 4, 0, 0, 0, 1, 3, 0, "mean_auc", None, None, None, [trial])
    written = io.StringIO()
    show(lambda: now, live=False, console=Console(file=written, width=400))
    assert "[red]no face[/nothing]" in written.getvalue()
    assert "\x1b" not in written.getvalue()
    assert written.getvalue().count("x") < 400
