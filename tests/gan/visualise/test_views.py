"""The folder that `show` writes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from core.errors import UserError
from core.manifest import Manifest
from gan.checkpoint import load_generator
from gan.sampling import render
from gan.visualise import high_frequency_gap, mean_spectrum, show

PICTURES = {"grid.png", "mixing.png", "truncation.png", "interpolation.mp4", "interpolation.gif"}


def test_everything_is_written_and_the_spectra_are_those_of_the_train_reals(
    trained: Path, blobs: Manifest, cache: Path, tmp_path: Path
) -> None:
    made = show(trained, tmp_path, blobs, cache=cache, psi=0.9, seed=5, frames_between=2, device="cpu")
    assert {path.name for path in tmp_path.iterdir()} == PICTURES | {"spectra.png"}
    assert {path for path in made.values() if isinstance(path, Path)} == set(tmp_path.iterdir())
    reals = np.stack([np.asarray(Image.open(file).resize((16, 16), Image.Resampling.BICUBIC)) for file in blobs.files])
    fakes = render(load_generator(trained), range(5, 5 + len(blobs)), 0.9)
    expected = high_frequency_gap(mean_spectrum(reals), mean_spectrum(fakes))
    assert made["high_frequency_gap"] == pytest.approx(expected, abs=1e-6)


def test_without_photographs_there_are_no_spectra(trained: Path, tmp_path: Path) -> None:
    made = show(trained, tmp_path / "new", cache=tmp_path / "cache", frames_between=1, device="cpu")
    assert {path.name for path in (tmp_path / "new").iterdir()} == PICTURES
    assert "high_frequency_gap" not in made
    grid = np.asarray(Image.open(tmp_path / "new" / "grid.png"))
    assert np.array_equal(grid[:16, 16:32], render(load_generator(trained), range(2), 0.7)[1])


def test_too_few_reals_and_wrong_numbers_are_refused(
    trained: Path, blobs: Manifest, cache: Path, tmp_path: Path
) -> None:
    few = blobs.where(np.arange(len(blobs)) < 15)
    with pytest.raises(UserError, match="15 real faces in the train split"):
        show(trained, tmp_path, few, cache=cache)
    with pytest.raises(UserError, match=r"psi 2\.5"):
        show(trained, tmp_path, cache=cache, psi=2.5)
    with pytest.raises(UserError, match="seed -1"):
        show(trained, tmp_path, cache=cache, seed=-1)
    with pytest.raises(UserError, match="no generator at"):
        show(tmp_path / "nowhere", tmp_path, cache=cache)
    assert not list(tmp_path.iterdir())
