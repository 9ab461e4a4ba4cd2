"""`counterforge models`: the registry."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from pipelines.cli.options import DEFAULT_CACHE, DEFAULT_MLRUNS, MODEL_HELP, AsJson, Cache, Mlruns, answer, print_table

app = typer.Typer(help="The registry: list, compare, promote, roll back, export.", no_args_is_help=True)


@app.command("list")
def list_models(mlruns: Mlruns = DEFAULT_MLRUNS, as_json: AsJson = False) -> None:
    """All versions with their aliases, lineage and AUC by test dataset, newest first."""
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
    wanted += [name for name in ("gate", "imported_from", "licence", "claimed_licence") if name in table]
    aucs = [name for name in table if name.startswith(("auc/", "claimed_auc/"))]
    table["created"] = table["created"].dt.strftime("%Y-%m-%d %H:%M")
    print_table(table[wanted + aucs], "counterforge-detector")


@app.command()
def promote(
    candidate: Annotated[str, typer.Argument(help=MODEL_HELP)],
    gate: Annotated[Path | None, typer.Option("--gate", help="YAML file of rules, such as configs/gate.yaml.")] = None,
    manifest: Annotated[Path | None, typer.Option("--manifest", help="By default that of the model's lineage.")] = None,
    dataset: Annotated[list[str] | None, typer.Option(help="Test datasets to compare on.")] = None,
    cache: Cache = DEFAULT_CACHE,
    mlruns: Mlruns = DEFAULT_MLRUNS,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Decide, but move no alias and keep no report.")] = False,
    as_json: AsJson = False,
) -> None:
    """Make a candidate champion if it passes the gate on sealed groups; else say why not, exit 1."""
    import pandas as pd

    from pipelines.release.gate import read_gate
    from pipelines.release.promotion import evaluate_gate
    from tracking.store import open_store

    rules = read_gate(gate)
    store = open_store(mlruns)
    verdict = evaluate_gate(
        store, candidate, gate=rules, manifest=manifest, datasets=dataset or (), cache=cache, dry_run=dry_run
    )
    outcome = "not promoted" if not verdict.promoted else "would be promoted" if dry_run else "promoted"
    if verdict.checks and not as_json:
        checks = pd.DataFrame(verdict.checks)[["rule", "passed", "wanted", "measured"]]
        checks["passed"] = ["yes" if passed else "NO" for passed in checks["passed"]]
        print_table(checks, f"gate of version {verdict.version}")
    answer(asdict(verdict), as_json, f"{outcome}: {verdict.reason}")
    if not verdict.promoted:
        raise typer.Exit(1)


@app.command()
def rollback(
    why: Annotated[str, typer.Option("--why", help="A reason, for the history.")] = "",
    mlruns: Mlruns = DEFAULT_MLRUNS,
    as_json: AsJson = False,
) -> None:
    """Give the alias champion back to the previous champion."""
    from tracking.registry import Registry
    from tracking.store import open_store

    version = Registry(open_store(mlruns)).rollback(why)
    answer({"champion": version.number}, as_json, f"champion is version {version.number} again")


@app.command("history")
def show_history(mlruns: Mlruns = DEFAULT_MLRUNS, as_json: AsJson = False) -> None:
    """Every change of the champion: when, who, what, and why; the newest first."""
    import json

    import pandas as pd

    from tracking.registry import Registry
    from tracking.store import open_store

    events = [asdict(event) for event in Registry(open_store(mlruns)).history()]
    if as_json:
        typer.echo(json.dumps(events, indent=2))
    elif not events:
        typer.echo("nothing was promoted yet: counterforge models promote VERSION")
    else:
        table = pd.DataFrame(events)
        table["when"] = table["when"].str.slice(0, 19).str.replace("T", " ")
        table["before"] = ["" if before is None else str(before) for before in (e["before"] for e in events)]
        print_table(table, "changes of the champion")


@app.command()
def compare(
    first: Annotated[str, typer.Argument(help=MODEL_HELP)],
    second: Annotated[str, typer.Argument(help=MODEL_HELP)],
    manifest: Annotated[Path | None, typer.Option("--manifest", help="By default that of the first's lineage.")] = None,
    dataset: Annotated[list[str] | None, typer.Option(help="Test datasets to compare on.")] = None,
    metric: Annotated[str, typer.Option(help="auc, ap, eer, accuracy, recall, fpr or f1.")] = "auc",
    cache: Cache = DEFAULT_CACHE,
    mlruns: Mlruns = DEFAULT_MLRUNS,
    as_json: AsJson = False,
) -> None:
    """Compare two models on the sealed test set: each figure, and the paired difference with its interval."""
    import pandas as pd

    from pipelines.release.compare import compare_versions
    from tracking.store import open_store

    result = compare_versions(
        open_store(mlruns), first, second, manifest=manifest, datasets=dataset or (), metric=metric, cache=cache
    )
    if not as_json:
        print_table(
            pd.DataFrame(result["datasets"]), f"{metric} by source, version {result['first']} and {result['second']}"
        )
    answer(result, as_json, str(result["sentence"]))


@app.command()
def card(
    model: Annotated[str, typer.Argument(help=MODEL_HELP)],
    out: Annotated[Path | None, typer.Option("--out", help="File to write; printed by default.")] = None,
    mlruns: Mlruns = DEFAULT_MLRUNS,
) -> None:
    """The model card, markdown: data, figures with intervals, threshold, lineage, limits."""
    from pipelines.release.lineage import find_version
    from pipelines.release.model_card import version_card
    from tracking.store import open_store

    store = open_store(mlruns)
    text = version_card(store, find_version(store, model))
    if out is None:
        typer.echo(text)
        return
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(text, encoding="utf-8")
    typer.echo(str(out))


@app.command()
def tag(
    model: Annotated[str, typer.Argument(help=MODEL_HELP)],
    tags: Annotated[list[str], typer.Argument(help="Such as licence=CC-BY-4.0.")],
    mlruns: Mlruns = DEFAULT_MLRUNS,
) -> None:
    """Set tags of a version, such as the licence that a gate may ask for."""
    from core.errors import UserError
    from pipelines.release.lineage import find_version
    from tracking.registry import Registry
    from tracking.store import open_store

    pairs = dict(each.split("=", 1) for each in tags if "=" in each)
    if len(pairs) != len(tags):
        raise UserError("a tag is written name=value, such as licence=CC-BY-4.0: give each like that")
    registry = Registry(open_store(mlruns))
    version = find_version(registry.store, model)
    registry.tag(version.number, pairs)
    typer.echo(f"version {version.number}: " + ", ".join(f"{name}={value}" for name, value in pairs.items()))


@app.command("export")
def export_model(
    model: Annotated[str, typer.Argument(help=MODEL_HELP)],
    out: Annotated[Path, typer.Option("--out", help="A new folder.")],
    onnx: Annotated[bool, typer.Option("--onnx/--no-onnx", help="With model.onnx (needs the extra `export`).")] = True,
    int8: Annotated[bool, typer.Option("--int8", help="With model.int8.onnx, calibrated on train crops.")] = False,
    manifest: Annotated[
        Path | None, typer.Option("--manifest", help="Faces for parity and calibration; the lineage's by default.")
    ] = None,
    sign: Annotated[Path | None, typer.Option("--sign", help="PEM file of an Ed25519 private key.")] = None,
    cache: Cache = DEFAULT_CACHE,
    mlruns: Mlruns = DEFAULT_MLRUNS,
    as_json: AsJson = False,
) -> None:
    """A folder that needs nothing beside it: weights, ONNX with its parity measured, card, lineage, checksums."""
    from pipelines.release.bundle import export_version
    from pipelines.release.lineage import find_version
    from tracking.store import open_store

    store = open_store(mlruns)
    version = find_version(store, model)
    result = export_version(store, version, out, onnx=onnx, int8=int8, manifest=manifest, cache=cache, sign=sign)
    lines = [f"version {version.number} is in {out}: " + ", ".join(result["files"])]
    lines += [f"{name}: {sentence}" for name, sentence in result["parity"].items()]
    answer(result, as_json, "\n".join(lines))


@app.command("import")
def import_model(
    folder: Annotated[Path, typer.Argument(help="What `models export` wrote.")],
    trust: Annotated[
        Path | None, typer.Option("--trust", help="PEM file of the Ed25519 public key that must have signed it.")
    ] = None,
    mlruns: Mlruns = DEFAULT_MLRUNS,
    as_json: AsJson = False,
) -> None:
    """Take an exported model into this registry, after its checksums were verified; what it claims stays a claim."""
    from pipelines.release.bundle import import_version
    from tracking.store import open_store

    version = import_version(open_store(mlruns), folder, trust=trust)
    text = f"{folder} is version {version.number} here (alias challenger)"
    answer({"version": version.number, "model_id": version.model_id}, as_json, text)
