"""`counterforge study`: launch, resume, and see how it goes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipelines.cli.options import (
    DEFAULT_MLRUNS,
    AsJson,
    DryRun,
    Mlruns,
    Seed,
    Set,
    answer,
    configuration,
    print_table,
    show_configuration,
)

app = typer.Typer(help="Optuna studies over the whole chain.", no_args_is_help=True)


@app.command()
def launch(
    config: Annotated[Path, typer.Argument(help="YAML like that of `counterforge run`, with a `study` section.")],
    trials: Annotated[int | None, typer.Option(help="Total number of trials, earlier ones counted in.", min=1)] = None,
    settings: Set = None,
    seed: Seed = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Run a study to its total number of trials. Launching again resumes."""
    from faces.errors import UserError
    from pipelines.run import search
    from pipelines.settings import RunConfig

    more = [f"study.trials={trials}"] if trials else []
    more += [f"study.seed={seed}"] if seed is not None else []
    resolved = configuration(RunConfig, config, [*(settings or ()), *more])
    if resolved.study is None:
        raise UserError(f"{config} has no section `study`: add one, see configs/faces.yaml")
    if dry_run:
        show_configuration(resolved)
        return
    result = search(resolved)
    if not as_json:
        table = result.history.drop(columns=["run_id", "error"])
        print_table(table, f"study {result.name}")
    answer(
        {"study": result.name, "best": result.best.model_dump(mode="json"), "best_value": result.best_value},
        as_json,
        f"best objective {result.best_value:.3f}; review it with: counterforge ui",
    )


app.command("resume", help="The same as launch: goes on to the total number of trials.")(launch)


@app.command()
def status(
    name: Annotated[str | None, typer.Argument(help="Study, or the beginning of its name; all by default.")] = None,
    mlruns: Mlruns = DEFAULT_MLRUNS,
    as_json: AsJson = False,
) -> None:
    """The studies of a tracking folder, or the trials of one."""
    import pandas as pd

    from tracking.store import open_store
    from tuning.study import history, load, names

    store = open_store(mlruns)
    if name is not None:
        table = history(load(store, name))
        title = f"trials of {name}"
    else:
        rows = []
        for each in names(store):
            trials = history(load(store, each))
            done = trials["state"].value_counts().to_dict() if len(trials) else {}
            best = trials["value"].max() if len(trials) else None
            rows.append(
                {"study": each, "complete": done.get("COMPLETE", 0), "failed": done.get("FAIL", 0), "best": best}
            )
        table, title = pd.DataFrame(rows, columns=["study", "complete", "failed", "best"]), "studies"
    if as_json:
        typer.echo(table.to_json(orient="records"))
    else:
        print_table(table, title)
