"""A training state is read as it was written, or not at all."""

from __future__ import annotations

import resource
import zipfile
from pathlib import Path

import pytest
import torch

from core.errors import UserError
from core.state import read_state, write_state

STATE = {"model": {"weight": torch.arange(5000.0)}, "step": 3}


def test_it_comes_back_and_nothing_is_none(tmp_path: Path) -> None:
    assert read_state(tmp_path / "training.pt", {"step"}) is None
    write_state(tmp_path / "training.pt", STATE)
    state = read_state(tmp_path / "training.pt", {"step", "model"})
    assert state is not None
    assert state["step"] == 3
    assert torch.equal(state["model"]["weight"], torch.arange(5000.0))
    assert zipfile.ZipFile(tmp_path / "training.pt").testzip() is None
    with pytest.raises(UserError, match=r"training\.pt is damaged or not a training state .it does not hold faces"):
        read_state(tmp_path / "training.pt", {"faces"})


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_flipped_bit_among_the_weights_is_seen(tmp_path: Path, share: float) -> None:
    path = tmp_path / "training.pt"
    write_state(path, STATE)
    data = bytearray(path.read_bytes())
    start = data.index(torch.arange(5000.0).numpy().tobytes())
    data[start + int(20_000 * share)] ^= 4
    path.write_bytes(data)
    torch.load(path, weights_only=True)  # torch itself does not see it
    with pytest.raises(UserError, match=r"checksum of .* does not fit.*: delete it to start anew"):
        read_state(path, {"step"})


def test_a_full_disk_names_the_file_and_leaves_the_old_state(tmp_path: Path) -> None:
    path = tmp_path / "training.pt"
    write_state(path, {"step": 1})
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4000, before[1]))  # the kernel refuses more, as on a full disk
    try:
        with pytest.raises(UserError, match=r"training\.pt could not be written .file too large.; what stood there"):
            write_state(path, STATE)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [file.name for file in tmp_path.iterdir()] == ["training.pt"]
    assert read_state(path, {"step"}) == {"step": 1}
