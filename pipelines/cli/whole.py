"""`counterforge demo | run | ui`: the whole loop, and the interface over what it found."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipelines.cli.options import (
    DEFAULT_MLRUNS,
    AsJson,
    DryRun,
    Mlruns,
    Set,
    answer,
    configuration,
    print_table,
    show_configuration,
)

if TYPE_CHECKING:
    from pipelines.run import Outcome
    from pipelines.settings import RunConfig


def add_to(app: typer.Typer) -> None:
    """Add the commands to the main one."""
    app.command()(demo)
    app.command()(run)
    app.command()(ui)


def demo(settings: Set = None, dry_run: DryRun = False, as_json: AsJson = False) -> None:
    """The whole loop on embedded faces, offline: from 400 photographs to a promoted model."""
    with resources.as_file(resources.files("pipelines").joinpath("demo.yaml")) as path:
        _execute(path, settings, dry_run, as_json)


def run(
    config: Annotated[Path, typer.Argument(help="YAML file, such as configs/faces.yaml.")],
    settings: Set = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """The whole loop on your data. Steps whose inputs have not changed are skipped."""
    _execute(config, settings, dry_run, as_json)


def ui(
    mlruns: Mlruns = DEFAULT_MLRUNS,
    port: Annotated[int, typer.Option(help="Port to listen on; 0 takes a free one.")] = 5000,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
) -> None:
    """Open the MLflow UI over the tracking folder."""
    from tracking.ui import ui as serve

    serve(mlruns, port, host)


def _execute(path: Path, settings: list[str] | None, dry_run: bool, as_json: bool) -> None:
    from pipelines.run import execute
    from pipelines.settings import RunConfig

    config = configuration(RunConfig, path, settings)
    if dry_run:
        show_configuration(config)
        return
    outcome = execute(config)
    if as_json:
        answer(
            {
                "table": outcome.table.to_dict("records"),
                "differences": outcome.differences.to_dict("records"),
                "candidate": outcome.candidate,
                "verdict": outcome.verdict,
                "report": outcome.report,
                "seconds": outcome.seconds,
            },
            True,
            "",
        )
    else:
        _tell(outcome, config)


def _tell(outcome: Outcome, config: RunConfig) -> None:
    from pipelines.report import difference_sentence, next_commands

    table = outcome.table.assign(
        text=[
            f"{row.auc:.3f} [{row.low:.3f}, {row.high:.3f}]" if row.low == row.low else f"{row.auc:.3f}"
            for row in outcome.table.itertuples()
        ]
    )
    wide = table.pivot_table(index="arm", columns="domain", values="text", aggfunc="first", sort=False)
    print_table(wide.reset_index(), f"{config.project}: AUC on sealed test faces, by source, with 95 % intervals")
    for difference in outcome.differences.to_dict("records"):
        typer.echo(f"  {difference_sentence(difference)}")
    verdict = outcome.verdict or {}
    typer.echo(f"\ncandidate  {outcome.candidate}\nverdict    {verdict.get('reason')}")
    if verdict.get("promoted"):
        typer.echo(f"champion   version {verdict['version']}")
    typer.echo(f"report     {outcome.report}\n\nnext:")
    for command in next_commands(verdict):
        typer.echo(f"  {command}")
