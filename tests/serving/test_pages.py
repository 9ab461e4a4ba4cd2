"""The workbench in a real browser: pictures, videos, saliency maps, feedback, search, and no error on the console."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from serving.api import create_app
from serving.config import ServingConfig

playwright = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Debian's chromium is not installed")
SHOTS = os.environ.get("COUNTERFORGE_SCREENSHOTS")


@pytest.fixture(scope="module")
def address(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with contextlib.closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    config = ServingConfig(
        model=str(model_folder), data=tmp_path_factory.mktemp("pages"), workers=1, device="cpu", port=port
    )
    server = uvicorn.Server(uvicorn.Config(create_app(config), port=port, log_level="warning"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.05)
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    thread.join(timeout=30)


@pytest.fixture
def page(address: str) -> Iterator[Any]:
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        opened = browser.new_page(viewport={"width": 1100, "height": 900})
        errors: list[str] = []
        opened.on("console", lambda said: errors.append(said.text) if said.type == "error" else None)
        opened.on("pageerror", lambda error: errors.append(str(error)))
        opened.goto(address)
        yield opened
        browser.close()
    assert errors == []


def upload(page: Any, *files: Path) -> None:
    page.set_input_files("#files", [str(file) for file in files])


def test_a_picture_with_its_saliency_map_and_feedback(page: Any, media: Path) -> None:
    upload(page, media / "one.png")
    card = page.locator("article")
    card.locator(".verdict").wait_for(timeout=60_000)
    assert card.locator(".box").count() == 1
    assert "P(fake)" in card.inner_text()
    assert "venn-abers" in card.inner_text()
    heat = card.locator("img.heat")
    heat.wait_for(state="attached")
    card.locator(".opacity").fill("60")
    assert heat.evaluate("node => node.style.opacity") == "0.6"
    card.locator("summary").click()
    card.get_by_role("button", name="It is real").click()
    page.get_by_text("kept apart until it is reviewed").wait_for()
    if SHOTS:
        page.screenshot(path=f"{SHOTS}/workbench.png")


def test_a_video_with_its_time_line(page: Any, media: Path) -> None:
    upload(page, media / "clip.mp4")
    page.locator("svg.timeline").wait_for(timeout=60_000)
    assert page.locator("article button", has_text=" s: ").count() == 3
    page.locator("video.player").evaluate("v => new Promise(done => v.readyState ? done() : v.onloadedmetadata = done)")
    area = page.locator("svg.timeline").bounding_box()
    page.mouse.click(area["x"] + area["width"] * 0.75, area["y"] + 20)
    assert page.locator("video.player").evaluate("v => v.currentTime") == pytest.approx(2.25, abs=0.3)


def test_several_files_and_bad_ones(page: Any, media: Path, tmp_path: Path) -> None:
    hostile = tmp_path / "<img src=x onerror=alert(1)>.png"
    hostile.write_bytes((media / "meadow.png").read_bytes())
    upload(page, media / "meadow.png", hostile)
    page.locator("article .verdict").nth(1).wait_for(timeout=60_000)
    assert page.get_by_text("No face was found").count() == 2
    assert page.locator("article img[src='x']").count() == 0


def test_recent_analyses_are_searched_and_deleted(page: Any, address: str, media: Path) -> None:
    upload(page, media / "deep" / "er" / "two.png")
    page.locator("article .verdict").wait_for(timeout=60_000)
    page.goto(f"{address}/recent")
    page.fill("#text", "two.png")
    playwright.expect(page.locator("#rows tr")).to_have_count(1)
    page.locator("#rows button", has_text="two.png").click()
    page.locator("article .box").nth(1).wait_for()
    page.get_by_role("button", name="Delete two.png").click()
    playwright.expect(page.locator("#rows tr")).to_have_count(0)


def test_the_page_of_the_model_and_a_telephone(page: Any, address: str) -> None:
    page.goto(f"{address}/model")
    page.get_by_text("Threshold").wait_for()
    assert "people or sources of val" in page.inner_text("#about")
    page.set_viewport_size({"width": 360, "height": 740})
    for path in ("/", "/recent", "/model"):
        page.goto(address + path)
        assert page.evaluate("document.documentElement.scrollWidth <= 360")
    playwright.expect(page.locator("#champion")).to_contain_text("answers:")
