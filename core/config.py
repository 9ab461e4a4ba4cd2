"""Reading a YAML file into a configuration, with errors that name the nearest right key."""

from __future__ import annotations

import difflib
import re
import reprlib
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from core.errors import UserError
from core.secrets import redacted

Model = TypeVar("Model", bound=BaseModel)
_MOST_NODES = 100_000


class _Loader(yaml.SafeLoader):
    """YAML 1.1 reads 1e-3 as a word; here it is a number, as everyone means it."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+$"), list("-+0123456789.")
)


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file.

    Raises:
        UserError: no such file, not YAML, or not a mapping.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise UserError(f"no configuration at {path}: give the path of a YAML file, see configs/") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not YAML: {error}") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): give the path of a YAML file") from error
    content = _parsed(text, str(path))
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise UserError(f"{path} holds a {type(content).__name__}, not `key: value` lines: see configs/ for examples")
    return content


def _parsed(text: str, where: str) -> Any:
    """The content of YAML text, in bounded time and memory.

    Raises:
        UserError: not YAML, a tag that is not plain YAML, or aliases that stand for too much.
    """
    try:
        node = yaml.compose(text, _Loader)
        expanded = _expanded(node, {}) if node is not None else 0
        if expanded <= _MOST_NODES:
            return yaml.load(text, Loader=_Loader)
    except RecursionError as error:
        raise UserError(f"{where} is not YAML that can be read: it is nested too deeply, or in itself") from error
    except yaml.YAMLError as error:
        raise UserError(f"{where} is not YAML: {' '.join(str(error).split())}") from error
    except ValueError as error:  # dates and numbers that Python does not have
        raise UserError(f"{where}: {' '.join(str(error).split())}: put the value in quotes, or correct it") from error
    raise UserError(f"{where}: its aliases stand for more than {_MOST_NODES} values: write them out")


def _expanded(node: yaml.Node, known: dict[int, int]) -> int:
    """How many values a node stands for once its aliases are written out; RecursionError where it holds itself."""
    if id(node) not in known:
        known[id(node)] = -1
        parts: Iterable[yaml.Node] = ()
        if isinstance(node, yaml.CollectionNode):
            parts = chain.from_iterable(node.value) if isinstance(node, yaml.MappingNode) else node.value
        known[id(node)] = 1 + sum(_expanded(part, known) for part in parts)
    if known[id(node)] < 0:
        raise RecursionError
    return known[id(node)]


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
        UserError: a setting has no `=` or no key, or its value is not YAML.
    """
    result = _own_sections(content)
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals:
            raise UserError(f"--set {setting} has no `=`: write --set section.key=value")
        *parents, last = names = key.strip().split(".")
        if not all(names):
            raise UserError(f"--set {setting} names no key before the `=`: write --set section.key=value")
        section = result
        for parent in parents:
            inner = section.setdefault(parent, {})
            if not isinstance(inner, dict):
                raise UserError(f"--set {setting}: {parent} is not a section: write --set section.key=value")
            section = inner
        section[last] = _parsed(value, f"--set {setting}")
    return result


def _own_sections(content: Mapping[str, Any]) -> dict[str, Any]:
    """A copy in which sections that YAML aliases share are each for themselves."""
    return {key: _own_sections(value) if isinstance(value, Mapping) else value for key, value in content.items()}


def _shown(value: object) -> str:
    """A value in an error sentence, shortened."""
    short = reprlib.Repr()
    short.maxstring = short.maxother = 80
    try:
        return short.repr(redacted(value))
    except ValueError:  # Python refuses to write integers of thousands of digits
        return f"(a {type(value).__name__} too long to show)"


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
    return f"{name} {_shown(error['input'])}: {reason} ({where})" if name else f"{reason} ({where})"


def _keys_at(model: type[BaseModel], location: Sequence[str | int]) -> list[str]:
    """Field names of the model that stands at `location` below `model`; numbers and keys of mappings lead nowhere."""
    for part in location:
        if (field := model.model_fields.get(str(part))) is not None:
            model = _model_in(field.annotation) or model
    return list(model.model_fields)


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """The first configuration model inside an annotation such as `tuple[Source, ...]` or `Study | None`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for part in get_args(annotation) if (found := _model_in(part)) is not None), None)
