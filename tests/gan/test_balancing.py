"""Balancing: the share is reached, only by fakes and only in train, and every share draws on the same samples."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pydantic import ValidationError

from core.errors import UserError
from core.manifest import Manifest
from faces.orl import _read
from gan.balancing import BalanceConfig, balance, dealt, mixture, wanted_fakes
from gan.config import GanConfig
from gan.training import train


@pytest.fixture(scope="module")
def generator(blobs: Manifest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("generator")
    config = GanConfig(preset="tiny", image_size=16, kimg=0.016, batch_size=8, device="cpu")
    return train(blobs, config, folder / "out", folder / "cache")


@given(st.integers(1, 500), st.integers(0, 500), st.floats(0, 0.95))
def test_the_share_is_reached_by_the_fewest_fakes(reals: int, fakes: int, share: float) -> None:
    missing = wanted_fakes(reals, fakes, share)
    total = fakes + missing
    assert total / (total + reals) >= share - 1e-9
    if missing:
        assert (total - 1) / (total - 1 + reals) < share + 1e-9


def test_only_train_grows_and_only_by_fakes(blobs: Manifest, generator: Path, tmp_path: Path) -> None:
    result = balance(blobs, generator, BalanceConfig(share=0.5), tmp_path)
    added = result.manifest.where(result.manifest.synthetic)
    assert result.added == len(added) == len(blobs) == 24
    assert set(added.rows["label"]) == {"fake"}
    assert set(added.rows["split"]) == {"train"}
    assert all(file.is_file() for file in result.manifest.files)
    assert result.manifest.targets.mean() == 0.5


def test_a_smaller_share_draws_on_the_same_samples(blobs: Manifest, generator: Path, tmp_path: Path) -> None:
    large = balance(blobs, generator, BalanceConfig(share=0.5), tmp_path).manifest
    small = balance(blobs, generator, BalanceConfig(share=0.25), tmp_path).manifest
    assert set(small.rows["sha256"]) < set(large.rows["sha256"])
    assert small.synthetic.sum() == 8


def test_where_reals_are_the_minority_nothing_is_added_and_it_says_what_happens_instead(
    blobs: Manifest, generator: Path, tmp_path: Path
) -> None:
    rows = blobs.rows.copy()
    rows.loc[:19, "label"] = "fake"
    result = balance(Manifest.build(rows, blobs.root), generator, BalanceConfig(share=0.5), tmp_path)
    assert result.added == 0
    assert "real faces are never synthesised" in result.explanation
    assert "oversample" in result.explanation


def test_without_a_real_face_there_is_nothing_to_balance(blobs: Manifest, generator: Path, tmp_path: Path) -> None:
    rows = blobs.rows.assign(label="fake")
    with pytest.raises(UserError, match="no real face"):
        balance(Manifest.build(rows, blobs.root), generator, BalanceConfig(), tmp_path)


@pytest.mark.parametrize("share", [-0.1, 1.0, 1.4])
def test_a_share_out_of_range_is_refused(share: float) -> None:
    with pytest.raises(ValidationError):
        BalanceConfig(share=share)


def test_torch_is_left_as_it_was(blobs: Manifest, generator: Path, tmp_path: Path) -> None:
    before = torch.get_rng_state()
    balance(blobs, generator, BalanceConfig(share=0.3), tmp_path)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(
    ("text", "shares"),
    [
        ("gan", {"gan": 1.0}),
        ("self-blend+gan-composite", {"self-blend": 0.5, "gan-composite": 0.5}),
        ("self-blend:3+gan", {"self-blend": 0.75, "gan": 0.25}),
    ],
)
def test_a_mixture_is_read_from_text(text: str, shares: dict[str, float]) -> None:
    assert mixture(text) == shares
    assert BalanceConfig(method=text).needs_generator == (text != "self-blend")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("swap", "method 'swap' is not known"),
        ("gan+gan", "gan stands twice"),
        ("gan:0", "weight 0 of gan is not above 0"),
        ("gan:x", "'x' in 'gan:x' is not a weight"),
        ("", "method '' is not known"),
    ],
)
def test_a_wrong_mixture_is_named(text: str, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        BalanceConfig(method=text)


@given(st.integers(0, 300), st.lists(st.floats(0.05, 1), min_size=1, max_size=4))
def test_every_method_gets_its_share_to_within_one(count: int, weights: list[float]) -> None:
    shares = {str(number): weight / sum(weights) for number, weight in enumerate(weights)}
    numbers = dealt(count, shares)
    assert sum(numbers.values()) == count
    assert all(abs(numbers[name] - count * share) < 1 for name, share in shares.items())


def test_synthetic_rows_join_the_data_sets_of_the_reals(blobs: Manifest, generator: Path, tmp_path: Path) -> None:
    rows = blobs.rows.assign(dataset=["a", "b"] * 12)
    added = balance(Manifest.build(rows, blobs.root), generator, BalanceConfig(share=0.5), tmp_path).manifest
    assert set(added.where(added.synthetic).rows["dataset"]) == {"a", "b"}


def test_self_blends_need_no_generator(tmp_path: Path) -> None:
    config = BalanceConfig(share=0.5, method="self-blend")
    assert not config.needs_generator
    rows = []
    for number, pixels in enumerate(_read()[:4]):
        path = tmp_path / f"{number}.png"
        Image.fromarray(pixels[10:102]).save(path)
        row = {"path": path.name, "label": "real", "dataset": "grey", "method": "pristine", "source": f"photo-{number}"}
        row |= {"split": "train", "codec": "png", "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
        rows.append(row | {"width": 92, "height": 92})
    few = Manifest.build(rows, tmp_path)
    result = balance(few, None, config, tmp_path / "pool")
    added = result.manifest.where(result.manifest.synthetic)
    assert len(added) == len(few) == result.added
    assert set(added.rows["method"]) == {"self-blend"}
    assert {Image.open(file).mode for file in added.files} == {"L"}  # grey reals, grey forgeries
    result.manifest.write(tmp_path / "balanced" / "manifest.parquet")
    read = Manifest.read(tmp_path / "balanced")
    assert all((read.root / mask).is_file() for mask in read.rows["mask"].dropna())
    with pytest.raises(UserError, match="gan needs a generator"):
        balance(few, None, BalanceConfig(share=0.5), tmp_path / "pool")
