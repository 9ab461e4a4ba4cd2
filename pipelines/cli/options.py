"""Options that several commands share, and how a command reads its configuration and prints its result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, TypeVar

from typer import Argument, Exit, Option, echo

if TYPE_CHECKING:
    import pandas as pd
    from pydantic import BaseModel

    from tracking.store import Store

    Configuration = TypeVar("Configuration", bound=BaseModel)

_MODEL = "Version (3), alias (champion), run id, model id (m-...) or, where no registry is needed, a folder."

AsJson = Annotated[bool, Option("--json", help="Print the result as JSON.")]
Cache = Annotated[Path, Option("--cache", help="Folder of decoded crops.")]
ConfigFile = Annotated[Path | None, Option("--config", help="YAML file with settings.")]
Datasets = Annotated[list[str] | None, Option("--dataset", help="Datasets that count; all by default; repeatable.")]
DryRun = Annotated[bool, Option("--dry-run", help="Print the resolved configuration and stop.")]
Generator = Annotated[Path, Argument(help="Folder of a generator's checkpoint.")]
LineageManifest = Annotated[Path | None, Option("--manifest", help="Faces; by default those of the lineage.")]
Manifest = Annotated[Path, Argument(help="manifest.parquet, a CSV like it, or the folder that holds it.")]
Mlruns = Annotated[Path, Option("--mlruns", help="Folder of the tracking database and its artifacts.")]
Model = Annotated[str, Argument(help=_MODEL)]
ModelOption = Annotated[str, Option("--model", help=_MODEL)]
Project = Annotated[str, Option("--project", help="Name of the MLflow experiment.")]
RunFile = Annotated[Path, Argument(help="YAML file of a run, such as configs/faces.yaml.")]
Seed = Annotated[int | None, Option("--seed", help="Seed of everything random.", min=0)]
Set = Annotated[list[str] | None, Option("--set", help="A setting, such as --set learning_rate=1e-3; repeatable.")]

MLRUNS = Path("mlruns")
CACHE = Path("runs/cache")
_WIDEST_CELL = 300


def configuration(
    model: type[Configuration], file: Path | None, settings: Sequence[str] | None, named: Mapping[str, Any] = {}
) -> Configuration:
    """Settings of a YAML file, over them `--set`, over them named options that were given."""
    from core.config import override, read_yaml, validate

    content = override(read_yaml(file) if file else {}, settings or ())
    content |= {name: value for name, value in named.items() if value is not None}
    return validate(model, content, str(file) if file else "command line")


def show(config: BaseModel, as_json: bool = False) -> None:
    """Print a resolved configuration: as YAML, or for machines as JSON; passwords are hidden."""
    import yaml

    from core.secrets import redacted

    content = redacted(config.model_dump(mode="json"))
    answer(content, as_json, yaml.safe_dump(content, sort_keys=False).rstrip())


def print_and_exit(config: BaseModel, as_json: bool) -> NoReturn:
    """What `--dry-run` does."""
    show(config, as_json)
    raise Exit


def answer(result: object, as_json: bool, text: str, *tables: tuple[pd.DataFrame, str]) -> None:
    """Print a result: as strict JSON for machines; for people its tables, each below its title, and then a text.

    A result that is a dataclass is printed by the names of its fields.
    """
    from core.files import strict_json
    from core.secrets import redact

    if as_json:
        named = asdict(result) if is_dataclass(result) and not isinstance(result, type) else result
        echo(redact(strict_json(named, indent=2)))
        return
    for frame, title in tables:
        print_table(frame, title)
    if text or not tables:
        echo(redact(text))


def records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows of a table, as JSON has them: times in ISO 8601, None for what is missing."""
    import json

    return json.loads(frame.to_json(orient="records", date_format="iso", double_precision=15))


def open_store(mlruns: Path) -> Store:
    """See `tracking.store.open_store`; MLflow, which takes a second to load, is loaded here."""
    from tracking import store

    return store.open_store(mlruns)


def opened(openings: Mapping[str, int]) -> str:
    """How often the test rows of each dataset were opened, in a line."""
    return "test rows opened so far: " + ", ".join(f"{dataset} {count}" for dataset, count in openings.items())


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
