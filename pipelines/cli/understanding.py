"""`counterforge explain | ensemble`: what models look at, and several of them as one."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from pipelines.cli.options import DEFAULT_CACHE, DEFAULT_MLRUNS, AsJson, Cache, Manifest, Mlruns, answer, print_table


class Combination(StrEnum):
    """How an ensemble weighs its members."""

    mean = "mean"
    weighted = "weighted"
    stacking = "stacking"


class Method(StrEnum):
    """How a map is made."""

    grad_cam = "grad-cam"
    occlusion = "occlusion"
    integrated_gradients = "integrated-gradients"


def add_to(app: typer.Typer) -> None:
    """Add the commands to the main one."""
    app.command()(explain)
    app.command()(ensemble)


def explain(
    model: Annotated[str, typer.Argument(help="Version, alias (champion), or a detector's folder.")],
    manifest: Manifest,
    out: Annotated[Path, typer.Option("--out", help="Folder for the picture and the tables.")],
    count: Annotated[int, typer.Option("--count", min=1, max=64, help="Faces: half worst mistakes, half hits.")] = 8,
    row: Annotated[list[int] | None, typer.Option("--row", help="Rows of the manifest instead; repeatable.")] = None,
    split: Annotated[str, typer.Option(help="val, train or test (which is counted as an opening).")] = "val",
    dataset: Annotated[list[str] | None, typer.Option(help="Data sets to choose from; all by default.")] = None,
    method: Annotated[list[Method] | None, typer.Option("--method", help="All three by default; repeatable.")] = None,
    masked: Annotated[int, typer.Option(min=0, help="Forged faces with a known mask to score by, at most.")] = 48,
    cache: Cache = DEFAULT_CACHE,
    mlruns: Mlruns = DEFAULT_MLRUNS,
    as_json: AsJson = False,
) -> None:
    """Maps of what speaks for "fake", over faces; scored against the forged region where a mask is known."""
    import json

    from faces.manifest import Manifest
    from pipelines.explaining import explain_model
    from tracking.store import open_store

    faces = Manifest.read(manifest)
    if dataset:
        faces = faces.select(dataset=dataset)
    explained = explain_model(
        open_store(mlruns),
        model,
        faces,
        out,
        cache,
        methods=[each.value for each in method or list(Method)],
        count=count,
        rows=row or (),
        split=split,
        max_masked=masked,
    )
    if as_json:
        figures = json.loads(explained.localisation.to_json(orient="records"))
        shown = json.loads(explained.table.to_json(orient="records"))
        answer(
            {"picture": explained.picture, "faces": shown, "localisation": figures, "note": explained.note}, True, ""
        )
        return
    if len(explained.localisation):
        print_table(explained.localisation, "do the maps find the forged region? beside a centred box of its area")
    typer.echo(f"{explained.note}\n{explained.picture}")


def ensemble(
    models: Annotated[list[str], typer.Argument(help="Versions, aliases or folders, two or more.")],
    manifest: Annotated[Path, typer.Option("--manifest", help="Its val rows weigh and calibrate the ensemble.")],
    out: Annotated[Path, typer.Option("--out", help="Folder for the ensemble.")],
    combination: Annotated[Combination, typer.Option(help="How the members are weighed.")] = Combination.mean,
    dataset: Annotated[list[str] | None, typer.Option(help="Data sets whose val rows count; all by default.")] = None,
    project: Annotated[str, typer.Option(help="Name of the MLflow experiment.")] = "detectors",
    cache: Cache = DEFAULT_CACHE,
    mlruns: Mlruns = DEFAULT_MLRUNS,
    as_json: AsJson = False,
) -> None:
    """Make several detectors one: weights, temperature and threshold from val; registered like any other model."""
    import pandas as pd

    from pipelines.ensembles import ensemble as run
    from tracking.store import open_store

    result = run(
        open_store(mlruns),
        models,
        manifest,
        out,
        combination=combination.value,
        domains=dataset or (),
        project=project,
        cache=cache,
    )
    if not as_json:
        print_table(pd.DataFrame(result["members"]), f"members, on {result['rows']} val rows")
    note = f"\nnote: {result['note']}" if result["note"] else ""
    text = (
        f"ensemble in {result['ensemble']}: log loss {result['log_loss']:.4f}, AUC {result['auc']:.3f} on val "
        f"(cross-fitted), registered as version {result['version']}{note}"
    )
    answer(result, as_json, text)
