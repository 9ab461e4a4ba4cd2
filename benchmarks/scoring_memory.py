"""How much memory scoring takes, by the number of crops: it streams, so ten times the crops take hardly more.

Pictures of noise are written as JPEG, a manifest of them is scored by an untrained detector in a process of its own,
decoding included, and the memory that is the process's own (anonymous, Linux's RssAnon; the page cache that stands
behind the memory map is given back on demand) is sampled all the while. What the same pictures would take at once, as
decoded uint8, stands beside it. `ratio` is the peak with the most crops over that with the fewest. Linux only.

    python benchmarks/scoring_memory.py [--counts 10000 100000] [--image-size 96]
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from record import hand_over, hardware, refuse, say, versions

from classifier.config import DetectorConfig
from classifier.models.detector import Detector
from classifier.scoring import score
from core.manifest import Manifest

GOAL = 1.2
_SAMPLE_SECONDS = 0.02
_STATUS = Path("/proc/self/status")


def main() -> None:
    options = _options()
    if options.scores is not None:
        print(json.dumps(_scored(options.scores, options)))
        return
    if len(options.counts) < 2 or sorted(set(options.counts)) != options.counts or options.counts[0] < 1:
        refuse("--counts: at least two numbers of crops, rising")
    if not _STATUS.exists():
        refuse(f"there is no {_STATUS} to read memory from: run this on Linux")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        _pictures(root, options.counts[-1], options.image_size)
        runs = [_run(root, count, options) for count in options.counts]
        ratio = runs[-1]["peak_mib"] / runs[0]["peak_mib"]
        hand_over(
            {
                "benchmark": "scoring_memory",
                "backbone": options.backbone,
                "image_size": options.image_size,
                "runs": runs,
                "ratio": round(ratio, 3),
                "goal": GOAL,
                "met": ratio <= GOAL,
                "hardware": hardware(options.device, torch.get_num_threads()),
                "versions": versions("timm", "pandas", "pillow"),
            },
            options.out,
        )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").partition("\n\n    python")[0], formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--counts", type=int, nargs="+", default=[10_000, 100_000], help="of crops")
    parser.add_argument("--image-size", type=int, default=96)
    parser.add_argument("--backbone", default="tf_efficientnet_lite0")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, help="file of the record")
    parser.add_argument("--scores", type=Path, help=argparse.SUPPRESS)  # the process that is measured: its manifest
    return parser.parse_args()


def _pictures(root: Path, count: int, size: int) -> None:
    """`count` different JPEG files and their rows, in `all.parquet`."""
    say(f"writing {count} pictures")

    def one(number: int) -> dict[str, object]:
        pixels = np.random.default_rng(number).integers(0, 256, (size // 8, size // 8, 3), dtype=np.uint8)
        data = io.BytesIO()
        Image.fromarray(pixels).resize((size, size), Image.Resampling.BICUBIC).save(data, "jpeg", quality=90)
        place = Path(f"{number // 1000:04d}", f"{number:07d}.jpg")
        (root / place).parent.mkdir(exist_ok=True)
        (root / place).write_bytes(data.getvalue())
        return {
            "path": place.as_posix(),
            "label": "fake" if number % 2 else "real",
            "dataset": "noise",
            "method": "noise" if number % 2 else "pristine",
            "source": f"s{number}",
            "split": "test",
            "width": size,
            "height": size,
            "codec": "jpeg",
            "sha256": hashlib.sha256(data.getvalue()).hexdigest(),
        }

    with ThreadPoolExecutor() as pool:
        Manifest.build(pool.map(one, range(count)), root).write(root / "all.parquet")


def _run(root: Path, count: int, options: argparse.Namespace) -> dict[str, Any]:
    say(f"scoring {count}")
    everything = Manifest.read(root / "all.parquet")
    few = Manifest(everything.rows.iloc[:count].reset_index(drop=True), root).write(root / f"{count}.parquet")
    words = ["--scores", str(few), "--image-size", str(options.image_size), "--backbone", options.backbone]
    process = subprocess.run(
        [sys.executable, __file__, *words, "--device", options.device], check=True, stdout=subprocess.PIPE, text=True
    )
    found: dict[str, Any] = json.loads(process.stdout.splitlines()[-1])
    return found


def _scored(path: Path, options: argparse.Namespace) -> dict[str, Any]:
    manifest = Manifest.read(path)
    config = DetectorConfig(
        backbone=options.backbone, image_size=options.image_size, weights="none", device=options.device
    )
    detector = Detector.create(config).to(options.device)
    before = peak = _own_mib()
    over = threading.Event()

    def watch() -> None:
        nonlocal peak
        while not over.wait(_SAMPLE_SECONDS):
            peak = max(peak, _own_mib())

    watcher = threading.Thread(target=watch)
    watcher.start()
    began = time.perf_counter()
    scores = score(detector, manifest, path.parent / f"cache-{len(manifest)}")
    seconds = time.perf_counter() - began
    over.set()
    watcher.join()
    assert np.isfinite(scores).all()
    return {
        "crops": len(scores),
        "seconds": round(seconds, 1),
        "before_mib": round(before, 1),
        "peak_mib": round(peak, 1),
        "decoded_at_once_mib": round(len(scores) * 3 * options.image_size**2 / 2**20, 1),
    }


def _own_mib() -> float:
    """Anonymous memory of this process that is resident, MiB."""
    return int(_STATUS.read_text().partition("RssAnon:")[2].split()[0]) / 1024


if __name__ == "__main__":
    main()
