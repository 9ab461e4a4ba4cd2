"""The HTTP interface: verdicts on pictures and videos, batches, feedback, the model, health and figures."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import time
import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import FastAPI, File, HTTPException, Query, Request, Response, UploadFile
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse, StreamingResponse
from fastapi.staticfiles import StaticFiles
from jinja2 import Environment, FileSystemLoader
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel, ConfigDict, Field
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException as StarletteHTTPException

from core.errors import UserError, one_line
from pipelines.prediction.model import ServedModel
from serving.config import ServingConfig
from serving.gate import Gate, problem
from serving.jobs import Job
from serving.pictures import faces_at, heatmap
from serving.service import LEASE, Service, job_json
from serving.workers import RefusedError

_HERE = Path(__file__).parent
# What a browser may show of an upload, by its first bytes; all else is handed out as bytes to save.
_TYPES = (
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"\x89PNG", "image/png"),
    (b"GIF8", "image/gif"),
    (b"\x1a\x45\xdf\xa3", "video/webm"),
)
_log = logging.getLogger(__name__)
_ID = re.compile(r"[0-9a-f]{32}")


class Feedback(BaseModel):
    """What a person says about a verdict."""

    model_config = ConfigDict(extra="forbid")

    truth: Literal["real", "fake"]
    note: str = Field(default="", max_length=2000)
    consent_to_train: bool = False


def create_app(config: ServingConfig | None = None) -> FastAPI:
    """The application; settings come from the argument, or as JSON from COUNTERFORGE_SERVING."""
    if config is None:
        config = ServingConfig.model_validate_json(os.environ.get("COUNTERFORGE_SERVING", "{}"))
    service = Service(config)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        await service.start()
        yield
        await service.stop()

    app = FastAPI(
        title="Counterforge",
        description="Is this picture or video a fake face? Answers by the promoted model.",
        version="1",
        lifespan=lifespan,
        max_body_size=int(config.max_upload_mb * 1e6) + 100_000,
    )
    app.state.service = service
    app.mount("/static", StaticFiles(directory=_HERE / "static"), name="static")
    _add_errors(app)
    _add_verdicts(app, service)
    _add_about(app, service)
    _add_pages(app)

    @app.middleware("http")
    async def bounded(request: Request, call_next: Any) -> Response:
        if request.method == "POST" and service.active >= config.queue:
            told = problem(503, f"{service.active} requests are under way already: try again")
            return JSONResponse(told, 503, {"Retry-After": "1"}, media_type="application/problem+json")
        service.active += 1
        started = time.perf_counter()
        try:
            answer: Response = await call_next(request)
        finally:
            service.active -= 1
        route = getattr(request.scope.get("route"), "path", "other")
        service.metrics.requests.labels(route, str(answer.status_code)).inc()
        service.metrics.seconds.labels(route).observe(time.perf_counter() - started)
        return answer

    app.add_middleware(Gate, config=config, keys=service.keys)
    return app


def _add_errors(app: FastAPI) -> None:
    @app.exception_handler(StarletteHTTPException)
    async def told(_request: Request, error: StarletteHTTPException) -> Response:
        content = problem(error.status_code, one_line(str(error.detail)))
        return JSONResponse(content, error.status_code, error.headers, media_type="application/problem+json")

    @app.exception_handler(RefusedError)
    async def refused(_request: Request, error: RefusedError) -> Response:
        return JSONResponse(
            problem(error.status, one_line(error.detail)), error.status, media_type="application/problem+json"
        )

    @app.exception_handler(RequestValidationError)
    async def invalid(_request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        content = problem(422, one_line(f"{where}: {first['msg']}"))
        return JSONResponse(content, 422, media_type="application/problem+json")

    @app.exception_handler(Exception)
    async def failed(_request: Request, error: Exception) -> Response:
        _log.error("a request failed", exc_info=error)
        content = problem(500, "the request could not be answered: the log of the service says why")
        return JSONResponse(content, 500, media_type="application/problem+json")

    @app.exception_handler(UserError)
    async def away(_request: Request, error: UserError) -> Response:
        content = problem(503, str(error))
        return JSONResponse(content, 503, {"Retry-After": "5"}, media_type="application/problem+json")


def _add_verdicts(app: FastAPI, service: Service) -> None:
    def own(request: Request, id: str) -> Job:
        """The verdict of that id, if it is the asker's."""
        if not _ID.fullmatch(id):
            raise HTTPException(404, "there is no such verdict")
        try:
            job = service.jobs.get(id)
        except KeyError as error:
            raise HTTPException(404, "there is no such verdict") from error
        if job.owner != request.state.owner:
            raise HTTPException(404, "there is no such verdict")
        return job

    @app.post("/v1/verdicts", responses={202: {}, 413: {}, 415: {}, 429: {}, 503: {}})
    async def post_verdict(
        request: Request, file: Annotated[UploadFile, File()], wait: Annotated[bool, Query()] = True
    ) -> Response:
        """Judge a picture at once, or queue a video (or anything with wait=0) and answer 202 with its address."""
        service.model()
        scratch = uuid.uuid4().hex
        sha256, size = await service.receive(file, scratch)
        try:
            kind = await service.workers.inspect(service.upload(scratch), service.limits)
        except BaseException:
            service.upload(scratch).unlink(missing_ok=True)
            raise
        at_once = wait and kind == "image"
        name = one_line(Path(file.filename or "upload").name, 200)
        job = await _kept(
            service,
            request.state.owner,
            name,
            sha256,
            size,
            scratch,
            held=LEASE * at_once,
        )
        if not at_once:
            return JSONResponse(job_json(job), 202, {"Location": f"/v1/verdicts/{job.id}"})
        try:
            told = await service.judge(job)
        except RefusedError as error:
            await service.write_down(job, problem(error.status, error.detail))
            raise
        return JSONResponse(told)

    @app.get("/v1/verdicts")
    def list_verdicts(
        request: Request,
        verdict: Annotated[str | None, Query(max_length=12)] = None,
        q: Annotated[str, Query(max_length=100)] = "",
        limit: Annotated[int, Query(ge=1, le=500)] = 100,
    ) -> list[dict[str, Any]]:
        """The latest verdicts of whoever asks."""
        return [_short(job) for job in service.jobs.recent(request.state.owner, verdict=verdict, text=q, limit=limit)]

    @app.get("/v1/verdicts/{id}")
    def get_verdict(request: Request, id: str) -> dict[str, Any]:
        """A verdict, or where its job stands."""
        job = own(request, id)
        return job_json(job) | {"feedback": service.jobs.feedback(id)}

    @app.delete("/v1/verdicts/{id}", status_code=204)
    def delete_verdict(request: Request, id: str) -> None:
        """Forget a verdict and its upload."""
        job = own(request, id)
        service.jobs.delete(job.id)
        for file in service.uploads.glob(f"{job.id}*"):
            file.unlink(missing_ok=True)

    @app.get("/v1/verdicts/{id}/media")
    def get_media(request: Request, id: str) -> Response:
        """The upload itself, as long as it is kept; ranges are served."""
        path = _upload(service, own(request, id))
        with path.open("rb") as file:
            start = file.read(16)
        kind = next((kind for sign, kind in _TYPES if start.startswith(sign)), "application/octet-stream")
        kind = "video/mp4" if start[4:8] == b"ftyp" else "image/webp" if start[8:12] == b"WEBP" else kind
        shown = "attachment" if kind == "application/octet-stream" else "inline"
        headers = {"Content-Disposition": shown, "Cache-Control": "private, no-store"}
        return FileResponse(path, media_type=kind, headers=headers)

    @app.get("/v1/verdicts/{id}/heatmap.png")
    async def get_heatmap(request: Request, id: str, t: Annotated[float | None, Query(ge=0)] = None) -> Response:
        """The saliency map for the fake logit as a transparent PNG of the frame's size; of a video at `t` seconds."""
        job = own(request, id)
        path, result = _upload(service, job), job.result or {}
        if job.status != "done" or not result.get("faces"):
            raise HTTPException(404, "this verdict has no face to explain")
        model = service.model()
        if model.digest != result["model"]["digest"]:
            raise HTTPException(409, f"{result['model']['name']} judged it, which answers no more: send the file again")
        faces = faces_at(result, t)
        pixels = await service.workers.frame(path, faces[0].frame, service.config.predict)
        picture = await service.batcher.in_thread(heatmap, pixels, faces, model, service.config.predict)
        return Response(picture, media_type="image/png", headers={"Cache-Control": "private, no-store"})

    @app.get("/v1/verdicts/{id}/events")
    async def get_events(request: Request, id: str) -> StreamingResponse:
        """Server-sent events: `status` whenever it changes, until the job has ended."""
        own(request, id)

        async def events() -> AsyncIterator[str]:
            last = ""
            while not await request.is_disconnected():
                try:
                    job = await run_in_threadpool(service.jobs.get, id)
                except (KeyError, UserError):
                    return
                if job.status != last:
                    last = job.status
                    yield f'event: status\ndata: {{"id": "{id}", "status": "{last}"}}\n\n'
                if last in ("done", "failed"):
                    return
                await asyncio.sleep(0.3)

        return StreamingResponse(events(), media_type="text/event-stream", headers={"Cache-Control": "no-store"})

    @app.post("/v1/verdicts/{id}/feedback", status_code=204)
    def post_feedback(request: Request, id: str, said: Feedback) -> None:
        """Say what the truth is. It is kept apart until somebody has reviewed it, and trained on only with consent."""
        job = own(request, id)
        if job.status != "done":
            raise HTTPException(409, f"the job is {job.status}: there is no verdict to speak of yet")
        service.jobs.say(job.id, request.state.owner, said.truth, said.note, said.consent_to_train)

    most = service.config.max_batch_files

    @app.post("/v1/batches", status_code=202, max_body_size=int(service.config.max_batch_mb * 1e6))
    async def post_batch(request: Request, files: Annotated[list[UploadFile], File()]) -> dict[str, Any]:
        """Queue many files; one that is not taken spoils none of the others."""
        service.model()
        if len(files) > most:
            raise HTTPException(413, f"{len(files)} files are more than {most}: send several batches")
        batch = uuid.uuid4().hex
        refused: list[dict[str, Any]] = []
        for file in files:
            name, scratch = one_line(Path(file.filename or "upload").name, 200), uuid.uuid4().hex
            try:
                sha256, size = await service.receive(file, scratch)
                await service.workers.inspect(service.upload(scratch), service.limits)
                await _kept(service, request.state.owner, name, sha256, size, scratch, batch=batch)
            except (RefusedError, HTTPException) as error:
                service.upload(scratch).unlink(missing_ok=True)
                status = error.status if isinstance(error, RefusedError) else error.status_code
                refused.append({"name": name, "problem": problem(status, one_line(str(error.detail)))})
        jobs = service.jobs.recent(request.state.owner, batch=batch, limit=most)
        if not jobs:
            first = refused[0]["problem"] if refused else problem(422, "no file was sent")
            raise HTTPException(int(first["status"]), f"no file was taken: {first['detail']}")
        return {"id": batch, "verdicts": [job.id for job in jobs], "refused": refused}

    @app.get("/v1/batches/{id}")
    def get_batch(request: Request, id: str) -> dict[str, Any]:
        """All verdicts of a batch, and how many of them are done."""
        jobs = service.jobs.recent(request.state.owner, batch=id, limit=most) if _ID.fullmatch(id) else []
        if not jobs:
            raise HTTPException(404, "there is no such batch")
        statuses = [job.status for job in jobs]
        counts = {status: statuses.count(status) for status in ("queued", "running", "done", "failed")}
        return {"id": id, "counts": counts, "verdicts": [job_json(job) for job in jobs]}


def _add_about(app: FastAPI, service: Service) -> None:
    @app.get("/v1/model")
    def get_model() -> dict[str, Any]:
        """What answers: version, threshold, band, figures, and where not to trust it."""
        return {**_about(service.model()), "card": _card(service), "following": service.config.model}

    @app.get("/healthz")
    async def health() -> dict[str, str]:
        """Whether the process lives."""
        return {"status": "alive"}

    @app.get("/readyz")
    async def ready() -> Response:
        """Whether a model answers; and what is wrong with the registry while the model of before goes on."""
        model = service.champion.current
        told: Mapping[str, Any] = {
            "ready": model is not None,
            "model": model.name if model else None,
            "registry": service.champion.problem or "ok",
        }
        return JSONResponse(told, 200 if model else 503)

    @app.get("/metrics")
    def metrics() -> Response:
        """Figures in Prometheus' format."""
        return Response(generate_latest(service.metrics.registry), media_type=CONTENT_TYPE_LATEST)


def _add_pages(app: FastAPI) -> None:
    pages = Environment(loader=FileSystemLoader(_HERE / "pages"), autoescape=True)

    def page(name: str) -> Any:
        async def show() -> HTMLResponse:
            return HTMLResponse(pages.get_template(f"{name}.html").render(page=name))

        return show

    for path, name in (("/", "judge"), ("/recent", "recent"), ("/model", "model")):
        app.get(path, include_in_schema=False)(page(name))


async def _kept(service: Service, owner: str, name: str, sha256: str, size: int, id: str, **more: Any) -> Job:
    """A new job whose upload lies in its place already."""
    return await run_in_threadpool(
        lambda: service.jobs.add(owner=owner, name=name, sha256=sha256, size=size, id=id, **more)
    )


def _upload(service: Service, job: Job) -> Path:
    path = service.upload(job.id)
    if not path.is_file():
        raise HTTPException(410, "the upload is kept no longer: send it again")
    return path


def _short(job: Job) -> dict[str, Any]:
    told = job_json(job)
    names = ("id", "name", "status", "created", "verdict", "likelihood", "interval", "media", "model")
    return {name: told.get(name) for name in names}


def _about(model: ServedModel) -> dict[str, Any]:
    return {
        "name": model.name,
        "version": model.version,
        "digest": model.digest,
        "image_size": model.image_size,
        "threshold": model.threshold,
        "band": list(model.band) if model.band else None,
        "val_people": model.intervals.groups if model.intervals else None,
    }


def _card(service: Service) -> str:
    """The model card in Markdown, "" for a folder."""
    from pipelines.release.lineage import find_model
    from pipelines.release.model_card import version_card
    from tracking.store import open_store

    if service.champion.model_id is None:
        return ""
    try:
        store = open_store(service.config.mlruns)
        version = find_model(store, service.champion.model_id).version
        return version_card(store, version) if version else ""
    except UserError as error:  # the registry is away: the model itself goes on answering
        return f"The card cannot be read: {error}"
