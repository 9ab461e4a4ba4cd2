"""Reading a YAML file into a configuration, with errors that name the nearest right key."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from core.errors import UserError

Model = TypeVar("Model", bound=BaseModel)


class _Loader(yaml.SafeLoader):
    """YAML 1.1 reads 1e-3 as a word; here it is a number, as everyone means it."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+$"),
    list("-+0123456789."),
)


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file.

    Raises:
        UserError: no such file, not YAML, or not a mapping.
    """
    try:
        content = yaml.load(path.read_text(), Loader=_Loader)
    except FileNotFoundError as error:
        raise UserError(f"no configuration at {path}: give the path of a YAML file, see configs/") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise UserError(f"{path} holds a {type(content).__name__}, not `key: value` lines: see configs/ for examples")
    return content


def validate(model: type[Model], content: Mapping[str, Any], where: str) -> Model:
    """The configuration that `content` describes.

    Raises:
        UserError: the first thing that is wrong: what, where, and what to do.
    """
    try:
        return model.model_validate(dict(content))
    except ValidationError as error:
        raise UserError(_sentence(error.errors()[0], model, where)) from error


def override(content: Mapping[str, Any], settings: Sequence[str]) -> dict[str, Any]:
    """`content` with `a.b=value` settings of the command line laid over it; values are read as YAML.

    Raises:
        UserError: a setting has no `=`.
    """
    result = _deep_copy(content)
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals:
            raise UserError(f"--set {setting} has no `=`: write --set section.key=value")
        *parents, last = key.strip().split(".")
        place = result
        for parent in parents:
            inner = place.setdefault(parent, {})
            if not isinstance(inner, dict):
                raise UserError(f"--set {setting}: {parent} is not a section: write --set section.key=value")
            place = inner
        place[last] = yaml.load(value, Loader=_Loader)
    return result


def _deep_copy(content: Mapping[str, Any]) -> dict[str, Any]:
    return {key: _deep_copy(value) if isinstance(value, Mapping) else value for key, value in content.items()}


def _sentence(error: ErrorDetails, model: type[BaseModel], where: str) -> str:
    # Where two kinds of value are possible pydantic names the kind too, which is no key of the file.
    kinds = re.compile(r"(Range|Choice|function-\w+\[.*\])")
    location = [part for part in error["loc"] if not (isinstance(part, str) and kinds.fullmatch(part))]
    name = ".".join(map(str, location))
    if error["type"] == "extra_forbidden":
        known = _keys_at(model, location[:-1])
        near = difflib.get_close_matches(str(location[-1]), known, n=1, cutoff=0.4)
        remedy = f"did you mean {near[0]}?" if near else f"known keys are {', '.join(sorted(known))}"
        return f"{name} is not a key of this configuration ({where}): {remedy}"
    if error["type"] == "missing":
        return f"{name} is missing ({where}): add it"
    reason = error["msg"].removeprefix("Value error, ")
    return f"{name} {error['input']!r}: {reason} ({where})" if name else f"{reason} ({where})"


def _keys_at(model: type[BaseModel], location: Sequence[str | int]) -> list[str]:
    """Field names of the model that stands at `location` below `model`."""
    current: Any = model
    for part in location:
        field = (
            current.model_fields.get(str(part))
            if isinstance(current, type) and issubclass(current, BaseModel)
            else None
        )
        annotation = field.annotation if field is not None else current
        current = _model_in(annotation) or current
    return list(current.model_fields) if isinstance(current, type) and issubclass(current, BaseModel) else []


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """The first configuration model inside an annotation such as `tuple[Source, ...]` or `Study | None`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for part in get_args(annotation) if (found := _model_in(part)) is not None), None)
