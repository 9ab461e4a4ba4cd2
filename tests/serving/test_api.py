"""The HTTP interface: verdicts, batches, feedback, errors, keys and limits."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from classifier.scoring import score
from core.manifest import Manifest
from pipelines.prediction.model import serve_model
from serving.keys import KeyFile

Serve = Callable[..., TestClient]


@pytest.fixture(scope="module")
def client(serve: Serve) -> TestClient:
    return serve()


def send(client: TestClient, path: Path, **query: object) -> object:
    return client.post("/v1/verdicts", files={"file": (path.name, path.read_bytes())}, params=query)


def until_done(client: TestClient, address: str) -> dict[str, object]:
    for _ in range(300):
        told = client.get(address).json()
        if told["status"] in ("done", "failed"):
            return told
        time.sleep(0.2)
    raise AssertionError("the job never ended")


def test_a_picture_is_judged_at_once(client: TestClient, media: Path, model_folder: Path) -> None:
    answer = send(client, media / "one.png")
    assert answer.status_code == 200
    told = answer.json()
    assert told["verdict"] in ("real", "fake", "undecided")
    assert told["media"]["kind"] == "image"
    assert told["interval_method"] == "venn-abers"
    assert told["interval"][0] <= told["interval"][1]
    assert len(told["faces"]) == 1
    assert told["model"]["digest"] == serve_model(str(model_folder), device="cpu").digest
    again = client.get(f"/v1/verdicts/{told['id']}").json()
    assert again["likelihood"] == told["likelihood"]
    assert again["status"] == "done"
    shown = client.get(f"/v1/verdicts/{told['id']}/media", headers={"Range": "bytes=0-3"})
    assert (shown.status_code, shown.content) == (206, b"\x89PNG")
    assert shown.headers["content-type"] == "image/png"
    heat = client.get(f"/v1/verdicts/{told['id']}/heatmap.png")
    assert heat.headers["content-type"] == "image/png"
    assert heat.content[:4] == b"\x89PNG"
    assert client.delete(f"/v1/verdicts/{told['id']}").status_code == 204
    assert client.get(f"/v1/verdicts/{told['id']}").status_code == 404
    assert client.get(f"/v1/verdicts/{told['id']}/media").status_code == 404


def test_served_scores_are_those_of_the_scoring(serve: Serve, model_folder: Path, faces: Path, cache: Path) -> None:
    client = serve(predict={"already_cropped": True})
    rows = Manifest.read(faces).select(split="test", dataset="near")
    expected = score(serve_model(str(model_folder), device="cpu").network, rows, cache)
    told = [send(client, path).json()["likelihood"] for path in rows.files[:12]]
    assert told == pytest.approx(expected[:12].tolist(), abs=1e-6)


def test_a_video_is_a_job_with_events(client: TestClient, media: Path) -> None:
    answer = send(client, media / "clip.mp4")
    assert answer.status_code == 202
    address = answer.headers["location"]
    with client.stream("GET", f"{address}/events") as events:
        lines = [line for line in events.iter_lines() if line.startswith("data:")]
    assert json.loads(lines[-1].removeprefix("data: "))["status"] == "done"
    told = until_done(client, address)
    assert told["verdict"] in ("real", "fake", "undecided")
    assert [point["t_s"] for point in told["timeline"]] == [0.0, 1.0, 2.0, 3.0]
    assert told["interval_method"] == "block-bootstrap"
    with Image.open(__import__("io").BytesIO(client.get(f"{address}/heatmap.png?t=2.2").content)) as heat:
        assert (heat.size, heat.mode) == ((480, 360), "RGBA")


def test_a_picture_may_wait_too(client: TestClient, media: Path) -> None:
    answer = send(client, media / "one.png", wait=0)
    assert answer.status_code == 202
    assert until_done(client, answer.headers["location"])["verdict"] in ("real", "fake", "undecided")


def test_no_face_is_a_result(client: TestClient, media: Path) -> None:
    told = send(client, media / "meadow.png").json()
    assert told["verdict"] == "no-face"
    assert told["likelihood"] is None
    assert client.get(f"/v1/verdicts/{told['id']}/heatmap.png").status_code == 404


def test_one_bad_file_spoils_no_batch(client: TestClient, media: Path) -> None:
    names = ("one.png", "notes.txt", "meadow.png")
    answer = client.post("/v1/batches", files=[("files", (name, (media / name).read_bytes())) for name in names])
    assert answer.status_code == 202
    told = answer.json()
    assert [one["name"] for one in told["refused"]] == ["notes.txt"]
    assert told["refused"][0]["problem"]["status"] == 415
    for _ in range(200):
        batch = client.get(f"/v1/batches/{told['id']}").json()
        if batch["counts"]["done"] == 2:
            break
        time.sleep(0.2)
    assert {one["verdict"] for one in batch["verdicts"]} >= {"no-face"}
    assert client.post("/v1/batches", files=[("files", ("a.txt", b"no"))]).status_code == 415
    assert client.get("/v1/batches/" + "0" * 32).status_code == 404


def test_feedback_is_kept_apart(client: TestClient, media: Path) -> None:
    id = send(client, media / "one.png").json()["id"]
    said = {"truth": "real", "note": "I was there", "consent_to_train": True}
    assert client.post(f"/v1/verdicts/{id}/feedback", json=said).status_code == 204
    kept = client.get(f"/v1/verdicts/{id}").json()["feedback"]
    assert kept["truth"] == "real"
    assert kept["state"] == "quarantined"
    wrong = client.post(f"/v1/verdicts/{id}/feedback", json={"truth": "maybe"})
    assert wrong.status_code == 422
    assert wrong.headers["content-type"] == "application/problem+json"


def test_what_is_no_medium_is_told_by_content(client: TestClient, media: Path, tmp_path: Path) -> None:
    text = tmp_path / "face.png"
    text.write_bytes(b"<script>alert(1)</script>")
    answer = send(client, text)
    assert answer.status_code == 415
    assert answer.json()["title"] == "Unsupported Media Type"
    assert "neither a picture nor a video" in answer.json()["detail"]
    renamed = tmp_path / "face.txt"
    renamed.write_bytes((media / "one.png").read_bytes())
    assert send(client, renamed).status_code == 200
    assert client.post("/v1/verdicts", data={"nothing": "1"}).status_code == 422
    assert client.get("/v1/verdicts/../../etc/passwd").status_code == 404
    assert client.get("/v1/verdicts/" + "g" * 32).status_code == 404


def test_limits(serve: Serve, media: Path, tmp_path: Path) -> None:
    client = serve(max_upload_mb=0.2, max_pixels=100_000, max_seconds=2, requests_per_minute=5)
    big = tmp_path / "big.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (400, 400, 3), dtype=np.uint8)).save(big)
    assert send(client, big).status_code == 413  # bytes
    wide = tmp_path / "wide.png"
    Image.new("RGB", (400, 400)).save(wide)
    answer = send(client, wide)
    assert (answer.status_code, "160000" in answer.text or "400 x 400" in answer.text) == (413, True)
    client.app.state.service.limits = type(client.app.state.service.limits)(10**9, 2)
    assert send(client, media / "clip.mp4").status_code == 413
    client.get("/v1/verdicts")
    client.get("/v1/verdicts")
    late = client.get("/v1/verdicts")
    assert late.status_code == 429
    assert int(late.headers["retry-after"]) >= 1
    assert client.get("/healthz").status_code == 200


def test_keys(serve: Serve, media: Path, tmp_path: Path) -> None:
    keys = KeyFile(tmp_path)
    token = keys.add("lab")
    other = keys.add("guest")
    client = serve(data=tmp_path)
    assert client.get("/v1/model").status_code == 401
    assert client.get("/v1/model").headers["www-authenticate"] == "Bearer"
    assert client.get("/v1/model", headers={"Authorization": "Bearer nonsense"}).status_code == 403
    own = {"Authorization": f"Bearer {token}"}
    files = {"file": ("one.png", (media / "one.png").read_bytes())}
    id = client.post("/v1/verdicts", files=files, headers=own).json()["id"]
    assert client.get(f"/v1/verdicts/{id}", headers=own).status_code == 200
    assert client.get(f"/v1/verdicts/{id}", headers={"X-API-Key": other}).status_code == 404  # not theirs
    keys.revoke("lab")
    assert client.get(f"/v1/verdicts/{id}", headers=own).status_code == 403
    (tmp_path / "keys.json").write_text("{")
    assert client.get("/v1/model", headers=own).status_code == 503
    assert token not in (tmp_path / "keys.json").read_text()


def test_a_large_body_without_a_key_is_not_received(serve: Serve, tmp_path: Path) -> None:
    KeyFile(tmp_path).add("lab")
    client = serve(data=tmp_path)
    received = 0

    def body() -> object:
        nonlocal received
        for _ in range(200):
            received += 1
            yield b"x" * 100_000

    answer = client.post("/v1/verdicts", content=body(), headers={"Content-Type": "multipart/form-data; boundary=x"})
    assert answer.status_code == 401
    assert not any((tmp_path / "uploads").iterdir())


def test_other_sites_are_refused(client: TestClient) -> None:
    assert client.get("/v1/verdicts", headers={"Origin": "http://evil.example"}).status_code == 403
    assert client.get("/v1/verdicts", headers={"Host": "evil.example"}).status_code == 403
    answer = client.get("/")
    assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_uploads_go_in_time_unless_feedback_keeps_them(serve: Serve, media: Path) -> None:
    client = serve(keep_minutes=0)
    service = client.app.state.service  # type: ignore[attr-defined]
    gone, kept = (send(client, media / name).json()["id"] for name in ("one.png", "meadow.png"))
    client.post(f"/v1/verdicts/{kept}/feedback", json={"truth": "real", "consent_to_train": True})
    left, coming = (service.uploads / (sign * 32) for sign in "01")
    left.write_bytes(b"left by a death")
    os.utime(left, (0, 0))
    coming.write_bytes(b"the first part")
    time.sleep(0.05)
    service.delete_old_uploads()
    assert {file.name for file in service.uploads.iterdir()} == {kept, coming.name}
    assert client.get(f"/v1/verdicts/{gone}/media").status_code == 410
    assert client.get(f"/v1/verdicts/{gone}").json()["status"] == "done"


def test_before_there_is_a_champion(serve: Serve, media: Path, tmp_path: Path) -> None:
    client = serve(model="champion", mlruns=tmp_path / "mlruns")
    answer = send(client, media / "one.png")
    assert answer.status_code == 503
    assert "champion" in answer.json()["detail"]
    assert answer.headers["retry-after"]
    assert client.get("/readyz").status_code == 503
    assert client.get("/healthz").status_code == 200


def test_about(client: TestClient, media: Path) -> None:
    send(client, media / "one.png")
    told = client.get("/v1/model").json()
    assert 0 < told["threshold"] < 1
    figures = client.get("/metrics").text
    assert "counterforge_verdicts_total" in figures
    assert "counterforge_jobs_waiting 0.0" in figures
    assert 'route="/v1/verdicts"' in figures
    assert client.get("/openapi.json").json()["info"]["title"] == "Counterforge"
    assert client.get("/readyz").json()["registry"] == "ok"
    listed = client.get("/v1/verdicts", params={"q": "ONE"}).json()
    assert {one["name"] for one in listed} == {"one.png"}
