"""The queue: each job to one process, taken up again after a death, and never answered twice."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from core.errors import UserError
from serving.jobs import Job, Jobs
from tests.tuning import postgres


@pytest.fixture(scope="module")
def server() -> Iterator[postgres.Postgres]:
    yield from postgres.running()


@pytest.fixture(params=["sqlite", "postgresql"])
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], Jobs]:
    """Opens one database again and again, as the processes of a service do."""
    address = None if request.param == "sqlite" else request.getfixturevalue("server").url
    first = Jobs(tmp_path, address)
    for job in first.recent(limit=10_000):
        first.delete(job.id)
    return lambda: Jobs(tmp_path, address)


def add(jobs: Jobs, name: str = "a.png") -> str:
    return jobs.add(owner="local", name=name, sha256="0" * 64, size=1).id


def test_a_job_goes_to_one_process_and_a_late_result_is_refused(opened: Callable[[], Jobs]) -> None:
    one, two = opened(), opened()
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


def test_who_lives_keeps_what_it_holds(opened: Callable[[], Jobs]) -> None:
    one, two = opened(), opened()
    id = add(one)
    assert one.claim(0.3) is not None
    one.renew(60)
    time.sleep(0.4)
    assert two.claim(60) is None
    assert one.finish(id, {"verdict": "fake"}, verdict="fake")


def test_many_processes_at_once_take_each_job_once(opened: Callable[[], Jobs]) -> None:
    jobs = opened()
    ids = [add(jobs) for _ in range(60)]

    def work(_number: int) -> list[str]:
        own, taken = opened(), []
        while isinstance(job := own.claim(60), Job):
            assert own.finish(job.id, {}, verdict="real")
            taken.append(job.id)
        return taken

    with ThreadPoolExecutor(4) as pool:
        taken = [id for part in pool.map(work, range(4)) for id in part]
    assert sorted(taken) == sorted(ids)


def test_a_job_that_kills_whoever_touches_it_is_failed_in_the_end(opened: Callable[[], Jobs]) -> None:
    jobs = opened()
    id = add(jobs)
    for _ in range(3):
        assert jobs.claim(-1) is not None
    assert jobs.claim(60) is None
    assert jobs.get(id).status == "failed"


def test_the_oldest_comes_first_and_a_released_one_again(opened: Callable[[], Jobs]) -> None:
    jobs = opened()
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


def test_when_an_upload_may_go(opened: Callable[[], Jobs]) -> None:
    jobs = opened()
    young, done, kept = (add(jobs) for _ in range(3))
    for _ in range(3):
        assert jobs.claim(60) is not None
    for id in (done, kept):
        assert jobs.finish(id, {}, verdict="real")
    jobs.say(kept, "local", "real", "", consent=True)
    assert [jobs.is_over(id, 0) for id in (young, done, kept, "0" * 32)] == [False, True, False, None]
    assert jobs.is_over(done, 5) is False
