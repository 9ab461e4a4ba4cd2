"""Faces in frames, and in crops: at any size, in the crop's own pixels, and looked for once."""

import builtins
import hashlib
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from core.errors import UserError
from core.manifest import Manifest
from faces import detection
from faces.detection import (
    DETECTORS,
    Face,
    MtcnnDetector,
    OpenCvDetector,
    crop,
    crop_detector,
    crop_faces,
    detector,
    faces_in_crops,
    share_with_face,
)
from faces.orl import _read

CROPS = [np.asarray(Image.fromarray(pixels[10:102]).convert("RGB")) for pixels in _read()[::80]]


@pytest.fixture(scope="module")
def mtcnn():
    return MtcnnDetector()


def test_mtcnn_finds_faces_where_they_are(mtcnn, face_frame):
    frames = [face_frame(1), face_frame(5, left=20), face_frame(11, size=(600, 400), left=300)]
    for (face, *others), left in zip(mtcnn.detect(frames), (140, 20, 300), strict=True):
        assert not others
        assert face.confidence > 0.95
        x, y = (face.box[0] + face.box[2]) / 2, (face.box[1] + face.box[3]) / 2
        assert abs(x - (left + 92)) < 30
        assert abs(y - (70 + 112)) < 40
        assert 100 < face.height < 240
        points = face.landmarks
        assert points.shape == (5, 2)
        assert points[0, 0] < points[2, 0] < points[1, 0]  # eye, nose, eye from left to right
        assert points[:2, 1].max() < points[2, 1] < points[3:, 1].min()  # eyes above nose above mouth


def test_boxes_are_in_pixels_of_the_full_frame(face_frame):
    frame = face_frame(5)
    large = cv2.resize(frame, None, fx=3, fy=3, interpolation=cv2.INTER_CUBIC)
    (face,), (big,) = MtcnnDetector(max_side=480).detect([frame, large])
    np.testing.assert_allclose(np.array(big.box) / 3, face.box, atol=15)
    np.testing.assert_allclose(big.landmarks / 3, face.landmarks, atol=8)


def test_a_batch_finds_what_single_frames_do(mtcnn, face_frame):
    frames = [face_frame(person) for person in (1, 5, 11)] + [np.zeros((360, 480, 3), np.uint8)]
    alone = [mtcnn.detect([frame])[0] for frame in frames]
    for together, single in zip(mtcnn.detect(frames), alone, strict=True):
        assert len(together) == len(single)
        for a, b in zip(together, single, strict=True):
            np.testing.assert_allclose(a.box, b.box, atol=0.5)


def test_two_faces_come_largest_first(mtcnn, face_frame):
    left, right = face_frame(5), face_frame(20)
    small = cv2.resize(right, None, fx=0.6, fy=0.6, interpolation=cv2.INTER_AREA)
    frame = np.zeros((360, 800, 3), np.uint8)
    frame[:, :480] = left
    frame[: small.shape[0], 480 : 480 + small.shape[1]] = small
    first, second = mtcnn.detect([frame])[0]
    assert first.box[2] < 480 < second.box[0]


@pytest.mark.parametrize("shape", [(5, 5), (300, 10), (21, 21), (64, 64), (1, 1)])
@pytest.mark.parametrize("level", [0, 255])
def test_pictures_without_faces_give_none(mtcnn, shape, level):
    assert mtcnn.detect([np.full((*shape, 3), level, np.uint8)]) == [[]]
    assert mtcnn.detect([]) == []


def test_detection_leaves_random_numbers_and_threads_alone(face_frame):
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    before = torch.get_num_threads()
    MtcnnDetector().detect([face_frame(1)])
    assert torch.equal(torch.rand(4), expected)
    assert torch.get_num_threads() == before


def test_a_missing_facenet_says_how_to_install_it(monkeypatch):
    original = builtins.__import__

    def refuse(name, *rest, **more):
        if name.startswith("facenet_pytorch"):
            raise ImportError("No module named 'facenet_pytorch'")
        return original(name, *rest, **more)

    monkeypatch.delitem(sys.modules, "facenet_pytorch", raising=False)
    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(UserError, match=r"pip install --no-deps facenet-pytorch==2\.6\.0"):
        detector("mtcnn")


def test_detectors_go_by_name():
    assert set(DETECTORS) == {"mtcnn", "opencv"}
    with pytest.raises(UserError, match="no face detector 'haar': choose one of mtcnn, opencv"):
        detector("haar")


def test_opencv_needs_a_model_that_exists_and_can_be_read(tmp_path):
    with pytest.raises(UserError, match="no weights of its own: set detector_model"):
        detector("opencv")
    with pytest.raises(UserError, match="there is no model file"):
        detector("opencv", model=tmp_path / "none.onnx")
    (tmp_path / "bad.onnx").write_bytes(b"no model")
    with pytest.raises(UserError, match="is not a YuNet model"):
        detector("opencv", model=tmp_path / "bad.onnx")


def test_opencv_rows_become_faces_in_the_full_frame(monkeypatch, tmp_path):
    """YuNet's weights are not at hand here, so its documented rows are what is tested."""

    class Network:
        def setInputSize(self, size):  # noqa: N802
            self.size = size

        def detect(self, picture):
            assert (picture.shape[1], picture.shape[0]) == self.size == (320, 160)
            assert picture[0, 0].tolist() == [3, 2, 1]  # OpenCV's order: blue first
            row = [10, 20, 30, 40, *range(10, 20), 0.9]
            return 1, np.array([[0, 0, 5, 5, *range(10), 0.6], row], dtype=np.float32)

    monkeypatch.setattr(cv2.FaceDetectorYN, "create", lambda *_: Network())
    (tmp_path / "yunet.onnx").write_bytes(b"model")
    frame = np.full((320, 640, 3), (1, 2, 3), np.uint8)
    large, small = OpenCvDetector(tmp_path / "yunet.onnx", max_side=320).detect([frame])[0]
    assert large.box == (20, 40, 80, 120)
    assert large.confidence == pytest.approx(0.9)
    assert large.landmarks.tolist() == [[2 * x, 2 * x + 2] for x in range(10, 20, 2)]
    assert (small.width, small.height) == (10, 10)


def test_boxes_are_clipped_to_the_frame():
    boxes = np.array([[-10, -10, 50, 60], [200, 0, 300, 50]], dtype=np.float32)
    frame = np.zeros((40, 100, 3), np.uint8)
    faces = detection._faces(1, frame, boxes, np.ones(2, np.float32), np.zeros((2, 5, 2), np.float32))
    assert [face.box for face in faces] == [(0, 0, 50, 40)]


@pytest.fixture
def numbered():
    """[100, 200, 3]: every pixel says where it stands."""
    frame = np.zeros((100, 200, 3), np.uint8)
    frame[..., 0], frame[..., 1] = np.arange(200), np.arange(100)[:, None]
    return frame


@pytest.mark.parametrize(
    ("box", "margin", "expected"),  # expected: left, top, side
    [
        ((80, 40, 100, 60), 0, (80, 40, 20)),
        ((80, 40, 100, 60), 0.5, (70, 30, 40)),
        ((80, 40, 100, 50), 0.5, (70, 25, 40)),  # square around the longer side
        ((0, 0, 20, 20), 0.5, (0, 0, 40)),  # moved inwards at a corner
        ((180, 80, 200, 100), 0.5, (160, 60, 40)),
        ((50, 0, 150, 100), 1.0, (50, 0, 100)),  # larger than the frame: its shorter side
        ((80.4, 40.2, 80.6, 40.4), 0, (80, 40, 1)),
    ],
)
def test_crops_are_squares_of_the_frames_own_pixels(numbered, box, margin, expected):
    left, top, side = expected
    piece = crop(numbered, box, margin)
    assert piece.shape == (side, side, 3)
    np.testing.assert_array_equal(piece, numbered[top : top + side, left : left + side])
    piece[:] = 0
    assert numbered[50, 100, 0] == 100  # a copy


def test_a_face_knows_its_size():
    face = Face((10, 20, 40, 80), 0.9)
    assert (face.width, face.height) == (30, 60)


def test_faces_are_found_at_every_size_and_in_the_same_place() -> None:
    finder = crop_detector()
    full = faces_in_crops(CROPS, finder)
    for size in (24, 32, 64, 300):
        resized = [np.asarray(Image.fromarray(crop).resize((size, size), Image.Resampling.BICUBIC)) for crop in CROPS]
        for face, reference in zip(faces_in_crops(resized, finder), full, strict=True):
            assert face is not None
            assert reference is not None
            assert face.landmarks is not None
            assert reference.landmarks is not None
            off = np.linalg.norm(face.landmarks / size - reference.landmarks / 92, axis=1)
            assert off.mean() < (0.04 if size == 24 else 0.025)  # of the crop's side


def test_noise_and_flat_pictures_hold_no_face() -> None:
    random = np.random.default_rng(0)
    pictures = [random.integers(0, 256, (48, 48, 3)).astype(np.uint8), np.full((64, 40, 3), 120, np.uint8)]
    assert faces_in_crops(pictures, crop_detector()) == [None, None]


def test_the_share_with_a_face_counts_every_picture_once() -> None:
    flat = np.full((92, 92, 3), 120, np.uint8)
    assert share_with_face([*CROPS, *[flat] * (70 - len(CROPS))], crop_detector()) == len(CROPS) / 70


def test_a_crop_is_looked_at_once(tmp_path: Path) -> None:
    rows = []
    for number, pixels in enumerate([*CROPS[:2], np.zeros((50, 50, 3), np.uint8)]):
        path = tmp_path / f"{number}.png"
        Image.fromarray(pixels).save(path)
        rows.append(
            {"path": path.name, "label": "real", "dataset": "d", "method": "pristine", "source": f"s{number}",
             "split": "train", "width": 9, "height": 9, "codec": "png",
             "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
        )  # fmt: skip
    manifest = Manifest.build(rows, tmp_path)
    first = crop_faces(manifest, tmp_path / "cache")
    assert [face is not None for face in first] == [True, True, False]
    for file in manifest.files[:2]:
        file.unlink()  # what is known is not read again
    again = crop_faces(manifest, tmp_path / "cache")
    for one, other in zip(first[:2], again[:2], strict=True):
        assert one is not None
        assert other is not None
        assert one.landmarks is not None
        assert other.landmarks is not None
        np.testing.assert_array_equal(one.landmarks, other.landmarks)
    assert again[2] is None
    (shard,) = (tmp_path / "cache" / "landmarks").glob("*.npy")
    shard.write_bytes(shard.read_bytes()[:-1])  # what is damaged is looked at again
    with pytest.raises(UserError, match="cannot be read"):
        crop_faces(manifest, tmp_path / "cache")


def test_a_face_at_the_edge_of_a_tight_crop_is_found_where_it_is() -> None:
    """Cut at the temple, its eyes stand where they stood in the whole picture (without a border: 14 pixels off)."""
    finder = crop_detector()
    off = []
    for whole, face in zip(CROPS, faces_in_crops(CROPS, finder), strict=True):
        assert face is not None
        assert face.landmarks is not None
        left = max(0, int(face.landmarks[:, 0].min()) - 8)
        cut = faces_in_crops([whole[:, left:]], finder)[0]
        assert cut is not None
        assert cut.landmarks is not None
        shift = np.array([left, 0])
        off.append(np.linalg.norm(cut.landmarks + shift - face.landmarks, axis=1).mean())
    assert np.mean(off) < 5  # of 92 pixels
