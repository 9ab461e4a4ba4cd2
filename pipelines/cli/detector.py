"""`counterforge balance | train | evaluate`: one detector, step by step."""

from __future__ import annotations

import json
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipelines.cli.options import (
    DEFAULT_CACHE,
    DEFAULT_MLRUNS,
    MODEL_HELP,
    AsJson,
    Cache,
    ConfigFile,
    DryRun,
    Manifest,
    Mlruns,
    Seed,
    Set,
    answer,
    configuration,
    print_table,
    show_configuration,
)

if TYPE_CHECKING:
    import pandas as pd

    from classifier.calibration import Band
    from classifier.evaluation import Result


def add_to(app: typer.Typer) -> None:
    """Add the commands to the main one."""
    app.command()(balance)
    app.command()(train)
    app.command()(evaluate)
    app.command()(explain)
    app.command()(ensemble)


def balance(
    manifest: Manifest,
    out: Annotated[Path, typer.Option("--out", help="Folder for the new manifest and the synthetic crops.")],
    generator: Annotated[Path | None, typer.Option("--generator", help="Folder of a generator's checkpoint.")] = None,
    method: Annotated[
        str | None, typer.Option(help="gan, gan-matched, gan-composite, self-blend; or several: self-blend:2+gan.")
    ] = None,
    share: Annotated[float | None, typer.Option(help="Fakes among all train rows afterwards, 0 to 1.")] = None,
    psi: Annotated[float | None, typer.Option(help="Truncation of the synthetic faces.")] = None,
    settings: Set = None,
    seed: Seed = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Add synthetic fakes to the train split until they reach a share. Real faces are never synthesised.

    Methods: gan (a raw sample), gan-matched (a sample with the reals' sharpness, noise and encoding), gan-composite (a
    sample's face blended into a train photograph), self-blend (a photograph blended with a changed copy of itself).
    """
    from core.manifest import Manifest
    from faces.sheets import forgery_sheet
    from gan.balancing import BalanceConfig
    from gan.balancing import balance as run

    named = {"share": share, "method": method, "psi": psi, "seed": seed}
    config = configuration(BalanceConfig, None, settings, named)
    if dry_run:
        show_configuration(config)
        return
    result = run(Manifest.read(manifest), generator, config, out / "synthetic")
    path = result.manifest.write(out / "manifest.parquet")
    sheet = forgery_sheet(Manifest.read(path), out / "forgeries.png")
    text = f"{result.explanation}\n{path}" + (f"\nforgeries and their masks: {sheet}" if sheet else "")
    answer({"manifest": path, "added": result.added, "why": result.explanation, "sheet": sheet}, as_json, text)


def _list_backbones(wanted: bool) -> None:
    if wanted:
        import pandas as pd

        from classifier.models.backbones import catalogue

        print_table(pd.DataFrame(catalogue()), "backbones of a detector")
        raise typer.Exit


def train(
    manifest: Manifest,
    out: Annotated[Path, typer.Option("--out", help="Folder for the detector.")],
    backbone: Annotated[str | None, typer.Option(help="Such as resnet50, densenet121, tf_efficientnet_lite0.")] = None,
    weights: Annotated[str | None, typer.Option(help="imagenet, none, or a file of weights.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the train rows.")] = None,
    project: Annotated[str, typer.Option(help="Name of the MLflow experiment.")] = "detectors",
    audit: Annotated[bool, typer.Option(help="Warn if a probe that looks at no face comes near the detector.")] = True,
    _backbones: Annotated[
        bool, typer.Option("--list-backbones", is_eager=True, callback=_list_backbones, help="Show them all, and exit.")
    ] = False,
    config: ConfigFile = None,
    settings: Set = None,
    cache: Cache = DEFAULT_CACHE,
    mlruns: Mlruns = DEFAULT_MLRUNS,
    seed: Seed = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Train a detector on a manifest's train rows, calibrate it on val, log it. The same command resumes."""
    from classifier.config import DetectorConfig
    from pipelines.detector import train_detector
    from tracking.store import open_store

    named = {"backbone": backbone, "weights": weights, "epochs": epochs, "seed": seed}
    detector = configuration(DetectorConfig, config, settings, named)
    if dry_run:
        show_configuration(detector)
        return
    trained = train_detector(open_store(mlruns), manifest, detector, out, cache, project=project, audit=audit)
    lines = [
        f"detector in {trained.detector}, val AUC {trained.val_auc:.3f}, registered as version {trained.version}",
        *(f"note: {remark}" for remark in trained.remarks),
        f"next: counterforge evaluate --model {trained.version}; counterforge models promote {trained.version}",
    ]
    answer(asdict(trained), as_json, "\n".join(lines))


def _column(of: Result) -> dict[str, str]:
    """What one dataset shows, from counts to calibration."""
    figures = {"real": str(of.real), "fake": str(of.fake), "groups": str(of.groups), "auc": str(of.intervals["auc"])}
    names = ("ap", "eer", "accuracy", "precision", "recall", "f1", "fpr", "brier", "ece")
    (tn, fp), (fn, tp) = of.confusion
    return figures | {name: f"{of.metrics[name]:.3f}" for name in names} | {"tn fp / fn tp": f"{tn} {fp} / {fn} {tp}"}


def _band_title(band: Band) -> str:
    if band.low == band.high:
        return "it never abstains: the threshold alone keeps both errors low on val"
    return f"abstaining where {band.low:.3f} <= P(fake) < {band.high:.3f}, by source; fpr and recall of the rest"


def _percentages(withheld: pd.DataFrame) -> pd.DataFrame:
    shares = ["abstained", "fpr", "recall"]
    return withheld.assign(**{name: [_percent(share) for share in withheld[name]] for name in shares})


def _percent(share: float) -> str:
    return "-" if share != share else f"{share:.1%}"


def evaluate(
    model: Annotated[str, typer.Option("--model", help=MODEL_HELP)],
    manifest: Annotated[Path | None, typer.Option("--manifest", help="By default that of the model's lineage.")] = None,
    dataset: Annotated[list[str] | None, typer.Option(help="Datasets to score; all by default.")] = None,
    robustness: Annotated[
        bool, typer.Option("--robustness", help="Degrade the faces step by step too (36 times the work).")
    ] = False,
    cache: Cache = DEFAULT_CACHE,
    mlruns: Mlruns = DEFAULT_MLRUNS,
    as_json: AsJson = False,
) -> None:
    """Evaluate a model on the sealed test set, by frame and by source. The opening is counted in MLflow."""
    import pandas as pd

    from pipelines.evaluation.model import evaluate_model
    from pipelines.evaluation.robustness import ladder_table, worst_sentence
    from pipelines.release.lineage import find_model
    from tracking.store import open_store

    found = find_model(open_store(mlruns), model)
    result = evaluate_model(found, found.sealed_rows(manifest, dataset or ()), cache, robustness=robustness)
    if as_json:
        answer(result.to_json(), as_json, "")
        return
    scored, ladder = result.scored, result.ladder
    for title, evaluation in (("by source", scored.by_source), ("by frame", scored.by_frame)):
        table = pd.DataFrame({name: _column(evaluation.results[name]) for name in evaluation.datasets})
        title = f"{model}, sealed test rows {title}, threshold {evaluation.threshold:.3f}"
        print_table(table.rename_axis("").reset_index(), title)
    if result.withheld is not None and scored.band is not None:
        print_table(_percentages(result.withheld), _band_title(scored.band))
    if ladder is not None:
        for name in ladder.datasets:
            print_table(ladder_table(ladder, name), f"{name}: AUC/FPR by source on the robustness ladder")
        for name in ladder.datasets:
            typer.echo(worst_sentence(ladder, name))
    for remark in result.remarks:
        typer.echo(f"note: {remark}")
    typer.echo("test rows opened so far: " + ", ".join(f"{name} {count}" for name, count in result.openings.items()))


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


def explain(
    model: Annotated[str, typer.Argument(help=MODEL_HELP)],
    manifest: Manifest,
    out: Annotated[Path, typer.Option("--out", help="Folder for the picture and the tables.")],
    count: Annotated[int, typer.Option("--count", min=1, max=64, help="Faces: half worst mistakes, half hits.")] = 8,
    row: Annotated[list[int] | None, typer.Option("--row", help="Rows of the manifest instead; repeatable.")] = None,
    split: Annotated[str, typer.Option(help="val, train or test (which is counted as an opening).")] = "val",
    dataset: Annotated[list[str] | None, typer.Option(help="Datasets to choose from; all by default.")] = None,
    method: Annotated[list[Method] | None, typer.Option("--method", help="All three by default; repeatable.")] = None,
    masked: Annotated[int, typer.Option(min=0, help="Forged faces with a known mask to score by, at most.")] = 48,
    cache: Cache = DEFAULT_CACHE,
    mlruns: Mlruns = DEFAULT_MLRUNS,
    as_json: AsJson = False,
) -> None:
    """Saliency maps for the fake logit, scored against the forged region where its mask is known."""

    from core.manifest import Manifest
    from pipelines.evaluation.explanation import explain_model
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
    dataset: Annotated[list[str] | None, typer.Option(help="Datasets whose val rows count; all by default.")] = None,
    project: Annotated[str, typer.Option(help="Name of the MLflow experiment.")] = "detectors",
    cache: Cache = DEFAULT_CACHE,
    mlruns: Mlruns = DEFAULT_MLRUNS,
    as_json: AsJson = False,
) -> None:
    """Combine several detectors into one: weights, temperature and threshold fitted on val."""
    import pandas as pd

    from pipelines.ensemble import ensemble as run
    from tracking.store import open_store

    result = run(
        open_store(mlruns),
        models,
        manifest,
        out,
        combination=combination.value,
        datasets=dataset or (),
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
