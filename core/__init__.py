"""What everything stands on: errors, files, devices, signals, seeds, configuration, manifests and splits."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from core.errors import UserError as UserError
    from core.manifest import Manifest as Manifest


def lazy_exports(package: str, homes: Mapping[str, str]) -> Callable[[str], Any]:
    """A module's `__getattr__` (PEP 562) that imports each public name's home when first asked: packages cost nothing.

    Args:
        homes: the module of the package in which each name is.
    """

    def find(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(f"{package}.{homes[name]}"), name)

    return find


_HOMES = {"Manifest": "manifest", "UserError": "errors"}
__all__ = [*_HOMES]
__getattr__ = lazy_exports(__name__, _HOMES)
