"""What everything stands on: errors, files, devices, signals, seeds, configuration, manifests and splits."""

from __future__ import annotations

from typing import TYPE_CHECKING

from core.lazy import lazy_exports

if TYPE_CHECKING:
    from core.errors import UserError as UserError
    from core.manifest import Manifest as Manifest

_HOMES = {
    "Manifest": "manifest",
    "UserError": "errors",
}
__all__ = [*_HOMES]
__getattr__ = lazy_exports(__name__, _HOMES)
