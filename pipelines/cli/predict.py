"""`counterforge predict`: is this picture or video fake?"""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipelines.cli import options as opt

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd

    from pipelines.prediction.predict import FilePrediction

_JOURNAL = "predictions.jsonl"


class Runtime(StrEnum):
    """What computes the scores."""

    torch = "torch"
    onnx = "onnx"
    onnx_int8 = "onnx-int8"


def add_to(app: typer.Typer) -> None:
    """Add the command to the main one."""
    app.command()(predict)


def predict(
    paths: Annotated[list[str], typer.Argument(help="Pictures, videos, folders; - for a list of paths on stdin.")],
    model: opt.ModelOption = "champion",
    out: Annotated[Path | None, typer.Option("--out", help="Folder for pictures with boxes and saliency maps.")] = None,
    csv: Annotated[Path | None, typer.Option("--csv", help="File for one line a file.")] = None,
    runtime: Annotated[Runtime, typer.Option(help="PyTorch, or ONNX Runtime.")] = Runtime.torch,
    already_cropped: Annotated[
        bool, typer.Option("--already-cropped", help="Pictures are face crops: detect nothing.")
    ] = False,
    config: opt.ConfigFile = None,
    settings: opt.Set = None,
    cache: opt.Cache = opt.CACHE,
    mlruns: opt.Mlruns = opt.MLRUNS,
    dry_run: opt.DryRun = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object a file, one a line.")] = False,
) -> None:
    """Judge pictures and videos by the promoted model: every face, and each file with an interval.

    Files without a face, or that cannot be read, are rows with a reason. What was judged before by the same model and
    settings is not looked at again, so that the same command goes on after Ctrl-C.
    """
    from pipelines.prediction.media_faces import PredictConfig

    named = {"already_cropped": already_cropped or None}
    how = opt.configuration(PredictConfig, config, settings, named)
    if dry_run:
        opt.print_and_exit(how, as_json)
    from core.files import write_text
    from pipelines.prediction.drawing import draw
    from pipelines.prediction.model import serve_model
    from pipelines.prediction.predict import INTERVALS, as_line, list_files, read_path_list
    from pipelines.prediction.predict import predict as run

    listed = "-" in paths
    meant = [path for name in paths for path in (read_path_list(sys.stdin.read()) if name == "-" else [Path(name)])]
    files = list_files(meant, missing_ok=listed)
    served = serve_model(model, mlruns, runtime=runtime.value, device=how.device)
    told: list[FilePrediction] = []
    for said in run(files, served, how, cache / _JOURNAL):
        told.append(said)
        if as_json:
            typer.echo(as_line(said))
        if out is not None:
            draw(said, served, out, how)
    if csv is not None:
        write_text(csv, _rows(told).to_csv(index=False))
    if as_json:
        return
    opt.print_table(_shown(told), f"{served.name}, threshold {served.threshold:.3f}")
    for method in sorted({said.interval_method for said in told} - {""}):
        typer.echo(f"{method}: {INTERVALS[method]}")
    for said in told:
        for warning in said.warnings:
            typer.echo(f"note: {said.path}: {warning}")
    for place in filter(None, (csv, out)):
        typer.echo(str(place))


def _rows(told: Sequence[FilePrediction]) -> pd.DataFrame:
    """One row a file; its faces are in the JSON."""
    import pandas as pd

    rows = []
    for said in told:
        row = {name: value for name, value in said.to_json().items() if name not in ("faces", "warnings")}
        rows.append(row | {"faces": len({face.track for face in said.faces}), "warnings": "; ".join(said.warnings)})
    return pd.DataFrame(rows)


def _shown(told: Sequence[FilePrediction]) -> pd.DataFrame:
    import pandas as pd

    def figures(said: FilePrediction) -> str:
        if said.likelihood is None:
            return "-"
        interval = "" if said.low is None else f" [{said.low:.2f}, {said.high:.2f}] {said.interval_method}"
        return f"{said.likelihood:.3f}{interval}"

    return pd.DataFrame(
        {
            "file": said.path,
            "verdict": said.verdict,
            "P(fake)": figures(said),
            "faces": str(len({face.track for face in said.faces})),
            "frames": str(said.frames),
            "reason": said.reason,
        }
        for said in told
    )
