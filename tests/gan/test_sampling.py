"""Samples: the same face for the same seed, and a row that says where it came from."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from core.errors import UserError
from core.manifest import Manifest
from gan.checkpoint import generator_digest, load_generator
from gan.sampling import render, sample_grid, sample_screened


def test_rows_name_the_generator_and_seed_of_each_face(trained: Path, tmp_path: Path) -> None:
    manifest = sample_screened(trained, 3, 0.7, tmp_path, first_seed=3).manifest
    rows = manifest.rows
    digest = generator_digest(trained)
    assert rows["seed"].tolist() == [3, 4, 5]
    assert rows["source"].tolist() == [f"gan-{digest}-{seed}" for seed in (3, 4, 5)]
    assert set(rows["generator"]) == {digest}
    assert (rows[["label", "method", "split", "dataset"]] == ["fake", "gan", "train", "synthetic"]).all(axis=None)
    for file, sha256 in zip(manifest.files, rows["sha256"], strict=True):
        assert hashlib.sha256(file.read_bytes()).hexdigest() == sha256
        assert Image.open(file).size == (16, 16)
    assert Manifest.read(tmp_path).digest == manifest.digest


def test_a_face_depends_on_its_seed_alone(trained: Path) -> None:
    generator = load_generator(trained)
    together = render(generator, [0, 1, 2, 3, 4, 5, 6], 1.0, batch_size=4)
    alone = [render(generator, [seed], 1.0, batch_size=4)[0] for seed in range(7)]
    assert np.array_equal(together, np.stack(alone))
    assert np.array_equal(render(generator, [6, 2], 1.0, batch_size=4), together[[6, 2]])
    # Another batch size may round another way in float32, by one level of 255 at most.
    other = render(generator, range(7), 1.0, batch_size=3)
    assert np.abs(other.astype(int) - together).max() <= 1


def test_psi_0_gives_the_mean_face_to_every_seed(trained: Path) -> None:
    generator = load_generator(trained)
    for block in generator.blocks:
        for layer in block.layers:
            layer.noise_strength.zero_()
    faces = render(generator, range(4), 0.0)
    assert (faces == faces[:1]).all()
    assert not (render(generator, range(4), 1.0) == faces).all()


def test_what_exists_is_kept_and_what_is_damaged_is_made_again(trained: Path, tmp_path: Path) -> None:
    first = sample_screened(trained, 4, 0.7, tmp_path).manifest
    contents = [file.read_bytes() for file in first.files]
    stamps = [file.stat().st_mtime_ns for file in first.files]
    first.files[1].unlink()
    first.files[2].write_bytes(contents[2][:60])
    again = sample_screened(trained, 6, 0.7, tmp_path).manifest
    assert [file.read_bytes() for file in again.files[:4]] == contents
    kept = [file.stat().st_mtime_ns == stamp for file, stamp in zip(first.files, stamps, strict=True)]
    assert kept == [True, False, False, True]
    assert len(again) == 6


def test_grid_shows_the_rendered_faces_in_order(trained: Path) -> None:
    generator = load_generator(trained)
    grid = np.asarray(sample_grid(generator, range(5), 1.0, columns=3))
    assert grid.shape == (32, 48, 3)
    faces = render(generator, range(5), 1.0)
    assert np.array_equal(grid[16:, 16:32], faces[4])
    assert (grid[16:, 32:] == 0).all()


@pytest.mark.parametrize(
    ("count", "seed", "psi", "message"),
    [
        (0, 0, 1.0, "0 faces were asked for"),
        (1, -1, 1.0, r"seed -1 is not in"),
        (1, 0, -0.5, r"psi -0.5 is not in"),
        (1, 0, float("nan"), r"psi nan is not in"),
    ],
)
def test_wrong_requests_are_refused(
    count: int, seed: int, psi: float, message: str, trained: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message):
        sample_screened(trained, count, psi, tmp_path, first_seed=seed)


def test_missing_or_misfitting_generator_is_named(trained: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no generator at"):
        sample_screened(tmp_path / "nowhere", 1, 1.0, tmp_path)
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "config.json").write_text((trained / "config.json").read_text())
    (broken / "weights.safetensors").write_bytes(b"damaged")
    with pytest.raises(UserError, match="does not fit"):
        load_generator(broken)
    (broken / "config.json").write_text("{}")
    with pytest.raises(UserError, match="is not a generator's configuration"):
        load_generator(broken)
