"""The newest results: who is told, what is drawn anew, and what is kept of the past."""

from __future__ import annotations

import time

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from runtime_fakes import result_for

from dedos_deploy.runtime.frame import Frame
from dedos_deploy.runtime.serving import hub as hub_module
from dedos_deploy.runtime.serving.hub import Hub, WordColours


def give(hub: Hub, name: str = "gate") -> None:
    """Give the hub a black picture whose left half is road."""
    picture_bgr = np.zeros((32, 32, 3), np.uint8)
    result = result_for(picture_bgr, classes=("road",))
    hub.on_result(name, Frame(picture_bgr, 0, 0.0, "test", "0"), result)


def test_watchers_are_told_of_their_camera_for_as_long_as_they_watch() -> None:
    hub = Hub(("gate", "yard"), {})
    told: list[str] = []
    with hub.telling("gate", lambda: told.append("first")):
        give(hub)
        with hub.telling("gate", lambda: told.append("second")):
            give(hub)
            give(hub, "yard")
        give(hub)
    give(hub)
    assert told == ["first", "first", "second", "first"]


def test_only_what_is_newer_is_shown() -> None:
    hub = Hub(("gate",), {"gate": {}})
    assert hub.jpeg("gate") is None
    give(hub)
    give(hub)
    assert (newest := hub.jpeg("gate", newer_than=1)) is not None and newest[0] == 2
    assert hub.jpeg("gate", newer_than=2) is None


def test_a_picture_is_encoded_once_until_it_would_look_different(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    drawn: list[int] = []

    def encode(picture_bgr: NDArray[np.uint8]) -> bytes:
        drawn.append(int(picture_bgr[16, 4, 0]))
        return bytes(cv2.imencode(".png", picture_bgr)[1])

    monkeypatch.setattr(hub_module, "encode_jpeg", encode)
    colours: dict[str, WordColours] = {"gate": {"road": (200, 0, 0)}}
    hub = Hub(colours, colours)
    give(hub)
    assert hub.jpeg("gate", opacity=1.0) == hub.jpeg("gate", opacity=1.0)
    assert drawn == [200]
    colours["gate"] = {"road": (100, 0, 0)}
    hub.jpeg("gate", opacity=1.0)
    hub.jpeg("gate", opacity=0.0)
    assert drawn == [200, 100, 0]


def test_one_point_of_coverage_is_kept_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    hub, now_s = Hub(("gate",), {}), [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now_s[0])
    for now_s[0] in (100.0, 100.9, 101.0, 101.5, 102.25):
        give(hub)
    assert [point["age_s"] for point in hub.history("gate")] == [2.25, 1.25, 0.0]
    assert all(point["coverage"] == {"road": 0.5} for point in hub.history("gate"))
    for now_s[0] in range(200, 500):
        give(hub)
    assert len(hub.history("gate")) == hub_module.HISTORY
