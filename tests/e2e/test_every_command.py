"""Every command succeeds at least once: for people, for machines (`--json`), and as a dry run, on one tiny project."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import typer
import yaml
from typer.testing import CliRunner

from pipelines.cli import app
from tests.pipelines.synthetic_faces import configuration, pictures

ROOT = Path(__file__).parents[2]
SMALL = "--epochs 4 --set image_size=32 --set frozen_epochs=4 --set augmentation=0"
TINY = "--preset tiny --image-size 16 --kimg 0.05 --set batch_size=8"
# One project from photographs to a champion. A line is typed once for each form before its colon: `run` as people do,
# `json` with --json, `dry` with --dry-run, `dry-json` with both. {study} is the full name of the study.
LINES = f"""
dry dry-json run json: faces ingest near --out crops --already-cropped
run json: faces show crops --out sheet.png
dry dry-json run json: faces audit crops --out audit --dataset near
dry dry-json run json: gan train crops --out gan {TINY}
run json: gan sample gan/generator --out samples --count 4 --every-seed
run json: gan show gan/generator --out shown --manifest crops --frames 2
run json: gan score gan/generator crops --out scored --samples 16
dry dry-json run json: balance crops --out balanced --generator gan/generator --share 0.6
dry dry-json run json: train crops --out first --seed 1 {SMALL}
json: train balanced --out second --seed 2 --no-audit {SMALL}
run json: evaluate --model 1 --manifest crops
run json: explain 1 crops --out maps --count 2 --method grad-cam
run json: ensemble 1 2 --manifest crops --out both
json: evaluate --model both --manifest crops --robustness
run json: faces layouts
run json dry dry-json: models promote 1 --gate gate.yaml
json: models promote 2 --gate gate.yaml
run json: models list
run json: models history
run: models rollback --why fun
json: models rollback
run json: models compare 1 2
run: models card 1
run: models card 1 --out card.md
run: models tag 1 licence=MIT source=here
run: models export 1 --out exported --no-onnx
json: models export 1 --out exported-again --no-onnx
run: models import exported --mlruns elsewhere
json: models import exported-again --mlruns elsewhere
dry dry-json run: study launch config.yaml
dry dry-json run json: study resume config.yaml
json: study launch config.yaml
run json: study status
run json: study status tiny
run: study worker {{study}}
run json: study report tiny --no-sealed
dry dry-json run json: study register tiny
dry dry-json run json: run config.yaml
dry dry-json run json: compare config.yaml
dry dry-json run json: matrix config.yaml
dry dry-json: demo
run json dry dry-json: predict near/real/near0.png --already-cropped --model 1
dry dry-json: serve
run: serve keys add lab
json: serve keys add guest
run json: serve keys list
run: serve keys revoke lab
"""
# What other tests do, and the words by which they do it: the demo takes a minute, services stay.
ELSEWHERE = {
    "demo": ({"run", "json"}, "e2e/test_whole_loop.py", '"demo", '),
    "ui": ({"run"}, "e2e/test_every_command.py", '"ui", '),
    "serve": ({"run", "json"}, "e2e/test_every_command.py", '"serve", '),
}


class Typed(NamedTuple):
    """A command that was typed, and what came of it."""

    form: str
    words: list[str]
    code: int
    out: str
    problem: str

    @property
    def json(self) -> Any:
        """Its output, which must be JSON without the names that JSON does not have."""

        def refuse(name: str) -> None:
            raise ValueError(f"{name} is not JSON")

        return json.loads(self.out, parse_constant=refuse)


def tree(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, set[str]]]:
    """Every command with the options that it takes."""
    for name, inner in getattr(command, "commands", {}).items():
        yield from tree(inner, (*path, name))
    if not hasattr(command, "commands") or (path and command.invoke_without_command):
        yield " ".join(path), {option for parameter in command.params for option in parameter.opts}


COMMANDS = dict(tree(typer.main.get_command(app)))


def lines() -> Iterator[tuple[str, str, str]]:
    """Command, form and line, in their order."""
    for line in LINES.strip().splitlines():
        forms, _, words = line.partition(": ")
        beginnings = [" ".join(words.split()[:count]) for count in (3, 2, 1)]
        for form in forms.split():
            yield next(name for name in beginnings if name in COMMANDS), form, words


@pytest.fixture(scope="module")
def typed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Typed]]:
    folder = tmp_path_factory.mktemp("every")
    pictures(folder / "near", 60, 0, real=60, fake=60)
    pictures(folder / "far", 20, 1, real=30, fake=30)
    study = {"name": "tiny", "trials": 1, "sampler": "random", "space": {"learning_rate": {"low": 1e-4, "high": 1e-3}}}
    detector = {"image_size": 32, "epochs": 1, "frozen_epochs": 1, "augmentation": 0}
    detector |= {"backbone": "resnet18", "weights": "none"}
    gan = {"preset": "tiny", "image_size": 16, "kimg": 0.05, "batch_size": 8}
    comparison = {"arms": ["none", "oversampling"], "seeds": [0]}
    configuration(folder, ("near", "far"), study=study, gan=gan, detector=detector, comparison=comparison)
    gate = {"champion": {"rule": "non-inferior", "margin": 0.49, "because": "it is a test"}}
    (folder / "gate.yaml").write_text(yaml.safe_dump(gate))
    done = []
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.delenv("COUNTERFORGE_STORAGE", raising=False)
        for command, form, line in lines():
            studies = [path.stem for path in Path("mlruns").rglob("*.journal")]
            words = line.format(study=studies[0] if studies else "").split()
            words += ["--dry-run"] * form.startswith("dry") + ["--json"] * form.endswith("json")
            result = CliRunner().invoke(app, words)
            problem = f"{' '.join(words)}\n{result.output[-3000:]}\n{result.exception!r}"
            done.append(Typed(form, [command, *words], result.exit_code, result.stdout, problem))
        yield done


@pytest.mark.parametrize("command", sorted({command for command, _, _ in lines()}))
def test_it_succeeds_and_answers(command: str, typed: list[Typed]) -> None:
    for each in (each for each in typed if each.words[0] == command):
        assert each.code == 0, each.problem
        assert each.out.strip(), each.problem
        if each.form.endswith("json"):
            assert isinstance(each.json, dict | list)


def test_what_it_answers(typed: list[Typed]) -> None:
    told = {" ".join(each.words[1:]): each for each in typed}

    def answer(beginning: str, form: str = "json") -> Any:
        (last, *_) = [each for line, each in told.items() if line.startswith(beginning) and each.form == form][::-1]
        return last.json if form.endswith("json") else last.out

    assert answer("faces ingest", "dry-json")["layout"] == "folders"
    assert answer("balance")["added"] > 0
    assert answer("train balanced")["version"] == 2
    assert answer("ensemble")["version"] in (3, 4)
    assert answer("models promote 2")["promoted"]
    assert answer("models rollback") == {"champion": 2}
    assert [event["what"] for event in answer("models history")][-2:] == ["promote", "promote"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", answer("models list")[0]["created"])
    assert "# counterforge-detector, version 1" in answer("models card 1", "run") or Path("card.md").is_file()
    assert answer("study status --json")[0]["complete"] == 1
    assert answer("run config.yaml", "dry-json")["project"] == "weave"
    assert answer("compare")["table"]
    assert answer("matrix")["cells"]


def test_the_ui_answers_until_ctrl_c(tmp_path: Path) -> None:
    words = [sys.executable, "-c", "from pipelines.cli import main; main()", "ui", "--port", "0"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(words, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            (address,) = re.findall(r"http://[\d.:]+", process.stdout.readline())
            with urllib.request.urlopen(f"{address}/health", timeout=30) as page:
                assert page.status == 200
        finally:
            process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 0


def test_the_service_answers_until_ctrl_c(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [sys.executable, "-c", "from pipelines.cli import main; main()", "serve", "--port", str(port)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(words, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True) as process:
        try:
            for _ in range(300):
                with suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=5) as page:
                    assert json.load(page) == {"status": "alive"}
                    break
                time.sleep(0.2)
            else:
                raise AssertionError("it never answered")
            again = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
            assert again.returncode == 2
            assert "is not free" in again.stderr
        finally:
            process.send_signal(signal.SIGINT)
        process.wait(timeout=60)


def test_no_command_is_left_out() -> None:
    """A new command, or a new `--dry-run` or `--json`, needs a line above."""
    done = {name: {form for command, form, _ in lines() if command == name} for name in COMMANDS}
    for name, (forms, file, words) in ELSEWHERE.items():
        assert words in (ROOT / "tests" / file).read_text(encoding="utf-8"), f"{file} does not type {name}"
        done[name] |= forms
    missing = []
    for name, options in COMMANDS.items():
        wanted = {"run"} | ({"json"} if "--json" in options else set()) | ({"dry"} if "--dry-run" in options else set())
        wanted |= {"dry-json"} if {"--dry-run", "--json"} <= options else set()
        missing += [f"{name}: {form}" for form in sorted(wanted - done[name])]
    assert missing == []
