"""The queue: each job to one process, taken up again after a death, and never answered twice."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from core.errors import UserError
from serving.jobs import Jobs


def add(jobs: Jobs, name: str = "a.png") -> str:
    return jobs.add(owner="local", name=name, sha256="0" * 64, size=1).id


def test_a_job_goes_to_one_process_and_a_late_result_is_refused(tmp_path: Path) -> None:
    one, two = Jobs(tmp_path), Jobs(tmp_path)
    id = add(one)
    claimed = one.claim(0.3)
    assert claimed is not None
    assert claimed.id == id
    assert two.claim(60) is None
    time.sleep(0.4)  # the first process died, as far as anybody knows
    again = two.claim(60)
    assert again is not None
    assert again.id == id
    assert not one.finish(id, {"verdict": "fake"}, verdict="fake")
    assert two.finish(id, {"verdict": "real"}, verdict="real")
    assert one.get(id).verdict == "real"


def test_a_job_that_kills_whoever_touches_it_is_failed_in_the_end(tmp_path: Path) -> None:
    jobs = Jobs(tmp_path)
    id = add(jobs)
    for _ in range(3):
        assert jobs.claim(-1) is not None
    assert jobs.claim(60) is None
    assert jobs.get(id).status == "failed"


def test_the_oldest_comes_first_and_a_released_one_again(tmp_path: Path) -> None:
    jobs = Jobs(tmp_path)
    ids = [add(jobs, f"{i}.png") for i in range(3)]
    first = jobs.claim(60)
    assert first is not None
    jobs.release(first.id)
    assert [job.id for job in (jobs.claim(60), jobs.claim(60), jobs.claim(60)) if job] == ids
    assert jobs.waiting() == 3


def test_names_are_searched_as_they_are(tmp_path: Path) -> None:
    jobs = Jobs(tmp_path)
    add(jobs, "100%_sure.png")
    add(jobs, "100 not.png")
    assert [job.name for job in jobs.recent(text="100%")] == ["100%_sure.png"]
    assert jobs.recent("somebody else") == []


def test_a_database_that_is_away_is_told_without_its_password(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="database of jobs") as told:
        Jobs(tmp_path, "postgresql://user:secret@127.0.0.1:9/none")
    assert "secret" not in str(told.value)
