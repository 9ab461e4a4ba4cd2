"""`counterforge models`: the registry."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from pipelines.cli import options as opt

app = typer.Typer(help="The registry: list, compare, promote, roll back, export.", no_args_is_help=True)


@app.command("list")
def list_models(mlruns: opt.Mlruns = opt.MLRUNS, as_json: opt.AsJson = False) -> None:
    """All versions with their aliases, lineage and AUC by test dataset, newest first."""
    from tracking.registry import Registry

    table = Registry(opt.open_store(mlruns)).list_versions()
    result = opt.records(table)
    if table.empty:
        opt.answer(result, as_json, "nothing is registered yet: counterforge demo, run or train registers a model")
        return
    table["created"] = table["created"].dt.strftime("%Y-%m-%d %H:%M")
    wanted = ["version", "aliases", "created", "project", "arm", "manifest", "generator"]
    wanted += ["gate", "imported_from", "licence", "claimed_licence"]
    columns = [name for name in wanted if name in table]
    columns += [name for name in table if name.startswith(("auc/", "claimed_auc/"))]
    opt.answer(result, as_json, "", (table[columns], "counterforge-detector"))


@app.command()
def promote(
    candidate: opt.Model,
    gate: Annotated[Path | None, typer.Option("--gate", help="YAML file of rules, such as configs/gate.yaml.")] = None,
    manifest: opt.LineageManifest = None,
    dataset: opt.Datasets = None,
    cache: opt.Cache = opt.CACHE,
    mlruns: opt.Mlruns = opt.MLRUNS,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Decide, but move no alias and keep no report.")] = False,
    as_json: opt.AsJson = False,
) -> None:
    """Make a candidate champion if it passes the gate on sealed groups; else say why not, exit 1."""
    import pandas as pd

    from pipelines.release.gate import read_gate
    from pipelines.release.promotion import evaluate_gate

    rules = read_gate(gate)
    store, names = opt.open_store(mlruns), dataset or ()
    verdict = evaluate_gate(
        store, candidate, gate=rules, manifest=manifest, datasets=names, cache=cache, dry_run=dry_run
    )
    outcome = "not promoted" if not verdict.promoted else "would be promoted" if dry_run else "promoted"
    tables = []
    if verdict.checks:
        checks = pd.DataFrame(verdict.checks)[["rule", "passed", "wanted", "measured"]]
        checks["passed"] = ["yes" if passed else "NO" for passed in checks["passed"]]
        tables.append((checks, f"gate of version {verdict.version}"))
    opt.answer(verdict, as_json, f"{outcome}: {verdict.reason}", *tables)
    if not verdict.promoted:
        raise typer.Exit(1)


@app.command()
def rollback(
    why: Annotated[str, typer.Option("--why", help="A reason, for the history.")] = "",
    mlruns: opt.Mlruns = opt.MLRUNS,
    as_json: opt.AsJson = False,
) -> None:
    """Give the alias champion back to the previous champion."""
    from tracking.registry import Registry

    version = Registry(opt.open_store(mlruns)).rollback(why)
    opt.answer({"champion": version.number}, as_json, f"champion is version {version.number} again")


@app.command("history")
def show_history(mlruns: opt.Mlruns = opt.MLRUNS, as_json: opt.AsJson = False) -> None:
    """Every change of the champion: when, who, what, and why; the newest first."""
    import pandas as pd

    from tracking.registry import Registry

    events = [asdict(event) for event in Registry(opt.open_store(mlruns)).history()]
    if not events:
        opt.answer([], as_json, "nothing was promoted yet: counterforge models promote VERSION")
        return
    table = pd.DataFrame(events)
    table["when"] = table["when"].str.slice(0, 19).str.replace("T", " ")
    table["before"] = [str(event["before"] or "") for event in events]
    opt.answer(events, as_json, "", (table, "changes of the champion"))


@app.command()
def compare(
    first: opt.Model,
    second: opt.Model,
    manifest: opt.LineageManifest = None,
    dataset: opt.Datasets = None,
    metric: Annotated[str, typer.Option(help="auc, ap, eer, accuracy, recall, fpr or f1.")] = "auc",
    cache: opt.Cache = opt.CACHE,
    mlruns: opt.Mlruns = opt.MLRUNS,
    as_json: opt.AsJson = False,
) -> None:
    """Compare two models on the sealed test set: each figure, and the paired difference with its interval."""
    import pandas as pd

    from pipelines.release.promotion import compare_versions

    store, datasets = opt.open_store(mlruns), dataset or ()
    result = compare_versions(store, first, second, manifest=manifest, datasets=datasets, metric=metric, cache=cache)
    title = f"{metric} by source, version {result.first} and {result.second}"
    text = "\n".join([result.sentence, *(f"note: {note}" for note in result.notes)])
    opt.answer(result, as_json, text, (pd.DataFrame(result.datasets), title))


@app.command()
def card(
    model: opt.Model,
    out: Annotated[Path | None, typer.Option("--out", help="File to write; printed by default.")] = None,
    mlruns: opt.Mlruns = opt.MLRUNS,
) -> None:
    """The model card, markdown: data, figures with intervals, threshold, lineage, limits."""
    from core.files import write_text
    from pipelines.release.lineage import find_version
    from pipelines.release.model_card import version_card

    store = opt.open_store(mlruns)
    text = version_card(store, find_version(store, model))
    if out is None:
        typer.echo(text)
        return
    write_text(out, text)
    typer.echo(str(out))


@app.command()
def tag(
    model: opt.Model,
    tags: Annotated[list[str], typer.Argument(help="Such as licence=CC-BY-4.0.")],
    mlruns: opt.Mlruns = opt.MLRUNS,
) -> None:
    """Set tags of a version, such as the licence that a gate may ask for."""
    from core.errors import UserError
    from pipelines.release.lineage import find_version
    from tracking.registry import Registry

    pairs = dict(each.split("=", 1) for each in tags if "=" in each)
    if len(pairs) != len(tags):
        raise UserError("a tag is written name=value, such as licence=CC-BY-4.0: give each like that")
    registry = Registry(opt.open_store(mlruns))
    version = find_version(registry.store, model)
    registry.tag(version.number, pairs)
    typer.echo(f"version {version.number}: " + ", ".join(f"{name}={value}" for name, value in pairs.items()))


@app.command("export")
def export_model(
    model: opt.Model,
    out: Annotated[Path, typer.Option("--out", help="A new folder.")],
    onnx: Annotated[bool, typer.Option("--onnx/--no-onnx", help="With model.onnx (needs the extra `export`).")] = True,
    int8: Annotated[bool, typer.Option("--int8", help="With model.int8.onnx, calibrated on train crops.")] = False,
    manifest: opt.LineageManifest = None,
    sign: Annotated[Path | None, typer.Option("--sign", help="PEM file of an Ed25519 private key.")] = None,
    cache: opt.Cache = opt.CACHE,
    mlruns: opt.Mlruns = opt.MLRUNS,
    as_json: opt.AsJson = False,
) -> None:
    """A folder that needs nothing beside it: weights, ONNX with its parity measured, card, lineage, checksums."""
    from pipelines.release.bundle import export_version
    from pipelines.release.lineage import find_version

    store = opt.open_store(mlruns)
    version = find_version(store, model)
    result = export_version(store, version, out, onnx=onnx, int8=int8, manifest=manifest, cache=cache, sign=sign)
    lines = [f"version {version.number} is in {out}: " + ", ".join(result.files)]
    lines += [f"{name}: {sentence}" for name, sentence in result.parity.items()]
    opt.answer(result, as_json, "\n".join(lines))


@app.command("import")
def import_model(
    folder: Annotated[Path, typer.Argument(help="What `models export` wrote.")],
    trust: Annotated[Path | None, typer.Option("--trust", help="PEM file of its signer's Ed25519 public key.")] = None,
    mlruns: opt.Mlruns = opt.MLRUNS,
    as_json: opt.AsJson = False,
) -> None:
    """Take an exported model into this registry, after its checksums were verified; what it claims stays a claim."""
    from pipelines.release.bundle import import_version

    version = import_version(opt.open_store(mlruns), folder, trust=trust)
    text = f"{folder} is version {version.number} here (alias challenger)"
    opt.answer({"version": version.number, "model_id": version.model_id}, as_json, text)
