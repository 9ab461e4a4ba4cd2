"""Every backbone of the table is built and taught a step; weights load whole or are refused in a sentence."""

import socket
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from classifier.models.backbones import (
    BACKBONES,
    OFFLINE_BACKBONE,
    as_markdown,
    create,
    head,
    head_keys,
    pooled,
    spec,
    state_digest,
)
from core.errors import UserError
from faces.features import packaged_lite0


# oneDNN takes four times as long as plain torch over the 7 x 7 convolution of VGG's classifier.
@pytest.mark.filterwarnings("ignore:TF32 acceleration")
@torch.backends.mkldnn.flags(enabled=False)
@pytest.mark.parametrize("name", BACKBONES)
def test_every_backbone_learns_two_steps_at_its_minimal_size(name: str) -> None:
    row = spec(name)
    size = row.minimal_size
    module = create(name, "none", size)
    module.to(memory_format=torch.channels_last)  # as a detector has it
    images = torch.randn(4, 3, size, size, generator=torch.Generator().manual_seed(1))
    module.eval()
    with torch.no_grad():
        logits = module(images)
        assert logits.shape == (4, 1)
        torch.testing.assert_close(head(module)(pooled(module, images)), logits)
    module.train()
    first = next(module.parameters())
    optimizer = torch.optim.SGD(module.parameters(), lr=1e-3)
    for _ in range(2):
        before = head(module).weight.detach().clone()
        optimizer.zero_grad()
        loss = F.binary_cross_entropy_with_logits(module(images), torch.tensor([[0.0], [1.0], [0.0], [1.0]]))
        loss.backward()
        optimizer.step()
        assert torch.isfinite(loss)
        assert not torch.equal(head(module).weight, before)
        assert first.grad is not None
        assert float(first.grad.abs().sum()) > 0


@pytest.mark.parametrize("name", BACKBONES)
def test_the_table_says_what_timm_says(name: str) -> None:
    """Of the size, the colours and the parameters; lite0's packaged weights have colours of their own."""
    import timm

    row = spec(name)
    config = timm.get_pretrained_cfg(row.timm_name)
    assert config.tag, "weights are named, not left to timm's default"
    assert config.input_size == (3, row.image_size, row.image_size)
    if name != OFFLINE_BACKBONE:
        assert (config.mean, config.std) == (row.mean, row.std)
    with torch.device("meta"):
        network = timm.create_model(row.timm_name, num_classes=1)
    assert sum(parameter.numel() for parameter in network.parameters()) == row.parameters


def test_the_documentation_lists_every_backbone() -> None:
    written = (Path(__file__).parents[3] / "docs" / "backbones.md").read_text(encoding="utf-8")
    assert as_markdown() in written, "write `classifier.models.backbones.as_markdown()` into docs/backbones.md"


def test_the_packaged_weights_load_strictly() -> None:
    import timm

    network = timm.create_model("tf_efficientnet_lite0")
    named = packaged_lite0(list(network.state_dict()))
    network.load_state_dict(named, strict=True)
    built = create(OFFLINE_BACKBONE, "imagenet", 64)
    ours = built.state_dict()
    above = set(head_keys(built))
    assert above == {"classifier.weight", "classifier.bias"}
    assert all(torch.equal(ours[key], named[key]) for key in ours if key not in above)
    assert spec(OFFLINE_BACKBONE).mean == (127 / 255,) * 3
    # The networks' features agree too, which a shifted name would not let them.
    images = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        seen = pooled(built.eval(), images)
        torch.testing.assert_close(seen, pooled(network.eval(), images))


def test_a_fresh_head_starts_near_even_odds() -> None:
    """timm draws the head of a one-logit EfficientNet so wide that a trained backbone starts at a loss of 3."""
    module = create(OFFLINE_BACKBONE, "imagenet", 64).eval()
    images = torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert float(module(images).abs().max()) < 1


def test_random_weights_follow_the_seed_and_leave_the_global_state() -> None:
    state = torch.get_rng_state()
    first, again, other = (create("resnet18", "none", 32, seed).state_dict() for seed in (1, 1, 2))
    assert state_digest(first) == state_digest(again) != state_digest(other)
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_a_local_file_is_loaded_with_another_head_left_out(tmp_path: Path, suffix: str) -> None:
    import timm

    source = timm.create_model("vit_small_patch16_224", num_classes=10, img_size=64)
    file = tmp_path / f"weights{suffix}"
    if suffix == ".pth":
        torch.save({"state_dict": source.state_dict()}, file)
    else:
        save_file(source.state_dict(), file)
    module = create("vit_small", str(file), 32)
    assert torch.equal(
        module.get_parameter("blocks.3.attn.qkv.weight"), source.get_parameter("blocks.3.attn.qkv.weight")
    )
    # Position embeddings of 16 patches and a class token were resized to 4 and one.
    assert module.get_parameter("pos_embed").shape == (1, 5, 384)
    assert head(module).weight.shape == (1, 384)
    assert "state_dict" not in module.pretrained_cfg


def test_a_file_without_any_head_is_loaded_under_a_fresh_one(tmp_path: Path) -> None:
    """As DINOv2's are."""
    import timm

    source = timm.create_model("vit_small_patch14_dinov2", num_classes=0, img_size=56)
    save_file(source.state_dict(), tmp_path / "weights.safetensors")
    module = create("dinov2_small", str(tmp_path / "weights.safetensors"), 28)
    name = "blocks.3.attn.qkv.weight"
    assert torch.equal(module.get_parameter(name), source.get_parameter(name))
    assert head(module).weight.shape == (1, 384)


def test_a_local_file_with_one_logit_keeps_its_head(tmp_path: Path) -> None:
    source = create("resnet18", "none", 32, seed=5)
    save_file(source.state_dict(), tmp_path / "weights.safetensors")
    again = create("resnet18", str(tmp_path / "weights.safetensors"), 32, seed=6)
    assert state_digest(again.state_dict()) == state_digest(source.state_dict())


def test_files_that_do_not_serve_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"there is no file of weights .*nowhere.pth for resnet18"):
        create("resnet18", str(tmp_path / "nowhere.pth"), 32)
    save_file(create("resnet50", "none", 32).state_dict(), tmp_path / "other.safetensors")
    with pytest.raises(UserError, match="does not hold weights of resnet18"):
        create("resnet18", str(tmp_path / "other.safetensors"), 32)
    (tmp_path / "noise.pth").write_bytes(b"no weights at all")
    with pytest.raises(UserError, match="cannot be read as weights"):
        create("resnet18", str(tmp_path / "noise.pth"), 32)


def test_pickled_classes_are_not_loaded(tmp_path: Path) -> None:
    torch.save({"state_dict": {"fc.weight": Path("x")}}, tmp_path / "pickled.pth")
    with pytest.raises(UserError, match="cannot be read as weights"):
        create("resnet18", str(tmp_path / "pickled.pth"), 32)


@pytest.mark.parametrize("name", ["resnet18", "xception"])
def test_without_a_network_the_hub_is_given_up_at_once(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def unreachable(*place: object, **_: object) -> None:
        calls.append(place)
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unreachable)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(
        UserError, match=f"ImageNet weights of {name} .* --weights FILE, the backbone {OFFLINE_BACKBONE}"
    ):
        create(name, "imagenet", 64)
    assert len(calls) <= 2


def test_unknown_backbones_are_answered_with_the_nearest() -> None:
    with pytest.raises(UserError, match=r"no backbone 'eficientnet_b0': did you mean efficientnet_b0"):
        create("eficientnet_b0", "none", 64)
    with pytest.raises(UserError, match="choose one of vgg16_bn, vgg19_bn"):
        spec("qqq")


def test_the_digest_knows_values_and_not_memory_layout() -> None:
    weight = torch.arange(24.0).reshape(1, 2, 3, 4)
    same = {"w": weight.contiguous(memory_format=torch.channels_last)}
    assert state_digest({"w": weight}) == state_digest(same)
    assert state_digest({"w": weight}) != state_digest({"w": weight + 1})
    assert state_digest({"w": weight}) != state_digest({"v": weight})
