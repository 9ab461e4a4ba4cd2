"""Whole public datasets through ingest: in miniature, made of the ORL photographs, and odd files beside them."""

from __future__ import annotations

import importlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from core.errors import UserError
from core.groups import persons_of, split_notes
from core.manifest import Manifest
from faces.detection import DETECTORS, Face
from faces.ingest import IngestConfig, ingest
from faces.survey import survey

ROOT = Path(__file__).parents[2]
CROPS = IngestConfig(already_cropped=True, min_face_pixels=8)
PRIVATE = ROOT.parent / "shared" / "data" / "clips"  # media that may not be published; most checkouts lack them


class MiddleDetector:
    """Finds one face in the middle of every frame."""

    def __init__(self, **_: object) -> None:
        pass

    def detect(self, frames: list[np.ndarray]) -> list[list[Face]]:
        return [[Face((0.3 * w, 0.3 * h, 0.7 * w, 0.7 * h), 0.99)] for h, w in (frame.shape[:2] for frame in frames)]


@pytest.fixture(autouse=True)
def _middle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(DETECTORS, "mtcnn", MiddleDetector)


@pytest.fixture
def miniatures(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("miniatures")


def picture(number: int, size: int = 48) -> Image.Image:
    """A smooth random picture, whose perceptual hash is far from any other's."""
    small = np.random.default_rng(number).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((size, size), Image.Resampling.BICUBIC)


@pytest.fixture
def put(tmp_path: Path) -> Callable[..., Path]:
    made = iter(range(10_000))

    def one(name: str, **options: object) -> Path:
        file = tmp_path / "set" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        picture(next(made)).save(file, **options)
        return file

    return one


def reasons(out: Path) -> dict[str, str]:
    table = pd.read_parquet(out / "rejected.parquet")
    return dict(zip(table["path"], table["reason"], strict=True))


@pytest.mark.parametrize("name", ["ffpp", "wild-deepfake", "openforensics", "fakeavceleb"])
def test_rows_say_what_the_authors_say(name: str, tmp_path: Path, miniatures: ModuleType) -> None:
    source, out = tmp_path / name, tmp_path / "out"
    truths = {truth.path: truth for truth in miniatures.miniature(name, source)}
    manifest = ingest(source, out)
    rows = manifest.rows.assign(file=manifest.rows["path"].str.extract("^crops/(.*)/[^/]*$")[0])
    assert set(rows["file"]) == set(truths)
    for row in rows.to_dict("records"):
        truth = truths[row["file"]]
        assert (row["label"], row["method"], row["source"]) == (truth.label, truth.method, truth.source)
        assert (row["identity"] if pd.notna(row["identity"]) else "") == ";".join(sorted(truth.persons))
        assert truth.split in (None, row["split"]) or (truth.split, row["split"]) == ("train", "val")
        assert truth.frame in (None, row["frame"])
    about = json.loads((out / "ingest.json").read_text())
    assert about["layout"] == name
    assert about["splits"] == ("hash" if name == "fakeavceleb" else "official")
    before = (out / "manifest.parquet").read_bytes()
    assert ingest(source, out).digest == manifest.digest
    assert (out / "manifest.parquet").read_bytes() == before


def test_an_official_split_that_shares_persons_is_kept_and_says_so(tmp_path: Path, miniatures: ModuleType) -> None:
    source = tmp_path / "celeb-df"
    list(miniatures.miniature("celeb-df", source))
    official = ingest(source, tmp_path / "official")
    assert set(official.rows["split_by"]) == {"official-overlapping"}
    assert json.loads((tmp_path / "official" / "ingest.json").read_text())["shared_persons"] == 4
    note = split_notes(official.rows)[0]
    assert "as its authors did (official), with persons in test who are in train or val too" in note
    assert "its groups are videos, not persons" in note
    assert {"train", "val", "test"} == set(official.rows["split"])

    disjoint = ingest(source, tmp_path / "disjoint", IngestConfig(splits="person-disjoint"))
    persons = persons_of(disjoint.rows["identity"])
    spread = pd.DataFrame({"person": persons, "split": disjoint.rows["split"].loc[persons.index]}).drop_duplicates()
    assert not spread["person"].duplicated().any()
    assert "its persons stand in different splits" in reasons(tmp_path / "disjoint").values()

    (source / "List_of_testing_videos.txt").unlink()
    with pytest.raises(
        UserError, match=r"cannot be split by a hash, as 4 persons are tied .*List_of_testing_videos.txt"
    ):
        ingest(source, tmp_path / "hash")
    with pytest.raises(UserError, match=r"the official split of celeb-df is not in .*put List_of_testing_videos.txt"):
        ingest(source, tmp_path / "hash", IngestConfig(splits="official"))


def test_parts_that_are_all_train_are_split_by_a_hash(tmp_path: Path) -> None:
    folder = tmp_path / "dfdc_train_part_3"
    folder.mkdir()
    (folder / "metadata.json").write_text(json.dumps({"a.mp4": {"label": "REAL"}, "b.mp4": {"label": "FAKE"}}))
    for name in ("a.mp4", "b.mp4"):
        (folder / name).write_bytes(b"")
    assert survey(tmp_path).splits == "hash"
    assert survey(tmp_path, IngestConfig(splits="official")).splits == "official"


def test_frames_are_one_video_and_a_few_of_them_are_enough(tmp_path: Path, put: Callable[..., Path]) -> None:
    for video in ("v1", "v2", "v3"):
        for frame in range(10, 22):
            put(f"real/{video}/frame_{frame:04d}.png")
            put(f"fake/swap/{video}/frame_{frame:04d}.png")
    manifest = ingest(tmp_path / "set", tmp_path / "out", CROPS)
    rows = manifest.rows
    assert len(rows) == 72
    assert set(rows["source"]) == {f"{at}/v{n}" for at in ("real", "fake/swap") for n in (1, 2, 3)}
    assert rows.groupby("source")["split"].nunique().eq(1).all()
    assert set(rows["frame"]) == set(range(10, 22))
    few = ingest(tmp_path / "set", tmp_path / "few", CROPS.model_copy(update={"max_frames_per_video": 3}))
    assert set(few.rows["frame"]) == {10, 14, 18}
    about = json.loads((tmp_path / "few" / "ingest.json").read_text())
    assert about["ignored"] == {"frames beyond max_frames_per_video": 54}


def test_a_pattern_sees_the_path_and_two_persons(tmp_path: Path, put: Callable[..., Path]) -> None:
    for name in ("real/ann/1.png", "real/bob/1.png", "fake/ann/to_bob/1.png"):
        put(name)
    pattern = r"^(?:real|fake)/(?P<identity>\w+?)/(?:to_(?P<identity2>\w+)/)?"
    rows = ingest(tmp_path / "set", tmp_path / "out", CROPS.model_copy(update={"name_pattern": pattern})).rows
    assert dict(zip(rows["source"], rows["identity"], strict=True)) == {
        "real/ann/1.png": "ann", "real/bob/1.png": "bob", "fake/ann/to_bob/1.png": "ann;bob",
    }  # fmt: skip
    assert len(set(rows["split"])) == 1


def test_every_file_is_accounted_for(
    tmp_path: Path, put: Callable[..., Path], write_video: Callable[..., Path]
) -> None:
    """What can be decoded is taken, whatever its suffix; the rest is rejected with a reason; junk is counted."""
    root = tmp_path / "set"
    put("REAL/a.JFIF", format="jpeg")
    put("REAL/b.data", format="png")
    put("REAL/c.tiff")
    put("REAL/d.gif")
    put("REAL/e.avif")
    deep = np.asarray(picture(900).convert("L")).astype(np.uint16) * 257
    Image.fromarray(deep).save(root / "REAL" / "f.png")
    put("Fake/g.png")
    for number, (suffix, codec) in enumerate({".m4v": "libx264", ".mpg": "mpeg2video", ".wmv": "wmv2"}.items()):
        write_video(root / "Fake" / f"v{suffix}", [np.array(picture(1000 + number, 96))] * 9, rate=25, codec=codec)
    (root / "REAL" / "notes.txt").write_text("seen on Monday\n" * 20)
    (root / "REAL" / "empty.png").write_bytes(b"")
    (root / "REAL" / ".DS_Store").write_bytes(b"1")
    (root / "README.txt").write_text("about")
    (root / "loose.png").write_bytes((root / "Fake" / "g.png").read_bytes())
    Path(os.fsdecode(os.fsencode(root / "REAL") + b"/caf\xe9.jpg")).write_bytes((root / "REAL" / "a.JFIF").read_bytes())
    (root / "REAL" / "gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
    manifest = ingest(root, tmp_path / "out", IngestConfig(min_face_pixels=8))
    told = reasons(tmp_path / "out")
    assert sorted(set(manifest.rows["source"])) == [
        "Fake/g.png", "Fake/v.m4v", "Fake/v.mpg", "Fake/v.wmv", "REAL/a.JFIF", "REAL/b.data", "REAL/c.tiff",
        "REAL/d.gif", "REAL/e.avif", "REAL/f.png",
    ]  # fmt: skip
    assert told["REAL/empty.png"] == "the file is empty"
    assert "not a readable picture" in told["REAL/notes.txt"]
    assert told["REAL/caf\\xe9.jpg"] == "the file's name is not UTF-8: rename it"
    assert "cannot be opened" in told["REAL/gone.jpg"]
    assert told["loose.png"] == "it stands neither in real/ nor in fake/"
    assert len(told) == 5
    assert json.loads((tmp_path / "out" / "ingest.json").read_text())["ignored"] == {
        "hidden and system files": 1, "documents": 1,
    }  # fmt: skip


def test_folders_that_are_links_are_ingested(tmp_path: Path, put: Callable[..., Path]) -> None:
    for number in range(3):
        put(f"real/{number}.png")
        put(f"fake/{number}.png")
    linked = tmp_path / "linked"
    linked.mkdir()
    for label in ("real", "fake"):
        (linked / label).symlink_to(tmp_path / "set" / label)
    assert set(ingest(linked, tmp_path / "out", CROPS).rows["source"]) == {
        f"{label}/{number}.png" for label in ("real", "fake") for number in range(3)
    }


def test_an_archive_is_unpacked_for_its_frames_and_not_left_behind(tmp_path: Path, miniatures: ModuleType) -> None:
    source, out = tmp_path / "wild", tmp_path / "out"
    list(miniatures.miniature("wild-deepfake", source))
    ingest(source, out, CROPS)
    assert not (out / "unpacked").exists()
    assert all(file.is_file() for file in Manifest.read(out).files)


@pytest.mark.skipif(not PRIVATE.is_dir(), reason="the private clips are not here")
def test_private_clips_as_faceforensics(tmp_path: Path) -> None:
    """A fake of target T and source S belongs to both persons, and goes with the videos of both."""
    root = tmp_path / "tree"
    for file in sorted(PRIVATE.glob("real/*.mp4")):
        target = root / "original_sequences" / "youtube" / "c23" / "videos" / file.name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, target)
    fakes = {}
    for file in sorted(PRIVATE.glob("fake/*.mp4")):
        method, _, pair = file.stem.partition("__")
        target = root / "manipulated_sequences" / method / "c23" / "videos" / f"{pair}.mp4"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, target)
        fakes[f"{method}/{pair}"] = ";".join(sorted(pair.split("_")))
    rows = ingest(root, tmp_path / "out", IngestConfig(every_seconds=5)).rows
    fake = rows[rows["label"] == "fake"].drop_duplicates("source")
    assert dict(zip(fake["source"], fake["identity"], strict=True)) == fakes
    assert set(rows[rows["label"] == "real"]["identity"]) == {"004", "519", "634"}
    persons = persons_of(rows["identity"])
    spread = pd.DataFrame({"person": persons, "split": rows["split"].loc[persons.index]}).drop_duplicates()
    assert not spread["person"].duplicated().any()
