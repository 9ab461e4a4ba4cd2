"""`counterforge demo | run | compare | matrix | ui`: the whole loop, its experiments alone, and where to see them."""

from __future__ import annotations

from importlib import resources
from typing import TYPE_CHECKING, Annotated

import typer

from pipelines.cli import options as opt

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd

    from pipelines.configuration import RunConfig
    from pipelines.experiments.comparison import Comparison

Workers = Annotated[int, typer.Option(help="Detectors at a time, each with its share of the cores.", min=1)]


def add_to(app: typer.Typer) -> None:
    """Add the commands to the main one."""
    for command in (demo, run, compare, matrix, ui):
        app.command()(command)


def _resolved(config: Path, settings: list[str] | None, dry_run: bool, as_json: bool) -> RunConfig:
    from pipelines.configuration import RunConfig

    resolved = opt.configuration(RunConfig, config, settings)
    if dry_run:
        opt.print_and_exit(resolved, as_json)
    return resolved


def demo(settings: opt.Set = None, dry_run: opt.DryRun = False, as_json: opt.AsJson = False) -> None:
    """The whole loop on embedded faces, offline: from 400 photographs to a promoted model."""
    with resources.as_file(resources.files("pipelines").joinpath("demo.yaml")) as path:
        run(path, settings, dry_run, as_json)


def run(
    config: opt.RunFile, settings: opt.Set = None, dry_run: opt.DryRun = False, as_json: opt.AsJson = False
) -> None:
    """The whole loop on your data. Steps whose inputs have not changed are skipped."""
    from pipelines.reports import next_commands
    from pipelines.run import execute

    resolved = _resolved(config, settings, dry_run, as_json)
    outcome = execute(resolved)
    verdict = outcome.verdict
    lines = [*_sentences(outcome.comparison), f"candidate  {outcome.candidate}", f"verdict    {verdict['reason']}"]
    lines += [f"champion   version {verdict['version']}"] if verdict["promoted"] else []
    lines += [f"report     {outcome.report}", "", "next:", *(f"  {command}" for command in next_commands(verdict))]
    result = {**outcome.comparison.to_json(), "candidate": outcome.candidate, "verdict": verdict}
    result |= {"report": outcome.report, "seconds": outcome.seconds}
    opt.answer(result, as_json, "\n".join(lines), *_tables(outcome.comparison, resolved.project))


def compare(
    config: opt.RunFile,
    workers: Workers = 1,
    settings: opt.Set = None,
    dry_run: opt.DryRun = False,
    as_json: opt.AsJson = False,
) -> None:
    """Did synthetic faces help? Every arm with several seeds, all else equal, on sealed faces of every test dataset.

    Arms: none, class weights, oversampling, self-blend, gan, gan-matched, gan-composite, self-blend+gan-composite
    (section `comparison` of the file). The same command resumes where it was stopped.
    """
    from pipelines.experiments.comparison import execute

    resolved = _resolved(config, settings, dry_run, as_json)
    result = execute(resolved, workers)
    lines = [*_sentences(result), f"hours      {sum(result.hours.values()):.2f}"]
    lines += [f"forest     {result.folder / 'forest.png'}", "next       counterforge ui"]
    opt.answer(result.to_json(), as_json, "\n".join(lines), *_tables(result, resolved.project))


def matrix(
    config: opt.RunFile,
    mode: Annotated[str | None, typer.Option(help="one-by-one, leave-one-dataset-out or leave-one-method-out.")] = None,
    workers: Workers = 1,
    settings: opt.Set = None,
    dry_run: opt.DryRun = False,
    as_json: opt.AsJson = False,
) -> None:
    """Cross-dataset generalisation matrix: AUC of detectors on sealed faces of what they were and were not trained on.

    Rows are what was trained on, columns what was tested on (section `matrix` of the file). The same command resumes.
    """
    from pipelines.experiments.generalisation import MEAN_UNSEEN, WORST_UNSEEN, execute
    from pipelines.experiments.runner import wide

    settings = [*(settings or ()), *([f"matrix.mode={mode}"] if mode else [])]
    resolved = _resolved(config, settings, dry_run, as_json)
    result = execute(resolved, workers)
    table = wide(result.cells, "trained_on", "tested_on").reset_index(names="trained on")
    table["in dataset"] = result.summary["in_dataset"].to_numpy()
    table[MEAN_UNSEEN] = result.summary["mean_unseen"].to_numpy()
    worst = zip(result.summary["worst_unseen"], result.summary["worst_on"], strict=True)
    table[WORST_UNSEEN] = [f"{value:.3f} ({name})" if name else "" for value, name in worst]
    title = f"{resolved.project}, {result.mode}: AUC by source on sealed test faces, {_seeds(result.seeds)}"
    lines = [*(f"  {note}" for note in result.notes), opt.opened(result.openings)]
    lines += [
        f"heat map   {result.folder / 'matrix.png'}",
        "next       counterforge ui, models sorted by auc_worst_unseen or auc/<dataset>",
    ]
    opt.answer(result.to_json(), as_json, "\n".join(lines), (table, title))


def ui(
    mlruns: opt.Mlruns = opt.MLRUNS,
    port: Annotated[int, typer.Option(help="Port to listen on; 0 takes a free one.")] = 5000,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
) -> None:
    """Open the MLflow UI over the tracking folder."""
    from tracking.ui import ui as serve

    serve(mlruns, port, host)


def _tables(result: Comparison, project: str) -> list[tuple[pd.DataFrame, str]]:
    from pipelines.experiments.runner import wide

    mean = f"mean AUC of {_seeds(result.seeds)}" if len(result.seeds) > 1 else "AUC"
    title = f"{project}: {mean} on sealed test faces, by source, with 95 % intervals"
    differences = wide(result.differences, value="value", form="+.3f").reset_index()
    return [(wide(result.table).reset_index(), title), (differences, f"difference to {result.reference}")]


def _sentences(result: Comparison) -> list[str]:
    from pipelines.experiments.comparison import NO_DIFFERENCE, significant

    told = significant(result.conclusions)
    lines = [f"  {sentence}" for sentence in told]
    if len(told) < len(result.conclusions):
        lines.append(f"  {len(result.conclusions) - len(told)} single differences: {NO_DIFFERENCE}")
    return [*lines, "", *(f"  {note}" for note in result.notes), "", opt.opened(result.openings)]


def _seeds(seeds: tuple[int, ...]) -> str:
    return f"{len(seeds)} seed{'s' if len(seeds) > 1 else ''}"
