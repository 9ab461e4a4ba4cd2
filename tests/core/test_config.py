"""YAML to configuration: numbers as people write them, and errors that name what, where and the nearest right key."""

from __future__ import annotations

from pathlib import Path

import pytest

from core.config import override, read_yaml, validate
from core.errors import UserError
from pipelines.configuration import RunConfig

MINIMAL = {"project": "p", "out": "o", "embedded": True, "datasets": {"train": ["a"]}}


def test_numbers_in_scientific_notation_are_numbers(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text("a: 1e-3\nb: 2.5E+2\nc: -1e4\nd: e5\n")
    assert read_yaml(file) == {"a": 1e-3, "b": 250.0, "c": -1e4, "d": "e5"}


@pytest.mark.parametrize(
    ("text", "words"),
    [("- 1\n- 2", "holds a list"), ("a: [1", "is not YAML"), ("a: b: c", "is not YAML")],
)
def test_what_is_no_mapping_is_refused(tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(text)
    with pytest.raises(UserError, match=words):
        read_yaml(file)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no configuration at .*none\.yaml"):
        read_yaml(tmp_path / "none.yaml")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"projct": "x"}, r"projct is not a key of this configuration \(here\): did you mean project\?"),
        ({"gan": {"presett": "tiny"}}, r"gan\.presett is not a key .*did you mean preset\?"),
        ({"detector": {"learning_rte": 1}}, r"detector\.learning_rte .*did you mean learning_rate\?"),
        ({"study": {"trails": 3}}, r"study\.trails .*did you mean trials\?"),
        ({"study": {"space": {"psi": {"choises": [1]}}}}, r"study\.space\.psi"),
        ({"study": {"space": {"psi": {"low": 0, "high": 1, "log": True}}}}, r"^study\.space\.psi \{.*a bound above 0"),
        ({"synthetic_share": 1.4}, r"synthetic_share 1\.4: Input should be less than 1 \(here\)"),
        ({"detector": {"backbone": "resnet19"}}, r"resnet1?"),
        ({"datasets": {"train": ["a"], "validation": ["a"]}}, "a dataset has one part"),
        ({"embedded": False}, "embedded: true"),
        ({"faces": [{"source": "x", "every_second": 2}], "embedded": False}, "did you mean every_seconds"),
        ({"gan": {"image_size": 48}}, "not a power of two: take 32 or 64"),
    ],
)
def test_errors_name_the_place_and_the_remedy(changes: dict[str, object], words: str) -> None:
    with pytest.raises(UserError, match=words):
        validate(RunConfig, MINIMAL | changes, "here")


def test_a_missing_key_is_named() -> None:
    with pytest.raises(UserError, match=r"datasets is missing \(here\)"):
        validate(RunConfig, {"project": "p", "out": "o", "embedded": True}, "here")


def test_settings_of_the_command_line_lie_over_the_file() -> None:
    content = {"gan": {"preset": "tiny", "kimg": 1}, "out": "o"}
    result = override(content, ["gan.kimg=2.5", "study.trials=3", "out=elsewhere"])
    assert result == {"gan": {"preset": "tiny", "kimg": 2.5}, "study": {"trials": 3}, "out": "elsewhere"}
    assert content["gan"] == {"preset": "tiny", "kimg": 1}
    with pytest.raises(UserError, match="has no `=`"):
        override(content, ["gan.kimg"])
    with pytest.raises(UserError, match="is not a section"):
        override(content, ["out.x=1"])


ROOT = Path(__file__).parents[2]
SHIPPED = [*sorted((ROOT / "configs").glob("*.yaml")), ROOT / "pipelines" / "demo.yaml"]


@pytest.mark.parametrize("file", [file for file in SHIPPED if file.name != "gate.yaml"], ids=lambda file: file.name)
def test_the_configurations_that_we_ship_are_valid_and_name_no_folder_of_ours(file: Path) -> None:
    config = validate(RunConfig, read_yaml(file), str(file))
    assert config.embedded or all(source.source.parts[:2] == ("path", "to") for source in config.faces)


BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (BOMB, "aliases stand for more than"),
        ("a: &a\n  b: *a\n", "nested too deeply, or in itself"),
        ("a: " + "[" * 5000 + "]" * 5000, "nested too deeply"),
        ("a: !!python/object/apply:os.system ['true']", "is not YAML"),
        ("a: 2001-13-45", "month must be in 1..12"),
        ("a: " + "9" * 5000, "put the value in quotes"),
        ("\t- tab", "is not YAML"),
    ],
)
def test_yaml_that_is_no_configuration_is_refused_in_one_short_line(tmp_path: Path, text: str, why: str) -> None:
    (tmp_path / "run.yaml").write_text(text)
    with pytest.raises(UserError, match=why) as refused:
        read_yaml(tmp_path / "run.yaml")
    assert len(str(refused.value)) < 600


def test_a_folder_in_place_of_a_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        read_yaml(tmp_path)


@pytest.mark.parametrize("setting", ["=1", ".a=1", "..=", "a=[", "a={", "a=&x *x", "a=" + "9" * 5000, "no equals sign"])
def test_malformed_settings_are_refused(setting: str) -> None:
    with pytest.raises(UserError, match="--set"):
        override({"a": 1}, [setting])


def test_aliases_within_bounds_are_yaml_like_any_other(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("a: &a {x: 1}\nb: {<<: *a, y: 2}\n")
    assert read_yaml(tmp_path / "run.yaml")["b"] == {"x": 1, "y": 2}
