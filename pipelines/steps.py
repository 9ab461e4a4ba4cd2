"""Steps of a pipeline that are skipped when their inputs have not changed.

A step leaves a small JSON record behind: the digest of its inputs, its result and the seconds that it took. It is
written after the work, so that a killed step is done again (each step goes on where it was by itself), and so is one
whose record is damaged.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from core.files import digest, read_record, sealed, write_json

_NAMES = {"inputs", "seconds", "result"}


@dataclass
class Steps:
    """Runs steps one after another and remembers in `folder` what is done."""

    folder: Path
    total: int
    seconds: dict[str, float] = field(default_factory=dict)
    done_before: list[str] = field(default_factory=list)

    def do(
        self,
        name: str,
        inputs: Sequence[str],
        work: Callable[[], dict[str, Any]],
        outputs: Callable[[dict[str, Any]], Iterable[Path | str]] = lambda _: (),
    ) -> dict[str, Any]:
        """The result of `work`, from the record if inputs are the same and its output files still stand.

        Args:
            name: of the step; one record a name.
            inputs: texts that decide the result (digests, configurations).
            work: returns what JSON can hold.
            outputs: files and folders that the result speaks of.
        """
        key = digest(*inputs, length=64)
        record = self.folder / f"{name}.json"
        title = f"[{len(self.seconds) + 1}/{self.total}] {name}"
        known = read_record(record)
        if (
            known
            and known.keys() == _NAMES
            and known["inputs"] == key
            and all(Path(path).exists() for path in outputs(known["result"]))
        ):
            self.seconds[name] = float(known["seconds"])
            self.done_before.append(name)
            print(f"{title}: unchanged, done before in {known['seconds']:.0f} s", file=sys.stderr)
            return dict(known["result"])
        print(f"{title} ...", file=sys.stderr)
        started = time.monotonic()
        result = work()
        self.seconds[name] = time.monotonic() - started
        write_json(record, sealed({"inputs": key, "seconds": self.seconds[name], "result": result}))
        print(f"{title}: {self.seconds[name]:.0f} s", file=sys.stderr)
        return result
