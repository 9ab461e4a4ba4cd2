"""The model that answers: it follows the registry's alias, and is swapped only when the next one is warm."""

from __future__ import annotations

import logging
import threading
from pathlib import Path

import numpy as np

from classifier.models.detector import CONFIG
from core.errors import UserError, one_line
from pipelines.prediction.model import ServedModel, serve_model
from pipelines.release.lineage import find_model
from tracking.store import Store, open_store

_log = logging.getLogger(__name__)


class Follower:
    """Keeps the model of an alias in memory; a version's number or a folder stays as it is.

    Attributes:
        current: the model that answers, or None before there is one.
        problem: why the last look at the registry failed, "" where it did not. The model of before goes on answering.
        swaps: how often the model changed.
    """

    def __init__(self, reference: str, mlruns: Path, *, device: str = "auto", poll_seconds: float = 2) -> None:
        self.reference, self.mlruns, self.device, self.poll_seconds = reference, mlruns, device, poll_seconds
        self.current: ServedModel | None = None
        self.problem = ""
        self.swaps = 0
        self.model_id: str | None = None
        self._store: Store | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, name=f"follow {reference}", daemon=True)

    def start(self) -> None:
        """Look once, and then go on in a thread."""
        self.look()
        if not self._is_folder():
            self._thread.start()

    def stop(self) -> None:
        """Look no more."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout=10)

    def look(self) -> None:
        """Load what the reference names now, if that is another model than the current one."""
        try:
            if self._is_folder():
                if self.current is None:
                    self._swap(serve_model(self.reference, self.mlruns, device=self.device), None)
            else:
                if self._store is None:
                    self._store = open_store(self.mlruns)
                version = find_model(self._store, self.reference).version
                if version is None or version.model_id != self.model_id:
                    model = serve_model(self.reference, self.mlruns, device=self.device)
                    self._swap(model, version.model_id if version else None)
            self.problem = ""
        except UserError as error:
            self._tell(str(error))
        except Exception as error:  # whatever the registry does, the model of before goes on answering
            _log.exception("looking for %s failed", self.reference)
            self._tell(one_line(f"{type(error).__name__}: {error}", 200))

    def _is_folder(self) -> bool:
        return (Path(self.reference) / CONFIG).is_file()

    def _swap(self, model: ServedModel, model_id: str | None) -> None:
        model.logits(np.zeros((1, model.image_size, model.image_size, 3), np.uint8))  # warm
        self.swaps += self.current is not None
        self.current, self.model_id = model, model_id
        _log.info("%s answers from now on", model.name)

    def _tell(self, problem: str) -> None:
        if problem != self.problem:
            _log.warning("%s: %s", self.reference, problem)
        self.problem = problem

    def _follow(self) -> None:
        while not self._stop.wait(self.poll_seconds):
            self.look()
