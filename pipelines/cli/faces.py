"""`counterforge faces`: media to crops and a manifest, and a look at them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipelines.cli.options import (
    AsJson,
    ConfigFile,
    DryRun,
    Manifest,
    Seed,
    Set,
    answer,
    configuration,
    print_table,
    show_configuration,
)

if TYPE_CHECKING:
    from faces.audit.audit import Audit

app = typer.Typer(help="Face data: crops and a manifest from photographs and videos.", no_args_is_help=True)


@app.command()
def ingest(
    source: Annotated[Path, typer.Argument(help="Folder that holds real/ and fake/.")],
    out: Annotated[Path, typer.Option("--out", help="Folder for the crops and manifest.parquet.")],
    dataset: Annotated[str | None, typer.Option(help="Name of the dataset; the folder's by default.")] = None,
    every_seconds: Annotated[float | None, typer.Option(help="Seconds between sampled frames (default 3).")] = None,
    already_cropped: Annotated[
        bool, typer.Option("--already-cropped", help="The images are face crops already: detect nothing.")
    ] = False,
    name_pattern: Annotated[
        str | None,
        typer.Option(help="Regular expression for file names, with named groups out of method, identity, source."),
    ] = None,
    config: ConfigFile = None,
    settings: Set = None,
    seed: Seed = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Find the faces in images and videos, crop them, and write a manifest with leak-free splits."""
    from faces.extraction import IngestConfig
    from faces.ingest import ingest as run
    from faces.ingest import summary
    from faces.sheets import contact_sheet

    named = {"dataset": dataset, "every_seconds": every_seconds, "name_pattern": name_pattern, "seed": seed}
    named["already_cropped"] = True if already_cropped else None
    resolved = configuration(IngestConfig, config, settings, named)
    if dry_run:
        show_configuration(resolved)
        return
    manifest = run(source, out, resolved)
    sheet = contact_sheet(manifest, out / "contact_sheet.png")
    counts = summary(manifest)
    if not as_json:
        print_table(counts, f"{len(manifest)} faces in {out}")
    rejected = _rejected(out / "rejected.parquet")
    text = f"manifest       {out / 'manifest.parquet'}\ncontact sheet  {sheet}"
    if rejected:
        text += f"\nrejected       {rejected} files or frames, with reasons, in {out / 'rejected.parquet'}"
    answer(
        {"manifest": out / "manifest.parquet", "faces": len(manifest), "rejected": rejected, "contact_sheet": sheet,
         "digest": manifest.digest, "counts": counts.to_dict("records")},
        as_json,
        text,
    )  # fmt: skip


@app.command()
def show(
    manifest: Manifest,
    out: Annotated[Path, typer.Option("--out", help="PNG to write.")] = Path("contact_sheet.png"),
    seed: Seed = None,
    as_json: AsJson = False,
) -> None:
    """Count the faces of a manifest and draw contact sheets: of crops, and of blended forgeries with their masks."""
    from core.manifest import Manifest
    from faces.ingest import summary
    from faces.sheets import contact_sheet, forgery_sheet

    rows = Manifest.read(manifest)
    counts = summary(rows)
    sheet = contact_sheet(rows, out, seed=seed or 0)
    if not as_json:
        print_table(counts, f"{len(rows)} faces, digest {rows.digest}")
    blended = forgery_sheet(rows, out.with_name(f"{out.stem}-forgeries.png"), seed=seed or 0)
    text = f"contact sheet  {sheet}" + (f"\nforgeries      {blended}" if blended else "")
    answer({"contact_sheet": sheet, "forgeries": blended, "counts": counts.to_dict("records")}, as_json, text)


@app.command()
def audit(
    manifest: Manifest,
    out: Annotated[
        Path, typer.Option("--out", help="Folder for audit.json, audit.png and the cached measurements.")
    ] = Path("runs/audit"),
    dataset: Annotated[list[str] | None, typer.Option(help="Datasets to audit; all by default.")] = None,
    normalise: Annotated[
        Path | None, typer.Option("--normalise", help="Write a copy here whose crops all have one size and encoding.")
    ] = None,
    size: Annotated[int | None, typer.Option(help="Side of the normalised crops in pixels.")] = None,
    quality: Annotated[int | None, typer.Option(help="JPEG quality of the normalised crops.")] = None,
    config: ConfigFile = None,
    settings: Set = None,
    seed: Seed = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Detect label leakage and near-duplicate images."""
    import json

    from core.errors import UserError
    from core.manifest import Manifest
    from faces.audit.audit import AuditConfig
    from faces.audit.audit import audit as run
    from faces.audit.cues import measure_cues
    from faces.audit.normalise import NormaliseConfig, resolved
    from faces.audit.normalise import normalise as write_copy
    from pipelines.evaluation.audit import write_audit

    decision = configuration(AuditConfig, config, settings, {"seed": seed})
    coding = configuration(NormaliseConfig, None, None, {"size": size, "quality": quality})
    if dry_run:
        show_configuration(decision)
        return
    if normalise is None and (size or quality):
        raise UserError("--size and --quality are those of the normalised copy: say where it goes with --normalise OUT")
    rows = Manifest.read(manifest)
    if dataset:
        for name in dataset:
            if name not in set(rows.rows["dataset"]):
                known = ", ".join(sorted(set(rows.rows["dataset"])))
                raise UserError(f"there is no dataset {name} in {manifest}: it holds {known}")
        rows = rows.select(dataset=dataset)
    found = run(rows, decision, out / "cues")
    paths = write_audit(found, out)
    result = {"audit": json.loads(found.to_json()), "files": [str(path) for path in paths]}
    if not as_json:
        _show_audit(found, f"audit  {paths[0]}\nfigure {paths[1]}")
    if normalise is not None:
        coding = resolved(coding, measure_cues(rows, out / "cues"), rows.targets)
        copy = write_copy(rows, normalise, coding)
        again = run(copy, decision, normalise / "audit" / "cues")
        paths = write_audit(again, normalise / "audit")
        result["normalised"] = {"manifest": str(normalise / "manifest.parquet"), **coding.model_dump()}
        result["normalised"]["audit"] = json.loads(again.to_json())
        if not as_json:
            typer.echo(f"\nnormalised: every crop {coding.size} x {coding.size}, JPEG quality {coding.quality}")
            _show_audit(again, f"manifest {normalise / 'manifest.parquet'}\naudit    {paths[0]}")
    if as_json:
        typer.echo(json.dumps(result))


def _show_audit(found: Audit, text: str) -> None:
    from pipelines.evaluation.audit import summary_table

    for one in found.datasets.values():
        if one.whole is not None:
            print_table(summary_table(one), f"{one.dataset}: {one.real} real, {one.fake} fake, {one.groups} groups")
    for one in found.datasets.values():
        typer.echo(one.verdict)
    if found.near_duplicates is not None:
        typer.echo(found.near_duplicates.verdict)
        for what, first, second in found.near_duplicates.examples[:5]:
            typer.echo(f"  {what}: {first} and {second}")
    typer.echo(text)


def _rejected(path: Path) -> int:
    import pandas as pd

    return len(pd.read_parquet(path)) if path.is_file() else 0
