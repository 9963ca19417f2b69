"""Words that are learned from drawings over HTTP: labelled, renamed, forgotten, kept over a restart."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from serving_site import Site, served
from tiny_bundle import BASE_WORDS, embeddings, stripes

from dedos_deploy.cli._run_page import words_with
from dedos_deploy.cli.run import build_parser
from dedos_deploy.errors import BadInputError
from dedos_deploy.runtime import Segmenter
from dedos_deploy.runtime.frame import Frame
from dedos_deploy.runtime.serving.controls import Controls
from dedos_deploy.runtime.serving.guard import Access
from dedos_deploy.runtime.serving.marks import Box
from dedos_deploy.runtime.serving.state_file import Chosen, StateFile
from dedos_deploy.vocabulary import vocabulary_from_file
from dedos_deploy.words_file import save_words_file

GATE = "/api/cameras/gate"
# The site's frames are 96 wide: blue in the first third, green, red.
BLUE = {"tool": "box", "box": [2, 2, 30, 46]}
BLUE_STROKES = [{"tool": "brush", "radius": 2, "points": [[x, 4], [x, 44]]} for x in (6, 24)]


@pytest.fixture(scope="module")
def site(learning_bundle: Path) -> Iterator[Site]:
    pytest.importorskip("fastapi", reason="needs pip install 'dedos-deploy[serve]'")
    pytest.importorskip("httpx")
    for opened in served(learning_bundle, Access(port=0, per_second=2000)):
        opened.wait_for("gate")
        yield opened


@pytest.fixture(autouse=True)
def _words_of_the_gate(request: pytest.FixtureRequest) -> None:
    if "site" in request.fixturenames:
        site: Site = request.getfixturevalue("site")
        assert site.client.put(f"{GATE}/classes", json={"classes": "red,green"}).status_code == 200


def _example(site: Site, *marks: dict[str, Any]) -> dict[str, Any]:
    number = site.client.post(f"{GATE}/frozen").json()["number"]
    return {"frozen": number, "marks": list(marks)}


def _learn(site: Site, word: str, *examples: dict[str, Any], **more: Any) -> Any:
    return site.client.post(
        f"{GATE}/examples", json={"word": word, "examples": list(examples), **more}
    )


def _classes(site: Site) -> dict[str, Any]:
    found = site.client.get(f"{GATE}/classes").json()["classes"]
    return {entry["name"]: entry for entry in found}


def _until_seen(site: Site, word: str) -> float:
    """Return the word's part of the picture once frames are labelled with it."""
    deadline = time.monotonic() + 10
    while True:
        newest = site.controls.hub.newest("gate")
        if newest is not None and newest.coverage.get(word):
            return newest.coverage[word]
        assert time.monotonic() < deadline, "the word labels nothing"
        time.sleep(0.01)


@pytest.mark.parametrize("marks", [[BLUE], BLUE_STROKES, [*BLUE_STROKES, BLUE]])
def test_a_drawn_word_labels_the_next_frames(site: Site, marks: list[dict[str, Any]]) -> None:
    answer = _learn(site, "the  sea, deep", _example(site, *marks))
    assert answer.status_code == 200, answer.text
    learned = answer.json()
    assert (learned["word"], learned["separates"], learned["added"]) == (
        "the sea, deep",
        True,
        True,
    )
    assert learned["examples"] == 1 and learned["margin"] > 0.5
    assert _until_seen(site, "the sea, deep") == pytest.approx(1 / 3, abs=0.1)
    found = _classes(site)
    assert found["the sea, deep"]["learned"]["margin"] == pytest.approx(learned["margin"], abs=1e-3)
    assert found["red"]["learned"] is None
    assert "the sea, deep" not in site.controls.classes("back yard")["classes"]


@pytest.fixture
def still(learning_bundle: Path) -> Iterator[Controls]:
    """A camera that shows stripes and stands still."""
    with Segmenter.load(learning_bundle, classes="lamp", threads=1) as shared:
        view = shared.share("red,green")
        with Controls(shared, {"gate": view}) as controls:
            frame = Frame(stripes(), 0, 0.0, "test", "0")
            controls.hub.on_result("gate", frame, view.segment(frame.frame_bgr))
            yield controls


def test_of_one_picture_the_last_drawing_counts(still: Controls) -> None:
    green, blue = (Box((x, 2, x + 26, 58)) for x in (32, 2))
    numbers = [still.drawings.frozen.freeze("gate").number for _ in range(2)]
    examples = list(zip(numbers, ([green], [blue]), strict=True))
    learned = still.drawings.learn("gate", "sea", examples, anyway=False)
    assert learned.examples == 1 and learned.added
    assert still.view("gate").segment(stripes()).mask("sea")[30, 10]


def test_a_rename_keeps_what_is_learned_meanwhile(
    still: Controls, monkeypatch: pytest.MonkeyPatch
) -> None:
    view, number = still.view("gate"), still.drawings.frozen.freeze("gate").number
    set_classes = view.set_classes

    def learn(word: str, x: int) -> None:
        still.drawings.learn("gate", word, [(number, [Box((x, 2, x + 26, 58))])], anyway=True)

    def slowly(*given: Any, **more: Any) -> int:
        other.start()
        other.join(0.3)
        return set_classes(*given, **more)

    learn("sea", 2)
    other = threading.Thread(target=learn, args=("lake", 32))
    monkeypatch.setattr(view, "set_classes", slowly)
    still.rename("gate", {word: own for word, own, _ in view.entries}["sea"], "ocean")
    other.join(10)
    assert view.classes == ("red", "green", "ocean", "lake")


def test_no_more_words_than_the_page_can_change(site: Site) -> None:
    words = ",".join(f"w{number}" for number in range(256))
    assert site.client.put(f"{GATE}/classes", json={"classes": words}).status_code == 200
    answer = _learn(site, "sea", _example(site, BLUE), anyway=True)
    assert answer.status_code == 422 and "has 256 words" in answer.json()["detail"]
    assert _learn(site, "W7", _example(site, BLUE), anyway=True).json()["added"]


def test_what_does_not_stand_apart_changes_nothing(site: Site) -> None:
    # Half of green and half of red, which have words of their own.
    example = _example(site, {"tool": "box", "box": [40, 2, 90, 46]}, BLUE)
    before = _classes(site)
    learned = _learn(site, "mixture", example).json()
    assert not learned["separates"] and not learned["added"] and learned["margin"] < 0.3
    assert _classes(site) == before
    learned = _learn(site, "mixture", example, anyway=True).json()
    assert learned["added"] and not learned["separates"] and "mixture" in _classes(site)


def test_renamed_and_forgotten(site: Site) -> None:
    colour = {"colour": "#102030"}
    _learn(site, "sea", _example(site, BLUE))
    number = _classes(site)["sea"]["id"]
    assert site.client.put(f"{GATE}/classes/{number}/colour", json=colour).status_code == 204
    renamed = site.client.put(f"{GATE}/classes/{number}/name", json={"name": "Baltic"})
    assert renamed.status_code == 200, renamed.text
    found = _classes(site)
    assert list(found) == ["red", "green", "Baltic"] and found["Baltic"]["colour"] == "#102030"
    assert found["Baltic"]["learned"]["examples"] == 1
    assert _until_seen(site, "Baltic") > 0.2
    number = found["Baltic"]["id"]
    taken = site.client.put(f"{GATE}/classes/{number}/name", json={"name": "RED"})
    assert taken.status_code == 422 and "occurs twice" in taken.json()["detail"]
    # The text of "red" finds red again after what was learned for it is forgotten.
    red = _learn(site, "red", _example(site, BLUE), anyway=True).json()
    assert red["added"] and _classes(site)["red"]["learned"]
    number = _classes(site)["red"]["id"]
    assert site.client.delete(f"{GATE}/classes/{number}/examples").status_code == 200
    assert _classes(site)["red"]["learned"] is None
    view = site.controls.view("gate")
    assert view.vocabulary.tuned is not None and "red" not in view.vocabulary.tuned.words
    result = view.segment(stripes())
    assert result.mask("red")[30, 80] and result.mask("Baltic")[30, 10]
    for way in ("delete", "put"):
        address, body = {"delete": ("examples", None), "put": ("name", {"name": "x"})}[way]
        refused = site.client.request(way, f"{GATE}/classes/{number}/{address}", json=body)
        assert refused.status_code == 422
        assert "'red' was not learned from examples" in refused.json()["detail"]
    unknown = site.client.delete(f"{GATE}/classes/999/examples")
    assert unknown.status_code == 422 and "has no class 999" in unknown.json()["detail"]


def test_the_words_file_holds_what_was_learned(
    site: Site, learning_bundle: Path, tmp_path: Path
) -> None:
    _learn(site, "sea", _example(site, BLUE))
    site.client.put(f"{GATE}/classes", json={"classes": "red@0.4,sea"})
    answer = site.client.get(f"{GATE}/words")
    path = tmp_path / "gate.words"
    path.write_bytes(answer.content)
    with Segmenter.load(learning_bundle, classes=path, threads=1) as segmenter:
        assert [entry for _, _, entry in segmenter.entries] == ["red@0.4", "sea"]
        result = segmenter.segment(stripes())
    assert result.mask("sea")[30, 10] and result.mask("red")[30, 80]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"word": " "}, "what is drawn has no word; name it"),
        ({"word": "a\x07"}, "characters that are not text"),
        ({"examples": [{"frozen": 10**9, "marks": [BLUE]}]}, "keeps no frozen frame 1000000000"),
        ({"marks": [200, 0, 300, 10]}, "is empty"),
        ({"marks": [0, 0, 96, 48]}, "covers the whole frame"),
        ({"examples": []}, "examples: List should have at least 1 item"),
        (
            {"examples": [{"frozen": 1, "marks": [BLUE]}] * 6},
            "examples: List should have at most 5",
        ),
    ],
)
def test_what_cannot_be_learned_is_said(site: Site, change: dict[str, Any], said: str) -> None:
    change = dict(change)
    before = _classes(site)
    box = {"tool": "box", "box": change.pop("marks", BLUE["box"])}
    body = {"word": "sea", "examples": [_example(site, box)], **change}
    answer = site.client.post(f"{GATE}/examples", json=body)
    assert answer.status_code == 422 and said in answer.json()["detail"], answer.text
    assert _classes(site) == before


def test_without_the_graph_it_is_said(bundle_folder: Path) -> None:
    with Segmenter.load(bundle_folder, classes="lamp", threads=1) as shared:
        view = shared.share("red")
        with Controls(shared, {"gate": view}) as controls:
            frame = Frame(stripes(), 0, 0.0, "test", "0")
            controls.hub.on_result("gate", frame, view.segment(frame.frame_bgr))
            number = controls.drawings.frozen.freeze("gate").number
            with pytest.raises(BadInputError, match="was exported without --examples"):
                controls.drawings.learn(
                    "gate", "sea", [(number, [Box((2, 2, 9, 9))])], anyway=False
                )


@pytest.fixture
def learned(learning_bundle: Path, tmp_path: Path) -> Callable[[], None]:
    """Learns a word of a camera with a state file."""

    def learn() -> None:
        with Segmenter.load(learning_bundle, classes="lamp", threads=1) as shared:
            view = shared.share("red")
            state = StateFile(tmp_path / "state.json")
            with Controls(shared, {"gate": view}, state=state) as controls:
                view.learn("the sea", stripes(), (0, 0, 30, 60))
                controls._words_changed("gate")

    return learn


def _words_after_a_restart(folder: Path, classes: str) -> Any:
    arguments = ["--source", "gate=test:bars", "--serve", "--state", str(folder / "state.json")]
    args = build_parser().parse_args([*arguments, "--classes", classes])
    path = Path(classes)
    given = {"gate": vocabulary_from_file(path)} if path.exists() else {}
    return words_with(StateFile(folder / "state.json"), given, args)["gate"]


def test_what_was_learned_outlives_a_restart(
    learned: Callable[[], None], learning_bundle: Path, tmp_path: Path
) -> None:
    learned()
    kept = json.loads((tmp_path / "state.json").read_text())
    assert kept["format"] == 2 and list(kept["learned"]["gate"]["words"]) == ["the sea"]
    # Beside it words of a words file, in which red is what lamp means.
    rows = embeddings()
    words = save_words_file(
        tmp_path / "my.words",
        entries=["red"],
        words=["red"],
        embeddings=rows[[BASE_WORDS.index("lamp")]],
        model_sha256="ab" * 32,
        tuning={},
    )
    for classes, red_is_found in (("red", True), (str(words), False)):
        vocabulary = _words_after_a_restart(tmp_path, classes)
        with Segmenter.load(learning_bundle, classes=vocabulary, threads=1) as segmenter:
            assert segmenter.classes == ("red", "the sea")
            result = segmenter.segment(stripes())
        assert result.mask("the sea")[30, 10]
        assert bool(result.counts[0]) == red_is_found


def test_a_learned_synonym_outlives_a_restart(learning_bundle: Path, tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    with Segmenter.load(learning_bundle, classes="red|the sea", threads=1) as segmenter:
        segmenter.learn("the sea", stripes(), (0, 0, 30, 60))
        StateFile(path).put("gate", Chosen(segmenter.vocabulary, {}))
    kept = StateFile(path).chosen(["gate"])["gate"].vocabulary
    with Segmenter.load(learning_bundle, classes=kept, threads=1) as segmenter:
        assert segmenter.segment(stripes()).mask("red")[30, 10]


def test_a_state_with_damaged_rows_is_left_as_it_is(
    learned: Callable[[], None], bundle_folder: Path, tmp_path: Path
) -> None:
    learned()
    path = tmp_path / "state.json"
    whole = path.read_text()
    row = json.loads(whole)["learned"]["gate"]["words"]["the sea"]["row"]
    for wrong, said in (
        (row[:-9], "is no row of numbers"),
        ("%" + row[1:], "is no row of numbers"),
        ("AACA" + row[4:], "has not length 1"),
    ):
        path.write_text(whole.replace(row, wrong))
        with pytest.raises(BadInputError, match=rf"learned.gate.words.the sea.row {said}"):
            StateFile(path)
        assert wrong in path.read_text()
    # Another model refuses them, as rows of a words file.
    path.write_text(whole)
    with pytest.raises(BadInputError, match="on another model .* name another file for --state"):
        Segmenter.load(bundle_folder, classes=_words_after_a_restart(tmp_path, "red"), threads=1)
