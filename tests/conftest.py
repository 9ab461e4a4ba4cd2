"""What all tests share: no test waits by spinning, and none talks to a tracking server of the user's."""

from __future__ import annotations

import os
import signal

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # read when torch is loaded
os.environ.setdefault("OMP_NUM_THREADS", "1")  # two test processes share two cores
os.environ.pop("MLFLOW_TRACKING_URI", None)
# A shell that starts the tests in the background has them, and all that they start, ignore Ctrl-C.
signal.signal(signal.SIGINT, signal.default_int_handler)
