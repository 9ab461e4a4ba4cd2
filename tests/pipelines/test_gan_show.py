"""`counterforge gan show`, called as a user calls it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gan.checkpoint import GeneratorCard, save_generator
from pipelines.cli import main


def call(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr("sys.argv", ["counterforge", "gan", "show", *words])
    with pytest.raises(SystemExit) as end:
        main()
    return int(end.value.code or 0)


def test_show_writes_and_names_its_pictures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    card = GeneratorCard(
        image_size=16,
        channels={4: 8, 8: 8, 16: 8},
        z_width=8,
        w_width=8,
        mapping_depth=1,
        noise_inputs=False,
        manifest="none",
        kimg=0,
    )
    folder = save_generator(card.build(), card, tmp_path / "generator")
    out = tmp_path / "out"
    assert call(monkeypatch, str(folder), "--out", str(out), "--frames", "1", "--device", "cpu", "--json") == 0
    made = json.loads(capsys.readouterr().out)
    assert sorted(made.values()) == sorted(str(path) for path in out.iterdir())

    assert call(monkeypatch, str(folder), "--out", str(out), "--manifest", str(tmp_path / "nowhere")) == 2
    assert "nowhere" in capsys.readouterr().err
