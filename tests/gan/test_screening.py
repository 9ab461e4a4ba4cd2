"""Screened samples: no seed without a face, none twice, the same walk after a kill.

A generator that draws faces takes hours to train. What it would draw is put in its place here: photographs at some
seeds, nothing but colour at others, and the same photograph again at a third kind. All else is the real thing.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from core.errors import UserError
from faces.orl import _read
from gan import sampling
from gan.checkpoint import GeneratorCard, generator_digest, load_generator, save_generator
from gan.networks import Generator
from gan.sampling import DUPLICATE, NO_FACE, psi_of, render, sample_screened, write_crop

CARD = GeneratorCard(
    image_size=32,
    channels={4: 8, 8: 8, 16: 8, 32: 8},
    z_width=8,
    w_width=8,
    mapping_depth=1,
    noise_inputs=True,
    manifest="0" * 16,
    kimg=0,
)
PHOTOGRAPHS = [np.asarray(Image.fromarray(p[10:102]).convert("RGB").resize((32, 32))) for p in _read()[::3]]


def drawn(generator: Generator, seeds: Sequence[int], psi: object, batch_size: int = 64) -> np.ndarray:  # noqa: ARG001
    pictures = []
    for seed in seeds:
        if seed % 4 == 1:
            pictures.append(np.full((32, 32, 3), seed % 256, np.uint8))
        else:
            pictures.append(PHOTOGRAPHS[(seed - 1 if seed % 4 == 3 else seed) % len(PHOTOGRAPHS)])
    return np.stack(pictures)


@pytest.fixture(scope="module")
def untrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("untrained") / "generator"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return save_generator(CARD.build(), CARD, folder)


@pytest.fixture
def faces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "render", drawn)


@pytest.mark.usefixtures("faces")
def test_seeds_without_a_face_and_repetitions_are_passed_over_and_recorded(untrained: Path, tmp_path: Path) -> None:
    made = sample_screened(untrained, 20, 0.7, tmp_path, first_seed=4)
    seeds = made.manifest.rows["seed"].tolist()
    assert len(seeds) == 20
    assert all(seed % 4 in (0, 2) for seed in seeds)
    assert set(made.rejected) == {NO_FACE, DUPLICATE}
    assert sum(made.rejected.values()) == seeds[-1] - 4 + 1 - 20
    assert all(points is not None and np.shape(points) == (5, 2) for points in made.landmarks)
    assert set(made.manifest.rows["generator"]) == {generator_digest(untrained)}
    assert all(file.is_file() for file in made.manifest.files)
    lines = [json.loads(line) for line in (tmp_path / "seeds.jsonl").read_text().splitlines()]
    assert [line["seed"] for line in lines[1:]] == list(range(4, 4 + len(lines) - 1))
    assert lines[2]["rejected"] == "no face found"


@pytest.mark.usefixtures("faces")
def test_more_faces_go_on_where_fewer_ended_and_a_kill_changes_nothing(
    untrained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = sample_screened(untrained, 40, 0.7, tmp_path / "whole")
    few = sample_screened(untrained, 5, 0.7, tmp_path / "parts")
    assert few.manifest.rows["sha256"].tolist() == whole.manifest.rows["sha256"].tolist()[:5]

    def killed(*arguments: object, **named: object) -> str:
        if len(written) == 7:
            raise KeyboardInterrupt
        written.append(1)
        return write_crop(*arguments, **named)  # type: ignore[arg-type]

    written: list[int] = []
    monkeypatch.setattr(sampling, "write_crop", killed)
    with pytest.raises(KeyboardInterrupt):
        sample_screened(untrained, 40, 0.7, tmp_path / "parts")
    monkeypatch.undo()
    monkeypatch.setattr(sampling, "render", drawn)
    with (tmp_path / "parts" / "seeds.jsonl").open("a") as file:
        file.write('{"seed": 99, "pha')  # torn by a kill
    whole.manifest.files[3].unlink()
    assert sample_screened(untrained, 40, 0.7, tmp_path / "parts").manifest.rows.equals(whole.manifest.rows)
    assert sample_screened(untrained, 40, 0.7, tmp_path / "whole").manifest.rows.equals(whole.manifest.rows)
    assert whole.manifest.files[3].is_file()


def test_a_generator_without_faces_is_called_unfit(untrained: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"of 256 samples .* 0 of the 4 that are wanted: train the generator longer"):
        sample_screened(untrained, 4, 0.7, tmp_path)
    every = sample_screened(untrained, 4, 0.7, tmp_path / "every", screen=False)
    assert every.manifest.rows["seed"].tolist() == [0, 1, 2, 3]
    assert every.rejected == {}


@pytest.mark.usefixtures("faces")
def test_a_folder_that_was_begun_otherwise_is_refused(untrained: Path, tmp_path: Path) -> None:
    sample_screened(untrained, 2, 0.7, tmp_path)
    with pytest.raises(UserError, match=r"psi was '0.7' when .* was begun and is '0.5' now"):
        sample_screened(untrained, 2, 0.5, tmp_path)
    with pytest.raises(UserError, match="first_seed was 0"):
        sample_screened(untrained, 2, 0.7, tmp_path, first_seed=3)
    written = (tmp_path / "seeds.jsonl").read_text()
    for damage in ("nonsense\nnonsense\n", written.replace('"rejected":null', '"rejected":"no face found"', 1)):
        assert damage != written
        (tmp_path / "seeds.jsonl").write_text(damage)
        with pytest.raises(UserError, match="is damaged"):
            sample_screened(untrained, 2, 0.7, tmp_path)


def test_faces_of_16_pixels_are_too_small_to_be_judged(trained: Path, tmp_path: Path) -> None:
    made = sample_screened(trained, 3, 1.0, tmp_path)
    assert made.manifest.rows["seed"].tolist() == [0, 1, 2]
    assert made.rejected == {}
    for file, picture in zip(made.manifest.files, render(load_generator(trained), range(3), 1.0), strict=True):
        assert np.array_equal(np.asarray(Image.open(file)), picture)


def test_psi_a_resolution_truncates_those_layers_alone(untrained: Path) -> None:
    generator = load_generator(untrained)
    with torch.no_grad():
        generator.set_w_average()
    plain = render(generator, range(4), 0.6)
    assert np.abs(render(generator, range(4), [0.6] * 4).astype(int) - plain).max() <= 1
    free = render(generator, range(4), [1.0] * 4)
    assert np.abs(free.astype(int) - render(generator, range(4), 1.0)).max() <= 1
    coarse, fine = render(generator, range(4), [0.0, 0.0, 1.0, 1.0]), render(generator, range(4), [1.0, 1.0, 0.0, 0.0])
    assert (coarse != free).any()
    assert (fine != free).any()
    assert (coarse != fine).any()


@pytest.mark.parametrize(
    ("psi", "message"),
    [([0.5, 0.7], "psi has 2 values, but the generator has the resolutions 4, 8, 16, 32"),
     ([0.5, 0.7, 3, 1], r"psi 3 is not in \[0, 2\]"), (float("nan"), "psi nan")],
)  # fmt: skip
def test_a_wrong_psi_is_named(psi: float | list[float], message: str, untrained: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        sample_screened(untrained, 2, psi, tmp_path)
    with pytest.raises(UserError, match=message):
        render(load_generator(untrained), [0], psi)


def test_psi_is_read_from_text() -> None:
    assert psi_of("0.7") == 0.7
    assert psi_of("0.5,0.7,1") == [0.5, 0.7, 1.0]
    with pytest.raises(UserError, match="psi 'high' is not a number"):
        psi_of("high")
