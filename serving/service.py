"""What runs behind the routes: the model, the workers, the queue of jobs, and the figures for Prometheus."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from fastapi import HTTPException, UploadFile
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from starlette.concurrency import run_in_threadpool

from core.errors import UserError
from pipelines.prediction.model import ServedModel
from pipelines.prediction.predict import INTERVALS
from serving.champion import Follower
from serving.config import ServingConfig
from serving.gate import problem
from serving.jobs import Job, Jobs, utc
from serving.keys import KeyFile
from serving.predictor import Answer, Batcher, Predictor
from serving.workers import Limits, RefusedError, Workers

_CHUNK = 1 << 20
LEASE, BEAT = 15.0, 5.0  # seconds that a job is held, and between two renewals: what a death costs it
_FORGOTTEN = 600.0  # seconds since an upload without a job was written to last
_log = logging.getLogger(__name__)


class Service:
    """Everything that runs behind the routes."""

    def __init__(self, config: ServingConfig) -> None:
        self.config = config
        self.uploads = config.data / "uploads"
        self.uploads.mkdir(parents=True, exist_ok=True)
        self.keys = KeyFile(config.data)
        self.jobs = Jobs(config.data, config.database)
        self.workers = Workers(config.workers, config.deadline_seconds)
        self.batcher = Batcher(config.batch_window_ms)
        self.predictor = Predictor(self.workers, self.batcher, config.predict)
        self.champion = self._follower(config.model)
        self.shadow = self._follower(config.shadow) if config.shadow else None
        self.limits = Limits(config.max_pixels, config.max_seconds)
        self.active = 0
        self.metrics = Metrics(self)
        self._tasks: list[asyncio.Task[None]] = []

    def _follower(self, reference: str) -> Follower:
        own = self.config
        return Follower(reference, own.mlruns, device=own.device, poll_seconds=own.poll_seconds)

    async def start(self) -> None:
        """In the running event loop."""
        for follower in filter(None, (self.champion, self.shadow)):
            await run_in_threadpool(follower.start)
        self.batcher.start()
        loops = [self._work() for _ in range(self.config.workers)]
        self._tasks = [asyncio.create_task(each) for each in (*loops, self._beat(), self._tidy())]

    async def stop(self) -> None:
        """Jobs under way go on after the next start."""
        for task in self._tasks:
            task.cancel()
        for follower in filter(None, (self.champion, self.shadow)):
            await run_in_threadpool(follower.stop)
        await self.batcher.stop()
        await run_in_threadpool(self.workers.stop)
        self.jobs.close()

    def model(self) -> ServedModel:
        """The champion; 503 before there is one."""
        if self.champion.current is None:
            why = self.champion.problem or "the registry has no champion yet"
            raise HTTPException(503, f"no model answers yet: {why}", {"Retry-After": "5"})
        return self.champion.current

    def upload(self, id: str) -> Path:
        """Where an upload lies; its own name never reaches a path."""
        return self.uploads / id

    async def receive(self, file: UploadFile, id: str) -> tuple[str, int]:
        """Write an upload to its place; returns sha256 and size, or raises 413."""
        most, size, total = int(self.config.max_upload_mb * 1e6), 0, hashlib.sha256()
        try:
            with self.upload(id).open("wb") as kept:
                while chunk := await file.read(_CHUNK):
                    size += len(chunk)
                    if size > most:
                        raise HTTPException(413, f"the file is larger than {self.config.max_upload_mb:g} MB")
                    total.update(chunk)
                    await run_in_threadpool(kept.write, chunk)
        except BaseException as error:
            self.upload(id).unlink(missing_ok=True)
            if isinstance(error, OSError):
                raise HTTPException(507, f"the upload cannot be kept ({error.strerror}): try later") from error
            raise
        return total.hexdigest(), size

    async def judge(self, job: Job) -> dict[str, Any]:
        """Answer one job and write it down; raises RefusedError for a file that is not taken."""
        model = self.model()
        path = self.upload(job.id)
        if not path.is_file():
            raise RefusedError(410, "the upload is gone: send it again")
        answer = await self.predictor.judge(path, model)
        told = verdict_json(job, answer)
        self.metrics.judged(answer)
        if self.shadow is not None and self.shadow.current is not None:
            self._shadow(path, answer, self.shadow.current)
        await self.write_down(job, told, told["verdict"])
        return told

    async def write_down(self, job: Job, told: dict[str, Any], verdict: str | None = None) -> None:
        """The answer of a job, or without a verdict the problem."""
        await run_in_threadpool(lambda: self.jobs.finish(job.id, told, verdict=verdict))

    def _shadow(self, path: Path, answer: Answer, model: ServedModel) -> None:
        async def score() -> None:
            with suppress(RefusedError):
                other = await self.predictor.judge(path, model)
                self.metrics.shadowed(answer, other)
                _log.info("shadow %s: %s %s", model.name, other.said.likelihood, other.said.verdict)

        self._tasks.append(asyncio.create_task(score()))
        self._tasks = [task for task in self._tasks if not task.done()]

    async def finish(self, job: Job) -> None:
        """Judge a job of the queue; what goes wrong is its result."""
        try:
            await self.judge(job)
        except RefusedError as error:
            await self.write_down(job, problem(error.status, error.detail))
        except HTTPException:  # no model yet
            self.jobs.release(job.id)
            await asyncio.sleep(1)
        except asyncio.CancelledError:
            self.jobs.release(job.id)
            raise
        except UserError:  # the database is away: who claims the job later judges it again
            raise
        except Exception:
            _log.exception("job %s failed", job.id)
            await self.write_down(job, problem(500, "the file could not be judged: the log says why"))

    async def _work(self) -> None:
        while True:
            job = None
            try:
                if self.champion.current is not None:
                    job = await run_in_threadpool(self.jobs.claim, LEASE)
                if job is not None:
                    await self.finish(job)
            except UserError as error:
                _log.warning("%s", error)
                await asyncio.sleep(1)
            if job is None:
                await asyncio.sleep(0.2)

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(BEAT)
            with suppress(UserError):
                await run_in_threadpool(self.jobs.renew, LEASE)

    async def _tidy(self) -> None:
        while True:
            with suppress(UserError, OSError):
                await run_in_threadpool(self.delete_old_uploads)
            await asyncio.sleep(30)

    def delete_old_uploads(self) -> None:
        """Uploads whose verdict is older than `keep_minutes`, and those that a death left without a job."""
        for file in self.uploads.iterdir():
            over = self.jobs.is_over(file.name, self.config.keep_minutes)
            if over is None:  # being received, which changes it all the time, or forgotten
                over = time.time() - file.stat().st_mtime > _FORGOTTEN
            if over:
                file.unlink(missing_ok=True)


class Metrics:
    """Figures for Prometheus, in a registry of their own."""

    def __init__(self, service: Service) -> None:
        self.registry = registry = CollectorRegistry()
        shares = [i / 20 for i in range(1, 21)]
        gaps = [i / 10 - 1 for i in range(21)]
        name = "counterforge"
        self.requests = Counter(f"{name}_requests_total", "By route and status", ["route", "status"], registry=registry)
        self.seconds = Histogram(f"{name}_request_seconds", "Time to answer", ["route"], registry=registry)
        self.verdicts = Counter(f"{name}_verdicts_total", "By model", ["model", "verdict"], registry=registry)
        self.likelihood = Histogram(f"{name}_likelihood", "P(fake)", ["model"], buckets=shares, registry=registry)
        self.gap = Histogram(f"{name}_shadow_gap", "P(fake) of shadow - champion", buckets=gaps, registry=registry)
        gauges = {
            "active": ("Requests under way", lambda: service.active),
            "swaps": ("Changes of the champion", lambda: service.champion.swaps),
            "jobs_waiting": ("Jobs queued or running", service.jobs.waiting),
            "lost_workers": ("Workers that died or were stopped", lambda: service.workers.lost),
        }
        for of, (text, value) in gauges.items():
            Gauge(f"counterforge_{of}", text, registry=registry).set_function(value)

    def judged(self, answer: Answer) -> None:
        """Count an answer."""
        self.verdicts.labels(answer.model.name, answer.said.verdict).inc()
        if answer.said.likelihood is not None:
            self.likelihood.labels(answer.model.name).observe(answer.said.likelihood)

    def shadowed(self, answer: Answer, other: Answer) -> None:
        """Count how far the shadow's score lies from the answer."""
        if answer.said.likelihood is not None and other.said.likelihood is not None:
            self.gap.observe(other.said.likelihood - answer.said.likelihood)


def verdict_json(job: Job, answer: Answer) -> dict[str, Any]:
    """The answer of the interface; `undecided` is what the command line calls uncertain."""
    said, model = answer.said, answer.model
    faces = [
        {
            "track": face.track,
            "box": list(face.box),
            "likelihood": face.likelihood,
            "verdict": _word(face.verdict),
            "frame": face.frame,
            "t_s": face.time_s,
        }
        for face in said.faces
    ]
    timeline = [
        {"t_s": face.time_s, "track": face.track, "likelihood": face.likelihood}
        for face in said.faces
        if face.time_s is not None
    ]
    return {
        "id": job.id,
        "model": {"version": model.version, "name": model.name, "digest": model.digest},
        "media": {"sha256": job.sha256, "bytes": job.size, "kind": said.kind, "frames": said.frames},
        "verdict": _word(said.verdict),
        "likelihood": said.likelihood,
        "interval": None if said.low is None else [said.low, said.high],
        "interval_method": said.interval_method or None,
        "interval_means": INTERVALS.get(said.interval_method),
        "threshold": model.threshold,
        "band": list(model.band) if model.band else None,
        "faces": faces,
        "timeline": timeline,
        "reason": said.reason or None,
        "warnings": list(said.warnings),
        "timings_ms": dict(answer.timings_ms),
    }


def _word(verdict: str) -> str:
    return {"uncertain": "undecided"}.get(verdict, verdict)


def job_json(job: Job) -> dict[str, Any]:
    """A verdict with where it stands."""
    about = {
        "id": job.id,
        "status": job.status,
        "name": job.name,
        "created": utc(job.created),
        "finished": utc(job.finished),
    }
    if job.status == "failed":
        return about | {"problem": job.result}
    return about | (job.result or {})
