"""Forging: blends of real photographs, with their masks, parents and encoding, the same after a kill."""

from __future__ import annotations

import hashlib
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter

from core.errors import UserError
from core.manifest import Manifest, concatenate
from faces.detection import crop_detector, faces_in_crops
from faces.orl import _read
from faces.sheets import forgery_sheet
from gan.forging.degradation import read_picture, traces_of
from gan.forging.forge import METHODS, ForgeInputs, forge
from gan.forging.recipes import GanComposite, GanMatched, Photographs
from gan.sampling import Screened

_MAXIMUM = ImageFilter.MaxFilter(17)
# Three encodings in turn.
SAVED = [("jpg", {"quality": 90}), ("jpg", {"quality": 60, "subsampling": 2}), ("png", {})]


def write_portraits(root: Path, count: int = 8) -> Manifest:
    root.mkdir(parents=True, exist_ok=True)
    rows = []
    for number, pixels in enumerate(_read()[::10][: count + 2]):
        suffix, options = SAVED[number % 3]
        image = Image.fromarray(pixels[10:102]).convert("RGB")
        if number % 2:  # colour, and another size
            tint = np.asarray(image.resize((120, 120))) * np.array([1.0, 0.85, 0.7])
            image = Image.fromarray(tint.astype(np.uint8))
        path = root / f"{number}.{suffix}"
        image.save(path, **options)  # type: ignore[arg-type]
        rows.append(
            {
                "path": path.name,
                "label": "real",
                "dataset": "portraits" if number % 4 else "studio",
                "method": "pristine",
                "identity": f"person-{number}",
                "source": f"photo-{number}",
                "split": {count: "val", count + 1: "test"}.get(number, "train"),
                "width": 60,
                "height": 70,
                "codec": "jpeg" if suffix == "jpg" else "png",
                "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            }
        )
    manifest = Manifest.build(rows, root)
    manifest.write(root / "manifest.parquet")
    return manifest


@pytest.fixture(scope="module")
def portraits(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return write_portraits(tmp_path_factory.mktemp("portraits"))


@pytest.fixture(scope="module")
def blends(portraits: Manifest, tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return forge(
        "self-blend", 20, ForgeInputs(manifest=portraits, generator=None, pool=tmp_path_factory.mktemp("pool"))
    )


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Screened:
    """Faces of 40 pixels, as a generator that was trained for long would make them: photographs of other people."""
    root = tmp_path_factory.mktemp("samples")
    rows, landmarks = [], []
    pictures = [np.asarray(Image.fromarray(p[10:102]).convert("RGB").resize((40, 40))) for p in _read()[101:389:9]]
    for seed, (picture, face) in enumerate(zip(pictures, faces_in_crops(pictures, crop_detector()), strict=True)):
        assert face is not None
        assert face.landmarks is not None
        Image.fromarray(picture).save(root / f"{seed}.png")
        landmarks.append(face.landmarks.tolist())
        rows.append(
            {
                "path": f"{seed}.png",
                "label": "fake",
                "dataset": "synthetic",
                "method": "gan",
                "source": f"gan-0123-{seed}",
                "split": "train",
                "width": 40,
                "height": 40,
                "codec": "png",
                "sha256": hashlib.sha256((root / f"{seed}.png").read_bytes()).hexdigest(),
                "generator": "0123456789abcdef",
                "seed": seed,
            }
        )
    return Screened(Manifest.build(rows, root), landmarks, {})


def test_rows_name_recipe_seed_parent_and_mask(portraits: Manifest, blends: Manifest) -> None:
    rows = blends.rows
    assert len(rows) == 20
    assert set(rows["label"]) == {"fake"}
    assert set(rows["split"]) == {"train"}
    assert set(rows["method"]) == {"self-blend"}
    assert rows["seed"].tolist() == list(range(20))
    assert blends.synthetic.all()
    train = portraits.select(split="train")
    assert set(rows["parent"]) == set(train.rows["sha256"])  # each of the eight, and no other
    parents = train.rows.set_index("sha256").loc[rows["parent"]]
    for name in ("dataset", "identity", "source", "codec", "width"):
        assert parents[name].tolist() == rows[name].tolist()
    for file, mask, sha256 in zip(blends.files, rows["mask"], rows["sha256"], strict=True):
        assert hashlib.sha256(file.read_bytes()).hexdigest() == sha256
        assert (blends.root / mask).is_file()


def test_outside_the_mask_the_photograph_is_the_same_but_for_the_codec(portraits: Manifest, blends: Manifest) -> None:
    files = dict(zip(portraits.rows["sha256"], portraits.files, strict=True))
    for row, file in zip(blends.rows.itertuples(), blends.files, strict=True):
        before, encoding = read_picture(files[row.parent].read_bytes())
        after, same = read_picture(file.read_bytes())
        assert (same.format, same.mode, same.grey, same.tables) == (
            encoding.format,
            encoding.mode,
            encoding.grey,
            encoding.tables,
        )
        assert same.sampling == encoding.sampling
        mask = np.asarray(Image.open(blends.root / row.mask))
        assert mask.shape == after.shape[:2]
        assert 0.03 < (mask > 0).mean() < 0.7
        assert mask.max() > 50
        change = np.abs(after.astype(int) - before)
        if encoding.lossless:
            assert change[mask == 0].max() == 0
        else:  # a block of 8 or 16 pixels that the mask touches is encoded anew as a whole
            error = np.abs(read_picture(encoding.encode(before))[0].astype(int) - before)
            far = mask.copy()
            for _ in range(2):
                far = np.asarray(Image.fromarray(far).filter(_MAXIMUM))
            assert change[far == 0].max() <= max(error.max(), 2)
        assert change[mask > mask.max() // 2].mean() > 0.5


def test_every_forgery_is_another_and_the_same_call_gives_the_same(
    portraits: Manifest, blends: Manifest, tmp_path: Path
) -> None:
    assert blends.rows["sha256"].is_unique
    # Other rows, in another order, of other splits: the forgeries stay.
    turned = Manifest.build(portraits.rows[::-1], portraits.root)
    again = forge("self-blend", 12, ForgeInputs(manifest=turned, generator=None, pool=tmp_path))
    assert again.rows["sha256"].tolist() == blends.rows["sha256"].tolist()[:12]
    shifted = forge("self-blend", 4, ForgeInputs(manifest=portraits, generator=None, pool=tmp_path, seed=8))
    assert shifted.rows["sha256"].tolist() == blends.rows["sha256"].tolist()[8:12]


def test_what_is_damaged_or_gone_is_forged_again(portraits: Manifest, tmp_path: Path) -> None:
    inputs = ForgeInputs(manifest=portraits, generator=None, pool=tmp_path)
    first = forge("self-blend", 6, inputs)
    contents = [file.read_bytes() for file in first.files]
    stamps = [file.stat().st_mtime_ns for file in first.files]
    first.files[0].write_bytes(contents[0][:50])
    first.files[1].unlink()
    (first.root / first.rows["mask"][2]).write_bytes(b"torn")
    second = forge("self-blend", 6, inputs)
    assert [file.read_bytes() for file in second.files] == contents
    kept = [file.stat().st_mtime_ns == stamp for file, stamp in zip(second.files, stamps, strict=True)]
    assert kept == [False, False, False, True, True, True]
    assert np.asarray(Image.open(second.root / second.rows["mask"][2])).any()


def test_killed_and_called_again_it_ends_in_the_same_manifest(
    portraits: Manifest, blends: Manifest, tmp_path: Path
) -> None:
    program = (
        "from pathlib import Path; from core.manifest import Manifest;"
        "from gan.forging.forge import ForgeInputs, forge;"
        f"forge('self-blend', 20, ForgeInputs(manifest=Manifest.read(Path({str(portraits.root)!r})),"
        f" generator=None, pool=Path({str(tmp_path)!r})))"
    )
    process = subprocess.Popen([sys.executable, "-c", program])
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline and len([*tmp_path.glob("*/crops/*")]) < 3:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert len([*tmp_path.glob("*/crops/*")]) >= 3
    again = forge("self-blend", 20, ForgeInputs(manifest=portraits, generator=None, pool=tmp_path))
    assert again.rows.equals(blends.rows)


def test_a_composite_puts_the_sample_s_face_into_a_train_photograph(
    portraits: Manifest, samples: Screened, tmp_path: Path
) -> None:
    photographs = Photographs(portraits.select(split="train"), tmp_path)
    recipe = GanComposite(photographs, samples)
    plans = [recipe.plan(index) for index in range(32)]
    assert len({plan.stem for plan in plans}) == 32
    assert sorted(plan.row["seed"] for plan in plans) == list(range(32))  # each sample once
    brighter = []
    for plan in plans[:12]:
        forgery = recipe.make(plan)
        assert forgery.data == recipe.make(plan).data
        assert forgery.mask is not None
        assert plan.parent is not None
        before, encoding = read_picture(photographs.manifest.files[plan.parent].read_bytes())
        after = read_picture(forgery.data)[0]
        assert plan.row["parent"] == photographs.manifest.rows["sha256"][plan.parent]
        assert plan.row["generator"] == "0123456789abcdef"
        change = np.abs(after.astype(int) - before).mean(axis=2)
        assert change[forgery.mask > 200].mean() > 5
        if encoding.lossless:
            assert change[forgery.mask == 0].max() == 0
        here = forgery.mask > 127
        brighter.append(np.abs(after[here].mean(axis=0) - before[here].mean(axis=0)).max())
    # The colours are the photograph's; only where hair falls over the hull's edge does Poisson draw it in.
    assert np.median(brighter) < 20


def test_matched_samples_wear_the_traces_of_the_reals(portraits: Manifest, samples: Screened) -> None:
    reals = portraits.select(split="train")
    recipe = GanMatched(reals, samples, 40)
    known = {traces_of(file.read_bytes()).encoding.tables for file in reals.files}
    for index in range(6):
        plan = recipe.plan(index)
        traces = traces_of(recipe.make(plan).data)
        assert plan.parent is not None
        model = traces_of(reals.files[plan.parent].read_bytes())
        assert (traces.width, traces.height, traces.encoding.format) == (
            model.width,
            model.height,
            model.encoding.format,
        )
        assert traces.encoding.tables in known
        assert plan.row["dataset"] == reals.rows["dataset"][plan.parent]
        assert "parent" not in plan.row


def test_a_sheet_shows_photograph_mask_forgery_and_difference(
    portraits: Manifest, blends: Manifest, tmp_path: Path
) -> None:
    joined = concatenate([portraits, blends], tmp_path)
    joined.write(tmp_path / "manifest.parquet")
    sheet = forgery_sheet(Manifest.read(tmp_path), tmp_path / "sheet.png", per_method=4)
    assert sheet is not None
    pixels = np.asarray(Image.open(sheet).convert("RGB"))
    assert pixels.shape[0] > 2 * 160
    assert pixels.shape[1] > 8 * 160
    assert forgery_sheet(portraits, tmp_path / "none.png") is None
    (tmp_path / joined.rows["mask"].dropna().iloc[0]).resolve().unlink()
    with pytest.raises(UserError, match="cannot be read"):
        forgery_sheet(Manifest.read(tmp_path), tmp_path / "sheet.png", per_method=99)


def test_without_a_face_in_any_real_there_is_nothing_to_blend_into(blobs: Manifest, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no face was found in any of the 24 train reals"):
        forge("self-blend", 4, ForgeInputs(manifest=blobs, generator=None, pool=tmp_path))


@pytest.mark.parametrize("method", [name for name in METHODS if name != "self-blend"])
def test_a_method_without_its_generator_says_so(method: str, portraits: Manifest, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"{method} needs a generator"):
        forge(method, 4, ForgeInputs(manifest=portraits, generator=None, pool=tmp_path))


def test_other_mistakes_are_named(portraits: Manifest, trained: Path, tmp_path: Path) -> None:
    inputs = ForgeInputs(manifest=portraits, generator=trained, pool=tmp_path)
    with pytest.raises(UserError, match="forging method 'swap' is not known"):
        forge("swap", 4, inputs)
    with pytest.raises(UserError, match="faces of 16 pixels"):
        forge("gan-composite", 4, inputs)
    unreal = ForgeInputs(manifest=portraits.select(split="val"), generator=None, pool=tmp_path)
    with pytest.raises(UserError, match="no real face to forge from"):
        forge("self-blend", 4, unreal)
