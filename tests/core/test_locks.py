"""Two processes, one folder: the second waits, says for whom, and goes on when the first ends or dies."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from core.errors import UserError
from core.locks import one_at_a_time

HOLD = """
import sys, time
from pathlib import Path
from core.locks import one_at_a_time
with one_at_a_time(Path(sys.argv[1]), "a training"):
    print("in", flush=True)
    sys.stdin.readline()
"""


def start(folder: Path) -> subprocess.Popen[str]:
    pipe = subprocess.PIPE
    return subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdin=pipe, stdout=pipe, stderr=pipe, text=True)


def entered(process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    assert process.stdout.readline() == "in\n"


def told(process: subprocess.Popen[str]) -> str:
    assert process.stderr is not None
    return process.stderr.readline()


@pytest.mark.parametrize("ending", ["end", "kill"])
def test_the_second_waits_until_the_first_ends_or_dies(tmp_path: Path, ending: str) -> None:
    first = start(tmp_path / "out")
    entered(first)
    second = start(tmp_path / "out")
    line = told(second)
    assert (
        line == f"a training in {tmp_path / 'out'} waits for process {first.pid} to end there (Ctrl-C: stop waiting)\n"
    )
    if ending == "kill":
        first.kill()
        first.communicate()
    else:
        assert first.communicate("\n", timeout=60) == ("", "")
    entered(second)
    assert second.communicate("\n", timeout=60) == ("", "")
    assert second.returncode == 0


def test_ctrl_c_ends_the_waiting(tmp_path: Path) -> None:
    first = start(tmp_path)
    entered(first)
    second = start(tmp_path)
    told(second)
    second.send_signal(signal.SIGINT)
    second.communicate(timeout=60)
    assert second.returncode == -signal.SIGINT
    third = start(tmp_path)  # the first still holds it
    assert str(first.pid) in told(third)
    first.communicate("\n", timeout=60)
    entered(third)
    third.communicate("\n", timeout=60)


def test_the_same_process_may_hold_it_twice_and_leaves_no_trace_of_itself(tmp_path: Path) -> None:
    with one_at_a_time(tmp_path, "a"), one_at_a_time(tmp_path, "b"):
        assert (tmp_path / ".job.pid").is_file()
    assert not (tmp_path / ".job.pid").exists()


def test_a_file_in_its_place_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "deeper"):
        with pytest.raises(UserError, match="is a file where a folder belongs"), one_at_a_time(folder, "a"):
            pass
