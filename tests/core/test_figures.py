"""Text of any kind is drawn as it stands."""

import io

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread

from core.figures import PlainFigure

ODD = r"a$\frac$"


def drawn(figure: Figure, name: str) -> np.ndarray:
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], label=name)
    axes.set(title=name, xlabel=name)
    axes.set_yticks([0, 1], labels=[name, "plain"])
    axes.legend()
    figure.suptitle(name)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    buffer.seek(0)
    return imread(buffer)


def test_dollars_are_dollars() -> None:
    with pytest.raises(ValueError, match="frac"):
        drawn(Figure(layout="constrained"), ODD)
    drawn(PlainFigure(layout="constrained"), ODD)


def test_other_text_looks_as_before() -> None:
    np.testing.assert_array_equal(drawn(PlainFigure(), "plain"), drawn(Figure(), "plain"))
