"""Drawing on the page in a real browser: by mouse, finger and keys; and what a click explains."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from browsing import CHROMIUM, PHONE, opened, until
from serving_site import Site, served
from tiny_bundle import stripes

from dedos_deploy.runtime import Segmenter
from dedos_deploy.runtime.frame import Frame
from dedos_deploy.runtime.serving.app import Server
from dedos_deploy.runtime.serving.controls import Controls
from dedos_deploy.runtime.serving.guard import Access
from dedos_deploy.training.folders import open_folder, read_pair

pytest.importorskip("fastapi", reason="needs pip install 'dedos-deploy[serve]'")
pytest.importorskip("playwright.sync_api", reason="needs pip install playwright")

from dedos_deploy.runtime.serving import streams  # noqa: E402

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs a Chromium")

HEIGHT, WIDTH = 120, 240
SIZE = f"{HEIGHT}x{WIDTH}"
LEARNED = re.compile(r"“the sea” was (learned from one frame, margin (0[.][5-9]\d|1[.]00))[.]")
WITHOUT = "this bundle was exported without --examples; export it again"


@pytest.fixture
def site(learning_bundle: Path, tmp_path: Path) -> Iterator[Site]:
    access = Access(port=0, per_second=2000)
    yield from served(learning_bundle, access, size=SIZE, collect_to=tmp_path / "yard")


@pytest.fixture
def plain_site(bundle_folder: Path, tmp_path: Path) -> Iterator[Site]:
    yield from served(
        bundle_folder,
        Access(port=0, per_second=2000),
        size=SIZE,
        collect_to=tmp_path / "yard",
        cannot_learn=WITHOUT,
    )


def _at(box: dict[str, float], x: float, y: float) -> tuple[float, float]:
    """Where a place, in parts of the picture, is on the page."""
    return box["x"] + x * box["width"], box["y"] + y * box["height"]


def _draw(page: Any, box: dict[str, float], *places: tuple[float, float]) -> None:
    page.mouse.move(*_at(box, *places[0]))
    page.mouse.down()
    for place in places[1:]:
        page.mouse.move(*_at(box, *place), steps=4)
    page.mouse.up()


def _collected(folder: Path) -> tuple[dict[str, np.ndarray[Any, Any]], np.ndarray[Any, Any]]:
    """Where each word is in the only frame of a folder, and where nothing is known."""
    found = open_folder(str(folder))
    ((_, labels),) = (read_pair(found, item) for item in range(len(found.items)))
    return {str(word): labels == value for value, word in enumerate(found.words)}, labels == 255


def test_drawn_by_mouse_named_and_labelled_live(
    site: Site, learning_bundle: Path, browser: Any, tmp_path: Path
) -> None:
    page, troubles = opened(browser, site)
    card = page.locator("section.camera").first
    picture = card.locator("img.picture")
    box = picture.bounding_box()
    draw = card.get_by_role("button", name="Draw")
    draw.click()
    pad = card.locator(".pad")
    pad.wait_for()
    assert pad.bounding_box() == picture.bounding_box() == box
    # Blue is the first bar, and no word of this camera.
    _draw(page, box, (0.08, 0.3), (0.12, 0.7))
    card.get_by_role("button", name="Learn", exact=True).click()
    card.locator(".drawn", has_text="name what you drew").wait_for()
    card.get_by_label("What is it?").fill("the sea")
    card.get_by_role("button", name="Learn", exact=True).click()
    card.locator(".drawn", has_text=LEARNED).wait_for()
    assert not pad.is_visible() and picture.bounding_box() == box
    until(page, "document.querySelectorAll('table.words tbody tr').length === 4")
    row = card.locator("table.words tbody tr", has_text="the sea")
    until(
        page,
        "[...document.querySelectorAll('.share')].filter(s => parseFloat(s.textContent) > 20).length >= 3",
    )
    picture.hover(position={"x": 0.1 * box["width"], "y": box["height"] / 2})
    card.locator(".here", has_text="the sea, ").wait_for()
    assert LEARNED.search(card.locator(".drawn").inner_text())[1] in row.inner_text()
    # A second frame of the same word counts, too; what it has of the first one is still there.
    draw.click()
    pad.wait_for()
    _draw(page, box, (0.05, 0.5), (0.2, 0.5))
    card.get_by_label("What is it?").fill("The Sea")
    page.keyboard.press("Enter")
    card.locator(".drawn", has_text="was learned from 2 frames").wait_for()
    colour = row.locator("input[type=color]").input_value()
    card.get_by_role("button", name="Rename the sea").click()
    card.get_by_label("New name of the sea").fill("Baltic")
    page.keyboard.press("Enter")
    renamed = card.locator("table.words tbody tr", has_text="Baltic")
    renamed.wait_for()
    assert renamed.locator("input[type=color]").input_value() == colour
    # Rows are drawn anew, and who goes on by keys is still there.
    assert renamed.locator(":focus").count() == 1
    with page.expect_download() as saved:
        card.get_by_role("button", name="Save words file").click()
    assert saved.value.suggested_filename == "gate.words"
    saved.value.save_as(tmp_path / "gate.words")
    with Segmenter.load(learning_bundle, classes=tmp_path / "gate.words", threads=1) as segmenter:
        assert segmenter.classes == ("red", "green", "Baltic")
        result = segmenter.segment(stripes())
    assert result.coverage["Baltic"] == pytest.approx(1 / 3, abs=0.1)
    # The other camera has heard nothing of it.
    assert site.controls.view("back yard").classes == ("blue",)
    assert not troubles


def test_drawn_by_finger_on_a_phone_and_collected(
    plain_site: Site, browser: Any, tmp_path: Path
) -> None:
    page, troubles = opened(
        browser, plain_site, viewport=PHONE, has_touch=True, is_mobile=True, color_scheme="dark"
    )
    card = page.locator("section.camera").first
    picture = card.locator("img.picture")
    box = picture.bounding_box()
    card.get_by_role("button", name="Draw").tap()
    card.locator(".pad").wait_for()
    # Without the graph words are not learned, which is said, and all else works.
    assert card.get_by_role("button", name="Learn", exact=True).is_disabled()
    assert card.locator(".cannot").inner_text() == WITHOUT
    # However long the state is that the camera is in, the picture stays where it is.
    tops = page.evaluate(
        "['live', 'connecting'].map((text) => { document.querySelector('.state').textContent = text;"
        " return document.querySelector('.picture').getBoundingClientRect().top; })"
    )
    assert tops[0] == tops[1]
    fingers = page.context.new_cdp_session(page)

    def touch(kind: str, *place: float) -> None:
        x, y = _at(box, *place) if place else (0.0, 0.0)
        points = [{"x": x, "y": y}] if place else []
        fingers.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    def stroke(*places: tuple[float, float]) -> None:
        touch("touchStart", *places[0])
        for place in places[1:]:
            touch("touchMove", *place)
        touch("touchEnd")

    undo = card.get_by_role("button", name="Undo")
    # Touches become what they mean some time later, so their effects are waited for.
    blue = "document.querySelector('.pad').getContext('2d').getImageData(133, 60, 1, 1).data[2]"
    until(page, blue.replace("data[2]", "data[3]") + " === 255")
    scrolled, untouched = page.evaluate("scrollY"), page.evaluate(blue)
    assert undo.is_disabled()
    stroke((0.1, 0.2), (0.1, 0.5), (0.1, 0.8))
    until(page, "!document.querySelector('.undo').disabled")
    assert page.evaluate("scrollY") == scrolled
    card.get_by_label("What is it?").fill("water")
    card.get_by_role("button", name="Another region").click()
    card.locator(".regions li", has_text="water").wait_for()
    assert picture.bounding_box() == box
    card.get_by_label("Box").check()
    stroke((0.5, 0.25), (0.6, 0.4), (0.75, 0.75))
    until(page, f"{blue} > {untouched} + 40 && !document.querySelector('.undo').disabled")
    card.get_by_label("Eraser").check()
    stroke((0.55, 0.5), (0.56, 0.5))
    until(page, f"{blue} < {untouched} + 10")
    card.get_by_label("What is it?").fill("my pallet")
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    card.get_by_role("button", name="Collect").click()
    card.locator(".drawn", has_text="one frame collected").wait_for()
    where, unknown = _collected(tmp_path / "yard")
    assert list(where) == ["water", "my pallet"]
    assert where["water"][60, 24] and where["water"][30:90, 22:27].all()
    rows, columns = np.nonzero(where["my pallet"])
    assert np.abs([rows.min() - 30, rows.max() - 90]).max() <= 1
    assert np.abs([columns.min() - 120, columns.max() - 180]).max() <= 1
    assert unknown[60, 133] and where["my pallet"][60, 170] and unknown[10, 100]
    assert not troubles


def test_a_box_by_keys_alone(site: Site, browser: Any, tmp_path: Path) -> None:
    page, troubles = opened(browser, site)
    focus = "document.activeElement.%s"

    def tab_to(condition: str, key: str = "Tab") -> None:
        for _ in range(20):
            page.keyboard.press(key)
            if page.evaluate(focus % condition):
                return
        raise AssertionError(f"{condition} cannot be reached")

    tab_to("className === 'draw'")
    page.keyboard.press("Enter")
    until(page, focus % "className === 'pad'")
    tab_to("name === 'tool'")
    page.keyboard.press("ArrowDown")
    assert page.evaluate(focus % "value") == "box"
    tab_to("className === 'pad'", "Shift+Tab")
    # From the middle; a step is a fortieth of the longer side, with Shift a pixel.
    for key in (
        "ArrowLeft",
        "ArrowUp",
        "Enter",
        *["ArrowRight"] * 3,
        "ArrowDown",
        "Shift+ArrowDown",
    ):
        page.keyboard.press(key)
    place = page.locator(".place").first
    assert place.inner_text() == "box of 19 by 8"
    page.keyboard.press("Enter")
    # Another one that is dropped.
    for key in ("Enter", "ArrowRight", "Escape"):
        page.keyboard.press(key)
    assert place.inner_text() == "dropped"
    tab_to("className === 'region'")
    page.keyboard.type("my pallet")
    tab_to("className === 'collect'")
    page.keyboard.press("Enter")
    page.locator(".drawn", has_text="one frame collected").first.wait_for()
    where, unknown = _collected(tmp_path / "yard")
    wanted = np.zeros((HEIGHT, WIDTH), np.bool_)
    wanted[54:62, 114:133] = True
    assert (where["my pallet"] == wanted).all() and (unknown == ~wanted).all()
    tab_to("className === 'draw'", "Shift+Tab")
    page.keyboard.press("Enter")
    until(page, "document.querySelector('.pad').hidden")
    assert not troubles


def test_a_click_explains_a_pixel(site: Site, browser: Any) -> None:
    page, troubles = opened(browser, site)
    card = page.locator("section.camera").first
    picture, why = card.locator("img.picture"), card.locator(".why")
    box = picture.bounding_box()
    picture.click(position={"x": 0.85 * box["width"], "y": box["height"] / 2})
    card.locator(".why", has_text="“red”, which scores most").wait_for()
    scores = card.locator("table.scores tbody")
    assert scores.locator("tr.decided th").inner_text() == "red"
    assert scores.locator("th").all_inner_texts()[0] == "red"
    # By keys: from there a few steps to the left, onto the bar of blue.
    picture.focus()
    for _ in range(30):
        page.keyboard.press("ArrowLeft")
    page.keyboard.press("Enter")
    card.locator(".why", has_text="unlabelled, since the best word").wait_for()
    assert "what the best word had to reach" in scores.locator("tr.decided").inner_text()
    assert picture.bounding_box() == box
    page.keyboard.press("Escape")
    why.wait_for(state="hidden")
    # The same of a frozen frame, by the words that it was labelled with.
    card.get_by_role("button", name="Draw").click()
    card.locator(".pad").wait_for()
    site.controls.set_classes("gate", "blue")
    card.get_by_label("Why?").check()
    page.mouse.click(*_at(box, 0.85, 0.5))
    card.locator(".why", has_text="“red”, which scores most").wait_for()
    page.locator(".pad").first.focus()
    for _ in range(30):
        page.keyboard.press("ArrowLeft")
    page.keyboard.press("Enter")
    card.locator(".why", has_text="unlabelled, since the best word").wait_for()
    card.get_by_role("button", name="Draw").click()
    why.wait_for(state="hidden")
    assert not troubles


def test_a_picture_that_stands_still_is_shown_at_once(
    bundle_folder: Path, browser: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Browsers that wait for what follows a picture would show the one before, as long as it stands."""
    pictures = [np.full((HEIGHT, WIDTH, 3), level, np.uint8) for level in (40, 220)]
    with Segmenter.load(bundle_folder, classes="lamp", threads=1) as shared:
        view = shared.share("red")
        with Controls(shared, {"gate": view}) as controls:

            def give(picture: np.ndarray[Any, Any]) -> None:
                frame = Frame(picture, 0, 0.0, "test", "0")
                controls.hub.on_result("gate", frame, view.segment(picture))

            give(pictures[0])
            with Server(controls, Access(port=0, per_second=2000)) as server:
                site = Site(controls, server.url.rstrip("/"), None)
                page, _ = opened(browser, site)
                # One that was sent for the silence would show the second one, too.
                monkeypatch.setattr(streams, "LONGEST_PAUSE_S", 60.0)
                give(pictures[1])
                for _ in range(30):
                    shot = page.locator("img.picture").screenshot()
                    level = cv2.imdecode(np.frombuffer(shot, np.uint8), 1).mean()
                    if level > 200:
                        break
                assert level > 200
                # Nothing new comes, and what watches is not left in silence.
                monkeypatch.setattr(streams, "LONGEST_PAUSE_S", 0.05)
                import httpx

                with httpx.stream("GET", f"{site.url}/api/cameras/gate/stream") as answer:
                    content = b""
                    for part in answer.iter_bytes():
                        content += part
                        if content.count(b"\xff\xd8\xff") >= 3:
                            break
                assert content.startswith(b"--frame\r\ncontent-type: image/jpeg\r\n")
