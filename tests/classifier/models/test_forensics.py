"""Forensic transforms against their definitions; networks with them are trained, kept, explained and exported."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.fft import dctn
from torch import Tensor

from classifier.config import DetectorConfig
from classifier.explanation import explain
from classifier.export import FLOAT, TOLERANCE, export_onnx, parity
from classifier.models.backbones import create, head, pooled
from classifier.models.detector import Detector
from classifier.models.forensics import (
    BRANCHES,
    TRUNCATION,
    WIDTH,
    ForensicNetwork,
    Spectrum,
    dct_basis,
    grey,
    srm_kernels,
    srm_maps,
    texture_maps,
)
from classifier.training import train
from core.manifest import Manifest
from faces.loading import load_crops

Faces = Callable[..., Manifest]
Small = Callable[..., DetectorConfig]
ALL = "+".join(BRANCHES)


def pictures(count: int = 2, side: int = 32) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8, generator=generator)


def test_srm_kernels_are_thirty_and_take_polynomials_away() -> None:
    kernels = srm_kernels()
    assert kernels.shape == (30, 1, 5, 5)
    assert len({tuple(kernel.flatten().tolist()) for kernel in kernels}) == 30
    torch.testing.assert_close(kernels.sum(dim=(1, 2, 3)), torch.zeros(30))
    assert torch.equal(kernels[:, 0, 2, 2].abs(), torch.ones(30)), "normalised by the centre"
    down, across = torch.meshgrid(torch.arange(9.0), torch.arange(9.0), indexing="ij")
    ramp = (3 * down - 2 * across)[None, None]
    bend = (down.square() + 2 * across.square() - down * across)[None, None]
    assert float(F.conv2d(ramp, kernels[8:]).abs().max()) < 1e-4, "second order and above"
    assert float(F.conv2d(bend, kernels[12:20]).abs().max()) < 1e-4, "third order"
    assert float(F.conv2d(ramp, kernels[:8]).abs().min()) > 0.5


def test_residuals_see_noise_and_are_bounded() -> None:
    flat = torch.full((1, 3, 16, 16), 90.0)
    assert float(srm_maps(flat, srm_kernels()).abs().max()) < 1e-4
    loud = srm_maps(pictures().float(), srm_kernels())
    assert loud.shape == (2, 30, 32, 32)
    assert float(loud.abs().max()) == 1
    quiet = flat + torch.rand(flat.shape, generator=torch.Generator().manual_seed(0))
    assert 0 < float(srm_maps(quiet, srm_kernels()).abs().max()) < 2 / TRUNCATION


def test_texture_bits_are_local_binary_patterns() -> None:
    images = pictures(1, 16).float()
    maps = texture_maps(images, srm_kernels())
    assert maps.shape == (1, 11, 16, 16)
    luma = grey(images)[0, 0]
    neighbours = {0: luma[5, 8], 1: luma[6, 8], 2: luma[6, 7], 3: luma[6, 6], 4: luma[5, 6], 5: luma[4, 6]}
    for bit, value in neighbours.items():
        difference = float(value - luma[5, 7])
        assert float(maps[0, bit, 5, 7]) == pytest.approx(difference / (1 + abs(difference)), abs=1e-4)
    slope = torch.hypot((luma[5, 8] - luma[5, 6]) / 2, (luma[6, 7] - luma[4, 7]) / 2)
    assert float(maps[0, 8, 5, 7]) == pytest.approx(float(torch.log1p(slope)), abs=1e-4)
    uncoloured = grey(images).expand(-1, 3, -1, -1)
    assert float(texture_maps(uncoloured, srm_kernels())[0, 9:].max()) < 0.01


@pytest.mark.parametrize("side", [16, 33, 48])
def test_the_spectrum_is_that_of_an_fft(side: int) -> None:
    luma = grey(pictures(2, side).float())
    spectrum = Spectrum(side)
    centred = (torch.arange(side, dtype=torch.float64) + 0.5) / side
    window = torch.sin(torch.pi * centred).square()
    weights = torch.outer(window, window)
    centred_luma = luma[:, 0].double() - luma.double().mean(dim=(2, 3))[..., None]
    picture = centred_luma * weights / weights.square().sum().sqrt()
    expected = torch.fft.rfft2(picture).abs().square()
    torch.testing.assert_close(spectrum.power(luma).double(), expected, rtol=1e-3, atol=1e-2)
    assert spectrum(luma).shape == (2, spectrum.width)
    assert torch.isfinite(spectrum(torch.zeros(1, 1, side, side))).all()


def test_white_noise_has_its_variance_in_every_ring_and_a_comb_sticks_out() -> None:
    noise = 20 * torch.randn(64, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    spectrum = Spectrum(64)
    assert float(spectrum.power(noise)[:, 8:-8, 4:].mean()) == pytest.approx(400, rel=0.05)
    rings = len(spectrum.rings)
    comb = noise + 40 * ((torch.arange(64)[None] + torch.arange(64)[:, None]) % 2)
    difference = (spectrum(comb) - spectrum(noise)).mean(dim=0)[rings : 2 * rings]
    assert int(difference.argmax()) == rings - 1, "the chessboard's frequency is the highest"


def test_the_block_transform_is_jpegs() -> None:
    block = np.random.default_rng(0).normal(size=(8, 8))
    ours = F.conv2d(torch.from_numpy(block)[None, None], dct_basis())[0, :, 0, 0].numpy().reshape(8, 8)
    np.testing.assert_allclose(ours, dctn(block, norm="ortho"), atol=1e-12)


@pytest.mark.parametrize("backbone", ["resnet18", "mobilenetv3", "convnext_tiny", "vit_small", "xception"])
def test_any_backbone_keeps_its_part(backbone: str, small: Small) -> None:
    config = small(backbone=backbone, forensics=ALL)
    plain, beside = Detector.create(small(backbone=backbone)).eval(), Detector.create(config).eval()
    assert isinstance(beside.module, ForensicNetwork)
    images = plain.normalise(pictures())
    with torch.inference_mode():
        ours, theirs = pooled(beside.module, images), pooled(plain.module, images)
        torch.testing.assert_close(ours[:, : theirs.shape[1]], theirs)
        assert ours.shape[1] == theirs.shape[1] + 3 * WIDTH
        torch.testing.assert_close(head(beside.module)(ours), beside.module(images))
    assert torch.equal(head(beside.module).weight[:, : theirs.shape[1]], head(plain.module).weight)


def test_a_file_of_one_logit_lends_its_head_to_the_fused_one(tmp_path: Path, small: Small) -> None:
    from safetensors.torch import save_file

    source = create("resnet18", "none", 32, seed=5)
    save_file(source.state_dict(), tmp_path / "weights.safetensors")
    config = small(backbone="resnet18", weights=str(tmp_path / "weights.safetensors"), forensics="srm")
    fused = head(Detector.create(config).module).weight
    assert torch.equal(fused[:, :512], head(source).weight)


def test_residuals_are_not_rounded_to_bfloat16(small: Small) -> None:
    network = Detector.create(small(forensics="srm")).eval().module
    assert isinstance(network, ForensicNetwork)
    seen: list[Tensor] = []
    network.branches["srm"].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        network(images)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            network(images)
    assert seen[1].dtype == torch.float32
    assert torch.equal(seen[0], seen[1])


@pytest.mark.parametrize("forensics", [*BRANCHES, ALL])
def test_it_is_trained_kept_and_explained(write_faces: Faces, small: Small, tmp_path: Path, forensics: str) -> None:
    rows = write_faces()
    config = small(forensics=forensics, epochs=2, batch_size=5)
    start = Detector.create(config)
    out = train(rows, config, tmp_path / "out", tmp_path / "cache")
    detector = Detector.load(out, "cpu")
    assert detector.config.forensics == forensics
    for name, parameter in start.module.named_parameters():
        if name.startswith(("branches.", "classifier.weight")):
            assert not torch.equal(parameter, detector.module.get_parameter(name)), name
    maps = explain(detector, pictures(), "grad-cam")
    assert maps.shape == (2, 32, 32)
    assert np.isfinite(maps).all()
    again = Detector.load(detector.save(tmp_path / "again"), "cpu")
    assert again.digest == detector.digest
    with torch.inference_mode():
        assert torch.equal(again(pictures()), detector(pictures()))


def test_grad_cam_looks_at_the_backbone(small: Small) -> None:
    """With a head that the branches do not reach, the map is that of the backbone alone."""
    plain = Detector.create(small(backbone="resnet18", image_size=64)).eval()
    beside = Detector.create(small(backbone="resnet18", image_size=64, forensics=ALL)).eval()
    images = pictures(2, 64)
    with torch.no_grad():
        likes = pooled(plain.module, plain.normalise(images)).mean(dim=0)
        head(plain.module).weight.copy_(likes)
        head(beside.module).weight.zero_()
        head(beside.module).weight[:, : len(likes)] = likes
    expected = explain(plain, images, "grad-cam")
    assert expected.max() > 0
    np.testing.assert_allclose(explain(beside, images, "grad-cam"), expected, atol=1e-5)


def test_a_branch_takes_a_batch_of_one_face(small: Small) -> None:
    network = Detector.create(small(forensics="spectrum")).module
    assert isinstance(network, ForensicNetwork)
    network.train()
    assert network.fused(torch.zeros(1, 1280), torch.zeros(1, 3, 32, 32)).shape == (1, 1280 + WIDTH)


def test_onnx_says_the_same(write_faces: Faces, small: Small, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    rows = write_faces(real=4, fake=3, splits=("train",))
    detector = Detector.create(small(forensics=ALL)).eval()
    file = export_onnx(detector, tmp_path / FLOAT)
    crops = load_crops(rows, 32, tmp_path)
    assert parity(detector, file, crops, np.arange(7), batch_size=3).max_logit < TOLERANCE
