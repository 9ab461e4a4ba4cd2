"""`counterforge balance | train | evaluate | explain | ensemble`: one detector, step by step."""

from __future__ import annotations

from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from pipelines.cli import options as opt

if TYPE_CHECKING:
    import pandas as pd

    from classifier.calibration import Band
    from classifier.evaluation import Evaluation, Result


def add_to(app: typer.Typer) -> None:
    """Add the commands to the main one."""
    for command in (balance, train, evaluate, explain, ensemble):
        app.command()(command)


def balance(
    manifest: opt.Manifest,
    out: Annotated[Path, typer.Option("--out", help="Folder for the new manifest and the synthetic crops.")],
    generator: Annotated[Path | None, typer.Option("--generator", help="Folder of a generator's checkpoint.")] = None,
    method: Annotated[
        str | None, typer.Option(help="gan, gan-matched, gan-composite, self-blend; or several: self-blend:2+gan.")
    ] = None,
    share: Annotated[float | None, typer.Option(help="Fakes among all train rows afterwards, 0 to 1.")] = None,
    psi: Annotated[float | None, typer.Option(help="Truncation of the synthetic faces.")] = None,
    settings: opt.Set = None,
    seed: opt.Seed = None,
    dry_run: opt.DryRun = False,
    as_json: opt.AsJson = False,
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
    config = opt.configuration(BalanceConfig, None, settings, named)
    if dry_run:
        opt.print_and_exit(config, as_json)
    result = run(Manifest.read(manifest), generator, config, out / "synthetic")
    path = result.manifest.write(out / "manifest.parquet")
    sheet = forgery_sheet(Manifest.read(path), out / "forgeries.png")
    text = f"{result.explanation}\n{path}" + (f"\nforgeries and their masks: {sheet}" if sheet else "")
    opt.answer({"manifest": path, "added": result.added, "why": result.explanation, "sheet": sheet}, as_json, text)


def _list_backbones(wanted: bool) -> None:
    if wanted:
        import pandas as pd

        from classifier.models.backbones import catalogue

        opt.print_table(pd.DataFrame(catalogue()), "backbones of a detector")
        raise typer.Exit


def train(
    manifest: opt.Manifest,
    out: Annotated[Path, typer.Option("--out", help="Folder for the detector.")],
    backbone: Annotated[str | None, typer.Option(help="Such as resnet50, densenet121, tf_efficientnet_lite0.")] = None,
    weights: Annotated[str | None, typer.Option(help="imagenet, none, or a file of weights.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the train rows.")] = None,
    project: opt.Project = "detectors",
    audit: Annotated[bool, typer.Option(help="Warn if a probe that looks at no face comes near the detector.")] = True,
    _backbones: Annotated[
        bool, typer.Option("--list-backbones", is_eager=True, callback=_list_backbones, help="Show them all, and exit.")
    ] = False,
    config: opt.ConfigFile = None,
    settings: opt.Set = None,
    cache: opt.Cache = opt.CACHE,
    mlruns: opt.Mlruns = opt.MLRUNS,
    seed: opt.Seed = None,
    dry_run: opt.DryRun = False,
    as_json: opt.AsJson = False,
) -> None:
    """Train a detector on a manifest's train rows, calibrate it on val, log it. The same command resumes."""
    from classifier.config import DetectorConfig
    from pipelines.training import train_detector

    named = {"backbone": backbone, "weights": weights, "epochs": epochs, "seed": seed}
    detector = opt.configuration(DetectorConfig, config, settings, named)
    if dry_run:
        opt.print_and_exit(detector, as_json)
    trained = train_detector(opt.open_store(mlruns), manifest, detector, out, cache, project=project, audit=audit)
    number = trained.version
    lines = [f"detector in {trained.detector}, val AUC {trained.val_auc:.3f}, registered as version {number}"]
    lines += [f"note: {remark}" for remark in trained.remarks]
    lines += [f"next: counterforge evaluate --model {number}; counterforge models promote {number}"]
    opt.answer(asdict(trained), as_json, "\n".join(lines))


def evaluate(
    model: opt.ModelOption,
    manifest: opt.LineageManifest = None,
    dataset: opt.Datasets = None,
    robustness: Annotated[
        bool, typer.Option("--robustness", help="Degrade the faces step by step too (36 times the work).")
    ] = False,
    cache: opt.Cache = opt.CACHE,
    mlruns: opt.Mlruns = opt.MLRUNS,
    as_json: opt.AsJson = False,
) -> None:
    """Evaluate a model on the sealed test set, by frame and by source. The opening is counted in MLflow."""
    from pipelines.evaluation.model import evaluate_model, ladder_table, worst_sentence
    from pipelines.release.lineage import find_model

    found = find_model(opt.open_store(mlruns), model)
    result = evaluate_model(found, found.sealed_rows(manifest, dataset or ()), cache, robust=robustness)
    scored, ladder = result.scored, result.ladder
    tables = [_figures(scored.by_source, model, "source"), _figures(scored.by_frame, model, "frame")]
    if result.withheld is not None and scored.band is not None:
        tables.append((_percentages(result.withheld), _band_title(scored.band)))
    lines = []
    if ladder is not None:
        title = "AUC/FPR by source on the robustness ladder"
        tables += [(ladder_table(ladder, name), f"{name}: {title}") for name in ladder.datasets]
        lines += [worst_sentence(ladder, name) for name in ladder.datasets]
    lines += [f"note: {remark}" for remark in result.remarks]
    opt.answer(result.to_json(), as_json, "\n".join([*lines, opt.opened(result.openings)]), *tables)


def _figures(evaluation: Evaluation, model: str, unit: str) -> tuple[pd.DataFrame, str]:
    import pandas as pd

    table = pd.DataFrame({name: _column(evaluation.results[name]) for name in evaluation.datasets})
    title = f"{model}, sealed test rows by {unit}, threshold {evaluation.threshold:.3f}"
    return table.rename_axis("").reset_index(), title


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
    shares = withheld[["abstained", "fpr", "recall"]]
    return withheld.assign(**shares.map(lambda share: "-" if share != share else f"{share:.1%}"))


class Method(StrEnum):
    """How a map is made."""

    grad_cam = "grad-cam"
    occlusion = "occlusion"
    integrated_gradients = "integrated-gradients"


def explain(
    model: opt.Model,
    manifest: opt.Manifest,
    out: Annotated[Path, typer.Option("--out", help="Folder for the picture and the tables.")],
    count: Annotated[int, typer.Option("--count", min=1, max=64, help="Faces: half worst mistakes, half hits.")] = 8,
    row: Annotated[list[int] | None, typer.Option("--row", help="Rows of the manifest instead; repeatable.")] = None,
    split: Annotated[str, typer.Option(help="val, train or test (which is counted as an opening).")] = "val",
    dataset: opt.Datasets = None,
    method: Annotated[list[Method] | None, typer.Option("--method", help="All three by default; repeatable.")] = None,
    masked: Annotated[int, typer.Option(min=0, help="Forged faces with a known mask to score by, at most.")] = 48,
    cache: opt.Cache = opt.CACHE,
    mlruns: opt.Mlruns = opt.MLRUNS,
    as_json: opt.AsJson = False,
) -> None:
    """Saliency maps for the fake logit, scored against the forged region where its mask is known."""
    from core.manifest import Manifest
    from pipelines.evaluation.explanation import explain_model

    faces = Manifest.read(manifest)
    faces = faces.select(dataset=dataset) if dataset else faces
    methods = [each.value for each in method or Method]
    choice = {"methods": methods, "count": count, "rows": row or (), "split": split, "max_masked": masked}
    made = explain_model(opt.open_store(mlruns), model, faces, out, cache, **choice)
    result = {"picture": made.picture, "faces": opt.records(made.table)}
    result |= {"localisation": opt.records(made.localisation), "note": made.note}
    found = [(made.localisation, "do the maps find the forged region? beside a centred box of its area")]
    opt.answer(result, as_json, f"{made.note}\n{made.picture}", *(found if len(made.localisation) else ()))


def ensemble(
    models: Annotated[list[str], typer.Argument(help="Versions, aliases or folders, two or more.")],
    manifest: Annotated[Path, typer.Option("--manifest", help="Its val rows weigh and calibrate the ensemble.")],
    out: Annotated[Path, typer.Option("--out", help="Folder for the ensemble.")],
    combination: Annotated[
        Literal["mean", "weighted", "stacking"], typer.Option(help="How the members are weighed.")
    ] = "mean",
    dataset: opt.Datasets = None,
    project: opt.Project = "detectors",
    cache: opt.Cache = opt.CACHE,
    mlruns: opt.Mlruns = opt.MLRUNS,
    as_json: opt.AsJson = False,
) -> None:
    """Combine several detectors into one: weights, temperature and threshold fitted on val."""
    import pandas as pd

    from pipelines.training import train_ensemble as run

    store, datasets = opt.open_store(mlruns), dataset or ()
    result = run(store, models, manifest, out, combination=combination, datasets=datasets, project=project, cache=cache)
    text = (
        f"ensemble in {result['ensemble']}: log loss {result['log_loss']:.4f}, AUC {result['auc']:.3f} on val "
        f"(cross-fitted), registered as version {result['version']}"
    )
    text += f"\nnote: {result['note']}" if result["note"] else ""
    members = (pd.DataFrame(result["members"]), f"members, on {result['rows']} val rows")
    opt.answer(result, as_json, text, members)
