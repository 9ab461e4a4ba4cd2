"""`counterforge demo | run | compare | matrix | ui`: the whole loop, its experiments alone, and where to see them."""

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
    from collections.abc import Mapping

    from pipelines.experiments.comparison import Comparison

Config = Annotated[Path, typer.Argument(help="YAML file like that of `counterforge run`.")]
Workers = Annotated[
    int, typer.Option("--workers", help="Detectors at a time, each with its share of the cores.", min=1)
]


def add_to(app: typer.Typer) -> None:
    """Add the commands to the main one."""
    for command in (demo, run, compare, matrix, ui):
        app.command()(command)


def demo(settings: Set = None, dry_run: DryRun = False, as_json: AsJson = False) -> None:
    """The whole loop on embedded faces, offline: from 400 photographs to a promoted model."""
    with resources.as_file(resources.files("pipelines").joinpath("demo.yaml")) as path:
        run(path, settings, dry_run, as_json)


def run(
    config: Annotated[Path, typer.Argument(help="YAML file, such as configs/faces.yaml.")],
    settings: Set = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """The whole loop on your data. Steps whose inputs have not changed are skipped."""
    from pipelines.configuration import RunConfig
    from pipelines.reports.run_report import next_commands
    from pipelines.run import execute

    resolved = configuration(RunConfig, config, settings)
    if dry_run:
        show_configuration(resolved)
        return
    outcome = execute(resolved)
    if as_json:
        more = {"candidate": outcome.candidate, "verdict": outcome.verdict, "report": outcome.report}
        answer({**outcome.comparison.to_json(), **more, "seconds": outcome.seconds}, True, "")
        return
    _print_comparison(outcome.comparison, resolved.project)
    typer.echo(f"candidate  {outcome.candidate}\nverdict    {outcome.verdict['reason']}")
    if outcome.verdict["promoted"]:
        typer.echo(f"champion   version {outcome.verdict['version']}")
    typer.echo(f"report     {outcome.report}\n\nnext:")
    for command in next_commands(outcome.verdict):
        typer.echo(f"  {command}")


def compare(
    config: Config, workers: Workers = 1, settings: Set = None, dry_run: DryRun = False, as_json: AsJson = False
) -> None:
    """Did synthetic faces help? Every arm with several seeds, all else equal, on sealed faces of every test dataset.

    Arms: none, class weights, oversampling, self-blend, gan, gan-matched, gan-composite, self-blend+gan-composite
    (section `comparison` of the file). The same command resumes where it was stopped.
    """
    from pipelines.configuration import RunConfig
    from pipelines.experiments.comparison import execute

    resolved = configuration(RunConfig, config, settings)
    if dry_run:
        show_configuration(resolved)
        return
    result = execute(resolved, workers)
    if as_json:
        answer(result.to_json(), True, "")
        return
    _print_comparison(result, resolved.project)
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
    """Cross-dataset generalisation matrix: AUC of detectors on sealed faces of what they were and were not trained on.

    Rows are what was trained on, columns what was tested on (section `matrix` of the file). The same command resumes.
    """
    from pipelines.configuration import RunConfig
    from pipelines.experiments.generalisation import MEAN_UNSEEN, WORST_UNSEEN, execute
    from pipelines.experiments.runner import wide

    resolved = configuration(RunConfig, config, [*(settings or ()), *([f"matrix.mode={mode}"] if mode else [])])
    if dry_run:
        show_configuration(resolved)
        return
    result = execute(resolved, workers)
    if as_json:
        answer(result.to_json(), True, "")
        return
    table = wide(result.cells, "trained_on", "tested_on").reset_index(names="trained on")
    table["in dataset"] = result.summary["in_dataset"].to_numpy()
    table[MEAN_UNSEEN] = result.summary["mean_unseen"].to_numpy()
    worst = zip(result.summary["worst_unseen"], result.summary["worst_on"], strict=True)
    table[WORST_UNSEEN] = [f"{value:.3f} ({name})" if name else "" for value, name in worst]
    print_table(table, f"{resolved.project}, {result.mode}: AUC by source on sealed test faces, {_seeds(result.seeds)}")
    for sentence in result.notes:
        typer.echo(f"  {sentence}")
    typer.echo(f"{_opened(result.openings)}\nheat map   {result.folder / 'matrix.png'}")
    typer.echo("next       counterforge ui, models sorted by auc_worst_unseen or auc/<dataset>")


def ui(
    mlruns: Mlruns = DEFAULT_MLRUNS,
    port: Annotated[int, typer.Option(help="Port to listen on; 0 takes a free one.")] = 5000,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
) -> None:
    """Open the MLflow UI over the tracking folder."""
    from tracking.ui import ui as serve

    serve(mlruns, port, host)


def _print_comparison(result: Comparison, project: str) -> None:
    from pipelines.experiments.conclusions import NO_DIFFERENCE, significant
    from pipelines.experiments.runner import wide

    mean = f"mean AUC of {_seeds(result.seeds)}" if len(result.seeds) > 1 else "AUC"
    title = f"{project}: {mean} on sealed test faces, by source, with 95 % intervals"
    print_table(wide(result.table).reset_index(), title)
    differences = wide(result.differences, value="value", form="+.3f")
    print_table(differences.reset_index(), f"difference to {result.reference}")
    told = significant(result.conclusions)
    for sentence in told:
        typer.echo(f"  {sentence}")
    if len(told) < len(result.conclusions):
        typer.echo(f"  {len(result.conclusions) - len(told)} single differences: {NO_DIFFERENCE}")
    typer.echo("")
    for sentence in result.notes:
        typer.echo(f"  {sentence}")
    typer.echo(f"\n{_opened(result.openings)}")


def _seeds(seeds: tuple[int, ...]) -> str:
    return f"{len(seeds)} seed{'s' if len(seeds) > 1 else ''}"


def _opened(openings: Mapping[str, int]) -> str:
    return "test rows opened so far: " + ", ".join(f"{dataset} {count}" for dataset, count in openings.items())
