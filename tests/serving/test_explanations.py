"""Why a pixel is what it is, asked of a running camera."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from serving_site import Site, served
from tiny_bundle import stripes

from dedos_deploy.errors import UnfinishedError
from dedos_deploy.runtime import Segmenter
from dedos_deploy.runtime.explaining import Candidate
from dedos_deploy.runtime.frame import Frame
from dedos_deploy.runtime.serving import explanations
from dedos_deploy.runtime.serving.app import Server
from dedos_deploy.runtime.serving.controls import Controls
from dedos_deploy.runtime.serving.explanations import Explanations, why
from dedos_deploy.runtime.serving.guard import Access
from dedos_deploy.runtime.serving.hub import Hub


@pytest.fixture(scope="module")
def site(bundle_folder: Path) -> Iterator[Site]:
    pytest.importorskip("fastapi", reason="needs pip install 'dedos-deploy[serve]'")
    pytest.importorskip("httpx")
    yield from served(bundle_folder, Access(port=0, per_second=2000))


def test_a_place_of_a_running_camera(site: Site) -> None:
    site.wait_for("gate")
    gate = "/api/cameras/gate"
    for x, decider in ((0.85, "red"), (0.5, "green"), (0.1, "unlabelled")):
        found = site.client.get(f"{gate}/top", params={"x": x, "y": 0.4}).json()
        (decided,) = [one for one in found["candidates"] if one["decided"]]
        assert decided["name"] == decider and decided["name"] in found["why"]
        assert {one["name"] for one in found["candidates"]} == {"red", "green", "unlabelled"}
        scores = [one["score"] for one in found["candidates"]]
        assert scores == sorted(scores, reverse=True)
    view, deadline = site.controls.view("gate"), time.monotonic() + 10
    # Nobody asks any more, and frames are labelled as before.
    assert not view.explain
    while getattr(site.controls.hub.newest("gate"), "evidence", None) is not None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    for wrong in ("x=1&y=0", "x=0&y=nan", "x=0&y=0&n=0"):
        assert site.client.get(f"{gate}/top?{wrong}").status_code == 422
    assert site.client.get("/api/cameras/nobody/top?x=0&y=0").status_code == 404


def test_a_picture_that_stands_is_labelled_once_more(bundle_folder: Path) -> None:
    with Segmenter.load(bundle_folder, classes="lamp", threads=1) as shared:
        view = shared.share("red,green")
        hub, asked = Hub(["gate"], {"gate": {}}), 0

        def repeat(name: str) -> None:
            nonlocal asked
            asked += 1
            frame = stripes()
            hub.on_result(name, Frame(frame, 0, 0.0, "test", "0"), view.segment(frame))

        asking = Explanations(hub, {"gate": view}, repeat)
        repeat("gate")
        assert [one.name for one in asking.top("gate", 0.5, 0.5, 1)] == ["green", "unlabelled"]
        assert asking.top("gate", 0.9, 0.5, 1)[0].name == "red"
        # What the second one needed was there already.
        assert asked == 2 and not view.explain


def test_a_camera_that_gives_nothing(bundle_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(explanations, "WAIT_S", 0.05)
    with Segmenter.load(bundle_folder, classes="lamp", threads=1) as shared:
        views = {"gate": shared.share("red")}
        asking = Explanations(Hub(views, {"gate": {}}), views, lambda name: None)
        with pytest.raises(UnfinishedError, match="'gate' gave no frame for 0.05 s"):
            asking.top("gate", 0.5, 0.5, 5)
        assert not views["gate"].explain


def test_what_decided_is_one_sentence() -> None:
    def candidate(
        name: str, score: float, kind: str, *, decided: bool = False, word: str = ""
    ) -> Candidate:
        return Candidate(name, score, kind, 0.3 * (kind == "word"), word or name, decided)  # type: ignore[arg-type]

    car = candidate("car", 0.5, "word", decided=True, word="van")
    shelf = candidate("shelf", 0.6, "negative", decided=True)
    short = candidate("car", 0.2, "word")
    floor = candidate("unlabelled", 0.3, "background", decided=True)
    assert why([car]) == "“car”, which scores most as “van” (0.500), and needs 0.300"
    assert why([shelf, short]).startswith(
        "unlabelled, since “shelf” scores most (0.600), a word of"
    )
    assert why([floor, short]) == (
        "unlabelled, since the best word, “car”, scores 0.200 and needs 0.300"
    )


def test_a_camera_that_gives_nothing_keeps_no_work_waiting(
    bundle_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    httpx = pytest.importorskip("httpx")
    monkeypatch.setattr(explanations, "WAIT_S", 1.0)
    with (
        Segmenter.load(bundle_folder, classes="lamp", threads=1) as shared,
        Controls(shared, {"gate": shared.share("red")}) as controls,
        Server(controls, Access(port=0), words=()) as server,
        ThreadPoolExecutor(5) as pool,
        httpx.Client(base_url=server.url) as client,
    ):
        asked = [pool.submit(client.get, "api/cameras/gate/top?x=0&y=0") for _ in range(5)]
        while controls.explanations._asking["gate"] < 5:
            assert not any(one.done() for one in asked)
            time.sleep(0.01)
        changed = client.put("api/cameras/gate/classes", json={"classes": "green"})
        assert changed.status_code == 200
        assert {one.result().status_code for one in asked} == {503}
