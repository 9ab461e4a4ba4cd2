"""`counterforge study`: launch, resume, work, watch, review, register."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated

import typer

from pipelines.cli import options as opt

if TYPE_CHECKING:
    from pipelines.configuration import RunConfig

app = typer.Typer(help="Tune the whole chain: launch and review a study, register its winner.", no_args_is_help=True)


def _warn_of_password(context: typer.Context, option: typer.CallbackParam, value: str | None) -> str | None:
    from core.secrets import has_password

    source = context.get_parameter_source(option.name or "")
    if value is not None and source is not None and source.name == "COMMANDLINE" and has_password(value):
        typer.echo(
            "warning: everybody on this machine can read the password of --storage in the list of processes: "
            "set COUNTERFORGE_STORAGE instead",
            err=True,
        )
    return value


_STORAGE = "PostgreSQL database of the studies: postgresql://user:password@host/name, best given by the variable."
Storage = Annotated[
    str | None,
    typer.Option("--storage", envvar="COUNTERFORGE_STORAGE", callback=_warn_of_password, help=_STORAGE),
]
Name = Annotated[str, typer.Argument(help="Study, or the beginning of its name.")]


@app.command()
def launch(
    config: Annotated[Path, typer.Argument(help="YAML like that of `counterforge run`, with a `study` section.")],
    trials: Annotated[int | None, typer.Option(help="Total number of trials, over all launches.", min=1)] = None,
    workers: Annotated[
        int, typer.Option(help="Worker processes; each gets a share of the cores, or a GPU.", min=1)
    ] = 1,
    cluster: Annotated[str | None, typer.Option(help="Address of a Ray cluster that runs the trials, or auto.")] = None,
    storage: Storage = None,
    new: Annotated[bool, typer.Option("--new", help="Begin another study beside one of the same name.")] = False,
    settings: opt.Set = None,
    seed: opt.Seed = None,
    dry_run: opt.DryRun = False,
    as_json: opt.AsJson = False,
) -> None:
    """Run a study to its total number of trials; launching again resumes. --dry-run prints the cost of a trial."""
    from core.errors import UserError
    from pipelines.configuration import RunConfig
    from pipelines.run import search
    from tuning.status import show, study_status
    from tuning.storage import load

    more = [f"study.trials={trials}"] if trials else []
    more += [f"study.seed={seed}"] if seed is not None else []
    resolved = opt.configuration(RunConfig, config, [*(settings or ()), *more])
    if resolved.study is None:
        raise UserError(f"{config} has no section `study`: add one, see configs/faces.yaml")
    if dry_run:
        _dry_run(resolved, workers, as_json)
        return
    study = resolved.study
    if storage is not None:  # not before the configuration was printed: it may hold a password
        study = study.model_copy(update={"storage": storage})
        resolved = resolved.model_copy(update={"study": study})
    result = search(resolved, workers=workers, new=new, cluster=cluster)
    if not as_json:
        show(lambda: study_status(load(resolved.mlruns.absolute(), result.name, study.storage)))
    commands = _commands(result.name, resolved.mlruns, study.storage, "report", "register")
    told = {"study": result.name, "best": result.best.model_dump(mode="json"), "best_value": result.best_value}
    told |= {"ended": result.ended, "next": commands}
    text = f"{result.ended}; best {study.objectives[0]} {result.best_value:.3f}{_next(commands)}"
    opt.answer(told, as_json, text)


def _tracking(mlruns: Path) -> str:
    return "" if mlruns == opt.MLRUNS else f" --mlruns {quote(str(mlruns))}"


def _commands(name: str, mlruns: Path, storage: str | None, *verbs: str) -> list[str]:
    """What to type after a study, ready to be copied."""
    from tuning.storage import StudyStorage

    known = os.environ.get("COUNTERFORGE_STORAGE")
    database = "" if storage is None or storage == known else f" --storage {quote(StudyStorage(storage).shown)}"
    commands = [f"counterforge study {verb} {name}{_tracking(mlruns)}{database}" for verb in verbs]
    return [*commands, f"counterforge ui{_tracking(mlruns)}"]


def _next(commands: list[str]) -> str:
    return "\nnext:\n" + "\n".join(f"    {command}" for command in commands) if commands else ""


app.command("resume", help="Same as launch: continue to the total number of trials.")(launch)


def _dry_run(config: RunConfig, workers: int, as_json: bool) -> None:
    """The resolved configuration, the space, and what a trial costs."""
    import pandas as pd

    from core.manifest import Manifest
    from pipelines.run import study_base
    from tuning.identity import check_study
    from tuning.queue import slots
    from tuning.space import described
    from tuning.status import duration
    from tuning.study import trial_costs

    assert config.study is not None
    base = check_study(config.study, study_base(config))
    manifest = config.out / "faces" / "reduced.parquet"
    rows = Manifest.read(manifest).select(dataset=config.datasets.train, split="train") if manifest.is_file() else None
    faces = 1000 if rows is None else len(rows)
    costs = trial_costs(config.study, base, faces)
    trials, space = slots(config.study), described(config.study.space)
    hours = trials * sum(cost.trial for cost in costs) / len(costs) / 3600 / workers
    told = {"space": space, "trials": trials, "faces": faces, "hours": hours}
    told["trial_seconds"] = {cost.backbone: round(cost.trial, 1) for cost in costs}
    if not as_json:
        opt.show(config)
    columns = ["backbone", "head step ms", "full step ms", "trial s"]
    table = [(cost.backbone, cost.frozen_step * 1000, cost.full_step * 1000, cost.trial) for cost in costs]
    searched = (pd.DataFrame(space), f"{trials} trials by {config.study.sampler} over")
    cost = (pd.DataFrame(table, columns=columns), "cost, estimated from one timed step")
    of = f"{faces} train faces" + (" (assumed: the faces are not ingested yet)" if rows is None else "")
    text = f"about {duration(hours * 3600)} for {trials} trials of {of} by {workers} worker{'s' * (workers > 1)}"
    opt.answer(told, as_json, text, searched, cost)


@app.command()
def worker(
    study: Annotated[str, typer.Argument(help="Full name of the study, as `study launch` printed it.")],
    mlruns: opt.Mlruns = opt.MLRUNS,
    storage: Storage = None,
) -> None:
    """Join a study that was launched elsewhere, until it ends: a job of SLURM or Kubernetes, another terminal."""
    from tuning.storage import storage_of
    from tuning.worker import join

    typer.echo(join(storage_of(mlruns.absolute(), study, storage).address, study))


@app.command()
def status(
    name: Annotated[str | None, typer.Argument(help="Study, or the beginning of its name; all by default.")] = None,
    mlruns: opt.Mlruns = opt.MLRUNS,
    storage: Storage = None,
    live: Annotated[bool, typer.Option("--live", help="Refresh until the study ends, or Ctrl-C.")] = False,
    trials: Annotated[int, typer.Option(help="Number of trials to show, the best ones first.", min=0)] = 15,
    as_json: opt.AsJson = False,
) -> None:
    """List the studies, or show one with its best trials and the time left."""
    from tuning.status import overview, show, study_status
    from tuning.storage import load

    root = mlruns.absolute()
    if name is None:
        table = overview(root, storage)
        opt.answer(opt.records(table), as_json, "", (table, "studies"))
    elif as_json:
        opt.answer(asdict(study_status(load(root, name, storage))), as_json, "")
    else:
        show(lambda: study_status(load(root, name, storage)), live=live, trials=trials)


@app.command()
def report(
    name: Name,
    mlruns: opt.Mlruns = opt.MLRUNS,
    storage: Storage = None,
    seeds: Annotated[int, typer.Option(help="Number of fresh seeds to train the best recipe with.", min=0)] = 0,
    sealed: Annotated[bool, typer.Option(help="Score on the sealed test rows, too; the opening is counted.")] = True,
    out: Annotated[Path | None, typer.Option("--out", help="HTML file to write; beside the study by default.")] = None,
    as_json: opt.AsJson = False,
) -> None:
    """Write the report of a study: figures, and the best trial's val score beside its sealed test score."""
    from pipelines.reports import review_study, write_study_report
    from tuning.storage import load

    study = load(mlruns.absolute(), name, storage)
    review = review_study(study, seeds=seeds, sealed=sealed)
    found, commands = review.result, _commands(review.result.name, mlruns, storage, "register")
    path = write_study_report(study, review, out=out, commands=commands)
    result = {"study": found.name, "best": found.best.model_dump(mode="json"), "best_value": found.best_value}
    result |= {"scores": review.optimism.to_dict("records"), "importance": found.importance}
    result |= {"report": path, "next": commands}
    result["notes"] = review.notes
    title = f"the best trial of {found.name}: AUC on val, and on sealed test rows"
    text = "".join(f"note: {note}\n" for note in review.notes)
    text += f"report in {path}, and in the study's run{_next(commands)}"
    opt.answer(result, as_json, text, (review.optimism, title))


@app.command()
def register(
    name: Name,
    mlruns: opt.Mlruns = opt.MLRUNS,
    storage: Storage = None,
    dry_run: opt.DryRun = False,
    as_json: opt.AsJson = False,
) -> None:
    """Train the winner of a study at full cost and register it as challenger. Repeating the command resumes."""
    from pipelines.training import register_winner
    from tuning.storage import load

    winner = register_winner(load(mlruns.absolute(), name, storage), dry_run=dry_run)
    how = "trained at full cost" if winner.trained else "with the weights of the trial"
    promote = f"counterforge models promote challenger{_tracking(mlruns)}"
    commands = [] if dry_run or winner.champion else [promote]
    if dry_run and not as_json:
        opt.show(winner.recipe)
    text = f"trial {winner.trial} of {winner.study}, {how}"
    if not dry_run:
        text = f"version {winner.version} is the {'champion' if winner.champion else 'challenger'}: {text}"
    result = {"study": winner.study, "trial": winner.trial, "recipe": winner.recipe.model_dump(mode="json")}
    result |= {"trained": winner.trained, "version": winner.version, "next": commands}
    opt.answer(result, as_json, text + _next(commands))
