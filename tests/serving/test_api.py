"""The API and its guard: words that change what is seen, and what must not get through."""

from __future__ import annotations

import base64
import contextlib
import http.client
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from serving_site import Site, served
from tiny_bundle import BASE_WORDS, stripes, write_tiny_bundle

from dedos_deploy.errors import BadInputError
from dedos_deploy.runtime import open_source
from dedos_deploy.runtime.sinks.palette import colours_of, css_colour
from dedos_deploy.spec import TRUST_LINE
from dedos_deploy.trust import Kind, fit_trust

pytest.importorskip("fastapi", reason="needs pip install 'dedos-deploy[serve]'")
httpx = pytest.importorskip("httpx")

from dedos_deploy.runtime.serving import routes  # noqa: E402
from dedos_deploy.runtime.serving.app import Server, build_app  # noqa: E402
from dedos_deploy.runtime.serving.bodies import MAX_BODY  # noqa: E402
from dedos_deploy.runtime.serving.guard import Access, is_loopback  # noqa: E402
from dedos_deploy.runtime.serving.streams import MOST_WATCHERS  # noqa: E402

PAGE = Path(routes.__file__).with_name("page")
TOKEN = "a-token-that-is-long-enough"


@pytest.fixture(scope="module")
def site(bundle_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("recordings")
    yield from served(bundle_folder, Access(port=0, per_second=2000), record_to=folder)


@pytest.fixture(scope="module")
def closed_site(bundle_folder: Path) -> Iterator[Site]:
    yield from served(bundle_folder, Access(host="0.0.0.0", port=0, token=TOKEN, per_second=2000))


def test_state_of_all_cameras(site: Site) -> None:
    site.wait_for("gate")
    time.sleep(0.1)
    cameras = site.client.get("/api/state").json()["cameras"]
    assert [camera["name"] for camera in cameras] == ["gate", "back yard"]
    gate = cameras[0]
    assert gate["state"] == "live" and gate["frames"] > 0 and gate["history"]
    assert [entry["name"] for entry in gate["vocabulary"]["classes"]] == ["red", "green"]
    assert gate["vocabulary"]["classes"][0]["colour"] == css_colour(colours_of(["red", "green"])[0])


@pytest.mark.parametrize("like", [True, False])
def test_state_tells_of_frames_unlike_those_that_were_learned(tmp_path: Path, like: bool) -> None:
    with open_source("test:bars?fps=50&size=48x96") as source:
        bars = next(iter(source)).frame_bgr
    middle = bars.mean(axis=(0, 1)) if like else np.zeros(3)
    rows = np.random.default_rng(0).normal(middle, 4, (40, 3)).astype(np.float32)
    trust = fit_trust([Kind("bars", "0" * 64, rows)], [3])
    bundle = write_tiny_bundle(tmp_path / "tiny", trust=trust)
    for site in served(bundle, Access(port=0, per_second=2000)):
        site.wait_for("gate")
        gate = site.client.get("/api/state").json()["cameras"][0]
        assert (gate["trust"] >= TRUST_LINE) == like
        assert (gate["doubt"] is None) == like
        assert like or "unlike those that the model learned (trust 0.00)" in gate["doubt"]


def test_state_is_silent_of_trust_without_statistics(site: Site) -> None:
    site.wait_for("gate")
    assert not {"trust", "doubt"} & set(site.client.get("/api/state").json()["cameras"][0])


def test_what_a_place_is(site: Site) -> None:
    site.wait_for("gate")
    for x, word in ((0.85, "red"), (0.5, "green"), (0.1, None)):
        answer = site.client.get("/api/cameras/gate/at", params={"x": x, "y": 0.4}).json()
        result = site.controls.hub.newest("gate")
        assert result is not None
        confidence = result.confidence[int(0.4 * 48), int(x * 96)] / 255
        assert answer == {"word": word, "confidence": pytest.approx(confidence, abs=1e-3)}
    for x in ("1", "-0.1", "nan", "left"):
        assert site.client.get(f"/api/cameras/gate/at?x={x}&y=0.5").status_code == 422
    assert site.client.get("/api/cameras/nobody/at?x=0&y=0").status_code == 404


def test_shares_of_the_newest_frame(site: Site) -> None:
    site.wait_for("gate")
    gate = site.client.get("/api/state").json()["cameras"][0]
    assert list(gate["coverage"]) == ["red", "green"]
    assert sum(gate["coverage"].values()) + gate["unlabelled"] == pytest.approx(1.0)
    assert gate["vocabulary"]["background"] == "threshold"


def test_new_words_change_what_is_seen(site: Site) -> None:
    site.wait_for("back yard")
    before = site.client.get("/api/cameras/back%20yard/snapshot.jpg?opacity=1")
    answer = site.client.put(
        "/api/cameras/back yard/classes", json={"classes": "green|table@0.4,blue"}
    )
    assert answer.status_code == 200
    version = answer.json()["version"]
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        latest = site.controls.hub._latest["back yard"][2]
        if latest.vocabulary_version == version:
            break
        time.sleep(0.02)
    after = site.client.get("/api/cameras/back%20yard/snapshot.jpg?opacity=1")
    pictures = [cv2.imdecode(np.frombuffer(a.content, np.uint8), 1) for a in (before, after)]
    middle = [picture[10, 48].astype(int) for picture in pictures]
    # The green bar was nothing and is green's colour now: what stays unlabelled is the frame itself.
    assert middle[0][1] > 200 and np.abs(middle[0] - middle[1]).max() > 60
    words = site.client.get("/api/cameras/back yard/classes").json()
    assert [entry["entry"] for entry in words["classes"]] == ["green|table@0.4", "blue"]
    # blue keeps the id of its first day.
    assert {entry["name"]: entry["id"] for entry in words["classes"]} == {"green": 1, "blue": 0}


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"classes": ""}, 422),
        ({"classes": "a,a"}, 422),
        ({"classes": "car@7"}, 422),
        ({}, 422),
        ({"classes": "car", "odd": 1}, 422),
        ({"classes": ["car"]}, 422),
        ({"classes": "x" * 20_001}, 422),
    ],
)
def test_unusable_words_are_refused_and_change_nothing(
    site: Site, body: dict[str, Any], status: int
) -> None:
    before = site.client.get("/api/cameras/gate/classes").json()
    answer = site.client.put("/api/cameras/gate/classes", json=body)
    assert answer.status_code == status and answer.json()["detail"]
    assert site.client.get("/api/cameras/gate/classes").json() == before


@pytest.mark.parametrize("path", ["classes", "snapshot.jpg", "stream"])
def test_an_unknown_camera(site: Site, path: str) -> None:
    answer = site.client.get(f"/api/cameras/gat/{path}")
    assert answer.status_code == 404 and "did you mean 'gate'" in answer.json()["detail"]


def test_suggestions(site: Site) -> None:
    assert site.client.get("/api/words", params={"prefix": "Gr"}).json() == ["green"]
    assert len(site.client.get("/api/words").json()) == len(BASE_WORDS)


def test_one_picture(site: Site) -> None:
    _, png = cv2.imencode(".png", stripes(60, 90))
    answer = site.client.post(
        "/api/segment",
        params={"classes": "red,blue"},
        content=png.tobytes(),
        headers={"content-type": "image/png"},
    )
    body = answer.json()
    assert body["classes"] == ["red", "blue"] and body["none_id"] == 255
    labels = cv2.imdecode(np.frombuffer(base64.b64decode(body["label_map_png"]), np.uint8), -1)
    assert labels[30, [10, 45, 80]].tolist() == [1, 255, 0]
    assert body["coverage"]["red"] == pytest.approx(1 / 3, abs=0.05)


@pytest.mark.parametrize(
    "content", [b"", b"no picture", b"\xff\xd8\xff\xe0", b"\x89PNG\r\n\x1a\n" + b"\0" * 40]
)
def test_what_is_no_picture(site: Site, content: bytes) -> None:
    answer = site.client.post(
        "/api/segment",
        params={"classes": "red"},
        content=content,
        headers={"content-type": "image/png"},
    )
    assert answer.status_code == 422


def test_a_recording_begins_and_ends_and_plays(site: Site) -> None:
    site.wait_for("back yard")
    address = "/api/cameras/back yard/recording"
    assert site.client.delete(address).json() == {"file": None, "frames": 0}
    file = Path(site.client.post(address).json()["file"])
    # Asked for twice it is the same one.
    assert site.client.post(address).json()["file"] == str(file)
    assert re.fullmatch(r"back_yard-\d{8}T\d{6}\.\d+Z\.mp4", file.name)
    deadline = time.monotonic() + 10
    while True:
        (_, yard) = site.client.get("/api/state").json()["cameras"]
        if yard["recording"]["frames"] >= 10:
            break
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert yard["recording"]["error"] is None
    ended = site.client.delete(address).json()
    assert ended["file"] == str(file)
    assert site.client.get("/api/state").json()["cameras"][1]["recording"] is None
    with open_source(str(file)) as source:
        times = [frame.media_s for frame in source]
    assert len(times) == ended["frames"] >= 10 and np.diff(np.array(times, float)).min() > 0


def test_without_a_folder_there_are_no_recordings(closed_site: Site) -> None:
    headers = {"authorization": f"Bearer {TOKEN}"}
    answer = closed_site.client.post("/api/cameras/gate/recording", headers=headers)
    assert answer.status_code == 422 and "--record-to FOLDER" in answer.json()["detail"]
    assert not closed_site.client.get("/api/state", headers=headers).json()["can_record"]


def test_a_class_gets_another_colour(site: Site) -> None:
    site.wait_for("gate")
    gate = "/api/cameras/gate"
    assert site.client.put(f"{gate}/classes", json={"classes": "red,green"}).status_code == 200
    words = {e["name"]: e for e in site.client.get(f"{gate}/classes").json()["classes"]}
    address = f"{gate}/classes/{words['green']['id']}/colour"
    assert site.client.put(address, json={"colour": "#102030"}).status_code == 204
    words = {e["name"]: e for e in site.client.get(f"{gate}/classes").json()["classes"]}
    red = css_colour(colours_of(["red", "green"])[0])
    assert words["green"]["colour"] == "#102030" and words["red"]["colour"] == red
    content = site.client.get(f"{gate}/snapshot.jpg?opacity=1").content
    picture = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
    # Green is the middle bar.
    assert np.abs(picture[4, 48].astype(int) - [0x30, 0x20, 0x10]).max() <= 12
    for wrong, status in (("#12", 422), ("red", 422)):
        assert site.client.put(address, json={"colour": wrong}).status_code == status
    unknown = site.client.put(f"{gate}/classes/999/colour", json={"colour": "#102030"})
    assert unknown.status_code == 422 and "has no class 999" in unknown.json()["detail"]


def test_one_watcher_too_many_is_told_so(closed_site: Site) -> None:
    stream, token = "/api/cameras/gate/stream", {"authorization": f"Bearer {TOKEN}"}
    with contextlib.ExitStack() as watching:
        for _ in range(MOST_WATCHERS):
            opened = closed_site.client.stream("GET", stream, headers=token)
            assert watching.enter_context(opened).status_code == 200
        refused = closed_site.client.get(stream, headers=token)
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
    assert refused.json() == {"detail": "16 pages are watching already; close one"}


def test_the_stream_shows_frame_after_frame(site: Site) -> None:
    with site.client.stream("GET", "/api/cameras/gate/stream") as answer:
        assert answer.headers["content-type"].startswith("multipart/x-mixed-replace")
        content = b""
        for part in answer.iter_bytes():
            content += part
            if content.count(b"--frame") >= 3:
                break
    assert content.count(b"\xff\xd8\xff") >= 2


def test_metrics(site: Site) -> None:
    site.wait_for("gate")
    text = site.client.get("/metrics").text
    assert 'dedos_frames_total{camera="gate"}' in text
    assert 'dedos_source_state{camera="gate",state="live"} 1.0' in text
    assert 'dedos_stalled_stages{stage="read"} 0.0' in text
    assert 'dedos_age_seconds{camera="gate",quantile="0.99"}' in text


def test_the_page_loads_nothing_from_elsewhere(site: Site) -> None:
    page = site.client.get("/")
    assert "default-src 'self'" in page.headers["content-security-policy"]
    parts = sorted(f"/{file.name}" for file in PAGE.iterdir() if file.name != "index.html")
    assert "/page.js" in parts
    for path in ("/", *parts):
        answer = site.client.get(path)
        assert answer.status_code == 200
        text = answer.text
        loads = ("https://", "//cdn", "@import", 'src="http', 'href="http')
        assert not [word for word in loads if word in text]
    assert "http" not in site.client.get("/").text


def test_openapi_describes_all_of_it(site: Site) -> None:
    paths = site.client.get("/openapi.json").json()["paths"]
    assert set(paths) == {
        "/api/state",
        "/api/words",
        "/api/cameras/{name}/classes",
        "/api/cameras/{name}/classes/{class_id}/colour",
        "/api/cameras/{name}/at",
        "/api/cameras/{name}/classes/{class_id}/examples",
        "/api/cameras/{name}/classes/{class_id}/name",
        "/api/cameras/{name}/collected",
        "/api/cameras/{name}/examples",
        "/api/cameras/{name}/frozen",
        "/api/cameras/{name}/frozen/{number}/picture.jpg",
        "/api/cameras/{name}/frozen/{number}/top",
        "/api/cameras/{name}/playback",
        "/api/cameras/{name}/recording",
        "/api/cameras/{name}/snapshot.jpg",
        "/api/cameras/{name}/top",
        "/api/cameras/{name}/words",
        "/api/segment",
        "/metrics",
    }


# Who may ask


def test_other_names_of_this_machine_are_refused(site: Site) -> None:
    answer = site.client.get("/api/state", headers={"host": "evil.example"})
    assert answer.status_code == 421
    assert site.client.get("/api/state", headers={"host": "localhost:80"}).status_code == 200


def test_pages_of_other_sites_may_not_change_anything(site: Site) -> None:
    body = {"classes": "car"}
    for origin in ("http://evil.example", "null"):
        answer = site.client.put("/api/cameras/gate/classes", json=body, headers={"origin": origin})
        assert answer.status_code == 403
    own = site.client.put(
        "/api/cameras/gate/classes", json={"classes": "red,green"}, headers={"origin": site.url}
    )
    assert own.status_code == 200


def test_a_body_that_is_too_large(site: Site) -> None:
    connection = http.client.HTTPConnection(site.url.removeprefix("http://"), timeout=10)
    connection.putrequest("POST", "/api/segment?classes=a")
    connection.putheader("content-length", str(MAX_BODY + 1))
    connection.endheaders()
    assert connection.getresponse().status == 413
    connection.close()

    def endless() -> Iterator[bytes]:
        for _ in range(MAX_BODY // 2**20 + 2):
            yield b"\0" * 2**20

    with pytest.raises(httpx.HTTPError):
        # Cut off where the limit is: no answer, or none that is a success.
        site.client.post(
            "/api/segment?classes=red", content=endless(), headers={"content-type": "image/png"}
        ).raise_for_status()
    assert site.client.get("/api/state").status_code == 200


def test_the_token(closed_site: Site) -> None:
    ask = closed_site.client.get
    url = closed_site.url.replace("0.0.0.0", "127.0.0.1")
    for path in ("/", "/api/state", "/metrics", "/openapi.json", "/api/cameras/gate/snapshot.jpg"):
        assert ask(url + path).status_code == 401
        assert ask(url + path + "?token=wrong").status_code == 401
    for wrong in ("Bearer", "Bearer x", f"Basic {TOKEN}", "Bearer é"):
        header = {"authorization": wrong.encode()}
        assert ask(url + "/api/state", headers=header).status_code == 401
    known = {"authorization": f"Bearer {TOKEN}"}
    assert ask(url + "/api/state", headers=known).status_code == 200
    page = ask(url + f"/?token={TOKEN}")
    assert page.status_code == 200
    cookie = page.headers["set-cookie"]
    assert "HttpOnly" in cookie and "SameSite=Strict" in cookie
    assert ask(url + "/api/state", headers={"cookie": cookie.split(";")[0]}).status_code == 200


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"host": "0.0.0.0"}, "needs a token; give --token"),
        ({"host": "10.0.0.7"}, "needs a token"),
        ({"token": "short"}, "the token has 5 letters, at least 16"),
        ({"port": 70_000}, "the port must lie in 0 to 65535"),
    ],
)
def test_unsafe_settings(options: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInputError, match=message):
        Access(**options)
    assert is_loopback("::1") and not is_loopback("192.168.0.1")


def test_a_port_that_is_taken(site: Site, bundle_folder: Path) -> None:
    port = int(site.url.rsplit(":", 1)[1])
    server = Server(site.controls, Access(port=port))
    with pytest.raises(BadInputError, match=f"cannot listen on 127.0.0.1:{port}"):
        server.start()
    server.close()


def test_fuzzed_from_its_own_description(site: Site) -> None:
    schemathesis = pytest.importorskip("schemathesis", reason="needs pip install schemathesis")
    from hypothesis import HealthCheck, given, settings

    schema = schemathesis.openapi.from_dict(build_app(site.controls, words=BASE_WORDS).openapi())
    schema.config.update(base_url=site.url)
    checked = 0
    for operation in schema.get_all_operations():

        @given(case=operation.ok().as_strategy())
        @settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
        def run(case: Any) -> None:
            nonlocal checked
            checked += 1
            answer = case.call()
            assert answer.status_code < 500 or answer.status_code == 503, answer.text
            if case.method == "POST" and "recording" in case.path:
                site.client.delete("/api/cameras/gate/recording")
            assert "Traceback" not in answer.text and "/site-packages/" not in answer.text

        run()
    assert checked > 50
    assert site.client.get("/api/state").status_code == 200
