"""`python -m tuning STORAGE STUDY`: one worker of a study, as `study launch --workers` starts it."""

from __future__ import annotations

import argparse
import signal
import sys

from core.errors import UserError
from tracking.store import TrackingError
from tuning.study import join
from tuning.workers import end_with


def main() -> int:
    """Work until the study ends; 2 with one sentence where the user must do something, 130 after Ctrl-C."""
    parser = argparse.ArgumentParser(description="One worker of a study.")
    parser.add_argument("storage", help="path of a journal, or postgresql://...")
    parser.add_argument("study", help="full name of the study")
    parser.add_argument("--parent", type=int, help="end when this process is no longer the parent")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    end_with(options.parent)
    try:
        print(join(options.storage, options.study), flush=True)
    except KeyboardInterrupt:
        return 130
    except (UserError, TrackingError, OSError) as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
