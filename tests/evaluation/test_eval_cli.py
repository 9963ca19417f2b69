"""dedos-eval as it is used: several models, parts, resuming, comparing, reports, thresholds."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
from colours import EXPECTED, colour_graph, write_bundle, write_item
from onnx import TensorProto, helper, numpy_helper

from dedos_deploy.bundle import Bundle
from dedos_deploy.cli import _progress
from dedos_deploy.cli import eval as eval_cli
from dedos_deploy.evaluation.evaluate import read_evaluation
from dedos_deploy.words_file import save_words_file

Run = Callable[..., dict[str, object]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Return a function that runs dedos-eval with --json and returns what it printed."""

    def call(*words: object) -> dict[str, object]:
        assert eval_cli.main([*map(str, words), "--json"]) == 0
        values: dict[str, object] = json.loads(capsys.readouterr().out)
        return values

    return call


@pytest.fixture
def refused(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., str]:
    """Return a function that runs dedos-eval, which must refuse, and returns its one line."""
    # On a busy machine a refusal may come after seconds, which show as lines of progress.
    monkeypatch.setattr(_progress, "SILENT_S", float("inf"))

    def call(*words: object) -> str:
        assert eval_cli.main([str(word) for word in words]) == 2
        captured = capsys.readouterr()
        assert captured.err.count("\n") == 1 and not captured.out, captured
        return captured.err

    return call


def swapped_graph() -> bytes:
    """Return a graph that takes half of what is blue for green: worse than `colour_graph`."""
    model = onnx.load_from_string(colour_graph())
    scale = next(one for one in model.graph.initializer if one.name == "scale")
    # Weights per plane after the transpose: green answers to blue, a little stronger.
    weights = np.array([1.0, 1.0, 1.0], np.float32).reshape(1, 3, 1, 1) / 255
    weights[0, 0] *= 0.2
    scale.CopyFrom(numpy_helper.from_array(weights, "scale"))
    return bytes(model.SerializeToString())


def write_net(path: Path) -> Path:
    """Write a net of fixed classes: channel 0 is red, 1 green, 2 blue, 3 nothing."""
    weights = np.zeros((4, 3, 1, 1), np.float32)
    weights[:3, :, 0, 0] = np.eye(3)
    graph = helper.make_graph(
        [helper.make_node("Conv", ["image", "weights"], ["logits"])],
        "net",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3, "H", "W"])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 4, "H", "W"])],
        [numpy_helper.from_array(weights, "weights")],
    )
    opset = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=9), path)
    return path


def test_one_bundle_gives_records_report_and_pictures(
    run: Run, bundle: Path, data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    values = run("--bundle", bundle, "--data", data, "--output", out, "--boundary")
    assert values["iou"] == pytest.approx(EXPECTED, abs=0.02)
    assert values["skipped_images"] == ["c"] and values["boundary_miou"] is not None
    assert json.loads((out / "report.json").read_text())["iou"] == values["iou"]
    page, text = (out / "report.html").read_text(), (out / "report.md").read_text()
    assert "data:image/jpeg;base64," in page and "http" not in page
    assert "1 images without a pixel that counts were skipped: c" in text
    assert f"| {100 * values['iou']['blue']:.1f} |" in text and "blue as green" in text  # type: ignore[index]
    assert sorted(path.name for path in out.glob(".*")) == []
    command = f"dedos-eval --bundle {bundle} --data {data} --output {out} --boundary --json"
    assert f"`{command}`" in text and f"<code>{command}</code>" in page
    assert page.count("<svg ") == 2 and "labels in rows, answers in columns" in page
    assert "reliability" in page and values["reliability"]["ece"] < 0.2  # type: ignore[index]
    again = read_evaluation(out).result
    assert again.to_dict()["iou"] == values["iou"]


def test_parts_add_up_to_the_whole(run: Run, bundle: Path, data: Path, tmp_path: Path) -> None:
    for index in range(3, 8):
        labels = np.random.default_rng(index).integers(0, 3, (32, 48))
        write_item(
            data, f"d{index}", np.random.default_rng(index + 9).integers(0, 3, (32, 48)), labels
        )
    whole = run("--bundle", bundle, "--data", data, "--boundary")
    for index in (2, 1, 3):
        part = ("--part", f"{index}/3", "--output", tmp_path / "parts")
        run("--bundle", bundle, "--data", data, *part, "--boundary")
    merged = run("report", tmp_path / "parts")
    assert whole["moves"]
    for key, value in whole.items():
        if not key.startswith(("seconds", "results")):
            assert merged[key] == value, key


def tuned_words(path: Path, model_sha256: str) -> Path:
    """Write a words file whose word for green also answers to half of blue: worse than the words."""
    rows = np.array([[1, 0, 0], [0.8, 0.6, 0], [0, 0, 1]], np.float32)
    return save_words_file(
        path,
        entries=["blue", "green@0.9", "red"],
        words=["blue", "green", "red"],
        embeddings=rows,
        model_sha256=model_sha256,
        tuning={},
    )


def test_tuned_words_are_compared_with_the_words_themselves(
    run: Run, refused: Callable[..., str], data: Path, tmp_path: Path
) -> None:
    place = write_bundle(tmp_path / "made.dedos", checkpoint_sha256="a" * 64)
    words, out = tuned_words(tmp_path / "my.words", "a" * 64), tmp_path / "out"
    command = ("--bundle", place, "--data", data, "--words", words, "--output", out)
    values = run(*command, "--no-pictures")
    results, (comparison,) = values["results"], values["comparisons"]  # type: ignore[misc]
    assert [one["predictor"] for one in results] == ["made, tuned words", "made, words"]
    assert results[1]["iou"] == pytest.approx(EXPECTED, abs=0.02)
    # Blue lacks 1 where it is seen as green, and 0.6 beside a green that answers to it by so much.
    assert [one["moves"][0]["by"] for one in results] == [pytest.approx(0.5**0.5), 1.0]
    assert comparison["first"] == "made, words"
    gain = results[0]["miou_present"] - results[1]["miou_present"]
    assert comparison["miou_present"]["difference"] == pytest.approx(gain)
    assert run("--bundle", place, "--data", data, "--classes", words)["iou"] == results[0]["iou"]
    tuned_words(words, "b" * 64)
    assert "tuned on another model" in refused(*command[:-2])
    assert "leave --classes out" in refused(*command[:-2], "--classes", "red")
    (tmp_path / "plain.words").write_text("red\n")
    plain = (*command[:4], "--words", tmp_path / "plain.words")
    assert "a list of words without rows" in refused(*plain)


def test_a_bundle_may_be_called_like_a_class(run: Run, data: Path, tmp_path: Path) -> None:
    """Nor like a file of the report, nor like another bundle but for the letter case."""
    names = ("red", "report.html", "images.jsonl", "Colours", "colours")
    bundles = []
    for number, name in enumerate(names):
        (tmp_path / str(number)).mkdir()  # where letter case tells nothing, too
        bundles.append(write_bundle(tmp_path / str(number) / f"{name}.dedos"))
    out = tmp_path / "out"
    found = run("--bundle", *bundles, "--data", data, "--output", out, "--no-pictures")
    called = [one["predictor"] for one in found["results"]]  # type: ignore[attr-defined]
    assert called == [
        "red (bundle)",
        "report.html (2)",
        "images.jsonl (2)",
        "Colours",
        "colours (2)",
    ]
    text = (out / "report.md").read_text()
    assert "| IoU red (bundle) |" in text and "red (bundle), most frequent mistakes" in text
    folders = {path.name for path in out.iterdir() if path.is_dir()}
    assert len({name.lower() for name in folders}) == 5 and "red_bundle" in folders
    again = run("report", out)
    assert sorted(one["predictor"] for one in again["results"]) == sorted(called)  # type: ignore[attr-defined]


def test_parts_know_which_words_masks_taught(run: Run, tmp_path: Path) -> None:
    """The demo bundle was taught "road", never "purple": groups survive merging and reading."""
    root = tmp_path / "words"
    for index in range(4):
        write_item(root, f"i{index}", np.eye(48, dtype=int)[:32], np.tile([0, 1], (32, 24)))
    (root / "classes.txt").write_text("road\npurple\n")
    given = ("--bundle", "demo", "--data", root, "--threads", "1")
    whole = run(*given)
    for index in (1, 2):
        run(*given, "--part", f"{index}/2", "--output", tmp_path / "parts")
    assert run("report", tmp_path / "parts")["groups"] == whole["groups"]
    assert set(whole["groups"]) == {"base", "novel"}  # type: ignore[call-overload]


def test_an_interrupted_evaluation_goes_on(
    run: Run, refused: Callable[..., str], bundle: Path, data: Path, tmp_path: Path
) -> None:
    whole = run("--bundle", bundle, "--data", data, "--output", tmp_path / "whole")
    out = tmp_path / "out"
    run("--bundle", bundle, "--data", data, "--output", out)
    records = out / "images.jsonl"
    lines = records.read_bytes().splitlines(keepends=True)
    records.write_bytes(b"".join(lines[:2]) + lines[2][:20])  # killed within the second image
    given = ("--bundle", bundle, "--data", data, "--output", out)
    assert "already holds an evaluation; add --resume" in refused(*given)
    resumed = run(*given, "--resume")
    assert resumed["iou"] == whole["iou"] and resumed["images"] == whole["images"]
    other = write_bundle(tmp_path / "other.dedos", graph=swapped_graph())
    message = refused("--bundle", other, "--data", data, "--output", out, "--resume")
    assert "choose another --output" in message


def test_comparing_says_which_is_better_and_where(
    run: Run, bundle: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = write_bundle(tmp_path / "worse.dedos", graph=swapped_graph())
    values = run("--compare", bundle, other, "--data", data, "--output", tmp_path / "both")
    (found,) = values["comparisons"]  # type: ignore[misc]
    first, second = values["results"]  # type: ignore[misc]
    expected = second["miou_present"] - first["miou_present"]
    assert found["miou_present"]["difference"] == pytest.approx(expected) and expected < -0.02
    assert (found["first"], found["second"]) == ("colours", "worse")
    # The kept evaluation of one side serves as well as the bundle.
    kept = run("--compare", tmp_path / "both" / "colours", other, "--data", data)
    assert kept["comparisons"] == values["comparisons"]


def test_a_net_of_fixed_classes_stands_beside(
    run: Run, refused: Callable[..., str], bundle: Path, data: Path, tmp_path: Path
) -> None:
    net, words = write_net(tmp_path / "net.onnx"), tmp_path / "words.json"
    words.write_text(
        json.dumps(
            {
                "words": ["crimson", "green", "azure", "void"],
                "classes": {"red": ["crimson"], "blue": ["azure"]},
            }
        )
    )
    given = ("--net", net, "--net-words", words, "--data", data)
    values = run(*given)
    assert values["iou"] == pytest.approx(EXPECTED, abs=0.02)  # its size is not a multiple of ours
    both = run("--bundle", bundle, *given)
    assert [one["predictor"] for one in both["results"]] == ["colours", "net"]  # type: ignore[attr-defined]
    words.write_text(json.dumps({"words": ["crimson", "green", "azure", "void"]}))
    assert "class 'blue' has no channel: the net knows crimson, green" in refused(*given)
    words.write_text(json.dumps({"words": ["red", "green", "blue"]}))
    assert "has 4 channels, but 3 words were given" in refused(*given)
    words.write_text("[]")
    assert "does not describe a net" in refused(*given)
    assert "belong together" in refused("--net", net, "--data", data)


def test_thresholds_are_written_into_the_bundle(
    run: Run, refused: Callable[..., str], bundle: Path, data: Path, tmp_path: Path
) -> None:
    before = bundle.read_bytes()
    shown = run("calibrate-thresholds", "--bundle", bundle, "--data", data, "--dry-run")
    assert bundle.read_bytes() == before
    chosen = run(
        "calibrate-thresholds",
        "--bundle",
        bundle,
        "--data",
        data,
        "--output",
        tmp_path / "new.dedos",
    )
    assert chosen == shown and bundle.read_bytes() == before
    with Bundle.open(tmp_path / "new.dedos") as opened, Bundle.open(bundle) as old:
        assert set(opened.manifest.thresholds) == {"blue", "green", "red"}
        assert opened.manifest.files == old.manifest.files
    again = run("calibrate-thresholds", "--bundle", bundle, "--data", data, "--classes", "red")
    assert set(again["classes"]) == {"red"}  # type: ignore[call-overload]
    with Bundle.open(bundle) as opened:
        assert set(opened.manifest.thresholds) == {"red"}
    assert "cannot be changed; write the changed one elsewhere" in refused(
        "calibrate-thresholds", "--bundle", "demo", "--data", data
    )
    assert "already exists; use --overwrite" in refused(
        "calibrate-thresholds",
        "--bundle",
        bundle,
        "--data",
        data,
        "--output",
        tmp_path / "new.dedos",
    )


def test_a_folder_keeps_its_engines_when_thresholds_change(
    run: Run, data: Path, tmp_path: Path
) -> None:
    folder = write_bundle(tmp_path / "plain")
    (folder / "engines").mkdir()
    (folder / "engines" / "built").write_text("an hour of work")
    run("calibrate-thresholds", "--bundle", folder, "--data", data)
    assert (folder / "engines" / "built").exists()
    with Bundle.open(folder) as opened:
        assert opened.manifest.thresholds
    assert not list(folder.glob(".*"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("", "nothing to measure was named; give --bundle"),
        ("reprot x", "unknown command 'reprot', did you mean 'report'"),
        ("--bundle B", "no data was named; give --data FOLDER"),
        ("--bundle B --data D --split test", "data folder .*images/test' does not exist"),
        ("--bundle B --data D --classes purple", "class 'purple' is not in the data"),
        ("--bundle B --data D --classes red,Red", "'red' occurs twice|'Red' occurs twice"),
        ("--bundle B --data D --templates poem", "unknown prompt templates 'poem'; known: single"),
        ("--bundle B --data D --part 3/2 --output O", "part 3 of 2 does not exist"),
        ("--bundle B --data D --part half --output O", "part 'half' is not I/N"),
        ("--bundle B --data D --part 1/2", "--part needs --output"),
        ("--bundle B --data D --resume", "--resume goes on with what is in --output"),
        ("--bundle B --data D --engine gpu", "unknown engine 'gpu'"),
        ("--bundle B --data D --threshold 2 --background threshold", r"must lie in \[0, 1\]"),
        ("--bundle nothing --data D", "bundle 'nothing' does not exist"),
        ("--checkpoint nothing --data D", "checkpoint nothing does not exist"),
        ("--bundle B --data D --protocol A-15", "unknown protocol 'A-15'"),
        ("--compare B B --data D --synonyms both", "--compare takes one choice"),
        ("report nowhere", "'nowhere' holds no evaluation"),
        ("report D D", "needs a place of its own; give --output"),
        ("calibrate-thresholds --bundle B --data D --split none", "does not exist; splits there"),
    ],
)
def test_mistakes_are_one_sentence(
    refused: Callable[..., str], bundle: Path, data: Path, tmp_path: Path, words: str, message: str
) -> None:
    places = {"B": str(bundle), "D": str(data), "O": str(tmp_path / "out")}
    before = sorted(path for path in tmp_path.iterdir() if path.name != "cache")
    error = refused(*(places.get(word, word) for word in words.split()))
    assert re.search(message, error), error
    assert sorted(path for path in tmp_path.iterdir() if path.name != "cache") == before


def test_labels_that_do_not_fit_name_file_and_value(
    refused: Callable[..., str], bundle: Path, data: Path
) -> None:
    cv2.imwrite(str(data / "labels/val/b.png"), np.full((32, 48), 7, np.uint8))
    message = refused("--bundle", bundle, "--data", data)
    assert re.search(r"b\.png' hold the value 7, but classes.txt names 3 classes", message)
