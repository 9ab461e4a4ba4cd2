"""Each public layout, in miniature: what the authors say of every file is what the layout says."""

from __future__ import annotations

import importlib
import json
import os
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from core.errors import UserError
from core.groups import components
from faces.layouts import LAYOUTS, Entry, Listing, Options, Tree, media, recognised
from faces.layouts.base import frame_number, video_or_frame

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"


@pytest.fixture
def miniatures(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("miniatures")


def listing(root: Path, name: str = "auto", **options: Any) -> Listing:
    tree = Tree.of(root)
    return media(recognised(tree, name)[0], tree, Options(**options))


def by_path(found: Listing) -> dict[str, Entry]:
    return {entry.path: entry for entry in found.entries}


def write(root: Path, *paths: str) -> None:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(b"")


def facts(each: Any) -> tuple[Any, ...]:
    persons = tuple(sorted(each.persons))
    return each.label, each.method, each.source, persons, each.original, each.split, each.frame


@pytest.mark.parametrize("name", LAYOUTS)
def test_auto_knows_each_layout_and_says_what_the_authors_say(
    name: str, tmp_path: Path, miniatures: ModuleType
) -> None:
    truths = list(miniatures.miniature(name, tmp_path, content=False))

    tree = Tree.of(tmp_path)
    layout, evidence = recognised(tree)
    found = media(layout, tree)

    assert layout.name == name
    assert evidence.found
    assert {entry.path: facts(entry) for entry in found.entries} == {truth.path: facts(truth) for truth in truths}
    assert [path for path, _ in found.rejected if not path.startswith("source_videos/")] == []


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_file_is_accounted_for(name: str, tmp_path: Path, miniatures: ModuleType) -> None:
    list(miniatures.miniature(name, tmp_path, content=False))
    write(tmp_path, "somewhere/else.mp4")

    found = listing(tmp_path, name)

    files = sum(len(names) for *_, names in os.walk(tmp_path))
    archives = len({entry.path.partition(".tar.gz")[0] for entry in found.entries if ".tar.gz/" in entry.path})
    single = len({entry.path for entry in found.entries if ".tar.gz/" not in entry.path})
    assert single + archives + len(found.rejected) + found.ignored.total() == files
    assert "somewhere/else.mp4" in dict(found.rejected)


@pytest.mark.parametrize("name", LAYOUTS)
def test_an_example_tree_names_what_the_layout_takes(name: str) -> None:
    layout = LAYOUTS[name]
    assert layout.name == name
    assert layout.title
    assert all(len(line) < 110 for line in layout.example.splitlines())


def test_nothing_known_is_one_sentence_with_the_remedy(tmp_path: Path) -> None:
    write(tmp_path, "holiday/1.jpg")
    with pytest.raises(UserError, match=r"has no folder real and fits no public dataset.*counterforge faces layouts"):
        recognised(Tree.of(tmp_path))


@pytest.mark.parametrize(
    ("paths", "sentence"),
    [
        (["real/a.mp4"], "has no folder fake: put the fake pictures and videos into"),
        (["manipulated_sequences/Deepfakes/c23/videos/000_003.mp4"], "ffpp .*lacks original_sequences/youtube"),
        (["original_sequences/youtube/c23/videos/000.mp4"], "ffpp .*lacks manipulated_sequences/Deepfakes"),
        (["Celeb-real/id0_0000.mp4"], "celeb-df .*lacks Celeb-synthesis"),
        (["dfdc_train_part_3/a.mp4"], "dfdc .*lacks dfdc_train_part_3/metadata.json"),
        (["original_videos/1/1_A.mp4", "method_A/1/1_2.mp4"], "dfdc-preview .*lacks dataset.json"),
        (["manipulated_videos/end_to_end/000_M101.mp4"], "deeper-forensics .*lacks original_sequences/youtube/c23"),
        (["higher_quality/fadg0/sa1-video-fram1.avi"], "deepfake-timit .*VidTIMIT"),
        (["real_train/0/0/1.png"], "wild-deepfake .*lacks fake_train or fake_test"),
        (["RealVideo-RealAudio/African/men/id1/1.mp4"], "fakeavceleb .*lacks meta_data.csv"),
        (["Dataset/Train/Real/r.jpg", "Dataset/Validation/Real/r.jpg"], "kaggle-deepfake-and-real .*lacks train/fake"),
        (["Images/Test-Challenge/a.jpg"], "openforensics .*lacks Train_poly.json"),
    ],
)  # fmt: skip
def test_a_half_downloaded_tree_is_told_what_is_missing(paths: list[str], sentence: str, tmp_path: Path) -> None:
    write(tmp_path, *paths)
    with pytest.raises(UserError, match=sentence):
        recognised(Tree.of(tmp_path))


def test_a_tree_of_two_datasets_is_asked_about(tmp_path: Path, miniatures: ModuleType) -> None:
    list(miniatures.miniature("ffpp", tmp_path, content=False))
    list(miniatures.miniature("dfd", tmp_path, content=False))
    with pytest.raises(UserError, match=r"fits several layouts, ffpp .*; dfd .*choose one with --layout"):
        recognised(Tree.of(tmp_path))
    rejected = dict(listing(tmp_path, "dfd").rejected)
    assert "ingest it with --layout ffpp" in rejected["original_sequences/youtube/c23/videos/000.mp4"]


def test_one_compression_at_a_time(tmp_path: Path) -> None:
    for compression in ("c23", "c40"):
        write(
            tmp_path,
            f"original_sequences/youtube/{compression}/videos/000.mp4",
            f"manipulated_sequences/Deepfakes/{compression}/videos/000_003.mp4",
        )
    with pytest.raises(UserError, match="c23 and c40: choose one with --compression"):
        listing(tmp_path)
    with pytest.raises(UserError, match="no videos of compression raw, only c23, c40"):
        listing(tmp_path, compression="raw")
    found = listing(tmp_path, compression="c40")
    assert {entry.source for entry in found.entries} == {"youtube/000", "Deepfakes/000_003"}
    assert all("/c40/" in entry.path for entry in found.entries)
    assert len(found.rejected) == 2


def test_folders_of_ffpp_frames_are_sources(tmp_path: Path) -> None:
    write(
        tmp_path,
        *(f"original_sequences/youtube/c23/frames/000/{n:04d}.png" for n in (0, 30)),
        *(f"manipulated_sequences/FaceSwap/c23/frames/000_003/{n:04d}.png" for n in (0, 30)),
        "manipulated_sequences/FaceSwap/c23/videos/000_003.mp4",
    )
    found = listing(tmp_path)
    assert {(entry.source, entry.frame) for entry in found.entries} == {
        ("youtube/000", 0), ("youtube/000", 30), ("FaceSwap/000_003", None),
    }  # fmt: skip
    assert {reason for _, reason in found.rejected} == {"a frame of a video that is taken itself"}


def test_celeb_df_lists_one_for_real(tmp_path: Path, miniatures: ModuleType) -> None:
    list(miniatures.miniature("celeb-df", tmp_path, content=False))
    (tmp_path / "List_of_testing_videos.txt").write_text("0 YouTube-real/00002.mp4\n")
    with pytest.raises(UserError, match=r"line 1: '0 YouTube-real/00002.mp4' contradicts its folder, as 1 means real"):
        listing(tmp_path)


def test_celeb_df_with_inner_folders_and_the_other_spelling(tmp_path: Path) -> None:
    write(
        tmp_path,
        "Celeb-real/videos/id0_0000.mp4",
        "Youtube-real/frames/00170/000.png",
        "Celeb-synthesis/videos/id0_id1_0000.mp4",
    )
    (tmp_path / "List_of_testing_videos.txt").write_text("1 YouTube-real/00170.mp4\n")
    splits = {entry.source: entry.split for entry in listing(tmp_path).entries}
    assert splits == {
        "Celeb-real/id0_0000": "train",
        "YouTube-real/00170": "test",
        "Celeb-synthesis/id0_id1_0000": "train",
    }


def test_kaggle_140k_lists_one_for_real(tmp_path: Path, miniatures: ModuleType) -> None:
    list(miniatures.miniature("kaggle-140k", tmp_path, content=False))
    (tmp_path / "test.csv").write_text(",id,label,path\n0,a,1,test/fake/F0test.jpg\n")
    with pytest.raises(UserError, match=r"stands in a folder fake, but the CSV says real \(1 is real\)"):
        listing(tmp_path)


def test_dfdc_test_labels_say_one_for_fake(tmp_path: Path) -> None:
    write(tmp_path, "test/a.mp4", "test/b.mp4", "test/c.mp4")
    (tmp_path / "test" / "labels.csv").write_text("filename,label\na.mp4,1\nb.mp4,0\n")
    found = listing(tmp_path)
    assert {entry.path: entry.label for entry in found.entries} == {"test/a.mp4": "fake", "test/b.mp4": "real"}
    assert dict(found.rejected) == {"test/c.mp4": "neither metadata.json nor labels.csv names it"}


def test_openforensics_categories_by_name(tmp_path: Path, miniatures: ModuleType) -> None:
    list(miniatures.miniature("openforensics", tmp_path, content=False))
    content = json.loads((tmp_path / "Val_poly.json").read_text())
    content["categories"][0]["name"] = "person"
    (tmp_path / "Val_poly.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"Val_poly.json has categories other than real and fake"):
        listing(tmp_path)


def test_a_damaged_list_is_one_sentence(tmp_path: Path, miniatures: ModuleType) -> None:
    list(miniatures.miniature("dfdc", tmp_path, content=False))
    (tmp_path / "dfdc_train_part_0" / "metadata.json").write_text("{")
    with pytest.raises(UserError, match=r"dfdc_train_part_0/metadata.json is no JSON .*download it again"):
        listing(tmp_path)


def test_a_damaged_archive_rejects_itself_alone(tmp_path: Path, miniatures: ModuleType) -> None:
    list(miniatures.miniature("wild-deepfake", tmp_path))
    archive = tmp_path / "fake_train" / "0.tar.gz"
    archive.write_bytes(archive.read_bytes()[:100])
    found = listing(tmp_path)
    assert [path for path, _ in found.rejected] == ["fake_train/0.tar.gz"]
    assert any(entry.path.startswith("fake_train/1.tar.gz/") for entry in found.entries)


def test_a_name_that_is_not_utf8_rejects_that_file_alone(tmp_path: Path) -> None:
    write(tmp_path, "real/a.jpg", "fake/b.jpg")
    Path(os.fsdecode(os.fsencode(tmp_path / "real") + b"/caf\xe9.jpg")).write_bytes(b"")
    found = listing(tmp_path)
    assert len(found.entries) == 2
    assert dict(found.rejected) == {"real/caf\\xe9.jpg": "the file's name is not UTF-8: rename it"}


def test_symbolic_links_to_folders_are_followed_once(tmp_path: Path) -> None:
    write(tmp_path, "store/real/a.jpg", "store/fake/b.jpg", "tree/x")
    (tmp_path / "tree" / "real").symlink_to(tmp_path / "store" / "real")
    (tmp_path / "tree" / "fake").symlink_to(tmp_path / "store" / "fake")
    (tmp_path / "store" / "fake" / "again").symlink_to(tmp_path / "store" / "fake")
    assert Tree.of(tmp_path / "tree").files == ("fake/b.jpg", "real/a.jpg", "x")


def test_the_output_is_not_ingested(tmp_path: Path) -> None:
    write(tmp_path, "real/a.jpg", "fake/b.jpg", "out/crops/real/a.jpg/0.png")
    assert Tree.of(tmp_path, exclude=tmp_path / "out").files == ("fake/b.jpg", "real/a.jpg")


# ------------------------------------------------------------------------------------------ folders of frames


@pytest.mark.parametrize(
    ("paths", "videos"),
    [
        (["real/v1/1.png", "real/v1/2.png", "real/v2/1.png", "real/v2/2.png"], {"real/v1", "real/v2"}),
        (["real/000/frame_01.jpg", "real/000/frame_02.jpg", "real/001/frame_01.jpg", "real/001/frame_02.jpg"],
         {"real/000", "real/001"}),
        (["real/1.png", "real/2.png", "fake/1.png", "fake/2.png"], set()),  # numbered photographs
        (["real/ffhq/1.png", "real/ffhq/2.png"], set()),
        (["real/00000/00000.png", "real/00000/00001.png", "real/01000/01000.png", "real/01000/01001.png"], set()),
        (["fake/progan/1.png", "fake/progan/2.png", "fake/stylegan/1.png", "fake/stylegan/2.png"], set()),  # methods
        (["real/000/1.png", "real/000/2.png", "real/001/1.png", "real/001/2.png", "fake/000_001/1.png",
          "fake/000_001/2.png", "fake/001_000/1.png", "fake/001_000/2.png"],
         {"real/000", "real/001", "fake/000_001", "fake/001_000"}),
        (["real/v1/1.png", "real/v1/cover.png", "real/v2/1.png", "real/v2/2.png"], set()),
        (["real/v1/1.png", "real/v1/2.png", "real/v1/sound.wav", "real/v2/1.png", "real/v2/2.png"],
         {"real/v1", "real/v2"}),
    ],
)  # fmt: skip
def test_folders_of_frames(paths: list[str], videos: set[str], tmp_path: Path) -> None:
    write(tmp_path, *paths, "real/x/single.png", "fake/x/single.png")
    found = listing(tmp_path)
    assert {entry.source for entry in found.entries if entry.frame is not None} == videos
    assert all(entry.source == entry.path for entry in found.entries if entry.frame is None)
    assert all(entry.frame is None for entry in listing(tmp_path, frame_folders="never").entries)


def test_a_fake_frame_folder_right_below_fake_has_no_method_of_its_own(tmp_path: Path) -> None:
    write(tmp_path, *(f"real/{v}/{n}.png" for v in ("000", "001") for n in (1, 2)))
    write(tmp_path, *(f"fake/{v}/{n}.png" for v in ("000_001", "001_000") for n in (1, 2)))
    assert {entry.method for entry in listing(tmp_path).entries} == {"pristine", "fake"}


def test_numbers_of_frames() -> None:
    assert frame_number("a/frame_0017.png") == 17
    assert frame_number("017") == 17
    assert frame_number("cover.png") is None
    assert video_or_frame("000.mp4") == ("000", None)
    assert video_or_frame("000/12.png") == ("000", 12)
    assert video_or_frame("a/b/12.png") is None


# ------------------------------------------------------------------------------------------ persons


@pytest.mark.parametrize("name", [name for name in LAYOUTS if name != "folders"])
def test_the_graph_joins_what_shares_a_person_a_source_or_an_original(
    name: str, tmp_path: Path, miniatures: ModuleType
) -> None:
    import pandas as pd

    list(miniatures.miniature(name, tmp_path, content=False))
    entries = listing(tmp_path).entries
    frame = pd.DataFrame(
        {
            "identity": [e.identity for e in entries],
            "source": [e.source for e in entries],
            "original": [e.original for e in entries],
        },
        dtype="string",
    )
    component = components(frame["identity"], frame["source"], frame["original"])
    for i, a in enumerate(entries):
        for j, b in enumerate(entries):
            ties = {a.source, a.original} & {b.source, b.original} - {None}
            if ties or a.persons & b.persons:
                assert component[i] == component[j], (a, b)
