"""`counterforge gan`: train a generator, and sample faces from it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from pipelines.cli.options import (
    DEFAULT_CACHE,
    DEFAULT_MLRUNS,
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

app = typer.Typer(help="The generator of faces.", no_args_is_help=True)


@app.command()
def train(
    manifest: Manifest,
    out: Annotated[Path, typer.Option("--out", help="Folder for checkpoints and sample grids.")],
    preset: Annotated[str | None, typer.Option(help="tiny, small or base.")] = None,
    image_size: Annotated[int | None, typer.Option(help="16, 32, 64, 128 or 256 pixels.")] = None,
    minutes: Annotated[float | None, typer.Option(help="Budget of training time.")] = None,
    kimg: Annotated[float | None, typer.Option(help="Budget of thousands of real pictures shown.")] = None,
    start_from: Annotated[
        str | None, typer.Option("--from", help="A generator to go on from, of this or of half this size.")
    ] = None,
    devices: Annotated[int, typer.Option(help="Processes on this machine that share each batch.", min=1)] = 1,
    config: ConfigFile = None,
    settings: Set = None,
    project: Annotated[str, typer.Option(help="Name of the MLflow experiment.")] = "generators",
    cache: Cache = DEFAULT_CACHE,
    mlruns: Mlruns = DEFAULT_MLRUNS,
    seed: Seed = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Train on the train reals of a manifest. The same command resumes, and extends when the budget grew.

    Several processes share each batch with --devices N, or when torchrun has started them.
    """
    from core.manifest import Manifest
    from gan.config import GanConfig
    from gan.distributed import launch
    from gan.training import train as train_with_others
    from pipelines.generator import train_and_log_generator
    from tracking.store import open_store

    named = {"preset": preset, "image_size": image_size, "minutes": minutes, "kimg": kimg, "seed": seed}
    resolved = configuration(GanConfig, config, settings, named | {"start_from": start_from})
    if dry_run:
        show_configuration(resolved.resolved())
        return
    faces = Manifest.read(manifest)
    group = launch(resolved.device, devices)
    if not group.is_main:
        train_with_others(faces, resolved, out, cache, group=group)
        return
    made = train_and_log_generator(faces, resolved, out, cache, open_store(mlruns), project, group=group)
    answer(made, as_json, f"generator {made['digest']} in {made['generator']}, grids in {out / 'samples'}")


@app.command()
def sample(
    generator: Annotated[Path, typer.Argument(help="Folder of a generator's checkpoint.")],
    out: Annotated[Path, typer.Option("--out", help="Folder for the crops and their manifest.")],
    count: Annotated[int, typer.Option(help="How many faces.", min=1)] = 64,
    psi: Annotated[
        str,
        typer.Option(
            help="Truncation: 0 the mean face, 1 the generator's own spread; or one a resolution: 0.5,0.7,1,1."
        ),
    ] = "0.7",
    label: Annotated[
        str | None, typer.Option(help="One of a conditional generator's labels; all in their shares by default.")
    ] = None,
    every_seed: Annotated[
        bool, typer.Option("--every-seed", help="Keep samples without a findable face, and near-duplicates.")
    ] = False,
    seed: Seed = None,
    as_json: AsJson = False,
) -> None:
    """Write faces as crops with their ledger: generator, seed, psi. Seeds run on from --seed until enough are found."""
    from gan.checkpoint import export_label, load_generator
    from gan.sampling import psi_of, sample_grid
    from gan.screening import sample_screened

    truncation = psi_of(psi)
    if label is not None:
        generator = export_label(generator, label, out / "generator")
    made = sample_screened(generator, count, truncation, out, first_seed=seed or 0, screen=not every_seed)
    grid = out / "grid.png"
    seeds = [int(number) for number in made.manifest.rows["seed"][:64]]
    sample_grid(load_generator(generator), seeds, truncation).save(grid)
    text = f"{count} faces in {out / 'manifest.parquet'}, the first of them in {grid}"
    for reason, number in made.rejected.items():
        text += f"\npassed over {number} seeds: {reason}"
    answer(
        {"manifest": out / "manifest.parquet", "faces": count, "rejected": made.rejected, "grid": grid}, as_json, text
    )


@app.command()
def show(
    generator: Annotated[Path, typer.Argument(help="Folder of a generator's checkpoint.")],
    out: Annotated[Path, typer.Option("--out", help="Folder for the pictures.")],
    manifest: Annotated[
        Path | None, typer.Option("--manifest", help="Hold the spectra against its train reals.")
    ] = None,
    psi: Annotated[float, typer.Option(help="Truncation of everything but the sweep.")] = 0.7,
    frames: Annotated[int, typer.Option(help="Frames of the film from one face to the next.", min=1, max=240)] = 36,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, ...")] = "auto",
    cache: Cache = DEFAULT_CACHE,
    seed: Seed = None,
    as_json: AsJson = False,
) -> None:
    """Look at a generator: a grid, an interpolation, style mixing, truncation, and spectra against photographs."""
    from core.manifest import Manifest
    from gan.visualise import show as run

    reals = Manifest.read(manifest) if manifest else None
    made = run(generator, out, reals, cache=cache, psi=psi, seed=seed or 0, frames_between=frames, device=device)
    lines = [f"{path}" for path in made.values() if isinstance(path, Path)]
    if "high_frequency_gap" in made:
        gap = made["high_frequency_gap"]
        lines.append(
            f"upper third of frequencies: {gap:+.2f} decades of power, fake - real (0 is a faithful generator)"
        )
    answer(made, as_json, "\n".join(lines))


@app.command()
def score(
    generator: Annotated[Path, typer.Argument(help="Folder of a generator's checkpoint.")],
    manifest: Manifest,
    out: Annotated[Path, typer.Option("--out", help="Folder for quality.json and the nearest neighbours.")],
    samples: Annotated[int | None, typer.Option(help="Pictures on each side; half of the reals by default.")] = None,
    psi: Annotated[float, typer.Option(help="Truncation: 1 measures the generator's own spread.")] = 1.0,
    inception: Annotated[Path | None, typer.Option(help="Inception weights of torch-fidelity: adds FID, KID.")] = None,
    alexnet: Annotated[Path | None, typer.Option(help="AlexNet weights of torchvision: adds LPIPS diversity.")] = None,
    project: Annotated[str, typer.Option(help="Name of the MLflow experiment.")] = "generators",
    cache: Cache = DEFAULT_CACHE,
    mlruns: Mlruns = DEFAULT_MLRUNS,
    seed: Seed = None,
    as_json: AsJson = False,
) -> None:
    """Measure samples against the reals of train and val: distances with their floor, variety, memorisation, faces."""
    from core.manifest import Manifest
    from pipelines.generator import score_and_log_generator
    from tracking.store import open_store

    options = {"samples": samples, "psi": psi, "inception": inception, "alexnet": alexnet, "seed": seed or 0}
    faces = Manifest.read(manifest)
    quality = score_and_log_generator(generator, faces, out, cache, open_store(mlruns), project, **options)
    if as_json:
        answer(dataclasses.asdict(quality), as_json, "")
        return
    print_table(
        quality.table(), f"{quality.count} samples of {quality.generator}, psi {psi:g}, against {quality.count} reals"
    )
    said = "samples repeat train photographs" if quality.memorises else "no sign that train photographs are repeated"
    typer.echo("\n".join([f"memorisation: {said}", *quality.notes, f"written to {out}: quality.json, neighbours.png"]))
