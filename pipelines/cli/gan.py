"""`counterforge gan`: train a generator, sample faces from it, visualise and evaluate it."""

from __future__ import annotations

import dataclasses
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer

from pipelines.cli import options as opt

app = typer.Typer(help="Train, sample, visualise and evaluate the face generator.", no_args_is_help=True)


@app.command()
def train(
    manifest: opt.Manifest,
    out: Annotated[Path, typer.Option("--out", help="Folder for checkpoints and sample grids.")],
    preset: Annotated[str | None, typer.Option(help="Size of the networks: tiny, small or base.")] = None,
    image_size: Annotated[int | None, typer.Option(help="Side of the pictures: 16, 32, 64, 128 or 256 pixels.")] = None,
    minutes: Annotated[float | None, typer.Option(help="Training time; the default budget is 20 minutes.")] = None,
    kimg: Annotated[float | None, typer.Option(help="Budget in thousands of real images shown.")] = None,
    start_from: Annotated[
        str | None, typer.Option("--from", help="Warm start from a generator of this or of half this size.")
    ] = None,
    devices: Annotated[int, typer.Option(help="Data-parallel processes on this machine.", min=1)] = 1,
    config: opt.ConfigFile = None,
    settings: opt.Set = None,
    project: opt.Project = "generators",
    cache: opt.Cache = opt.CACHE,
    mlruns: opt.Mlruns = opt.MLRUNS,
    seed: opt.Seed = None,
    dry_run: opt.DryRun = False,
    as_json: opt.AsJson = False,
) -> None:
    """Train on the real train faces of a manifest. The same command resumes, and continues with a larger budget.

    Several processes share each batch with --devices N, or when torchrun has started them.
    """
    from core.locks import one_at_a_time
    from core.manifest import Manifest
    from gan.config import GanConfig
    from gan.distributed import is_first, launch
    from gan.training import train as train_with_others
    from pipelines.generator import train_and_log_generator

    named = {"preset": preset, "image_size": image_size, "minutes": minutes, "kimg": kimg, "seed": seed}
    resolved = opt.configuration(GanConfig, config, settings, named | {"start_from": start_from})
    if dry_run:
        opt.print_and_exit(resolved.resolved(), as_json)
    faces = Manifest.read(manifest)
    # Before the other processes are started, which would give up on a main process that waits.
    with one_at_a_time(out, "the training of a generator") if is_first() else nullcontext():
        group = launch(resolved.device, devices)
        if not group.is_main:
            train_with_others(faces, resolved, out, cache, group=group)
            return
        made = train_and_log_generator(faces, resolved, out, cache, opt.open_store(mlruns), project, group=group)
    opt.answer(made, as_json, f"generator {made['digest']} in {made['generator']}, grids in {out / 'samples'}")


@app.command()
def sample(
    generator: opt.Generator,
    out: Annotated[Path, typer.Option("--out", help="Folder for the crops and their manifest.")],
    count: Annotated[int, typer.Option(help="Number of faces.", min=1)] = 64,
    psi: Annotated[
        str, typer.Option(help="Truncation: 0 is the mean face, 1 no truncation; or a value a resolution: 0.5,0.7,1,1.")
    ] = "0.7",
    label: Annotated[str | None, typer.Option(help="Class of a conditional generator; a mix by default.")] = None,
    every_seed: Annotated[
        bool, typer.Option("--every-seed", help="Keep samples without a detectable face, and near-duplicates.")
    ] = False,
    seed: opt.Seed = None,
    as_json: opt.AsJson = False,
) -> None:
    """Sample faces into crops and a manifest that names generator and seed of each, from --seed upwards."""
    from gan.checkpoint import export_label, load_generator
    from gan.sampling import psi_of, sample_grid, sample_screened

    truncation = psi_of(psi)
    if label is not None:
        generator = export_label(generator, label, out / "generator")
    made = sample_screened(generator, count, truncation, out, first_seed=seed or 0, screen=not every_seed)
    manifest, grid = out / "manifest.parquet", out / "grid.png"
    seeds = [int(number) for number in made.manifest.rows["seed"][:64]]
    sample_grid(load_generator(generator), seeds, truncation).save(grid)
    lines = [f"{count} faces in {manifest}, the first of them in {grid}"]
    lines += [f"rejected {number} seeds: {reason}" for reason, number in made.rejected.items()]
    result = {"manifest": manifest, "faces": count, "rejected": made.rejected, "grid": grid}
    opt.answer(result, as_json, "\n".join(lines))


@app.command()
def show(
    generator: opt.Generator,
    out: Annotated[Path, typer.Option("--out", help="Folder for the pictures.")],
    manifest: Annotated[
        Path | None, typer.Option("--manifest", help="Compare power spectra with its real train faces.")
    ] = None,
    psi: Annotated[float, typer.Option(help="Truncation psi of everything but the sweep.")] = 0.7,
    frames: Annotated[int, typer.Option(help="Interpolation frames between two faces.", min=1, max=240)] = 36,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, ...")] = "auto",
    cache: opt.Cache = opt.CACHE,
    seed: opt.Seed = None,
    as_json: opt.AsJson = False,
) -> None:
    """Visualise a generator: sample grid, interpolation, style mixing, truncation sweep, and power spectra."""
    from core.manifest import Manifest
    from gan.visualise import show as run

    reals = Manifest.read(manifest) if manifest else None
    made = run(generator, out, reals, cache=cache, psi=psi, seed=seed or 0, frames_between=frames, device=device)
    lines = [str(path) for path in made.values() if isinstance(path, Path)]
    if "high_frequency_gap" in made:
        gap = made["high_frequency_gap"]
        lines.append(f"upper third of frequencies: {gap:+.2f} decades of power, fake - real (0 is ideal)")
    opt.answer(made, as_json, "\n".join(lines))


@app.command()
def score(
    generator: opt.Generator,
    manifest: opt.Manifest,
    out: Annotated[Path, typer.Option("--out", help="Folder for quality.json and the nearest neighbours.")],
    samples: Annotated[int | None, typer.Option(help="Images on each side; half of the reals by default.")] = None,
    psi: Annotated[float, typer.Option(help="Truncation psi; 1 is none.")] = 1.0,
    inception: Annotated[Path | None, typer.Option(help="torch-fidelity's Inception weights, for FID and KID.")] = None,
    alexnet: Annotated[Path | None, typer.Option(help="torchvision's AlexNet weights, for LPIPS diversity.")] = None,
    project: opt.Project = "generators",
    cache: opt.Cache = opt.CACHE,
    mlruns: opt.Mlruns = opt.MLRUNS,
    seed: opt.Seed = None,
    as_json: opt.AsJson = False,
) -> None:
    """Evaluate a generator: distances to the reals with their floor, diversity, memorisation, detectable faces."""
    from core.manifest import Manifest
    from pipelines.generator import score_and_log_generator

    options = {"samples": samples, "psi": psi, "inception": inception, "alexnet": alexnet, "seed": seed or 0}
    faces = Manifest.read(manifest)
    quality = score_and_log_generator(generator, faces, out, cache, opt.open_store(mlruns), project, **options)
    title = f"{quality.count} samples of {quality.generator}, psi {psi:g}, against {quality.count} reals"
    memorised = "samples repeat train photographs" if quality.memorises else "none detected"
    lines = [f"memorisation: {memorised}", *quality.notes, f"written: {out}/quality.json, neighbours.png"]
    opt.answer(dataclasses.asdict(quality), as_json, "\n".join(lines), (quality.table(), title))
