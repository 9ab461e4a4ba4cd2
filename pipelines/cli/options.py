"""Options that several commands share, and how a command reads its configuration and prints its result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

if TYPE_CHECKING:
    import pandas as pd
    from pydantic import BaseModel

    Model = TypeVar("Model", bound=BaseModel)

Seed = Annotated[int | None, typer.Option("--seed", help="Seed of everything random.", min=0)]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the resolved configuration and stop.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as one JSON object.")]
Set = Annotated[
    list[str] | None, typer.Option("--set", help="A setting, such as --set learning_rate=1e-3; repeatable.")
]
ConfigFile = Annotated[Path | None, typer.Option("--config", help="YAML file with settings.")]
Mlruns = Annotated[Path, typer.Option("--mlruns", help="Folder of the tracking database and its artifacts.")]
Cache = Annotated[Path, typer.Option("--cache", help="Folder of decoded crops.")]
Manifest = Annotated[Path, typer.Argument(help="manifest.parquet, a CSV like it, or the folder that holds it.")]

MODEL_HELP = "Version (3), alias (champion), run id, model id (m-...) or, where no registry is needed, a folder."
DEFAULT_MLRUNS = Path("mlruns")
DEFAULT_CACHE = Path("runs/cache")
_WIDEST_CELL = 300


def configuration(
    model: type[Model], file: Path | None, settings: Sequence[str] | None, named: Mapping[str, Any] | None = None
) -> Model:
    """Settings of a YAML file, over them `--set`, over them named options that were given."""
    from core.config import override, read_yaml, validate

    content = override(read_yaml(file) if file else {}, settings or ())
    content |= {name: value for name, value in (named or {}).items() if value is not None}
    return validate(model, content, str(file) if file else "command line")


def show_configuration(config: BaseModel) -> None:
    """Print the resolved configuration as YAML."""
    import yaml

    typer.echo(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False).rstrip())


def answer(result: Mapping[str, Any], as_json: bool, text: str) -> None:
    """Print a result for machines, or a text for people."""
    from core.files import strict_json

    typer.echo(strict_json(result, indent=2) if as_json else text)


def print_table(frame: pd.DataFrame, title: str) -> None:
    """A data frame as a table in the terminal."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(title), title_justify="left", header_style="bold")  # names are no markup
    for column in frame.columns:
        numeric = frame[column].dtype.kind in "if"
        table.add_column(Text(str(column)), justify="right" if numeric else "left", overflow="fold")
    for row in frame.itertuples(index=False):
        table.add_row(*(Text("" if value is None or value != value else _cell(value)) for value in row))
    console = Console()
    if not console.is_terminal:  # a file or a pipe has no width that a table must keep to
        console.width = max(console.width, 160)
    console.print(table)


def _cell(value: object) -> str:
    from core.errors import one_line

    return f"{value:.3f}" if isinstance(value, float) else one_line(str(value), _WIDEST_CELL)
