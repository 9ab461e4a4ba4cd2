"""Media of faces: decoding, detection, crops, loading, augmentation, audit, embedded faces."""

from __future__ import annotations

from typing import TYPE_CHECKING

from core import lazy_exports

if TYPE_CHECKING:
    from faces.extraction import IngestConfig as IngestConfig
    from faces.ingest import ingest as ingest
    from faces.loading import load_crops as load_crops
    from faces.orl import embedded as embedded
    from faces.sheets import contact_sheet as contact_sheet

_HOMES = {"IngestConfig": "extraction", "contact_sheet": "sheets", "embedded": "orl"}
_HOMES |= {"ingest": "ingest", "load_crops": "loading"}
__all__ = [*_HOMES]
__getattr__ = lazy_exports(__name__, _HOMES)
