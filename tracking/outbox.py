"""Metrics on their way to a server: while it is away they wait here, and the work that reports them goes on."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from mlflow.entities import Metric
from mlflow.exceptions import MlflowException, RestException

from tracking.store import Store, quick_requests

_METRICS_PER_CALL = 1000  # MLflow's limit of one request
# How long after a failure the server is left in peace: each try may cost seconds where it hangs.
PAUSE_SECONDS = 5.0
_log = logging.getLogger(__name__)


@dataclass
class Outbox:
    """The metrics of one run, sent in the order they came. They carry the time at which they were put in."""

    store: Store
    run_id: str
    waiting: list[Metric] = field(default_factory=list)
    _silent_until: float = 0.0

    def put(self, metrics: Sequence[Metric]) -> None:
        """Send them now or, from a server that is away, later: with the next ones, or by `flush`."""
        self.waiting += metrics
        if not self.store.is_server:
            self.flush()
        elif time.monotonic() >= self._silent_until:
            try:
                with quick_requests():
                    self.flush()
            except MlflowException as error:
                if isinstance(error, RestException):  # it answered, and it refused
                    raise
                if not self._silent_until:
                    _log.warning("%s does not answer; metrics are kept until it does", self.store.tracking_uri)
                self._silent_until = time.monotonic() + PAUSE_SECONDS

    def flush(self) -> None:
        """Send everything, with MLflow's own patience (about two minutes); what fails stays here.

        Sending the same twice does no harm: MLflow keeps one of equal points.
        """
        while self.waiting:
            batch = self.waiting[:_METRICS_PER_CALL]
            self.store.client.log_batch(self.run_id, metrics=batch)
            del self.waiting[: len(batch)]
        self._silent_until = 0.0
