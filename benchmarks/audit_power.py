"""Does `counterforge faces audit` find what makes a dataset easy to cheat on, and leave clean sets in peace?

Sets are made of the 400 ORL photographs: 40 people, ten each, five of them called fake at random, so that nothing but
what is planted tells the classes apart. Every picture is a JPEG with a side, a quality and a noise of its own; in the
fakes one of them is shifted by 2, 1, 0.5 or 0.25 standard deviations of its spread, or a share of the fakes is PNG.
All confounds are as easy at equal strength: the planted quantity alone reaches AUC 0.92, 0.76, 0.64 and 0.57.

A confound is found where the audit flags the family that it belongs to. Twenty sets have nothing planted; in ten of
them whole people are called fake. The goal is every confound at strengths 2 and 1, and no flag in a clean set.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from record import hand_over, hardware, say, versions
from scipy.stats import norm

from core.manifest import Manifest
from faces.audit.audit import AuditConfig, audit
from faces.orl import embedded

FAMILY = {
    "format": "format",
    "size": "dimensions",
    "quality": "quantisation",
    "noise": "noise",
    "brightness": "brightness",
}
STRENGTHS = (2.0, 1.0, 0.5, 0.25)
ALWAYS = (2.0, 1.0)  # what the goal asks for
CLEAN_SETS = 20
# Means and standard deviations over the pictures, before anything is shifted.
_SIDE, _QUALITY, _NOISE = (92.0, 4.0), (80.0, 5.0), (3.0, 1.0)  # pixels, of libjpeg, grey levels


def main() -> None:
    """Plant, audit, count."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="also write the record here")
    parser.add_argument("--clean-sets", type=int, default=CLEAN_SETS)
    parser.add_argument("--strengths", type=float, nargs="+", default=STRENGTHS)
    parser.add_argument("--people", type=int, default=40)
    parser.add_argument("--processes", type=int, default=min(2, len(os.sched_getaffinity(0))))
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    machine, started = hardware("cpu", 1), time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        photographs = _photographs(embedded(Path(scratch) / "orl"), options.people)
        jobs = [(kind, strength, options.seed) for kind in FAMILY for strength in options.strengths]
        jobs += [("", 0.0, options.seed + number) for number in range(options.clean_sets)]
        with ProcessPoolExecutor(options.processes, initializer=_begin, initargs=(photographs, scratch)) as pool:
            results = []
            for job, result in zip(jobs, pool.map(_one, jobs), strict=True):
                say(
                    f"{job[0] or 'clean':12} {job[1] or job[2]:<5} flagged: {', '.join(result['flagged']) or 'nothing'}"
                )
                results.append(result)
    planted = _by_confound(results[: len(jobs) - options.clean_sets], options.strengths)
    clean = results[len(jobs) - options.clean_sets :]
    accused = sum(bool(result["flagged"]) for result in clean)
    found = all(planted[kind]["found"].get(str(s), True) for kind in FAMILY for s in ALWAYS)
    share = np.mean([value for of in planted.values() for value in of["found"].values()]) if planted else None
    hand_over(
        {
            "benchmark": "audit_power",
            "settings": {
                **vars(options),
                "out": None,
                "alpha": AuditConfig().alpha,
                "least_auc": AuditConfig().least_auc,
            },
            "confounds": planted,
            "clean_sets": {
                "sets": len(clean),
                "flagged": accused,
                "smallest_p": min((result["smallest_p"] for result in clean), default=None),
                "highest_auc_of_all_traces": max((result["whole"] for result in clean), default=None),
            },
            "ratio": share,
            "ratio_is": "share of all planted sets, at every strength, in which the confound was found",
            "goal": f"every confound found at strengths {ALWAYS}, no clean set flagged",
            "met": bool(found and not accused),
            "seconds": round(time.monotonic() - started, 1),
            "processor_seconds_of_the_audits": round(sum(result["seconds"] for result in results), 1),
            "hardware": machine,
            "versions": versions("scikit-learn", "scipy", "numpy", "pillow", "opencv-python-headless"),
        },
        options.out,
    )


def _photographs(manifest: Manifest, people: int) -> list[tuple[str, np.ndarray]]:
    """Person and pixels of every photograph, people in the order of their numbers."""
    real = manifest.select(label="real")
    found = [(str(group), np.asarray(Image.open(file))) for group, file in zip(real.groups, real.files, strict=True)]
    return sorted((one for one in found if int(one[0][1:]) <= people), key=lambda one: int(one[0][1:]))


_state: dict[str, Any] = {}


def _begin(photographs: list[tuple[str, np.ndarray]], scratch: str) -> None:
    _state.update(photographs=photographs, scratch=Path(scratch))


def _one(job: tuple[str, float, int]) -> dict[str, Any]:
    """Make one set, audit it, and say what was flagged."""
    kind, strength, seed = job
    started = time.process_time()
    with tempfile.TemporaryDirectory(dir=_state["scratch"]) as folder:
        manifest = _planted(_state["photographs"], Path(folder), kind, strength, seed)
        found = audit(manifest, AuditConfig(near_duplicates=False)).datasets["orl"]
    assert found.whole is not None
    aucs = {family_audit.family: round(family_audit.probe.auc, 3) for family_audit in found.families}
    return {
        "kind": kind,
        "strength": strength,
        "flagged": [family_audit.family for family_audit in found.flagged],
        "auc": aucs.get(FAMILY.get(kind, "")),
        "whole": round(found.whole.auc, 3),
        "smallest_p": min(family_audit.p for family_audit in found.families),
        "seconds": time.process_time() - started,
    }


def _planted(
    photographs: list[tuple[str, np.ndarray]], folder: Path, kind: str, strength: float, seed: int
) -> Manifest:
    random = np.random.default_rng([seed, list(FAMILY).index(kind) if kind else 99, int(strength * 100)])
    fake = _labels([person for person, _ in photographs], random, by_person=not kind and seed % 2 == 1)
    rows = []
    for number, (person, pixels) in enumerate(photographs):
        shift = strength if fake[number] else 0.0
        file = folder / f"{number}.img"
        side = round(_SIDE[0] + _SIDE[1] * (random.normal() + shift * (kind == "size")))
        quality = round(_QUALITY[0] + _QUALITY[1] * (random.normal() - shift * (kind == "quality")))
        noise = max(_NOISE[0] + _NOISE[1] * (random.normal() + shift * (kind == "noise")), 0.0)
        # Photographs differ in their mean by some 14 grey levels.
        light = 14.0 * shift * (kind == "brightness")
        # The share of PNGs at which the format alone reaches the AUC of a shift by so many deviations.
        as_png = random.random() < 2 * norm.cdf(shift / np.sqrt(2)) - 1 and kind == "format"
        picture = Image.fromarray(pixels).convert("L").resize((side, side), Image.Resampling.BICUBIC)
        values = np.asarray(picture, dtype=np.float64) + light + random.normal(0, noise, (side, side))
        picture = Image.fromarray(np.rint(values).clip(0, 255).astype(np.uint8))
        picture.save(
            file, "png" if as_png else "jpeg", **({} if as_png else {"quality": int(np.clip(quality, 30, 95))})
        )
        rows.append(
            {
                "path": file.name,
                "label": "fake" if fake[number] else "real",
                "dataset": "orl",
                "method": kind or "none",
                "identity": person,
                "source": str(number),
                "split": "train",
                "width": side,
                "height": side,
                "codec": "png" if as_png else "jpeg",
                "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
            }
        )
    return Manifest.build(rows, folder)


def _labels(people: list[str], random: np.random.Generator, by_person: bool) -> np.ndarray:
    """[N] true for the fakes: half of each person's photographs, or half of the people."""
    names = np.array(people)
    unique = np.unique(names)
    if by_person:
        return np.isin(names, random.permutation(unique)[: len(unique) // 2])
    fake = np.zeros(len(names), dtype=bool)
    for name in unique:
        own = np.flatnonzero(names == name)
        fake[random.permutation(own)[: len(own) // 2]] = True
    return fake


def _by_confound(results: list[dict[str, Any]], strengths: tuple[float, ...]) -> dict[str, dict[str, Any]]:
    table: dict[str, dict[str, Any]] = {}
    for kind, family in FAMILY.items():
        own = [result for result in results if result["kind"] == kind]
        found = {str(result["strength"]): family in result["flagged"] for result in own}
        smallest = None
        for strength in sorted(strengths, reverse=True):
            if not found[str(strength)]:
                break
            smallest = strength
        table[kind] = {
            "family": family,
            "found": found,
            "smallest_strength_found": smallest,
            "probe_auc": {str(result["strength"]): result["auc"] for result in own},
            "flagged": {str(result["strength"]): result["flagged"] for result in own},
        }
    return table


if __name__ == "__main__":
    main()
