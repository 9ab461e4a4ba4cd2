import json
import os
import signal
import subprocess
import sys
import textwrap
from hashlib import sha256
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from pydantic import ValidationError

from core.errors import UserError
from core.manifest import Manifest
from faces import extraction
from faces.detection import DETECTORS, Face
from faces.ingest import IngestConfig, ingest, summary
from faces.sheets import contact_sheet

CROPS = IngestConfig(already_cropped=True)
REPOSITORY = Path(__file__).parents[2]


def noise(seed, size=48):
    """[size, size, 3] a smooth random picture, whose perceptual hash is far from any other's."""
    small = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((size, size), Image.Resampling.BICUBIC)


def save(image, path, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)
    return path


@pytest.fixture
def portraits(tmp_path):
    """10 real and 8 fake crops of two methods."""
    source = tmp_path / "portraits"
    for number in range(10):
        save(noise(number), source / "real" / f"r{number}.png")
    for number in range(4):
        save(noise(100 + number), source / "fake" / "gan" / "deep" / f"g{number}.jpg", quality=90)
        save(noise(200 + number), source / "fake" / f"f{number}.png")
    return source


class CentreDetector:
    """Finds one face in the middle of every frame that is not dark, and counts the frames it saw."""

    seen = 0

    def __init__(self, **_):
        pass

    def detect(self, frames):
        CentreDetector.seen += len(frames)
        found = []
        for frame in frames:
            h, w = frame.shape[:2]
            found.append([Face((w * 0.3, h * 0.3, w * 0.7, h * 0.7), 0.99)] if frame.mean() > 30 else [])
        return found


@pytest.fixture
def centre(monkeypatch):
    monkeypatch.setitem(DETECTORS, "mtcnn", CentreDetector)
    CentreDetector.seen = 0
    return CentreDetector


def rejections(out):
    table = pd.read_parquet(out / "rejected.parquet")
    assert list(table.columns) == ["path", "time_s", "reason"]
    return table


def test_crops_keep_their_bytes_and_say_where_they_come_from(portraits, tmp_path):
    out = tmp_path / "out"
    manifest = ingest(portraits, out, CROPS)
    assert len(manifest) == 18
    assert manifest.digest == Manifest.read(out).digest
    assert set(manifest.rows["dataset"]) == {"portraits"}
    for row, file in zip(manifest.rows.itertuples(), manifest.files, strict=True):
        original = portraits / row.source
        assert file.read_bytes() == original.read_bytes()
        assert not file.samefile(original)
        assert row.sha256 == sha256(file.read_bytes()).hexdigest()
        assert (row.width, row.height) == (48, 48)
        assert row.codec == {"png": "png", "jpg": "jpeg"}[file.suffix[1:]]
        method = "pristine" if row.label == "real" else "gan" if "gan" in row.source else "fake"
        assert row.method == method
    assert rejections(out).empty
    counts = summary(manifest).set_index("method")
    assert counts["total"].to_dict() == {"pristine": 10, "gan": 4, "fake": 4}
    assert (counts[["train", "val", "test"]].sum(axis=1) == counts["total"]).all()


def test_a_second_call_returns_at_once_and_new_media_are_added(portraits, tmp_path, monkeypatch):
    out = tmp_path / "out"
    first = ingest(portraits, out, CROPS)
    copied = []
    original = extraction._copy_crop
    monkeypatch.setattr(extraction, "_copy_crop", lambda item, *rest: copied.append(item.name) or original(item, *rest))
    before = (out / "ingest.jsonl").read_bytes(), (out / "manifest.parquet").stat().st_mtime_ns
    assert ingest(portraits, out, CROPS).digest == first.digest
    assert before == ((out / "ingest.jsonl").read_bytes(), (out / "manifest.parquet").stat().st_mtime_ns)
    assert copied == []

    save(noise(50), portraits / "real" / "a-new-one.png")
    second = ingest(portraits, out, CROPS)
    assert copied == ["real/a-new-one.png"]
    old = second.rows[second.rows["path"].isin(first.rows["path"])].reset_index(drop=True)
    pd.testing.assert_frame_equal(old, first.rows)
    assert len(second) == 19


def test_changed_and_removed_media_are_noticed(portraits, tmp_path):
    out = tmp_path / "out"
    first = ingest(portraits, out, CROPS)
    save(noise(60, size=64), portraits / "real" / "r3.png")
    (portraits / "fake" / "f0.png").unlink()
    second = ingest(portraits, out, CROPS)
    assert len(second) == len(first) - 1
    assert second.rows.set_index("source").loc["real/r3.png", "width"] == 64


@pytest.mark.parametrize("lines", [0, 1, 2, 7])
def test_a_torn_journal_and_lost_crops_are_made_good(portraits, tmp_path, lines):
    """As after a kill: the journal ends in the middle of a line, later crops are missing or half written."""
    whole, torn = tmp_path / "whole", tmp_path / "torn"
    expected = ingest(portraits, whole, CROPS)
    ingest(portraits, torn, CROPS)
    written = (torn / "ingest.jsonl").read_bytes().splitlines(keepends=True)
    (torn / "ingest.jsonl").write_bytes(b"".join(written[:lines]) + written[lines][: len(written[lines]) // 2])
    (torn / "manifest.parquet").unlink()
    (torn / "rejected.parquet").unlink()
    (torn / "crops" / "real" / "r1.png").unlink()
    (torn / "crops" / "real" / "r9.png").write_bytes(b"half")
    resumed = ingest(portraits, torn, CROPS)
    pd.testing.assert_frame_equal(resumed.rows, expected.rows)
    assert [file.read_bytes() for file in resumed.files] == [file.read_bytes() for file in expected.files]


def test_a_job_that_was_killed_goes_on(portraits, tmp_path):
    out = tmp_path / "out"
    script = f"""
        import os, signal
        from pathlib import Path
        from faces.ingest import IngestConfig, ingest
        from faces.journal import Journal

        add, count = Journal.add, 0

        def add_and_die(journal, record):
            global count
            add(journal, record)
            count += 1
            if count == 5:
                journal._file.write('{{"media":"real/torn')
                journal._file.flush()
                os.kill(os.getpid(), signal.SIGKILL)

        Journal.add = add_and_die
        ingest(Path({str(portraits)!r}), Path({str(out)!r}), IngestConfig(already_cropped=True))
    """
    killed = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], cwd=REPOSITORY, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert not (out / "manifest.parquet").exists()
    records = [json.loads(line) for line in (out / "ingest.jsonl").read_text().splitlines()[:-1]]
    assert len(records) == 1 + 5
    expected = ingest(portraits, tmp_path / "uninterrupted", CROPS)
    pd.testing.assert_frame_equal(ingest(portraits, out, CROPS).rows, expected.rows)
    lines = (out / "ingest.jsonl").read_text().splitlines()
    assert len(lines) == 1 + 18 + 1  # none was done twice


def test_another_configuration_is_refused_by_the_name_of_its_field(portraits, tmp_path):
    out = tmp_path / "out"
    ingest(portraits, out, CROPS)
    with pytest.raises(UserError, match=r"min_face_pixels was 32 when .*out was begun and is 40 now"):
        ingest(portraits, out, CROPS.model_copy(update={"min_face_pixels": 40}))
    with pytest.raises(UserError, match="dataset was 'portraits'"):
        ingest(portraits, out, CROPS.model_copy(update={"dataset": "other"}))
    ingest(portraits, out, CROPS.model_copy(update={"device": "cpu"}))  # the device changes no crop


def test_a_damaged_journal_names_its_line(portraits, tmp_path):
    out = tmp_path / "out"
    ingest(portraits, out, CROPS)
    lines = (out / "ingest.jsonl").read_text().splitlines()
    altered = lines[3].replace('"label":"fake"', '"label":"real"', 1).replace("real/", "fake/", 1)
    assert altered != lines[3]
    for damage in ("{nonsense", altered):
        (out / "ingest.jsonl").write_text("\n".join([*lines[:3], damage, *lines[4:]]) + "\n")
        with pytest.raises(UserError, match=r"ingest\.jsonl, line 4 is damaged"):
            ingest(portraits, out, CROPS)


def test_unreadable_and_tiny_pictures_are_rejected_with_the_reason(portraits, tmp_path):
    real = portraits / "real"
    (real / "corrupt.jpg").write_bytes(b"\xff\xd8\xff\xe0" + bytes(100))
    (real / "empty.png").write_bytes(b"")
    whole = save(noise(31), real / "cut.jpg").read_bytes()
    (real / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    save(noise(32, size=20), real / "tiny.png")
    (real / "clip.mp4").write_bytes(b"video")
    out = tmp_path / "out"
    assert len(ingest(portraits, out, CROPS)) == 18
    reasons = rejections(out).set_index("path")["reason"]
    assert len(reasons) == 5
    assert "not a readable picture" in reasons["real/corrupt.jpg"]
    assert "empty" in reasons["real/empty.png"]
    assert "truncated" in reasons["real/cut.jpg"].lower()
    assert reasons["real/tiny.png"] == "20 x 20 pixels are below min_face_pixels 32"
    assert "a video is not a face crop" in reasons["real/clip.mp4"]


def test_exact_copies(portraits, tmp_path):
    """Under both labels neither can be believed; under one label the first by name stays."""
    (portraits / "fake" / "copy-of-r1.png").write_bytes((portraits / "real" / "r1.png").read_bytes())
    (portraits / "real" / "r2-again.png").write_bytes((portraits / "real" / "r2.png").read_bytes())
    out = tmp_path / "out"
    manifest = ingest(portraits, out, CROPS)
    reasons = rejections(out).set_index("path")["reason"].to_dict()
    assert reasons == {
        "real/r1.png": "the same picture stands under real and under fake",
        "fake/copy-of-r1.png": "the same picture stands under real and under fake",
        "real/r2.png": "the same picture as real/r2-again.png",
    }
    assert len(manifest) == 17


def test_a_later_copy_does_not_push_out_an_old_row(portraits, tmp_path):
    out = tmp_path / "out"
    first = ingest(portraits, out, CROPS)
    (portraits / "real" / "a.png").write_bytes((portraits / "real" / "r2.png").read_bytes())
    pd.testing.assert_frame_equal(ingest(portraits, out, CROPS).rows, first.rows)
    assert rejections(out)["path"].tolist() == ["real/a.png"]


def test_near_duplicates_do_not_stand_in_two_splits(portraits, tmp_path):
    for number in range(10):
        for copy in range(3):  # the same picture, saved smaller and with losses
            save(noise(number).resize((40, 40)), portraits / "real" / f"r{number}-{copy}.jpg", quality=70 + 5 * copy)
    out = tmp_path / "out"
    manifest = ingest(portraits, out, CROPS)
    table = rejections(out)
    assert table["reason"].str.startswith("nearly the same picture as real/").all()
    assert 0 < len(table) < 30
    splits_of = manifest.rows[manifest.rows["label"] == "real"].groupby(
        manifest.rows["source"].str.extract(r"(r\d)")[0]
    )["split"]
    assert (splits_of.agg(lambda split: len(set(split))) == 1).all()
    assert ingest(portraits, out, CROPS).digest == manifest.digest


def test_names_give_method_identity_and_source(tmp_path):
    source = tmp_path / "clips"
    for seed, name in enumerate(
        ["real/004.png", "real/519.png", "fake/NT__004_982.png", "fake/x/DF__519_515.png", "fake/odd.png"]
    ):
        save(noise(seed), source / name)
    config = CROPS.model_copy(update={"name_pattern": r"(?:(?P<method>[A-Za-z0-9]+)__)?(?P<identity>\d+)"})
    out = tmp_path / "out"
    rows = ingest(source, out, config).rows.set_index("source")
    assert rows["identity"].to_dict() == {
        "real/004.png": "004",
        "real/519.png": "519",
        "fake/NT__004_982.png": "004",
        "fake/x/DF__519_515.png": "519",
    }
    assert rows["method"].to_dict() == {
        "real/004.png": "pristine",
        "real/519.png": "pristine",
        "fake/NT__004_982.png": "NT",
        "fake/x/DF__519_515.png": "DF",
    }
    assert (rows.groupby("identity")["split"].agg(lambda split: len(set(split))) == 1).all()
    assert rejections(out)["reason"].tolist() == ["the file name does not match name_pattern"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name_pattern": "("}, "is no regular expression"),
        ({"name_pattern": r"\d+"}, "must have named groups"),
        ({"name_pattern": r"(?P<person>\d+)"}, "must have named groups"),
        ({"detector": "haar"}, "no face detector 'haar'"),
        ({"split_shares": (0, 0, 0)}, "must be above 0"),
        ({"every_seconds": 0}, "greater than 0"),
        ({"every_second": 1}, "Extra inputs"),
    ],
)
def test_configurations_that_cannot_work_are_refused(change, message):
    with pytest.raises(ValidationError, match=message):
        IngestConfig(**change)


def test_limit_is_a_fixed_sample_of_each_label(portraits, tmp_path):
    config = CROPS.model_copy(update={"limit": 3})
    first = ingest(portraits, tmp_path / "a", config)
    assert first.rows["label"].value_counts().to_dict() == {"real": 3, "fake": 3}
    assert ingest(portraits, tmp_path / "b", config).digest == first.digest


def test_sources_that_cannot_be_ingested_say_why(tmp_path):
    source, out = tmp_path / "set", tmp_path / "out"
    with pytest.raises(UserError, match="there is no folder"):
        ingest(source, out, CROPS)
    save(noise(1), source / "real" / "a.png")
    with pytest.raises(UserError, match="has no folder fake"):
        ingest(source, out, CROPS)
    (source / "fake").mkdir()
    with pytest.raises(UserError, match="holds no fake picture"):
        ingest(source, out, CROPS)
    save(noise(2), source / "fake" / "b.png")
    with pytest.raises(UserError, match="lies among the media"):
        ingest(source, source / "real" / "out", CROPS)
    assert not out.exists()


def test_nothing_left_names_the_most_frequent_reason(portraits, tmp_path):
    for number in range(10):
        (portraits / "real" / f"r{number}.png").write_bytes(b"")
    out = tmp_path / "out"
    for _ in range(2):  # the second time from the journal
        with pytest.raises(
            UserError, match=r"no real face is left of 10 files.*the file is empty.*rejected\.parquet says why"
        ):
            ingest(portraits, out, CROPS)
    assert len(rejections(out)) == 10


# ------------------------------------------------------------------------------------------------ videos and detection


def test_faces_of_pictures_and_videos_with_mtcnn(tmp_path, write_video, face_frame):
    """The whole way with the real detector: a picture, a video, one without a face, one cut short, a corrupt JPEG."""
    source, out = tmp_path / "set", tmp_path / "out"
    blank = np.full((360, 480, 3), 128, np.uint8)
    save(Image.fromarray(face_frame(5)), source / "real" / "photo.jpg", quality=95)
    save(Image.fromarray(blank), source / "real" / "wall.png")
    (source / "real" / "corrupt.jpg").write_bytes(b"\xff\xd8\xff\xe0" + bytes(100))
    speaking = [face_frame(11, photo=1 + i // 10) for i in range(40)]
    write_video(source / "fake" / "swap" / "speaker.mp4", speaking)
    write_video(source / "fake" / "swap" / "empty room.mp4", [blank] * 20)
    cut = write_video(source / "fake" / "swap" / "cut.mp4", [face_frame(20, photo=1 + i // 10) for i in range(40)])
    os.truncate(cut, cut.stat().st_size * 6 // 10)
    manifest = ingest(source, out, IngestConfig(every_seconds=1))
    rows = manifest.rows.set_index("source")
    photo = rows.loc["real/photo.jpg"]
    assert (photo["codec"], photo["method"]) == ("jpeg", "pristine")
    assert pd.isna(photo["frame"])
    assert 90 < photo["width"] < 190
    speaker = rows.loc["fake/swap/speaker.mp4"]
    assert speaker["frame"].tolist() == [0, 10, 20, 30]
    assert speaker["time_s"].tolist() == [0, 1, 2, 3]
    assert set(speaker["method"]) == {"swap"}
    assert set(speaker["codec"]) == {"h264"}
    assert len(set(speaker["split"])) == 1
    for file in manifest.files:
        with Image.open(file) as image:
            assert image.format == "PNG"
            assert image.width == image.height
            assert image.width > 140  # the box and its margin
    table = rejections(out)
    assert table.loc[table["path"] == "real/wall.png", "reason"].tolist() == ["no face found"]
    empty = table[table["path"] == "fake/swap/empty room.mp4"]
    assert empty["time_s"].tolist() == [0, 1]
    assert "cut short" in table.loc[table["path"] == "fake/swap/cut.mp4", "reason"].iloc[-1]
    assert "not a readable picture" in table.loc[table["path"] == "real/corrupt.jpg", "reason"].iloc[0]
    assert "fake/swap/cut.mp4" in rows.index

    sheet = contact_sheet(manifest, out / "sheet.png", per_row=4, rows=1)
    with Image.open(sheet) as image:
        assert image.format == "PNG"
        assert image.width == 4 + 4 * 132


def test_a_video_ingest_goes_on_with_the_video_it_stopped_at(tmp_path, write_video, centre):
    source, out = tmp_path / "set", tmp_path / "out"
    for number in range(3):
        frames = [np.array(noise(10 * number + i // 10, size=96)) for i in range(30)]
        write_video(source / ("real" if number else "fake") / f"v{number}.mp4", frames)
    config = IngestConfig(every_seconds=1, min_face_pixels=8)
    expected = ingest(source, tmp_path / "whole", config)
    assert centre.seen == 9
    ingest(source, out, config)
    lines = (out / "ingest.jsonl").read_bytes().splitlines(keepends=True)
    (out / "ingest.jsonl").write_bytes(b"".join(lines[:2]))
    (out / "manifest.parquet").unlink()
    centre.seen = 0
    pd.testing.assert_frame_equal(ingest(source, out, config).rows, expected.rows)
    assert centre.seen == 6


@pytest.mark.usefixtures("centre")
def test_batches_run_across_files_and_keep_them_apart(tmp_path):
    source = tmp_path / "set"
    for number in range(40):
        label = "real" if number % 2 else "fake"
        picture = noise(number, size=60 + number) if number % 5 else Image.new("RGB", (64, 64))
        save(picture, source / label / f"p{number:02d}.png")
    out = tmp_path / "out"
    rows = ingest(source, out, IngestConfig(min_face_pixels=8, margin=0)).rows
    assert len(rows) == 32
    for row in rows.itertuples():
        number = int(row.source[-6:-4])
        assert row.width == pytest.approx(0.4 * (60 + number), abs=1)
    assert sorted(rejections(out)["path"].str[-6:-4].astype(int)) == list(range(0, 40, 5))


def test_a_crash_of_the_detector_is_not_swallowed(tmp_path, portraits, monkeypatch):
    class Broken(CentreDetector):
        def detect(self, frames):
            raise RuntimeError(f"a bug with {len(frames)} frames")

    monkeypatch.setitem(DETECTORS, "mtcnn", Broken)
    with pytest.raises(RuntimeError, match="a bug"):
        ingest(portraits, tmp_path / "out", IngestConfig())


def face(left, size, confidence=0.99):
    return Face((left, 0, left + size, size), confidence)


@pytest.mark.parametrize(
    ("faces", "before", "chosen"),
    [
        ([face(0, 60), face(100, 50)], None, 0),
        ([face(0, 60), face(100, 50)], face(105, 50), 1),  # the face of the frame before goes on
        ([face(0, 60), face(100, 50)], face(300, 50), 0),  # that one is gone
        ([face(0, 200), face(300, 50)], face(300, 50), 0),  # far larger now: the camera has turned
        ([face(0, 60, 0.7), face(100, 50)], None, 1),
    ],
)
def test_the_largest_sure_face_or_the_one_that_goes_on(faces, before, chosen):
    assert extraction._choose(faces, IngestConfig(), before) == [faces[chosen]]


@pytest.mark.parametrize(
    ("faces", "reason"),
    [
        ([], "no face found"),
        ([face(0, 60, 0.8)], "no face found above confidence 0.9"),
        ([face(0, 20)], "face smaller than 32 pixels"),
    ],
)
def test_no_face_has_a_reason(faces, reason):
    assert extraction._choose(faces, IngestConfig()) == reason


def test_all_faces_are_kept_on_request():
    faces = [face(0, 60), face(100, 50), face(200, 10)]
    assert extraction._choose(faces, IngestConfig(faces="all")) == faces[:2]


def test_a_contact_sheet_of_nothing_says_so(portraits, tmp_path):
    manifest = ingest(portraits, tmp_path / "out", CROPS)
    with pytest.raises(UserError, match="nothing to show"):
        contact_sheet(manifest.select(label="none"), tmp_path / "sheet.png")
    manifest.files[0].unlink()
    with pytest.raises(UserError, match="cannot be read"):
        contact_sheet(manifest, tmp_path / "sheet.png", rows=20)


def test_a_contact_sheet_is_the_same_for_the_same_seed(portraits, tmp_path):
    manifest = ingest(portraits, tmp_path / "out", CROPS)
    pictures = [
        contact_sheet(manifest, tmp_path / f"{i}.png", per_row=2, rows=1, seed=seed).read_bytes()
        for i, seed in enumerate([1, 1, 2])
    ]
    assert pictures[0] == pictures[1] != pictures[2]
