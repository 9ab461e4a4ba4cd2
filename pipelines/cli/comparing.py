"""`counterforge compare | matrix`: did synthetic faces help, and how far does a detector carry."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipelines.cli.options import AsJson, DryRun, Set, answer, configuration, print_table, show_configuration

if TYPE_CHECKING:
    import pandas as pd

Config = Annotated[Path, typer.Argument(help="YAML file like that of `counterforge run`.")]
Workers = Annotated[
    int, typer.Option("--workers", help="Detectors at a time, each with its share of the cores.", min=1)
]


def add_to(app: typer.Typer) -> None:
    """Add the commands to the main one."""
    app.command()(compare)
    app.command()(matrix)


def compare(
    config: Config, workers: Workers = 1, settings: Set = None, dry_run: DryRun = False, as_json: AsJson = False
) -> None:
    """Did synthetic faces help? Every arm with several seeds, all else equal, on sealed faces of every test domain.

    Arms: none, class weights, oversampling, self-blend, gan, gan-matched, gan-composite, self-blend+gan-composite
    (section `comparison` of the file). The same command goes on where it was stopped.
    """
    from pipelines.comparison import execute
    from pipelines.settings import RunConfig
    from pipelines.verdicts import NO_DIFFERENCE

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
    opened = ", ".join(f"{domain} {count}" for domain, count in result.openings.items())
    typer.echo(f"\ntest rows opened so far: {opened}")
    typer.echo(f"hours      {sum(result.hours.values()):.2f}\nforest     {result.folder / 'forest.png'}")
    typer.echo("next       counterforge ui")


def matrix(
    config: Config,
    mode: Annotated[
        str | None, typer.Option(help="one-by-one, leave-one-data-set-out or leave-one-method-out.")
    ] = None,
    workers: Workers = 1,
    settings: Set = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """How far do detectors carry? Trained on the rows, tested on the columns, on sealed faces (section `matrix`)."""
    from pipelines.generalisation import MEAN_UNSEEN, WORST_UNSEEN, execute
    from pipelines.settings import RunConfig

    resolved = configuration(RunConfig, config, [*(settings or ()), *([f"matrix.mode={mode}"] if mode else [])])
    if dry_run:
        show_configuration(resolved)
        return
    result = execute(resolved, workers)
    if as_json:
        answer(result.to_json(), True, "")
        return
    cells = result.cells.rename(columns={"trained_on": "arm", "tested_on": "domain"})
    cells["arm"] = cells["arm"].astype(str)
    wide = _wide(cells, "auc", "{:.3f} [{:.3f}, {:.3f}]").rename(columns={"arm": "trained on"})
    wide["in domain"] = result.summary["in_domain"].to_numpy()
    wide[MEAN_UNSEEN] = result.summary["mean_unseen"].to_numpy()
    worst = zip(result.summary["worst_unseen"], result.summary["worst_on"], strict=True)
    wide[WORST_UNSEEN] = [f"{value:.3f} ({name})" if name else "" for value, name in worst]
    seeds = f"{len(result.seeds)} seed{'s' if len(result.seeds) > 1 else ''}"
    print_table(wide, f"{resolved.project}, {result.mode}: AUC by source on sealed test faces, {seeds}")
    for sentence in result.notes:
        typer.echo(f"  {sentence}")
    opened = ", ".join(f"{domain} {count}" for domain, count in result.openings.items())
    typer.echo(f"test rows opened so far: {opened}\nheat map   {result.folder / 'matrix.png'}")
    typer.echo("next       counterforge ui, models sorted by auc_worst_unseen or auc/<data set>")


def _wide(table: pd.DataFrame, value: str, form: str) -> pd.DataFrame:
    cells = [
        form.format(row[value], row["low"], row["high"]) if row["low"] == row["low"] else form[:7].format(row[value])
        for row in table.to_dict("records")
    ]
    wide = table.assign(cell=cells).pivot_table(
        index="arm", columns="domain", values="cell", aggfunc="first", sort=False
    )
    return wide.reset_index()
