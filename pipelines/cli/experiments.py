"""`counterforge compare | matrix`: did synthetic faces help, and how far does a detector carry."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipelines.cli.options import AsJson, DryRun, Set, answer, configuration, print_table, show_configuration

if TYPE_CHECKING:
    import pandas as pd
from importlib import resources
from typing import TYPE_CHECKING

from pipelines.cli.options import (
    DEFAULT_MLRUNS,
    Mlruns,
)

if TYPE_CHECKING:
    from pipelines.configuration import RunConfig
    from pipelines.run import Outcome


Config = Annotated[Path, typer.Argument(help="YAML file like that of `counterforge run`.")]
Workers = Annotated[
    int, typer.Option("--workers", help="Detectors at a time, each with its share of the cores.", min=1)
]


def add_to(app: typer.Typer) -> None:
    """Add the commands to the main one."""
    app.command()(demo)
    app.command()(run)
    app.command()(compare)
    app.command()(matrix)
    app.command()(ui)


def compare(
    config: Config, workers: Workers = 1, settings: Set = None, dry_run: DryRun = False, as_json: AsJson = False
) -> None:
    """Did synthetic faces help? Every arm with several seeds, all else equal, on sealed faces of every test dataset.

    Arms: none, class weights, oversampling, self-blend, gan, gan-matched, gan-composite, self-blend+gan-composite
    (section `comparison` of the file). The same command goes on where it was stopped.
    """
    from pipelines.configuration import RunConfig
    from pipelines.experiments.comparison import execute
    from pipelines.experiments.conclusions import NO_DIFFERENCE

    resolved = configuration(RunConfig, config, settings)
    if dry_run:
        show_configuration(resolved)
        return
    result = execute(resolved, workers)
    if as_json:
        answer(result.to_json(), True, "")
        return
    title = f"{resolved.project}: mean AUC of {len(result.seeds)} seeds on sealed test faces, by source"
    print_table(_wide(result.table, "auc", "{:.3f} [{:.3f}, {:.3f}]"), f"{title}, with 95 % intervals")
    signed = "{:+.3f} [{:+.3f}, {:+.3f}]"
    print_table(_wide(result.differences, "value", signed), f"the same minus that of {result.reference}")
    told = [sentence for sentence in result.verdicts if NO_DIFFERENCE not in sentence]
    for sentence in told:
        typer.echo(f"  {sentence}")
    if len(told) < len(result.verdicts):
        typer.echo(f"  {len(result.verdicts) - len(told)} single differences: {NO_DIFFERENCE}")
    typer.echo("")
    for sentence in result.notes:
        typer.echo(f"  {sentence}")
    opened = ", ".join(f"{dataset} {count}" for dataset, count in result.openings.items())
    typer.echo(f"\ntest rows opened so far: {opened}")
    typer.echo(f"hours      {sum(result.hours.values()):.2f}\nforest     {result.folder / 'forest.png'}")
    typer.echo("next       counterforge ui")


def matrix(
    config: Config,
    mode: Annotated[str | None, typer.Option(help="one-by-one, leave-one-dataset-out or leave-one-method-out.")] = None,
    workers: Workers = 1,
    settings: Set = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """How far do detectors carry? Trained on the rows, tested on the columns, on sealed faces (section `matrix`)."""
    from pipelines.configuration import RunConfig
    from pipelines.experiments.generalisation import MEAN_UNSEEN, WORST_UNSEEN, execute

    resolved = configuration(RunConfig, config, [*(settings or ()), *([f"matrix.mode={mode}"] if mode else [])])
    if dry_run:
        show_configuration(resolved)
        return
    result = execute(resolved, workers)
    if as_json:
        answer(result.to_json(), True, "")
        return
    cells = result.cells.rename(columns={"trained_on": "arm", "tested_on": "dataset"})
    cells["arm"] = cells["arm"].astype(str)
    wide = _wide(cells, "auc", "{:.3f} [{:.3f}, {:.3f}]").rename(columns={"arm": "trained on"})
    wide["in dataset"] = result.summary["in_domain"].to_numpy()
    wide[MEAN_UNSEEN] = result.summary["mean_unseen"].to_numpy()
    worst = zip(result.summary["worst_unseen"], result.summary["worst_on"], strict=True)
    wide[WORST_UNSEEN] = [f"{value:.3f} ({name})" if name else "" for value, name in worst]
    seeds = f"{len(result.seeds)} seed{'s' if len(result.seeds) > 1 else ''}"
    print_table(wide, f"{resolved.project}, {result.mode}: AUC by source on sealed test faces, {seeds}")
    for sentence in result.notes:
        typer.echo(f"  {sentence}")
    opened = ", ".join(f"{dataset} {count}" for dataset, count in result.openings.items())
    typer.echo(f"test rows opened so far: {opened}\nheat map   {result.folder / 'matrix.png'}")
    typer.echo("next       counterforge ui, models sorted by auc_worst_unseen or auc/<dataset>")


def _wide(table: pd.DataFrame, value: str, form: str) -> pd.DataFrame:
    cells = [
        form.format(row[value], row["low"], row["high"]) if row["low"] == row["low"] else form[:7].format(row[value])
        for row in table.to_dict("records")
    ]
    wide = table.assign(cell=cells).pivot_table(
        index="arm", columns="dataset", values="cell", aggfunc="first", sort=False
    )
    return wide.reset_index()


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
    from pipelines.configuration import RunConfig
    from pipelines.run import execute

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
    from pipelines.reports.run_report import difference_sentence, next_commands

    table = outcome.table.assign(
        text=[
            f"{row.auc:.3f} [{row.low:.3f}, {row.high:.3f}]" if row.low == row.low else f"{row.auc:.3f}"
            for row in outcome.table.itertuples()
        ]
    )
    wide = table.pivot_table(index="arm", columns="dataset", values="text", aggfunc="first", sort=False)
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
