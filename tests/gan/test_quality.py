"""A generator is measured beside its floor, and one that replays its photographs is told from one that does not."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from core.errors import UserError
from core.manifest import Manifest
from faces.loading import load_crops
from faces.orl import _read
from gan import quality
from gan.checkpoint import GeneratorCard, load_generator, save_generator
from gan.quality import Validation, inception_distances, lpips_diversity, of_pictures, score_generator
from gan.sampling import render

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory, write_faces: Callable[..., Manifest]) -> Manifest:
    """72 blobs, a third of them in val."""
    manifest = write_faces(tmp_path_factory.mktemp("photographs"), count=72, size=16)
    splits = np.where(np.arange(72) % 3 == 0, "val", "train")
    return Manifest.build(manifest.rows.assign(split=splits).to_dict("records"), manifest.root)


def test_a_score_names_its_figures_and_their_floor(
    trained: Path, photographs: Manifest, cache: Path, tmp_path: Path
) -> None:
    found = score_generator(trained, photographs, tmp_path, cache, device="cpu")
    assert found.count == 36
    # Ten steps of training give nothing like a blob; the two halves of the blobs differ by chance alone.
    assert found.metrics["kd_lite0"] > 10 * abs(found.metrics["kd_lite0_floor"])
    assert abs(found.metrics["kd_lite0_floor"]) < 5 * found.metrics["kd_lite0_floor_sd"]
    assert found.metrics["precision_floor"] > 0.5
    assert found.metrics["precision"] < found.metrics["precision_floor"]
    assert not found.memorises
    assert "fd_lite0" not in found.metrics
    assert any("too few for a Fréchet distance in 320 dimensions" in note for note in found.notes)
    written = json.loads((tmp_path / "quality.json").read_text())
    assert written["metrics"] == found.metrics
    with Image.open(tmp_path / "neighbours.png") as sheet:
        assert sheet.width > 16 * quality.NEIGHBOUR_COLUMNS
    again = score_generator(trained, photographs, tmp_path, cache, device="cpu")
    assert again == found


def test_a_generator_that_replays_photographs_is_told(
    trained: Path, photographs: Manifest, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def replayed(split: str) -> Any:
        rows = photographs.select(split=split)
        crops = load_crops(rows, 16, cache)

        def render(_: object, seeds: range, __: float) -> Any:
            return crops.batch(np.arange(len(seeds)) % len(rows)).permute(0, 2, 3, 1).numpy()

        return render

    monkeypatch.setattr(quality, "render", replayed("train"))
    copies = score_generator(trained, photographs, tmp_path, cache, device="cpu")
    assert copies.memorises
    assert copies.metrics["near_copies"] > 0.5
    assert copies.metrics["near_as_many_train"] > copies.metrics["near_as_many_val"]
    # What replays photographs that training never saw copies nothing, although it is just as good.
    monkeypatch.setattr(quality, "render", replayed("val"))
    assert not score_generator(trained, photographs, tmp_path, cache, device="cpu").memorises


def test_samples_in_which_a_face_is_found_are_counted_beside_the_reals(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stands in for a generator that draws a face at three seeds of four, which takes hours to train."""
    drawn = [np.asarray(Image.fromarray(pixels[10:102]).convert("RGB").resize((32, 32))) for pixels in _read()[::12]]
    rows = []
    for number, pixels in enumerate(drawn):
        path = tmp_path / f"{number}.png"
        Image.fromarray(pixels).save(path)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        rows.append(
            {"path": path.name, "label": "real", "dataset": "orl", "method": "pristine", "source": f"s{number}",
             "split": "train", "width": 32, "height": 32, "codec": "png", "sha256": digest}
        )  # fmt: skip
    manifest = Manifest.build(rows, tmp_path)
    card = GeneratorCard(
        image_size=32,
        channels={4: 8, 8: 8, 16: 8, 32: 8},
        z_width=8,
        w_width=8,
        mapping_depth=1,
        noise_inputs=False,
        manifest="none",
        kimg=0,
    )
    folder = save_generator(card.build(), card, tmp_path / "generator")
    flat = np.full((32, 32, 3), 90, np.uint8)
    monkeypatch.setattr(
        quality, "render", lambda _, seeds, __: np.stack([drawn[seed] if seed % 4 else flat for seed in seeds])
    )
    found = score_generator(folder, manifest, tmp_path / "out", cache, samples=16, device="cpu")
    assert found.metrics["faces_found"] == 0.75
    assert found.metrics["faces_found_floor"] == 1.0
    table = found.table().set_index("measure")
    assert table.loc["faces_found"].tolist() == [0.75, 1.0]
    assert any(note.startswith("faces_found: by MTCNN") and "at 32 px" in note for note in found.notes)


def test_validation_distance_falls_to_nothing_against_own_samples(trained: Path, blobs: Manifest, cache: Path) -> None:
    generator = load_generator(trained)
    near, far = Validation(blobs, 16, cache, CPU), Validation(blobs, 16, cache, CPU)
    random = np.random.default_rng(0)
    near.real = of_pictures(render(generator, range(1000, 1024), 1.0))
    far.real = of_pictures(random.integers(0, 255, (24, 16, 16, 3), dtype=np.uint8))
    assert abs(near.distance(generator).mean) < 0.05 * far.distance(generator).mean


def test_too_few_reals_are_refused(trained: Path, photographs: Manifest, cache: Path, tmp_path: Path) -> None:
    few = photographs.where(np.arange(72) < 10)
    with pytest.raises(UserError, match="10 real faces in train and val are too few"):
        score_generator(trained, few, tmp_path, cache, device="cpu")


def test_fid_and_kid_come_from_the_file_that_is_given(tmp_path: Path) -> None:
    """The reference implementation with random weights: its figures mean nothing, but they tell sets apart."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    class Blank(FeatureExtractorInceptionV3):
        def load_state_dict(self, state: object) -> None:  # type: ignore[override]
            """Leave the weights as they were drawn."""

    torch.save({}, tmp_path / "none.pth")
    torch.manual_seed(0)
    blank = Blank("inception-v3-compat", ["2048"], feature_extractor_weights_path=str(tmp_path / "none.pth"))
    torch.save(blank.state_dict(), tmp_path / "inception.pth")
    random = torch.Generator().manual_seed(0)
    dark = torch.randint(0, 100, (4, 3, 32, 32), dtype=torch.uint8, generator=random)
    found = inception_distances(dark, dark, tmp_path / "inception.pth", CPU)
    assert found["fid"] == pytest.approx(0, abs=1e-3)
    other = inception_distances(dark, 255 - dark, tmp_path / "inception.pth", CPU)
    assert other["fid"] > found["fid"]
    with pytest.raises(UserError, match=r"none\.pth does not work as Inception's weights"):
        inception_distances(dark, dark, tmp_path / "none.pth", CPU)
    with pytest.raises(UserError, match="no file of Inception weights"):
        inception_distances(dark, dark, tmp_path / "absent.pth", CPU)


def test_a_pickle_of_code_is_not_run(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "sprung",))

    torch.save({"weight": Trap()}, tmp_path / "trap.pth")
    pictures = torch.zeros((4, 3, 16, 16), dtype=torch.uint8)
    with pytest.raises(UserError, match="holds more than tensors"):
        inception_distances(pictures, pictures, tmp_path / "trap.pth", CPU)
    assert not (tmp_path / "sprung").exists()


def test_lpips_is_higher_for_more_diverse_pictures(tmp_path: Path) -> None:
    from torchvision.models import alexnet

    torch.manual_seed(0)
    torch.save(alexnet(weights=None).state_dict(), tmp_path / "alexnet.pth")
    random = torch.Generator().manual_seed(0)
    base = torch.randint(0, 255, (1, 3, 32, 32), generator=random)
    alike = (base + torch.randint(-5, 6, (6, 3, 32, 32), generator=random)).clamp(0, 255).to(torch.uint8)
    unlike = torch.randint(0, 255, (6, 3, 32, 32), generator=random).to(torch.uint8)
    near = lpips_diversity(alike, tmp_path / "alexnet.pth", CPU, pairs=20)
    assert lpips_diversity(unlike, tmp_path / "alexnet.pth", CPU, pairs=20) > 2 * near > 0
    torch.save({"features.0.weight": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(UserError, match="does not hold torchvision's AlexNet"):
        lpips_diversity(alike, tmp_path / "other.pth", CPU)
