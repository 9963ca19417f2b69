"""Words from outside: none is a file, none costs more than its share, and a session never ends."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

sys.path += [str(Path(__file__).parents[1] / "runtime")]

import tiny_bundle  # noqa: E402
from tiny_bundle import stripes, write_tiny_bundle  # noqa: E402

from dedos_deploy.class_files import MOST_BYTES  # noqa: E402
from dedos_deploy.cli import eval as eval_cli  # noqa: E402
from dedos_deploy.cli import export, run  # noqa: E402
from dedos_deploy.errors import BadInputError, UnfinishedError  # noqa: E402
from dedos_deploy.runtime import Segmenter  # noqa: E402
from dedos_deploy.runtime.serving.controls import Controls  # noqa: E402
from dedos_deploy.runtime.sinks.files import encode_picture
from dedos_deploy.text import tower  # noqa: E402
from dedos_deploy.vocabulary import (  # noqa: E402
    WORDS_PER_REQUEST,
    Entry,
    Vocabulary,
    _canonical,
    canonical_word,
    parse_vocabulary,
    typed_vocabulary,
    vocabulary_from_file,
)

SECRET = "hunter2"


@pytest.fixture(autouse=True)
def cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("DEDOS_CACHE_DIR", str(folder))
    return folder


@pytest.fixture(scope="module")
def bundle_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_bundle(tmp_path_factory.mktemp("bundles") / "tiny")


@pytest.fixture
def segmenter(bundle_folder: Path) -> Iterator[Segmenter]:
    with Segmenter.load(bundle_folder, classes="red", threads=1) as loaded:
        yield loaded


@pytest.fixture
def secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with files that hold a secret, and are good lists of words."""
    for name in ("words.txt", "plain", ".env"):
        (tmp_path / name).write_text(f"{SECRET}\nred\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


PATHS = [
    "{}/plain",
    "{}/words.txt",
    "words.txt",
    "./plain",
    "../plain",
    "~/.env",
    ".env",
    "plain",
    "{}/../{}/plain",
    "file://{}/plain",
    "/proc/self/environ",
    "/dev/zero",
    "/dev/stdin",
    "sub/plain",
    " {}/plain ",
    "\n{}/plain\n",
    "{}/plain|red",
    "{}/plain@0.5",
    "red,{}/plain",
]


@pytest.mark.parametrize("text", PATHS)
def test_no_string_is_a_file(text: str, secrets: Path, segmenter: Segmenter) -> None:
    """Wherever a string may come from outside: it is a list of words, or refused as one."""
    text = text.replace("{}", str(secrets))
    picture = encode_picture(".png", stripes())

    def words_of(ask: Callable[[], Any]) -> str:
        try:
            return str(ask())
        except BadInputError as error:
            return str(error)

    with Controls(segmenter, {"gate": segmenter.share("blue")}) as controls:
        opened = _opened_files(
            lambda: [
                words_of(lambda: parse_vocabulary(text)),
                words_of(lambda: segmenter.set_classes(text)),
                words_of(lambda: segmenter.share(text).classes),
                words_of(lambda: controls.set_classes("gate", text)),
                words_of(lambda: controls.segment_picture(picture, text).classes),
                words_of(lambda: segmenter.classes),
            ]
        )
    answers, files = opened
    assert not any(SECRET in answer for answer in answers)
    assert not any(str(file).startswith(("/proc/self/environ", "/dev/zero")) for file in files)
    assert not any(Path(str(file)).name in ("plain", "words.txt", ".env") for file in files)


_heard: list[object] | None = None


def _listen(event: str, arguments: tuple[object, ...]) -> None:
    if _heard is not None and event in ("open", "os.listdir", "os.scandir"):
        _heard.append(arguments[0])


sys.addaudithook(_listen)


def _opened_files(call: Callable[[], Any]) -> tuple[Any, list[object]]:
    """Return what `call` returns and all that it opened."""
    global _heard  # noqa: PLW0603
    _heard = []
    try:
        return call(), _heard
    finally:
        _heard = None


def test_there_is_no_oracle_for_files(secrets: Path) -> None:
    """The answer does not tell whether a file exists."""
    answers = set()
    for name in ("words.txt", "absence.txt"):
        with pytest.raises(BadInputError) as caught:
            parse_vocabulary(str(secrets / name))
        answers.add(str(caught.value).replace(name, "NAME"))
    assert len(answers) == 1


def test_words_of_a_bundle_are_no_files(
    secrets: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """dedos-run with several sources falls back on the bundle's words, here one that is a path."""
    monkeypatch.setattr(tiny_bundle, "BASE_WORDS", (str(secrets / "plain"),))
    rows = np.eye(1, tiny_bundle.TEXT_WIDTH, dtype=np.float32)
    monkeypatch.setattr(tiny_bundle, "embeddings", lambda: rows)
    folder = write_tiny_bundle(secrets / "evil")
    sources = ["--source", "a=test:bars?frames=2", "--source", "b=test:bars?frames=2"]
    code, files = _opened_files(
        lambda: run.main([*sources, "--bundle", str(folder), "--threads", "1", "--json"])
    )
    captured = capsys.readouterr()
    assert code == 0, captured.err
    assert SECRET not in captured.out + captured.err
    assert secrets / "plain" not in [Path(str(file)) for file in files]


def test_words_of_a_bundle_with_marks_stay_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without --classes, with one source and with two, and after the page has sent them back."""
    words = ("sky, blue", 'road|"main" #1', "sign@0.5")
    monkeypatch.setattr(tiny_bundle, "BASE_WORDS", words)
    rows = np.eye(3, tiny_bundle.TEXT_WIDTH, dtype=np.float32)
    monkeypatch.setattr(tiny_bundle, "embeddings", lambda: rows)
    folder = write_tiny_bundle(tmp_path / "marks")
    sources = ["--source", "a=test:bars?frames=1", "--source", "b=test:bars?frames=1"]
    for count in (1, 2):
        output = tmp_path / f"{count}-{{camera}}.jsonl"
        given = ["--bundle", str(folder), "--threads", "1", "--output", str(output)]
        assert run.main([*sources[: 2 * count], *given]) == 0
        assert r"the bundle's own 3, sky\, blue, road\|" in capsys.readouterr().err
        for camera in "ab"[:count]:
            line = json.loads((tmp_path / f"{count}-{camera}.jsonl").read_text())
            assert tuple(line["coverage"]) == words
    own = Vocabulary(tuple(map(Entry, words)))
    with Segmenter.load(folder, classes=own, background="none", threads=1) as loaded:
        controls = Controls(loaded, {"a": loaded}, record_to=None)
        shown = [entry["entry"] for entry in controls.classes("a")["classes"]]
        assert controls.set_classes("a", ",".join([shown[0] + "@0.25", *shown[1:]])) == 2
        assert tuple(entry["name"] for entry in controls.classes("a")["classes"]) == words
        controls.close()


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (f"{SECRET}, {SECRET}", "line 2 of {} has a comma"),
        (f"{SECRET}@{SECRET}", "line 2 of {} has a threshold that is none"),
        (f"{SECRET}|", "line 2 of {} has an empty word"),
        (f"{SECRET}\x01", "line 2 of {} has characters that are not text"),
        (f"{SECRET}\n{SECRET}", "a word occurs twice, in line 2 of {} and in line 3 of {}"),
        (SECRET * 100, "line 2 of {} has a word of 700 letters"),
        (f"{SECRET}\udcff", "{} is not UTF-8 text at byte"),
    ],
)
@pytest.mark.parametrize("command", ["run", "eval", "thresholds", "export"])
def test_errors_of_a_class_file_never_show_its_lines(
    command: str, content: str, fault: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also where somebody has a program with more rights read a file that is no list of words."""
    path = tmp_path / "shadow.txt"
    path.write_bytes(b"road\n" + content.encode("utf-8", "surrogateescape") + b"\n")
    main, arguments = {
        "run": (run.main, ["--source", "scene:street", "--classes"]),
        "eval": (eval_cli.main, ["--bundle", "demo", "--data", str(tmp_path), "--classes"]),
        "thresholds": (
            eval_cli.main,
            [
                "calibrate-thresholds",
                "--bundle",
                "demo",
                "--data",
                str(tmp_path),
                "--dry-run",
                "--classes",
            ],
        ),
        "export": (export.main, ["--random-weights", "--vocabulary"]),
    }[command]
    assert main([*arguments, str(path)]) == 2
    captured = capsys.readouterr()
    assert SECRET not in captured.out + captured.err
    assert len(captured.err.splitlines()) == 1
    assert fault.replace("{}", str(path)) in captured.err.replace("class file ", "").replace(
        "'", ""
    )


def test_class_files_are_read_bounded(tmp_path: Path) -> None:
    sparse = tmp_path / "sparse"
    with sparse.open("wb") as stream:
        stream.truncate(1 << 40)
    pipe = tmp_path / "endless"
    os.mkfifo(pipe)

    def write_for_ever() -> None:
        try:
            with pipe.open("wb") as stream:
                while True:
                    stream.write(b"word\n" * 10_000)
        except BrokenPipeError:
            pass

    writer = threading.Thread(target=write_for_ever)
    writer.start()
    tracemalloc.start()
    try:
        for path in (sparse, pipe):
            with pytest.raises(
                BadInputError, match="has more than 4 MiB, which no class list needs"
            ):
                vocabulary_from_file(path)
        for device in ("/dev/zero", "/dev/null", "/dev/random"):
            with pytest.raises(BadInputError, match="cannot be read: it is a device"):
                typed_vocabulary(device)
        assert tracemalloc.get_traced_memory()[1] < 4 * MOST_BYTES
    finally:
        tracemalloc.stop()
        writer.join(10)
    assert not writer.is_alive()


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (",".join(f"w{i}" for i in range(257)), "has 257 words, .* at most 256 are allowed"),
        ("a|" * 300 + "b", "has 301 words"),
        (["a|b"] * 200, "has 400 words"),
        ("," * 1_000_000, "has 1000001 words"),
        ("x" * 19_000, "has a word of 19000 letters, at most 512 are possible"),
        ("x" * 1_000_000 + "@0.5", "a word of 1000000 letters"),
    ],
)
def test_a_request_has_a_largest_number_of_words_and_letters(
    classes: str | list[str], message: str
) -> None:
    with pytest.raises(BadInputError, match=message) as caught:
        parse_vocabulary(classes, most_words=WORDS_PER_REQUEST)
    assert len(str(caught.value)) < 400
    largest = [f"w{i}" for i in range(WORDS_PER_REQUEST)]
    assert len(parse_vocabulary(",".join(largest), most_words=WORDS_PER_REQUEST)) == 256


def test_refused_and_long_words_are_not_kept() -> None:
    _canonical.cache_clear()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for index in range(3000):
        canonical_word(f"{index} " + "x" * 19_000)
    for index in range(20_000):
        canonical_word(f"{index:060d}")
    grown = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert grown < 3 << 20


@pytest.fixture
def slow_tower(monkeypatch: pytest.MonkeyPatch) -> float:
    """Let every run of the text tower take as long as that of a large one."""
    seconds = 0.1
    original = tower.TextTower._run

    def run_slowly(self: tower.TextTower, tokens: NDArray[np.int64]) -> Any:
        time.sleep(seconds)
        return original(self, tokens)

    monkeypatch.setattr(tower.TextTower, "_run", run_slowly)
    return seconds


def test_neither_frames_nor_other_cameras_wait_for_many_new_words(
    segmenter: Segmenter, slow_tower: float
) -> None:
    other = segmenter.share("red")
    words = ",".join(f"new {index}" for index in range(WORDS_PER_REQUEST))
    errors: list[BaseException] = []
    frame = stripes()
    segmenter.segment(frame)

    def ask() -> None:
        try:
            segmenter.set_classes(words, timeout_s=60)
        except BaseException as error:  # Whatever it is fails the test below.
            errors.append(error)

    large = threading.Thread(target=ask)
    began_s = time.monotonic()
    large.start()
    time.sleep(slow_tower)
    frames = 0
    other.set_classes("sky,grass")
    small_s = time.monotonic() - began_s
    while large.is_alive():
        segmenter.segment(frame)
        frames += 1
    large_s = time.monotonic() - began_s
    assert not errors
    assert other.segment(frame).class_ids == (1, 2)
    assert len(segmenter.classes) == WORDS_PER_REQUEST
    # 16 runs for the large request; the small one waits for at most one of them, and its own.
    assert large_s > 16 * slow_tower > small_s
    assert frames > 5


def test_a_deadline_ends_a_request_and_asking_again_ends_it(
    segmenter: Segmenter, slow_tower: float
) -> None:
    words = ",".join(f"new {index}" for index in range(100))
    asked = 0
    while True:
        asked += 1
        try:
            segmenter.set_classes(words, timeout_s=2 * slow_tower)
            break
        except UnfinishedError as error:
            assert "ask again for the rest" in str(error)
            assert segmenter.classes == ("red",)
        assert asked < 20
    assert 1 < asked <= 7
    assert len(segmenter.classes) == 100


def test_a_session_outlives_all_names(segmenter: Segmenter) -> None:
    """More names than a label map has numbers, in changes as large as a request may be."""
    rows = np.zeros((WORDS_PER_REQUEST, tiny_bundle.TEXT_WIDTH), np.float32)
    segmenter._core._encode = lambda words, **_: rows[: len(words)]
    frame = np.zeros((8, 8, 3), np.uint8)
    for turn in range(70_000 // WORDS_PER_REQUEST + 1):
        names = [f"{turn}-{index}" for index in range(WORDS_PER_REQUEST)]
        segmenter.set_classes(names)
        if turn % 50 == 0:
            result = segmenter.segment(frame)
            assert [result.classes[class_id] for class_id in result.class_ids] == names
            assert len(result.classes) == len(result.counts) == WORDS_PER_REQUEST
    segmenter.set_classes("red")
    assert segmenter.segment(frame).label_map.dtype == np.uint8
    assert len(json.dumps(Controls(segmenter, {"gate": segmenter}).state())) < 100_000


def test_words_leave_one_file_of_bounded_size(segmenter: Segmenter, cache_folder: Path) -> None:
    for turn in range(4):
        segmenter.set_classes([f"{turn} {index}" for index in range(WORDS_PER_REQUEST)])
    files = [path for path in cache_folder.rglob("*") if path.is_file()]
    assert [path.name for path in files] == ["rows.db"]
