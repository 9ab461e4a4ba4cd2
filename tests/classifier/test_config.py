"""Configurations: what is refused, in which words, and what counts as another job."""

import pytest
from pydantic import ValidationError

from classifier.config import DetectorConfig, differences


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"backbone": "resnet81"}, "did you mean resnet18"),
        ({"frozen_epochs": 7, "epochs": 3}, "frozen_epochs 7 is more than epochs 3"),
        ({"backbone": "vit_small", "image_size": 100}, "give 96 or 112"),
        ({"backbone": "vgg16_bn", "image_size": 24}, "give 32 or more"),
        ({"forensics": "srm+noise"}, "give none, or some of srm, spectrum, texture joined by"),
        ({"forensics": "srm+srm"}, "is not to be had"),
        ({"paired": True, "balance": "oversample"}, "set balance to weights or none"),
        ({"augmentation": 1.5}, "less than or equal to 1"),
        ({"learning_rte": 0.1}, "Extra inputs are not permitted"),
    ],
)
def test_mistakes_are_named(changes: dict[str, object], sentence: str) -> None:
    with pytest.raises(ValidationError, match=sentence):
        DetectorConfig.model_validate(changes)


def test_the_defaults_are_a_configuration_and_survive_json() -> None:
    config = DetectorConfig()
    assert DetectorConfig.model_validate_json(config.model_dump_json()) == config


def test_differences_name_the_fields_that_decide_the_result() -> None:
    old = DetectorConfig(learning_rate=1e-3)
    assert differences(old, DetectorConfig(learning_rate=1e-3, checkpoint_every_seconds=1)) == []
    assert differences(old, DetectorConfig(learning_rate=2e-3)) == ["learning_rate: 0.001, now 0.002"]


def test_forensics_have_one_order() -> None:
    assert DetectorConfig(forensics="texture+srm") == DetectorConfig(forensics="srm+texture")
    assert DetectorConfig(forensics="none").forensics == "none"
