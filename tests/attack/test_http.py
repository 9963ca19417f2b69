"""What strangers and other people's pages send: all is answered or closed, and nobody is locked out."""

from __future__ import annotations

import contextlib
import http.client
import json
import logging
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from http_attack import TOKEN, answer_of, ask, connect, is_closed_within, many, request, reset

pytest.importorskip("fastapi", reason="needs pip install 'dedos-deploy[serve]'")
pytest.importorskip("httpx")

from run_process import COMMAND  # noqa: E402
from serving_site import Site, served  # noqa: E402
from tiny_bundle import write_tiny_bundle  # noqa: E402

from dedos_deploy.runtime.serving.bodies import MAX_BODY, MOST_AT_ONCE  # noqa: E402
from dedos_deploy.runtime.serving.guard import Access  # noqa: E402
from dedos_deploy.runtime.serving.streams import MOST_WATCHERS  # noqa: E402

STREAM = request("/api/cameras/gate/stream")
BEARER = f"Authorization: Bearer {TOKEN}"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DEDOS_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        yield write_tiny_bundle(tmp_path_factory.mktemp("bundles") / "tiny")


def _opened(bundle: Path) -> Iterator[Site]:
    for one in served(bundle, Access(port=0, per_second=2000), size="480x640"):
        one.wait_for("gate")
        yield one


@pytest.fixture(scope="module")
def site(bundle: Path) -> Iterator[Site]:
    yield from _opened(bundle)


@pytest.fixture
def unwatched_site(bundle: Path) -> Iterator[Site]:
    """A server that nobody has watched before, whose places may not all be free yet."""
    yield from _opened(bundle)


@pytest.fixture(scope="module")
def closed_site(bundle: Path) -> Iterator[Site]:
    yield from served(bundle, Access(host="127.0.0.1", port=0, token=TOKEN))


def _port(site: Site) -> int:
    return int(site.url.rpartition(":")[2])


# Requests that are wrong


def _put(body: bytes, *headers: str) -> bytes:
    path = "/api/cameras/gate/classes"
    return request(path, "Content-Type: application/json", *headers, method="PUT", body=body)


WRONG = {
    "host [::1": (request("/api/words", host="[::1"), 400),
    "host with a user": (request("/api/words", host="user@localhost"), 400),
    "host behind a backslash": (request("/api/words", host="evil.example\\@localhost"), 400),
    "host outside ASCII": (request("/api/words", host="localhost\xa0"), 400),
    "two hosts": (request("/api/words", "Host: evil.example"), 400),
    "two hosts in HTTP/1.0": (
        b"GET /api/words HTTP/1.0\r\nHost: localhost\r\nHost: evil.example\r\n\r\n",
        400,
    ),
    "host by another name": (request("/api/words", host="evil.example"), 421),
    "origin http://[::1": (_put(b'{"classes":"red"}', "Origin: http://[::1"), 400),
    "origin of a user": (_put(b'{"classes":"red"}', "Origin: http://localhost@evil.example"), 400),
    "origin null": (_put(b'{"classes":"red"}', "Origin: null"), 403),
    "origin file": (_put(b'{"classes":"red"}', "Origin: file://"), 403),
    "two origins": (_put(b'{"classes":"red"}', "Origin: http://localhost", "Origin: null"), 400),
    "foreign, lower-case method": (
        request("/api/cameras/gate/recording", "Origin: http://evil.example", method="delete"),
        403,
    ),
    "NaN": (_put(b'{"classes": NaN}'), 422),
    "1e999": (_put(b'{"classes": 1e999}'), 422),
    "-Infinity beside the words": (_put(b'{"classes":"red","x":-Infinity}'), 422),
    "lone surrogate": (_put(b'{"classes":"\\ud800"}'), 422),
    "lone surrogate as a key": (_put(b'{"classes":"red","\\udfff":1}'), 422),
    "raw surrogate": (_put(b'{"classes":"\xed\xa0\x80"}'), 422),
    "no UTF-8": (_put(b'\xff\xfe{"classes":"red"}'), 400),
    "100,000 brackets": (_put(b"[" * 100_000), 400),
    "10,000 digits": (_put(b"1" * 10_000), 400),
    "id of 5,000 digits": (
        request(
            f"/api/cameras/gate/classes/{'9' * 5000}/colour",
            "Content-Type: application/json",
            method="PUT",
            body=b'{"colour":"#ff2626"}',
        ),
        422,
    ),
    "id of 30 digits": (
        request(
            f"/api/cameras/gate/classes/{'9' * 30}/colour",
            "Content-Type: application/json",
            method="PUT",
            body=b'{"colour":"#ff2626"}',
        ),
        422,
    ),
    "opacity nan": (request("/api/cameras/gate/snapshot.jpg?opacity=nan"), 422),
    "opacity inf": (request("/api/cameras/gate/snapshot.jpg?opacity=inf"), 422),
    "opacity of a stream": (request("/api/cameras/gate/stream?opacity=nan"), 422),
    "length of a superscript": (
        b"PUT / HTTP/1.1\r\nHost: localhost\r\nContent-Length: \xb2\r\n\r\n",
        400,
    ),
    "length of 40 digits": (request("/", f"Content-Length: {'9' * 40}", method="POST"), 400),
    "length beyond the limit": (
        request("/api/segment?classes=a", f"Content-Length: {MAX_BODY + 1}", method="POST"),
        413,
    ),
    "length said in two ways": (
        request("/", "Content-Length: 4", "Transfer-Encoding: chunked", method="POST"),
        400,
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_request_gets_one_line(
    site: Site, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    sent, expected = WRONG[name]
    with caplog.at_level(logging.WARNING):
        status, answer = ask(_port(site), sent)
    assert status == expected, answer
    said = answer.partition(b"\r\n\r\n")[2].strip()
    if said.startswith(b"{"):
        said = json.loads(said)["detail"].encode()
    assert said and b"\n" not in said and len(said) < 400
    assert not [record for record in caplog.records if record.exc_info]


def test_a_second_request_behind_two_lengths_is_not_read(site: Site) -> None:
    first = request("/", "Content-Length: 4", "Transfer-Encoding: chunked", method="POST")
    with connect(_port(site)) as connection:
        connection.sendall(first + b"0\r\n\r\n" + request("/api/state"))
        answers = b""
        while more := connection.recv(65536):
            answers += more
    assert answers.count(b"HTTP/1.1 ") == 1


@pytest.mark.parametrize("pause_s", [0.0, 0.2])
@pytest.mark.parametrize("length", [(), ("Content-Length: 9",)])
def test_garbage_in_a_body_ends_the_connection(
    site: Site, length: tuple[str, ...], pause_s: float, caplog: pytest.LogCaptureFixture
) -> None:
    chunked = ("Transfer-Encoding: chunked", *length)
    head = request("/api/segment?classes=red", *chunked, method="POST")
    for path in (head, head.replace(b"segment", b"nothing")):
        with connect(_port(site)) as connection:
            # Without a pause the body is found out before the request was looked at.
            connection.sendall(path + (b"no length\r\n" if pause_s == 0 else b""))
            time.sleep(pause_s)
            if pause_s:
                with contextlib.suppress(ConnectionError):  # it may be answered already
                    connection.sendall(b"no length\r\n")
            assert is_closed_within(connection, 7)
    assert not [record for record in caplog.records if record.exc_info]


# Connections that do not go on


HALF = {
    "nothing": b"",
    "half a head": b"GET / HTTP/1.1\r\nHost: localhost\r\nX: ",
    "half a body": request("/api/segment?classes=a", "Content-Length: 1000", method="POST"),
    "half a chunk": request("/api/segment?classes=a", "Transfer-Encoding: chunked", method="POST")
    + b"ffff\r\nabc",
    "an answer, and no more": request("/api/words"),
    "a body that nobody wants": request("/no/such", "Content-Length: 1000", method="POST"),
}


def test_half_requests_are_closed_after_seconds(site: Site) -> None:
    opened = {name: connect(_port(site)) for name in HALF}
    for name, connection in opened.items():
        connection.sendall(HALF[name])
    dripping = connect(_port(site))
    dripping.sendall(HALF["half a head"])
    for _ in range(12):
        # A letter now and then does not help.
        time.sleep(0.5)
        try:
            dripping.sendall(b"x")
        except ConnectionError:
            break
    assert is_closed_within(dripping, 2)
    for name, connection in opened.items():
        assert is_closed_within(connection, 2), name
        connection.close()
    dripping.close()


def test_many_half_requests_lock_nobody_out(site: Site) -> None:
    with many(_port(site), 400, b"GET / HTTP/1.1\r\nX: ") as opened:
        began_s = time.monotonic()
        status, _ = ask(_port(site), request("/api/words"))
        assert status == 200 and time.monotonic() - began_s < 5
        # Those that had shown the least made room.
        assert is_closed_within(opened[0], 2)


def test_a_server_with_few_descriptors(bundle: Path, tmp_path: Path) -> None:
    """400 half requests with 128 descriptors: outputs go on, answers come, the log stays small."""
    few, lines = 128, tmp_path / "lines.jsonl"
    log_file = tmp_path / "log.txt"
    arguments = [
        "--bundle",
        str(bundle),
        "--classes",
        "red",
        "--threads",
        "1",
        "--token",
        TOKEN,
        "--source",
        "gate=test:bars?fps=10&size=48x64",
        "--serve",
        "127.0.0.1:0",
        "--output",
        f"masks:{tmp_path / 'masks'}",
        "--output",
        str(lines),
    ]
    with log_file.open("wb") as log:
        process = subprocess.Popen(
            [*COMMAND, *arguments],
            stdout=subprocess.DEVNULL,
            stderr=log,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (few, few)),  # noqa: PLW1509
        )
    try:
        port = _port_in(log_file, process)
        with many(port, 400, b"G"):
            time.sleep(1)
            assert len(os.listdir(f"/proc/{process.pid}/fd")) < few - 50
            began_s = time.monotonic()
            assert ask(port, request("/api/words", BEARER))[0] == 200
            assert time.monotonic() - began_s < 5
            before = len(list((tmp_path / "masks").iterdir()))
            time.sleep(1)
            assert len(list((tmp_path / "masks").iterdir())) > before
        _, answer = ask(port, request("/api/state", BEARER, "Connection: close"))
        (gate,) = json.loads(answer.partition(b"\r\n\r\n")[2])["cameras"]
        assert set(gate["outputs"].values()) == {None}
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 130
    finally:
        process.kill()
        process.wait()
    said = log_file.read_text()
    assert len(said) < 5000 and "Traceback" not in said, said[-2000:]


def _port_in(log_file: Path, process: subprocess.Popen[bytes]) -> int:
    deadline_s = time.monotonic() + 60
    while time.monotonic() < deadline_s and process.poll() is None:
        _, found, rest = log_file.read_text().partition("watch at http://127.0.0.1:")
        if found and "/" in rest:
            return int(rest.partition("/")[0])
        time.sleep(0.05)
    raise AssertionError(log_file.read_text())


def test_held_bodies_have_a_budget(site: Site) -> None:
    head = request("/api/segment?classes=red", f"Content-Length: {MAX_BODY}", method="POST")
    with many(_port(site), 30, head + b"\0" * 1000) as opened:
        statuses = []
        for connection in opened:
            connection.settimeout(0.3)
            statuses.append(answer_of(connection)[0])
        held = MOST_AT_ONCE // MAX_BODY
        assert statuses.count(0) == held and statuses.count(503) == len(opened) - held
        # Their room is free again once they are given up.
        assert all(is_closed_within(one, 8) for one in opened)
    assert ask(_port(site), _put(b'{"classes":"red,green"}'))[0] == 200


def test_a_body_without_a_length_is_cut_at_the_limit(site: Site) -> None:
    def chunks() -> Iterator[bytes]:
        for _ in range(MAX_BODY // 2**20 + 2):
            yield b"\0" * 2**20

    connection = http.client.HTTPConnection("127.0.0.1", _port(site), timeout=20)
    connection.request(
        "POST",
        "/api/segment?classes=red",
        chunks(),
        encode_chunked=True,
        headers={"Transfer-Encoding": "chunked"},
    )
    answer = connection.getresponse()
    assert answer.status == 413 and b"send less" in answer.read()
    connection.close()


# Watchers


def _is_let_in(site: Site) -> bool:
    with connect(_port(site)) as connection:
        connection.sendall(STREAM)
        return connection.recv(20).startswith(b"HTTP/1.1 200")


def test_watchers_that_break_off_leave_their_place(site: Site) -> None:
    for number in range(60):
        connection = connect(_port(site))
        connection.sendall(STREAM)
        if number % 3 == 1:
            time.sleep(0.005)
        if number % 3 == 2:
            connection.recv(100)
        reset(connection)
    time.sleep(0.5)
    assert _is_let_in(site)
    time.sleep(0.3)
    with many(_port(site), MOST_WATCHERS, STREAM) as watching:
        assert all(answer_of(one)[0] == 200 for one in watching)
        assert not _is_let_in(site)
        reset(watching.pop())
        deadline_s = time.monotonic() + 10
        while not (let_in := _is_let_in(site)) and time.monotonic() < deadline_s:
            time.sleep(0.1)
        assert let_in


def test_a_watcher_that_reads_nothing_is_closed(unwatched_site: Site) -> None:
    site = unwatched_site
    with connect(_port(site)) as reading, many(_port(site), MOST_WATCHERS - 1, STREAM):
        reading.sendall(STREAM)
        deadline_s = time.monotonic() + 40
        while _is_let_in(site):
            # Not all of them have been read yet, or a place was only just left.
            assert time.monotonic() < deadline_s, "more watch than there are places"
        assert not _is_let_in(site)
        while not _is_let_in(site):
            assert reading.recv(65536), "the one that reads was closed"
            assert time.monotonic() < deadline_s, "silent watchers keep their places"
        assert reading.recv(65536)


# Who is known


def _statuses(port: int, sent: bytes, count: int) -> set[int]:
    """Return what so many requests get that come as fast as they are read."""
    last = request("/api/words", BEARER, "Connection: close")
    with connect(port) as connection:
        connection.sendall(sent * count + last)
        answers = b""
        while more := connection.recv(65536):
            answers += more
    return {int(part[:3]) for part in answers.split(b"HTTP/1.1 ")[1:]}


def test_a_flood_without_the_token_locks_nobody_out(closed_site: Site) -> None:
    # The last one has the token.
    assert _statuses(_port(closed_site), request("/x"), 300) == {401, 429, 200}


def test_whoever_is_known_has_a_limit_too(bundle: Path) -> None:
    for one in served(bundle, Access(port=0, token=TOKEN, per_second=1)):
        assert _statuses(_port(one), request("/api/words", BEARER), 20) == {200, 429}
        time.sleep(1.1)
        known = {"authorization": f"Bearer {TOKEN}"}
        assert one.client.get("/api/words", headers=known).status_code == 200


def _session(site: Site) -> str:
    answer = site.client.get(f"/?token={TOKEN}")
    assert answer.status_code == 200
    site.client.cookies.clear()
    return str(answer.headers["set-cookie"].split(";")[0])


def test_the_cookie_is_not_the_token(closed_site: Site) -> None:
    name, _, value = _session(closed_site).partition("=")
    assert name == f"dedos_session_{_port(closed_site)}"
    assert TOKEN not in value and len(value) == 64
    # Nor does it serve as one.
    for header in ({"authorization": f"Bearer {value}"}, {"cookie": f"{name}={TOKEN}"}):
        assert closed_site.client.get("/api/words", headers=header).status_code == 401
    assert closed_site.client.get(f"/api/words?token={value}").status_code == 401
    assert "set-cookie" not in closed_site.client.get("/?token=wrong").headers


@pytest.mark.parametrize(
    "foreign",
    [
        "a:b=c",
        "[]{}=1",
        "dedos_session_1=x",
        "=;;;",
        '"',
        "x" * 8000,
        "a=\xff\xfe",
        "dedos_session_",
    ],
)
@pytest.mark.parametrize("form", ["{0}; {1}", "{1}; {0}", "{0};{1};{0}"])
def test_foreign_cookies_lock_nobody_out(closed_site: Site, foreign: str, form: str) -> None:
    cookie = f"Cookie: {form.format(foreign, _session(closed_site))}"
    host = f"localhost:{_port(closed_site)}"
    status, _ = ask(_port(closed_site), request("/api/words", cookie, host=host))
    assert status == 200
    time.sleep(0.02)


def test_a_cookie_of_the_same_name_from_elsewhere(closed_site: Site) -> None:
    own = _session(closed_site)
    other = f"{own.partition('=')[0]}=nonsense"
    for cookie in (f"{own}; {other}", f"{other}; {own}"):
        answer = closed_site.client.get("/api/words", headers={"cookie": cookie})
        assert answer.status_code == 200


def test_a_token_outside_ascii(bundle: Path) -> None:
    token = "Schlüssel-für-Müller-Straße"
    for site in served(bundle, Access(port=0, token=token)):
        header = {"authorization": f"Bearer {token}".encode()}
        assert site.client.get("/api/words", headers=header).status_code == 200
        assert site.client.get("/api/words", params={"token": token}).status_code == 200
        site.client.cookies.clear()
        for wrong in (token[:-1], "Schlussel", "\xff", "\udcff"):
            header = {"authorization": f"Bearer {wrong}".encode("utf-8", "surrogateescape")}
            assert site.client.get("/api/words", headers=header).status_code == 401


# Pages of other sites


def test_other_sites_see_no_pictures(site: Site) -> None:
    for path in (
        "/api/cameras/gate/snapshot.jpg",
        "/api/cameras/gate/stream",
        "/api/state",
        "/metrics",
        "/page.js",
    ):
        for where in ("cross-site", "same-site", "odd"):
            header = {"sec-fetch-site": where, "sec-fetch-mode": "no-cors"}
            assert site.client.get(path, headers=header).status_code == 403
    by_hand = {"sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}
    for where, path, status in (
        ("cross-site", "/", 200),
        ("cross-site", "/api/cameras/gate/snapshot.jpg", 403),
        ("none", "/api/cameras/gate/snapshot.jpg", 200),
        ("same-origin", "/api/state", 200),
    ):
        header = {**by_hand, "sec-fetch-site": where}
        assert site.client.get(path, headers=header).status_code == status
    framed = {**by_hand, "sec-fetch-dest": "iframe", "sec-fetch-site": "cross-site"}
    assert site.client.get("/", headers=framed).status_code == 403


def test_every_answer_says_whose_it_is(site: Site, closed_site: Site) -> None:
    answers = [
        site.client.get(path)
        for path in ("/", "/page.js", "/api/state", "/api/cameras/gate/snapshot.jpg", "/no/such")
    ]
    answers += [closed_site.client.get("/"), site.client.put("/api/cameras/gate/classes", json={})]
    for answer in answers:
        assert answer.headers["cross-origin-resource-policy"] == "same-origin", answer.url
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["referrer-policy"] == "no-referrer"


# Words are words


@pytest.mark.parametrize("words", ["/etc/hostname", "/proc/self/environ", "../x.txt", "words.txt"])
def test_no_file_is_read_for_anybody(
    site: Site, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "words.txt").write_text("a secret, and more of it\n")
    monkeypatch.chdir(tmp_path)
    body = json.dumps({"classes": words}).encode()
    status, answer = ask(_port(site), _put(body))
    assert status in (200, 422) and b"secret" not in answer
    names = [
        entry["name"] for entry in site.client.get("/api/cameras/gate/classes").json()["classes"]
    ]
    # Taken as a word or refused; never opened.
    assert names == [words] if status == 200 else names
    assert site.client.put("/api/cameras/gate/classes", json={"classes": "red,green"}).is_success


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_device_is_no_list_of_words(site: Site) -> None:
    began_s = time.monotonic()
    ask(_port(site), _put(b'{"classes":"/dev/zero"}'))
    assert time.monotonic() - began_s < 5
    assert site.client.put("/api/cameras/gate/classes", json={"classes": "red,green"}).is_success
