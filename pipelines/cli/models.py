"""`counterforge models`: the registry."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from pipelines.cli.options import DEFAULT_CACHE, DEFAULT_MLRUNS, AsJson, Cache, Mlruns, answer, print_table

app = typer.Typer(help="The registry: list, promote, roll back.", no_args_is_help=True)


@app.command("list")
def list_models(mlruns: Mlruns = DEFAULT_MLRUNS, as_json: AsJson = False) -> None:
    """All versions with their aliases, lineage and AUC by test domain, newest first."""
    from tracking.registry import Registry
    from tracking.store import open_store

    table = Registry(open_store(mlruns)).list_versions()
    if as_json:
        typer.echo(table.to_json(orient="records", date_format="iso"))
        return
    if table.empty:
        typer.echo("nothing is registered yet: counterforge demo, run or train registers a model")
        return
    wanted = [
        name for name in ("version", "aliases", "created", "project", "arm", "manifest", "generator") if name in table
    ]
    aucs = [name for name in table if name.startswith("auc/")]
    table["created"] = table["created"].dt.strftime("%Y-%m-%d %H:%M")
    print_table(table[wanted + aucs], "counterforge-detector")


@app.command()
def promote(
    candidate: Annotated[str, typer.Argument(help="Version or alias, such as 3 or challenger.")],
    manifest: Annotated[Path | None, typer.Option("--manifest", help="By default that of the model's lineage.")] = None,
    dataset: Annotated[list[str] | None, typer.Option(help="Test domains to compare on.")] = None,
    cache: Cache = DEFAULT_CACHE,
    mlruns: Mlruns = DEFAULT_MLRUNS,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Decide, but move no alias.")] = False,
    as_json: AsJson = False,
) -> None:
    """Make a candidate champion if it beats the champion on the same sealed groups; else say why not, exit 1."""
    from pipelines.promotion import consider
    from tracking.store import open_store

    store = open_store(mlruns)
    verdict = consider(store, candidate, manifest=manifest, domains=dataset or (), cache=cache, dry_run=dry_run)
    outcome = "not promoted" if not verdict.promoted else "would be promoted" if dry_run else "promoted"
    answer(asdict(verdict), as_json, f"{outcome}: {verdict.reason}")
    if not verdict.promoted:
        raise typer.Exit(1)


@app.command()
def rollback(mlruns: Mlruns = DEFAULT_MLRUNS, as_json: AsJson = False) -> None:
    """Give the alias champion back to the previous champion."""
    from tracking.registry import Registry
    from tracking.store import open_store

    version = Registry(open_store(mlruns)).rollback()
    answer({"champion": version.number}, as_json, f"champion is version {version.number} again")
