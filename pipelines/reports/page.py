"""Reports as single HTML files: figures are embedded, nothing is loaded from elsewhere."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader
from matplotlib.figure import Figure

from core.files import write_text


def png(figure: Figure, dpi: int = 110) -> bytes:
    """The figure as a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi)
    return buffer.getvalue()


def embedded(picture: bytes) -> str:
    """A PNG file as a `data:` address."""
    return f"data:image/png;base64,{base64.b64encode(picture).decode()}"


def write_page(path: Path, template: str, **content: Any) -> Path:
    """Render a template of this folder, which extends base.html, with HTML escaped in all that it shows."""
    loader = FileSystemLoader(Path(__file__).parent)
    environment = Environment(loader=loader, autoescape=True)
    environment.filters["embedded"] = embedded
    write_text(path, environment.get_template(template).render(**content))
    return path
