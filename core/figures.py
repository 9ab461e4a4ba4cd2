"""Figures whose text is shown as it stands."""

from __future__ import annotations

from matplotlib.backend_bases import RendererBase
from matplotlib.figure import Figure
from matplotlib.text import Text


class PlainFigure(Figure):
    """A figure without mathtext: names of datasets and methods come from outside, and may hold any `$`."""

    def draw(self, renderer: RendererBase) -> None:
        """See `matplotlib.figure.Figure`, which draws the whole figure by this when it is saved."""
        for text in self.findobj(Text):
            text.set_parse_math(False)
        super().draw(renderer)
