"""The command line. What is heavy is imported inside the commands, so that `--help` answers at once."""

from __future__ import annotations

import errno
import os
import signal
import sys
from importlib import import_module
from typing import Annotated

import typer

from core.errors import UserError, one_line
from core.secrets import redact_logs
from pipelines.cli import detector, experiments, faces, gan, models, predict, study

app = typer.Typer(name="counterforge", no_args_is_help=True, pretty_exceptions_enable=False)
experiments.add_to(app)
app.add_typer(faces.app, name="faces")
app.add_typer(gan.app, name="gan")
detector.add_to(app)
predict.add_to(app)
app.add_typer(study.app, name="study")
app.add_typer(models.app, name="models")
# The service stands beside the command line, above the pipelines: neither imports the other but through this door.
app.add_typer(import_module("serving.cli").app, name="serve")


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


_REMEDIES = {
    errno.ENOSPC: "the disk is full: free some space and run the same command again",
    errno.EROFS: "the disk is read-only: choose another folder",
    errno.EACCES: "no permission: choose another folder, or change its owner",
    errno.EPERM: "no permission: choose another folder, or change its owner",
    errno.ENOENT: "there is no such file or folder: give another path",
    errno.EISDIR: "a folder is where a file belongs: give the path of a file",
    errno.ENOTDIR: "a file is where a folder belongs: give another path",
    errno.EEXIST: "a file is where a folder belongs: give another path",
}


def main() -> None:
    """Run a command; a mistake of the user's becomes one sentence and exit 2, Ctrl-C exit 130."""
    # OpenMP's threads otherwise spin while they wait: on two cores that other work shared, training was 28x slower.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # `kill` and a container's stop end a job as Ctrl-C does: state saved, run marked.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    redact_logs()
    try:
        app()
    except SystemExit as end:
        if end.code == 130:  # typer makes this of KeyboardInterrupt
            print("\nstopped; what is done is kept: the same command goes on from there", file=sys.stderr)
        raise
    except (UserError, OSError) as error:
        print(f"error: {_sentence(error)}", file=sys.stderr)
        sys.exit(2)


def _sentence(error: UserError | OSError) -> str:
    if isinstance(error, UserError):
        return str(error)
    remedy = _REMEDIES.get(error.errno or 0, f"{error.strerror or error}: see to it and run the same command again")
    return one_line(f"{error.filename or 'a file'}: {remedy}")
