"""The live page in a real browser: type a word, see the mask change; phone, keyboard, dark."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from browsing import CHROMIUM, PHONE, opened, until
from numpy.typing import NDArray
from serving_site import Site, camera, running, served
from tiny_bundle import write_tiny_bundle

pytest.importorskip("fastapi", reason="needs pip install 'dedos-deploy[serve]'")
pytest.importorskip("playwright.sync_api", reason="needs pip install playwright")

from dedos_deploy.runtime import open_source  # noqa: E402
from dedos_deploy.runtime.serving.guard import Access  # noqa: E402
from dedos_deploy.trust import Kind, fit_trust  # noqa: E402

TOKEN = "a-token-that-is-long-enough"

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs a Chromium")


@pytest.fixture
def site(bundle_folder: Path, tmp_path: Path) -> Iterator[Site]:
    access = Access(port=0, per_second=2000)
    yield from served(bundle_folder, access, size="120x240", record_to=tmp_path)


def _picture(page: Any, camera: int) -> NDArray[np.uint8]:
    shot = page.locator("img.picture").nth(camera).screenshot()
    return np.asarray(cv2.imdecode(np.frombuffer(shot, np.uint8), 1))


def _at(picture: NDArray[np.uint8], part: float) -> NDArray[np.int64]:
    """Colour in the middle row, at a part of the width."""
    height, width = picture.shape[:2]
    return picture[height // 2, int(part * width)].astype(np.int64)


def test_a_frame_that_is_not_to_be_trusted_has_a_mark(browser: Any, tmp_path: Path) -> None:
    rows = np.random.default_rng(0).normal(0, 4, (40, 3)).astype(np.float32)
    trust = fit_trust([Kind("dark frames", "0" * 64, rows)], [3])
    bundle = write_tiny_bundle(tmp_path / "tiny", trust=trust)
    for site in served(bundle, Access(port=0, per_second=2000)):
        page, troubles = opened(browser, site)
        mark = page.locator(".doubt").first
        mark.wait_for(state="visible")
        assert "looks unlike those that the model learned" in mark.inner_text()
        assert not troubles


def test_a_new_word_changes_the_mask(site: Site, browser: Any) -> None:
    page, troubles = opened(browser, site)
    page.locator("#opacity").fill("1")
    page.wait_for_timeout(500)
    before = _at(_picture(page, 1), 0.5)
    card = page.locator("section.camera").nth(1)
    card.get_by_label("New word").fill("green")
    card.get_by_role("button", name="Add").click()
    card.get_by_text("green", exact=True).wait_for()
    for _ in range(40):
        page.wait_for_timeout(100)
        after = _at(_picture(page, 1), 0.5)
        if np.abs(after - before).max() > 60:
            break
    assert np.abs(after - before).max() > 60, (before, after)
    card.get_by_role("button", name="Remove green").click()
    for _ in range(40):
        page.wait_for_timeout(100)
        if np.abs(_at(_picture(page, 1), 0.5) - before).max() < 30:
            break
    assert np.abs(_at(_picture(page, 1), 0.5) - before).max() < 30
    assert not troubles


def test_a_word_that_is_there_already_is_explained(site: Site, browser: Any) -> None:
    page, troubles = opened(browser, site)
    card = page.locator("section.camera").first
    card.get_by_label("New word").fill("red")
    card.get_by_role("button", name="Add").click()
    card.locator(".answer", has_text="red").wait_for()
    assert site.client.get("/api/cameras/gate/classes").json()["version"] == 1
    assert not troubles


def test_by_keyboard_alone(site: Site, browser: Any) -> None:
    page, _ = opened(browser, site)
    for _ in range(30):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.name") == "word":
            break
    page.keyboard.type("table|desk")
    page.keyboard.press("Enter")
    page.locator("section.camera").first.get_by_text("table|desk").wait_for()
    words = site.client.get("/api/cameras/gate/classes").json()["classes"]
    assert [entry["entry"] for entry in words] == ["red", "green", "table|desk"]


def test_record_and_stop(site: Site, browser: Any, tmp_path: Path) -> None:
    page, troubles = opened(browser, site)
    card = page.locator("section.camera").first
    card.get_by_role("button", name="Record").click()
    card.get_by_role("button", name="Stop").wait_for()
    card.locator(".recording", has_text="frames").wait_for()
    page.wait_for_timeout(500)
    card.get_by_role("button", name="Stop").click()
    card.get_by_role("button", name="Record").wait_for()
    said = card.locator(".recording").inner_text()
    (video,) = tmp_path.glob("gate-*.mp4")
    with open_source(str(video)) as source:
        count = len(list(source))
    assert count >= 5 and said == f"{video}: {count} frames"
    assert not troubles


def test_a_threshold_and_a_colour(site: Site, browser: Any) -> None:
    page, troubles = opened(browser, site)
    page.locator("#opacity").fill("1")
    card = page.locator("section.camera").first
    card.get_by_label("Colour of red").fill("#102030")
    for _ in range(50):
        page.wait_for_timeout(100)
        # Red is the last bar.
        if np.abs(_at(_picture(page, 0), 0.85) - [0x30, 0x20, 0x10]).max() < 20:
            break
    assert np.abs(_at(_picture(page, 0), 0.85) - [0x30, 0x20, 0x10]).max() < 20
    threshold = card.get_by_label("Threshold of green")
    threshold.fill("0.35")
    threshold.press("Enter")
    deadline = 50
    while deadline := deadline - 1:
        entries = site.client.get("/api/cameras/gate/classes").json()["classes"]
        if [entry["entry"] for entry in entries] == ["red", "green@0.35"]:
            break
        page.wait_for_timeout(100)
    assert deadline, entries
    assert card.get_by_label("Threshold of green").input_value() == "0.35"
    assert not troubles


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_on_a_phone(site: Site, browser: Any, scheme: str) -> None:
    page, troubles = opened(browser, site, viewport=PHONE, color_scheme=scheme)
    page.wait_for_timeout(300)
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    back = page.evaluate("getComputedStyle(document.body).backgroundColor")
    level = int(back.split("(")[1].split(",")[0])
    assert level < 60 if scheme == "dark" else level > 200
    smallest = page.evaluate(
        "Math.min(...[...document.querySelectorAll('button')].filter(b => b.checkVisibility())"
        ".map(b => b.offsetHeight))"
    )
    assert smallest >= 36
    assert not troubles


def test_the_pointer_tells_word_and_confidence(site: Site, browser: Any) -> None:
    page, troubles = opened(browser, site)
    picture = page.locator("img.picture").first
    box = picture.bounding_box()
    here = page.locator(".here").first
    # Red is the last bar, green one in the middle; blue, between and before, is no word here.
    for part, said in ((0.85, "red, "), (0.5, "green, "), (0.15, "unlabelled, ")):
        picture.hover(position={"x": part * box["width"], "y": box["height"] / 2})
        page.locator(".here", has_text=said).first.wait_for(timeout=5000)
        assert here.inner_text().endswith(" %")
    page.mouse.move(0, 0)
    here.wait_for(state="hidden")
    assert not troubles


def test_words_and_the_rest_make_the_whole_picture(site: Site, browser: Any) -> None:
    page, troubles = opened(browser, site)
    table = page.locator("table.words").first
    assert table.locator("tbody th").all_inner_texts() == ["red", "green"]
    until(page, "document.querySelector('tfoot .share').textContent.endsWith('%')")
    parts = [float(text.split()[0]) for text in table.locator(".share").all_inner_texts()]
    assert sum(parts) == pytest.approx(100, abs=0.3) and min(parts) > 10
    assert "stays unlabelled" in page.locator(".background").first.inner_text()
    assert not troubles


def test_words_of_one_for_all(site: Site, browser: Any) -> None:
    page, troubles = opened(browser, site)
    page.get_by_role("button", name="Apply to all cameras").first.click()
    until(page, "document.querySelectorAll('table.words')[1].tBodies[0].rows.length === 2")
    words = site.client.get("/api/cameras/back yard/classes").json()["classes"]
    assert [entry["entry"] for entry in words] == ["red", "green"]
    assert not troubles


def test_full_screen_and_an_icon_that_the_policy_allows(site: Site, browser: Any) -> None:
    page, troubles = opened(browser, site)
    page.on("console", lambda message: troubles.append(message.text))
    page.get_by_role("button", name="Full screen").first.click()
    until(page, "document.fullscreenElement?.className === 'view'")
    icon = page.locator("link[rel=icon]").get_attribute("href")
    assert page.evaluate(
        "async (at) => { const i = new Image(); i.src = at; await i.decode(); return i.naturalWidth }",
        icon,
    )
    assert not troubles


def test_a_recording_is_played_and_a_strange_word_gets_a_hint(
    bundle_folder: Path, browser: Any
) -> None:
    source = "gate=scene:street?frames=6&size=24x32"
    with running(bundle_folder, "--source", source) as (_, client):
        page = browser.new_context().new_page()
        troubles: list[str] = []
        page.on("pageerror", lambda error: troubles.append(str(error)))
        page.goto(str(client.base_url))
        page.get_by_role("button", name="Play again").wait_for(timeout=10_000)
        assert page.locator(".state").inner_text() == "ended"
        assert page.locator(".time").inner_text() == "0:00 / 0:00"
        page.get_by_label("Position").fill("0.4")
        camera(client, lambda one: one["playback"]["seconds"] == 0.08)
        page.get_by_role("button", name="Play", exact=True).wait_for()
        assert float(page.get_by_label("Position").input_value()) == 0.4
        page.get_by_label("Loop").check()
        page.get_by_role("button", name="Play", exact=True).click()
        camera(client, lambda one: one["frames"] > 15 and one["state"] == "live")
        page.get_by_role("button", name="Pause").click()
        camera(client, lambda one: one["state"] == "paused")
        # One token per letter is what the text tower of this bundle has; its own words get no hint.
        page.get_by_label("New word").fill("lamp|torch")
        page.get_by_role("button", name="Add").click()
        page.locator(".hint").wait_for()
        hint = "The text tower spells “torch” out; it may not know it."
        assert page.locator(".hint").all_inner_texts() == [hint]
        assert not troubles


def test_live_cameras_have_no_player(site: Site, browser: Any) -> None:
    page, troubles = opened(browser, site)
    assert page.locator(".player:visible").count() == 0
    assert not troubles


@pytest.fixture
def closed_site(bundle_folder: Path) -> Iterator[Site]:
    yield from served(bundle_folder, Access(port=0, token=TOKEN, per_second=2000))


def test_the_token_leaves_the_address(closed_site: Site, browser: Any) -> None:
    page = browser.new_context().new_page()
    page.goto(f"{closed_site.url}/?token={TOKEN}&keep=1")
    page.get_by_role("heading", name="gate").wait_for(timeout=10_000)
    assert page.url == f"{closed_site.url}/?keep=1"
    page.reload()
    page.get_by_role("heading", name="gate").wait_for(timeout=10_000)
    until(page, "document.querySelector('img').naturalWidth > 0")
    (cookie,) = page.context.cookies()
    assert cookie["name"] == f"dedos_session_{closed_site.url.rpartition(':')[2]}"
    assert TOKEN not in cookie["value"] and cookie["httpOnly"] and cookie["sameSite"] == "Strict"
    assert page.evaluate("document.cookie") == ""
    # Who has neither sees nothing.
    stranger = browser.new_context().new_page()
    assert stranger.goto(closed_site.url).status == 401


def test_two_servers_on_one_host_share_no_cookie(
    closed_site: Site, bundle_folder: Path, browser: Any
) -> None:
    other_token = "another-token-that-is-long"
    for other in served(bundle_folder, Access(port=0, token=other_token, per_second=2000)):
        page = browser.new_context().new_page()
        for url, token in ((closed_site.url, TOKEN), (other.url, other_token)):
            page.goto(f"{url}/?token={token}")
            page.get_by_role("heading", name="gate").wait_for(timeout=10_000)
        for url in (closed_site.url, other.url):
            assert page.goto(url).status == 200
            page.get_by_role("heading", name="gate").wait_for(timeout=10_000)


def test_a_page_from_elsewhere_shows_no_picture(site: Site, browser: Any) -> None:
    page = browser.new_context().new_page()
    page.goto(site.url)
    page.get_by_role("heading", name="gate").wait_for(timeout=10_000)
    picture = f"{site.url}/api/cameras/gate/snapshot.jpg"
    page.route(
        "http://evil.example/",
        lambda route: route.fulfill(
            content_type="text/html",
            body=f"<img src={picture}><p id=end>",
        ),
    )
    page.goto("http://evil.example/")
    page.wait_for_timeout(500)
    assert page.evaluate("document.images[0].complete")
    assert page.evaluate("document.images[0].naturalWidth") == 0


def test_a_server_that_is_gone_is_said(site: Site, browser: Any) -> None:
    page, _ = opened(browser, site)
    page.context.set_offline(True)
    page.locator("#connection", has_text="No answer").wait_for(timeout=5000)
    page.context.set_offline(False)
    until(page, "document.querySelector('#connection').textContent === ''")
