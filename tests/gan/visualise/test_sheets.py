"""Style mixing and truncation: every cell of a sheet comes from the seeds of its row and its column."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from gan.checkpoint import load_generator
from gan.networks import Generator
from gan.sampling import latents, render
from gan.visualise import STYLES, mix, mixing_table, style_layers, truncated_w, truncation_sweep

ROWS, COLUMNS = [3, 5], [11, 3, 8]


@pytest.fixture(scope="module")
def generator(trained: Path) -> Generator:
    return load_generator(trained)


@pytest.mark.parametrize("count", [6, 8, 10, 12, 14])
def test_styles_share_the_layers_out_from_coarse_to_fine(count: int) -> None:
    layers = style_layers(count)
    assert [layer for name in STYLES for layer in layers[name]] == list(range(count))
    assert max(map(len, layers.values())) - min(map(len, layers.values())) <= 1


@pytest.mark.parametrize("style", STYLES)
def test_a_cell_takes_one_style_from_its_column_and_all_else_from_its_row(generator: Generator, style: str) -> None:
    cells = mix(generator, ROWS, COLUMNS, 0.8, style)
    assert cells.shape == (2, 3, 16, 16, 3)
    for i, row in enumerate(ROWS):
        for j, column in enumerate(COLUMNS):
            z, noise = latents(generator, [row])
            own = torch.lerp(generator.w_average, generator.mapping(z), 0.8)[0]
            other = torch.lerp(generator.w_average, generator.mapping(latents(generator, [column])[0]), 0.8)[0]
            taken = style_layers(generator.layer_count)[style]
            ws = torch.stack([other if layer in taken else own for layer in range(generator.layer_count)])
            picture = (generator.synthesise(ws[None], noise)[0] * 127.5 + 127.5).round().clamp(0, 255)
            # Another batch size may round another way in float32, by one level of 255 at most.
            assert np.abs(picture.permute(1, 2, 0).numpy() - cells[i, j]).max() <= 1
    same = render(generator, [3], 0.8)[0].astype(int)
    assert np.abs(cells[0, 1] - same).max() <= 1  # seed 3 mixed with itself
    assert np.abs(cells[0, 0] - same).max() > 1


def test_all_styles_together_are_the_whole_of_w(generator: Generator) -> None:
    w = truncated_w(generator, ROWS, 1.0)
    assert torch.allclose(w, generator.mapping(latents(generator, ROWS)[0]))
    assert torch.allclose(truncated_w(generator, ROWS, 0.0), generator.w_average.expand(2, -1))


def test_mixing_table_has_the_sources_at_its_edges(generator: Generator) -> None:
    sheet = np.asarray(mixing_table(generator, ROWS, COLUMNS, 0.8))
    side, gap, text = 96, 4, 22
    assert sheet.shape == (3 * (text + 3 * (side + gap)), gap + 4 * (side + gap), 3)

    def cell(style: int, row: int, column: int) -> np.ndarray:
        top = style * (text + 3 * (side + gap)) + text + row * (side + gap)
        left = gap + column * (side + gap)
        return sheet[top : top + side : 6, left : left + side : 6].astype(int)

    for style in range(3):
        assert (cell(style, 0, 0) == 255).all()
        for column, seed in enumerate(COLUMNS):
            assert np.abs(cell(style, 0, 1 + column) - render(generator, [seed], 0.8)[0]).max() <= 1
        for row, seed in enumerate(ROWS):
            assert np.abs(cell(style, 1 + row, 0) - render(generator, [seed], 0.8)[0]).max() <= 1
        expected = mix(generator, ROWS, COLUMNS, 0.8, STYLES[style])
        assert np.array_equal(cell(style, 2, 3), expected[1, 2])


def test_truncation_sweep_has_a_row_a_seed_and_a_column_a_psi(generator: Generator) -> None:
    sheet = np.asarray(truncation_sweep(generator, ROWS, [0.0, 0.5, 1.0]))
    assert sheet.shape == (44 + 2 * 100, 4 + 3 * 100, 3)
    for row, seed in enumerate(ROWS):
        for column, psi in enumerate([0.0, 0.5, 1.0]):
            top, left = 44 + row * 100, 4 + column * 100
            shown = sheet[top : top + 96 : 6, left : left + 96 : 6].astype(int)
            assert np.abs(shown - render(generator, [seed], psi)[0]).max() <= 1
