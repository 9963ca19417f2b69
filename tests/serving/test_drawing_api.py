"""Frozen frames over HTTP: what is drawn on one, whatever the camera shows by then."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from serving_site import Site, served

from dedos_deploy.errors import BadInputError
from dedos_deploy.runtime import Segmenter
from dedos_deploy.runtime.frame import Frame
from dedos_deploy.runtime.serving import frozen
from dedos_deploy.runtime.serving.marks import Box
from dedos_deploy.training.folders import open_folder, read_pair

pytest.importorskip("fastapi", reason="needs pip install 'dedos-deploy[serve]'")
pytest.importorskip("httpx")

from dedos_deploy.runtime.serving.controls import Controls  # noqa: E402
from dedos_deploy.runtime.serving.guard import Access  # noqa: E402

GATE = "/api/cameras/gate"
BOX = {"tool": "box", "box": [0, 0, 32, 48]}
MANY = {"tool": "brush", "radius": 1, "points": [[1, 1]] * 2501}


@pytest.fixture(scope="module")
def collected(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("collected") / "yard"


@pytest.fixture(scope="module")
def site(bundle_folder: Path, collected: Path) -> Iterator[Site]:
    access = Access(port=0, per_second=2000)
    for opened in served(bundle_folder, access, collect_to=collected):
        opened.wait_for("gate")
        opened.wait_for("back yard")
        yield opened


@pytest.fixture(scope="module")
def plain_site(bundle_folder: Path) -> Iterator[Site]:
    yield from served(bundle_folder, Access(port=0, per_second=2000))


def _frozen(site: Site, camera: str = "gate") -> int:
    answer = site.client.post(f"/api/cameras/{camera}/frozen").json()
    assert (answer["width"], answer["height"]) == (96, 48)
    return int(answer["number"])


def test_a_frozen_frame_stays_until_six_newer_ones(site: Site) -> None:
    number = _frozen(site)
    kept = site.controls.drawings.frozen.get("gate", number)
    address = f"{GATE}/frozen/{number}/picture.jpg"
    plain = site.client.get(f"{address}?opacity=0")
    picture = cv2.imdecode(np.frombuffer(plain.content, np.uint8), cv2.IMREAD_COLOR)
    assert np.abs(picture.astype(int) - kept.frame.frame_bgr).mean() < 12
    for _ in range(6):
        assert site.client.get(address).status_code == 200
        _frozen(site)
    gone = site.client.get(address)
    assert gone.status_code == 404 and "only the last 6; freeze one again" in gone.json()["detail"]
    # Of another camera it is none.
    assert (
        site.client.get(f"/api/cameras/back yard/frozen/{_frozen(site)}/picture.jpg").status_code
        == 404
    )


def test_a_frame_is_collected_with_what_is_drawn(site: Site, collected: Path) -> None:
    number = _frozen(site)
    frame = site.controls.drawings.frozen.get("gate", number).frame.frame_bgr
    stroke = {"tool": "brush", "radius": 2, "points": [[50, 10], [60, 10]]}
    eraser = {"tool": "eraser", "radius": 1, "points": [[10, 10]]}
    regions = [
        {"word": "my  pallet", "marks": [BOX, eraser]},
        {"word": "pipe", "marks": [stroke]},
    ]
    body = {"frozen": number, "regions": regions}
    answer = site.client.post(f"{GATE}/collected", json=body)
    assert answer.status_code == 200, answer.text
    folder = open_folder(str(collected))
    place = [str(image) for image, _ in folder.items].index(answer.json()["picture"])
    image, labels = read_pair(folder, place)
    pallet, pipe = (folder.words.index(word) for word in ("my pallet", "pipe"))
    assert (image == frame).all()
    assert (labels[30, 0], labels[10, 10], labels[10, 55], labels[40, 60]) == (
        pallet,
        255,
        pipe,
        255,
    )
    with_rest = site.client.post(f"{GATE}/collected", json={**body, "rest": True})
    assert with_rest.json()["frames"] == answer.json()["frames"] + 1
    folder = open_folder(str(collected))
    place = [str(image) for image, _ in folder.items].index(with_rest.json()["picture"])
    labels = read_pair(folder, place)[1]
    # Red is the last bar, green the middle one, blue is no word of this camera.
    red, green = (folder.words.index(word) for word in ("red", "green"))
    assert (labels[40, 85], labels[40, 48], labels[10, 55]) == (red, green, pipe)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"frozen": 999_999}, "keeps no frozen frame 999999"),
        ({"regions": []}, "nothing is drawn on the frame; draw a region and name it"),
        ({"regions": [{"word": " ", "marks": [BOX]}]}, "what is drawn has no word; name it"),
        ({"regions": [{"word": "#a", "marks": [BOX]}]}, "comment or no text"),
        ({"regions": [{"word": "a", "marks": []}]}, "marks: List should have at least 1 item"),
        ({"regions": [{"word": "a", "marks": [{"tool": "pen"}]}]}, "'pen'"),
        ({"regions": [{"word": w, "marks": [MANY]} for w in "ab"]}, "5002 points, at most 5000"),
        ({"odd": 1}, "odd: Extra inputs are not permitted"),
    ],
)
def test_what_cannot_be_collected_is_said(
    site: Site, collected: Path, change: dict[str, Any], said: str
) -> None:
    body = {"frozen": _frozen(site), "regions": [{"word": "a", "marks": [BOX]}], **change}
    before = sorted(collected.rglob("*.*"))
    answer = site.client.post(f"{GATE}/collected", json=body)
    assert answer.status_code == 422 and said in answer.json()["detail"], answer.text
    assert sorted(collected.rglob("*.*")) == before


def test_a_frozen_frame_explains_itself(site: Site) -> None:
    number = _frozen(site)
    address = f"{GATE}/frozen/{number}/top"
    site.client.put(f"{GATE}/classes", json={"classes": "blue"})
    try:
        for x, decider in ((0.85, "red"), (0.5, "green"), (0.1, "unlabelled")):
            found = site.client.get(address, params={"x": x, "y": 0.4}).json()
            (decided,) = [one for one in found["candidates"] if one["decided"]]
            assert decided["name"] == decider and decider in found["why"]
    finally:
        site.client.put(f"{GATE}/classes", json={"classes": "red,green"})
    assert site.client.get(f"{GATE}/frozen/999999/top?x=0&y=0").status_code == 404
    assert site.client.get(f"{address}?x=1&y=0").status_code == 422


def test_one_that_was_frozen_without_scores_says_so(
    bundle_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(frozen, "FREEZE_S", 0.05)
    frame = Frame(np.zeros((40, 60, 3), np.uint8), 0, 0.0, "test", "0")
    with Segmenter.load(bundle_folder, classes="lamp", threads=1) as shared:
        views = {"gate": shared.share("red")}
        with Controls(shared, views) as controls:
            controls.hub.on_result("gate", frame, views["gate"].segment(frame.frame_bgr))
            kept = controls.drawings.frozen.freeze("gate")
            assert kept.frame is frame and not views["gate"].explain
            with pytest.raises(BadInputError, match="frozen without its scores, .* freeze one"):
                kept.top(0.5, 0.5, 5)


def test_large_frames_with_many_words_need_one_mask_at_a_time(
    bundle_folder: Path, tmp_path: Path
) -> None:
    frame = Frame(np.zeros((400, 400, 3), np.uint8), 0, 0.0, "test", "0")
    with Segmenter.load(bundle_folder, classes="lamp", threads=1) as shared:
        views = {"gate": shared.share("red")}
        with Controls(shared, views, collect_to=tmp_path / "yard") as controls:
            controls.hub.on_result("gate", frame, views["gate"].segment(frame.frame_bgr))
            number = controls.drawings.frozen.freeze("gate").number
            words = [(f"w{index} x", [Box((index, 0, index + 1, 9))]) for index in range(60)]
            controls.drawings.collect("gate", number, words, rest=True)
            tracemalloc.start()
            try:
                controls.drawings.collect("gate", number, words, rest=True)
                peak = tracemalloc.get_traced_memory()[1]
            finally:
                tracemalloc.stop()
    assert peak < 20 * 400 * 400  # all masks at once are 60 such


def test_without_a_folder_nothing_is_collected(plain_site: Site) -> None:
    plain_site.wait_for("gate")
    body = {"frozen": _frozen(plain_site), "regions": [{"word": "a", "marks": [BOX]}]}
    answer = plain_site.client.post(f"{GATE}/collected", json=body)
    assert answer.status_code == 422 and "start with --collect FOLDER" in answer.json()["detail"]
    assert plain_site.client.get("/api/state").json()["collects_to"] is None


def test_pages_of_other_sites_freeze_nothing(site: Site) -> None:
    answer = site.client.post(f"{GATE}/frozen", headers={"origin": "http://evil.example"})
    assert answer.status_code == 403
