"""The command line. What is heavy is imported inside the commands, so that `--help` answers at once."""

from __future__ import annotations

import errno
import os
import signal
import sys
from typing import Annotated

import typer

from pipelines.cli import detector, experiments, faces, gan, models, study

app = typer.Typer(
    name="counterforge",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
experiments.add_to(app)
app.add_typer(faces.app, name="faces")
app.add_typer(gan.app, name="gan")
detector.add_to(app)
app.add_typer(study.app, name="study")
app.add_typer(models.app, name="models")


def _show_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"counterforge {version('counterforge')}")
        raise typer.Exit


@app.callback()
def _options(
    _version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_show_version, help="Show the version and exit.")
    ] = False,
) -> None:
    """Train, tune, compare and promote detectors of fake faces, and measure whether synthetic faces helped."""


_DISK = {
    errno.ENOSPC: "the disk is full: free some space and run the same command again",
    errno.EROFS: "the disk is read-only: choose another folder",
    errno.EACCES: "no permission: choose another folder, or change its owner",
}


_INTERRUPTED = 130


def main() -> None:
    """Run a command; a mistake of the user's becomes one sentence and exit 2, Ctrl-C exit 130."""
    # OpenMP's threads otherwise spin while they wait: on two cores that other work shared, training was 28x slower.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # `kill` and a container's stop end a job as Ctrl-C does: state saved, run marked.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        app()
    except SystemExit as end:
        if end.code == _INTERRUPTED:  # typer makes this of KeyboardInterrupt
            print("\nstopped; what is done is kept: the same command goes on from there", file=sys.stderr)
        raise
    except OSError as error:
        if error.errno not in _DISK:
            raise
        print(f"error: {error.filename or 'a file'}: {_DISK[error.errno]}", file=sys.stderr)
        sys.exit(2)
    except ValueError as error:
        if not _is_users(error):
            raise
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


def _is_users(error: ValueError) -> bool:
    from core.errors import UserError
    from tracking.store import TrackingError

    return isinstance(error, UserError | TrackingError)
