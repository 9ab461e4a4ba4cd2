"""The manifest's contract: what it accepts, what it refuses and in which words, and that it loses nothing on disk."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from core.errors import UserError
from core.manifest import COLUMNS, Manifest, concatenate


def row(number: int, **changes: object) -> dict[str, object]:
    return {
        "path": f"crops/{number}.png",
        "label": "real",
        "dataset": "d",
        "method": "pristine",
        "source": f"photo-{number}",
        "split": "train",
        "width": 64,
        "height": 64,
        "codec": "png",
        "sha256": f"{number:064x}",
        **changes,
    }


@pytest.mark.parametrize("suffix", ["parquet", "csv"])
def test_written_and_read_again_it_is_the_same(tmp_path: Path, suffix: str) -> None:
    rows = [row(0, identity="ann", frame=3, time_s=1.5), row(1, label="fake", method="gan", generator="ab", seed=7)]
    manifest = Manifest.build(rows, tmp_path)
    again = Manifest.read(manifest.write(tmp_path / f"manifest.{suffix}"))
    pd.testing.assert_frame_equal(again.rows, manifest.rows)
    assert list(again.rows.columns) == list(COLUMNS)
    assert again.digest == manifest.digest


def test_the_digest_ignores_order_and_place_and_nothing_else(tmp_path: Path) -> None:
    rows = [row(0), row(1), row(2, label="fake")]
    manifest = Manifest.build(rows, tmp_path)
    assert Manifest.build(rows[::-1], tmp_path / "elsewhere").digest == manifest.digest
    moved = [{**r, "path": f"other/{i}.png"} for i, r in enumerate(rows)]
    assert Manifest.build(moved, tmp_path).digest == manifest.digest
    for change in ({"label": "fake"}, {"split": "val"}, {"dataset": "e"}, {"sha256": "f" * 64}, {"identity": "x"}):
        assert Manifest.build([row(0, **change), *rows[1:]], tmp_path).digest != manifest.digest


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"label": "genuine"}, "row 1, column label: 'genuine': must be real or fake"),
        ({"split": "dev"}, "column split: 'dev': must be train, val or test"),
        ({"sha256": "12"}, "column sha256"),
        ({"path": "/etc/passwd"}, "must be relative"),
        ({"path": "crops/0.png"}, "stands in two rows"),
        ({"width": 0}, "pixels of the face box"),
        ({"source": ""}, "must not be empty"),
        ({"generator": "ab"}, "a synthetic face is always fake"),
        ({"generator": "ab", "label": "fake", "split": "val"}, "belongs in train only"),
        ({"source": "photo-0", "split": "test"}, "'photo-0' stands in test and train, which leaks"),
        ({"parent": f"{2:064x}", "label": "fake"}, "composed from a row of another split"),
        ({"seed": "many"}, "column seed"),
    ],
)
def test_a_broken_row_is_refused_in_one_sentence(tmp_path: Path, changes: dict[str, object], words: str) -> None:
    with pytest.raises(UserError, match=words.replace("(", r"\(")):
        Manifest.build([row(0), row(1, **changes), row(2, split="test")], tmp_path)


def test_an_identity_in_two_splits_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="'ann' stands in test and train"):
        Manifest.build([row(0, identity="ann"), row(1, identity="ann", split="test")], tmp_path)


def test_one_of_several_persons_in_two_splits_is_refused_but_not_in_an_official_split(tmp_path: Path) -> None:
    rows = [row(0, identity="ann;bob"), row(1, identity="bob", split="test")]
    with pytest.raises(UserError, match="'bob' stands in test and train"):
        Manifest.build(rows, tmp_path)
    for kind in ("official", "official-overlapping"):
        assert len(Manifest.build([each | {"split_by": kind} for each in rows], tmp_path)) == 2
    with pytest.raises(UserError, match="'d: photo-0' stands in test and train"):
        Manifest.build(
            [row(0, split_by="official"), row(1, source="photo-0", split="test", split_by="official")], tmp_path
        )
    with pytest.raises(UserError, match="column split_by: 'mine': must be empty, official"):
        Manifest.build([row(0, split_by="mine")], tmp_path)


def test_an_original_in_another_split_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="column source: 'photo-0' stands in test and train"):
        Manifest.build([row(0), row(1, label="fake", original="photo-0", split="test")], tmp_path)


def test_rows_of_an_authors_split_are_read_again(tmp_path: Path) -> None:
    made = Manifest.build([row(0, identity="a;b", original="v", split_by="person-disjoint")], tmp_path)
    plain = Manifest.build([row(0, identity="a;b")], tmp_path)
    for suffix in ("parquet", "csv"):
        again = Manifest.read(made.write(tmp_path / f"manifest.{suffix}"))
        assert again.rows["original"].tolist() == ["v"]
        assert again.rows["split_by"].tolist() == ["person-disjoint"]
    assert "original" not in pd.read_parquet(plain.write(tmp_path / "plain.parquet")).columns


def test_missing_and_unknown_columns_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no column split"):
        Manifest.build([{k: v for k, v in row(0).items() if k != "split"}], tmp_path)
    with pytest.raises(UserError, match="unknown columns colour"):
        Manifest.build([row(0, colour="red")], tmp_path)


def test_a_missing_or_damaged_file_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="counterforge faces ingest"):
        Manifest.read(tmp_path)
    (tmp_path / "manifest.parquet").write_bytes(b"not parquet")
    with pytest.raises(UserError, match="cannot be read as a manifest"):
        Manifest.read(tmp_path)


def test_selection_groups_and_targets(tmp_path: Path) -> None:
    manifest = Manifest.build([row(0, identity="ann"), row(1, label="fake"), row(2, dataset="e")], tmp_path)
    assert manifest.groups.tolist() == ["ann", "photo-1", "photo-2"]
    assert manifest.targets.tolist() == [0, 1, 0]
    assert len(manifest.select(label="real", dataset=["e", "f"])) == 1
    assert not manifest.synthetic.any()


def test_joined_manifests_find_their_files(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name / "crops").mkdir(parents=True)
    one = Manifest.build([row(0)], tmp_path / "a")
    two = Manifest.build([row(1)], tmp_path / "b")
    for manifest in (one, two):
        for file in manifest.files:
            file.write_bytes(b"x")
    joined = concatenate([one, two], tmp_path / "c")
    joined.write(tmp_path / "c" / "manifest.parquet")
    assert all(file.exists() for file in Manifest.read(tmp_path / "c").files)


def test_masks_move_with_their_rows_and_old_manifests_have_none(tmp_path: Path) -> None:
    forged = Manifest.build([row(0, label="fake", mask="masks/0.png"), row(1)], tmp_path / "pool" / "blends")
    joined = concatenate([forged, Manifest.build([row(2)], tmp_path)], tmp_path)
    assert joined.rows["mask"].tolist() == ["pool/blends/masks/0.png", pd.NA, pd.NA]
    again = Manifest.read(joined.write(tmp_path / "balanced" / "manifest.csv"))
    assert again.rows["mask"][0] == "../pool/blends/masks/0.png"
    assert again.rows["mask"].isna().tolist() == [False, True, True]
    plain = Manifest.build([row(0, label="fake"), row(1)], tmp_path)
    assert plain.digest == forged.digest  # where a mask lies says nothing about the crops
    old = plain.rows.drop(columns="mask")
    old.to_parquet(tmp_path / "old.parquet")
    assert Manifest.read(tmp_path / "old.parquet").rows["mask"].isna().all()
    with pytest.raises(UserError, match="column mask"):
        Manifest.build([row(0, mask="/masks/0.png")], tmp_path)
