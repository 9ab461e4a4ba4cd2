"""`counterforge faces`: media to crops and a manifest, and a look at them."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipelines.cli import options as opt

if TYPE_CHECKING:
    from faces.audit.audit import Audit

app = typer.Typer(help="Face data: crops and a manifest from photographs and videos.", no_args_is_help=True)


@app.command()
def ingest(
    source: Annotated[Path, typer.Argument(help="Folder with real/ and fake/, or a public dataset as downloaded.")],
    out: Annotated[Path, typer.Option("--out", help="Folder for the crops and manifest.parquet.")],
    dataset: Annotated[str | None, typer.Option(help="Name of the dataset; the folder's by default.")] = None,
    layout: Annotated[
        str | None, typer.Option(help="Layout of the dataset, see `faces layouts` (default auto).")
    ] = None,
    splits: Annotated[
        str | None, typer.Option(help="official, hash or person-disjoint (default: official where there is one).")
    ] = None,
    compression: Annotated[str | None, typer.Option(help="Of FaceForensics++ and DFD: raw, c23 or c40.")] = None,
    every_seconds: Annotated[float | None, typer.Option(help="Seconds between sampled frames (default 3).")] = None,
    already_cropped: Annotated[
        bool, typer.Option("--already-cropped", help="The images are face crops already: detect nothing.")
    ] = False,
    name_pattern: Annotated[
        str | None,
        typer.Option(help="Regular expression for names or paths; named groups: method, identity, identity2, source."),
    ] = None,
    config: opt.ConfigFile = None,
    settings: opt.Set = None,
    seed: opt.Seed = None,
    dry_run: opt.DryRun = False,
    as_json: opt.AsJson = False,
) -> None:
    """Find the faces in images and videos, crop them, and write a manifest with leak-free splits.

    With --dry-run nothing is decoded: the files are counted by label, method and split.
    """
    import json
    from collections import Counter

    import pandas as pd

    from core.groups import split_notes
    from faces.extraction import IngestConfig
    from faces.ingest import ingest as run
    from faces.ingest import summary
    from faces.sheets import contact_sheet
    from faces.survey import survey

    named = {"dataset": dataset, "every_seconds": every_seconds, "name_pattern": name_pattern, "seed": seed}
    named |= {"layout": layout, "splits": splits, "compression": compression}
    named["already_cropped"] = already_cropped or None
    resolved = opt.configuration(IngestConfig, config, settings, named)
    if dry_run:
        found = survey(source, resolved, out)
        files = found.counts(resolved.seed, resolved.split_shares)
        told = {"configuration": resolved.model_dump(mode="json"), **found.described}
        told |= {"rejected": dict(found.rejected), "counts": files.to_dict("records")}
        if not as_json:
            opt.show(resolved)
        unusable = Counter(reason for _, reason in found.rejected).most_common()
        lines = [str(found), *(f"not usable: {count} files, as {reason}" for reason, count in unusable)]
        opt.answer(told, as_json, "\n".join(lines), (files, "files, none decoded"))
        return
    manifest = run(source, out, resolved)
    sheet = contact_sheet(manifest, out / "contact_sheet.png")
    counts = summary(manifest)
    rejected = len(pd.read_parquet(out / "rejected.parquet")) if (out / "rejected.parquet").is_file() else 0
    text = f"manifest       {out / 'manifest.parquet'}\ncontact sheet  {sheet}"
    about = json.loads((out / "ingest.json").read_text())
    text += f"\nlayout         {about['layout']}, because there is {', '.join(about['because'])}"
    text += f"\nsplits         {about['splits']}"
    if about["ignored"]:
        text += "\nignored        " + ", ".join(f"{count} {kind}" for kind, count in about["ignored"].items())
    text += "".join(f"\nnote           {note}" for note in split_notes(manifest.rows))
    if rejected:
        text += f"\nrejected       {rejected} files or frames, with reasons, in {out / 'rejected.parquet'}"
    result = {"manifest": out / "manifest.parquet", "faces": len(manifest), "rejected": rejected}
    result |= {"contact_sheet": sheet, "digest": manifest.digest, **about, "counts": counts.to_dict("records")}
    opt.answer(result, as_json, text, (counts, f"{len(manifest)} faces in {out}"))


@app.command()
def layouts(as_json: opt.AsJson = False) -> None:
    """List the public datasets that `faces ingest` knows as their authors packed them, each with an example."""
    from textwrap import indent

    from faces.layouts import LAYOUTS

    known = [
        {"layout": each.name, "dataset": each.title, "official_split": each.official, "example": each.example}
        for each in LAYOUTS.values()
    ]
    texts = [
        f"{each.name}  {each.title}\n{indent(each.example, '    ')}\n    official split: {each.official or 'none'}"
        for each in LAYOUTS.values()
    ]
    opt.answer({"layouts": known}, as_json, "\n\n".join(texts))


@app.command()
def show(
    manifest: opt.Manifest,
    out: Annotated[Path, typer.Option("--out", help="PNG to write.")] = Path("contact_sheet.png"),
    seed: opt.Seed = None,
    as_json: opt.AsJson = False,
) -> None:
    """Count the faces of a manifest and draw contact sheets: of crops, and of blended forgeries with their masks."""
    from core.manifest import Manifest
    from faces.ingest import summary
    from faces.sheets import contact_sheet, forgery_sheet

    rows = Manifest.read(manifest)
    counts = summary(rows)
    sheet = contact_sheet(rows, out, seed=seed or 0)
    blended = forgery_sheet(rows, out.with_name(f"{out.stem}-forgeries.png"), seed=seed or 0)
    text = f"contact sheet  {sheet}" + (f"\nforgeries      {blended}" if blended else "")
    result = {"contact_sheet": sheet, "forgeries": blended, "counts": counts.to_dict("records")}
    opt.answer(result, as_json, text, (counts, f"{len(rows)} faces, digest {rows.digest}"))


@app.command()
def audit(
    manifest: opt.Manifest,
    out: Annotated[Path, typer.Option("--out", help="Folder for audit.json, audit.png and cache.")] = Path(
        "runs/audit"
    ),
    dataset: opt.Datasets = None,
    normalise: Annotated[
        Path | None, typer.Option("--normalise", help="Write a copy here whose crops all have one size and encoding.")
    ] = None,
    size: Annotated[int | None, typer.Option(help="Side of the normalised crops in pixels.")] = None,
    quality: Annotated[int | None, typer.Option(help="JPEG quality of the normalised crops.")] = None,
    config: opt.ConfigFile = None,
    settings: opt.Set = None,
    seed: opt.Seed = None,
    dry_run: opt.DryRun = False,
    as_json: opt.AsJson = False,
) -> None:
    """Detect label leakage and near-duplicate images."""
    from core.errors import UserError
    from core.manifest import Manifest
    from faces.audit.audit import AuditConfig
    from faces.audit.audit import audit as run
    from faces.audit.cues import measure_cues
    from faces.audit.normalise import NormaliseConfig, resolved
    from faces.audit.normalise import normalise as write_copy
    from pipelines.evaluation.audit import write_audit

    decision = opt.configuration(AuditConfig, config, settings, {"seed": seed})
    coding = opt.configuration(NormaliseConfig, None, None, {"size": size, "quality": quality})
    if dry_run:
        opt.print_and_exit(decision, as_json)
    if normalise is None and (size or quality):
        raise UserError("--size and --quality are those of the normalised copy: say where it goes with --normalise OUT")
    rows = Manifest.read(manifest)
    if dataset:
        known = sorted(set(rows.rows["dataset"]))
        if unknown := [name for name in dataset if name not in known]:
            raise UserError(f"there is no dataset {unknown[0]} in {manifest}: it holds {', '.join(known)}")
        rows = rows.select(dataset=dataset)
    found = run(rows, decision, out / "cues")
    paths = write_audit(found, out)
    result: dict[str, object] = {"audit": asdict(found), "files": paths}
    if not as_json:
        _show_audit(found, f"audit  {paths[0]}\nfigure {paths[1]}")
    if normalise is not None:
        coding = resolved(coding, measure_cues(rows, out / "cues"), rows.targets)
        copy = write_copy(rows, normalise, coding)
        again = run(copy, decision, normalise / "audit" / "cues")
        written = normalise / "manifest.parquet"
        (told, _) = write_audit(again, normalise / "audit")
        result["normalised"] = {"manifest": written, **coding.model_dump(), "audit": asdict(again)}
        if not as_json:
            typer.echo(f"\nnormalised: every crop {coding.size} x {coding.size}, JPEG quality {coding.quality}")
            _show_audit(again, f"manifest {written}\naudit    {told}")
    if as_json:
        opt.answer(result, as_json, "")


def _show_audit(found: Audit, text: str) -> None:
    from pipelines.evaluation.audit import faultless_note, summary_table

    parts = found.datasets.values()
    lines = [*filter(None, map(faultless_note, parts)), *(one.verdict for one in parts)]
    if found.near_duplicates is not None:
        lines.append(found.near_duplicates.verdict)
        lines += [f"  {what}: {one} and {other}" for what, one, other in found.near_duplicates.examples[:5]]
    title = "{0.dataset}: {0.real} real, {0.fake} fake, {0.groups} groups"
    tables = [(summary_table(one), title.format(one)) for one in parts if one.whole is not None]
    opt.answer(None, False, "\n".join([*lines, text]), *tables)
