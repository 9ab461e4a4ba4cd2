"""`counterforge faces`: media to crops and a manifest, and a look at them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

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

app = typer.Typer(help="Face data: crops and a manifest from photographs and videos.", no_args_is_help=True)


@app.command()
def ingest(
    source: Annotated[Path, typer.Argument(help="Folder that holds real/ and fake/.")],
    out: Annotated[Path, typer.Option("--out", help="Folder for the crops and manifest.parquet.")],
    dataset: Annotated[str | None, typer.Option(help="Name of the data set; the folder's by default.")] = None,
    every_seconds: Annotated[float | None, typer.Option(help="One frame of a video every so often [3].")] = None,
    already_cropped: Annotated[bool, typer.Option("--already-cropped", help="Pictures are face crops.")] = False,
    name_pattern: Annotated[
        str | None, typer.Option(help="Regular expression with groups method, identity, source.")
    ] = None,
    config: ConfigFile = None,
    settings: Set = None,
    seed: Seed = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Find the faces in images and videos, crop them, and write a manifest with leak-free splits."""
    from faces.contact_sheet import contact_sheet
    from faces.extraction import IngestConfig
    from faces.ingest import ingest as run
    from faces.ingest import summary

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
    """Count the faces of a manifest and draw a contact sheet."""
    from faces.contact_sheet import contact_sheet
    from faces.ingest import summary
    from faces.manifest import Manifest

    rows = Manifest.read(manifest)
    counts = summary(rows)
    sheet = contact_sheet(rows, out, seed=seed or 0)
    if not as_json:
        print_table(counts, f"{len(rows)} faces, digest {rows.digest}")
    answer({"contact_sheet": sheet, "counts": counts.to_dict("records")}, as_json, f"contact sheet  {sheet}")


def _rejected(path: Path) -> int:
    import pandas as pd

    return len(pd.read_parquet(path)) if path.is_file() else 0
