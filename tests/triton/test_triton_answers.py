"""What a Triton model answers, without Triton; `cases/` asks a real server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest

from dedos_deploy import Segmenter
from dedos_deploy.errors import BadInputError, DedosError, EngineError, UnfinishedError
from dedos_deploy.runtime.serving import recent_views, triton, triton_answers
from dedos_deploy.runtime.serving.recent_views import RecentViews
from dedos_deploy.runtime.serving.triton_answers import Answers, Asked
from dedos_deploy.scenes import render_image
from dedos_deploy.triton_model import CLASS_NAMES, LABEL_MAP, LABEL_MAP_UINT16, OUTPUTS

FRAME = render_image("street", seed=5, size_hw=(48, 64))[0]
EVERY = frozenset(tensor.name for tensor in OUTPUTS)


@pytest.fixture(scope="module")
def segmenter() -> Iterator[Segmenter]:
    with Segmenter.load("demo", classes="road,car", background="none", threads=1) as found:
        yield found


@pytest.fixture
def answers(segmenter: Segmenter) -> Iterator[Answers]:
    with Answers(segmenter) as found:
        yield found


def labels_of(answers: Answers, words: str | None) -> tuple[list[bytes], np.ndarray[Any, Any]]:
    found = answers.answer(Asked(image=FRAME, classes=None if words is None else words.encode()))
    return found[CLASS_NAMES].tolist(), found[LABEL_MAP]


def test_words_of_one_request_leave_no_trace_in_the_next(answers: Answers) -> None:
    asked = ["sky,tree", None, "tree,sky", "sky,tree", "tree|sky,road", None]
    found = [labels_of(answers, words) for words in asked]
    with Segmenter.load("demo", classes="road,car", background="none", threads=1) as other:
        views = {words: other.share(words or "road,car") for words in asked}
        results = {words: view.segment(FRAME) for words, view in views.items()}
    for words, result in results.items():
        names = [name.encode() for name in result.classes]
        for answer in (
            answer for other, answer in zip(asked, found, strict=True) if other == words
        ):
            assert answer[0] == names
            np.testing.assert_array_equal(answer[1], result.label_map)
    assert len({result.label_map.tobytes() for result in results.values()}) == len(results)


def test_vocabularies_that_are_kept_are_few(
    segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recent_views, "VIEWS_KEPT", 3)
    views = RecentViews(segmenter, words_s=10.0)
    first = views.view("road, car")
    assert views.view("road,car") is first and len(views) == 1
    for words in ("car", "sky", "road,car@0.2", "road,car#ff0000"):
        views.view("road,car")
        assert views.view(words) is not first
    assert len(views) == 3 and views.view("road,car") is first
    for words in ("car", "sky", "tree"):
        views.view(words)
    assert views.view("road,car") is not first and len(views) == 3


def test_new_words_may_take_only_so_long(segmenter: Segmenter) -> None:
    # Other words than any test before: two batches of prompts, of which the first is encoded.
    words = ",".join(f"thing of kind {number}" for number in range(200))
    with (
        Answers(segmenter, words_s=0.0) as hurried,
        pytest.raises(UnfinishedError, match="ask again"),
    ):
        hurried.answer(Asked(image=FRAME, classes=words.encode()))


def test_ids_have_two_bytes_where_one_is_too_few(answers: Answers) -> None:
    words = ",".join(["road", *(f"road {number}" for number in range(254))]).encode()
    found = answers.answer(Asked(image=FRAME, classes=words))
    assert found[LABEL_MAP_UINT16].dtype == np.uint16 and LABEL_MAP not in found
    png = {"encoding": "png"}
    small = answers.answer(Asked(image=FRAME, classes=words, parameters=png))
    (content,) = [found for tensor, found in small.items() if tensor.name == "label_map_png"]
    decoded = cv2.imdecode(np.frombuffer(content[0], np.uint8), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(decoded, found[LABEL_MAP_UINT16])


def test_a_large_image_is_refused_before_it_is_resized(
    answers: Answers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(triton_answers, "MOST_SENT_PIXELS", 47 * 64)
    with pytest.raises(BadInputError, match="the image has 48x64 pixels, at most 3008 are taken"):
        answers.answer(Asked(image=FRAME))


@pytest.mark.parametrize("order", ["", 0, False, [], "BGR"])
def test_an_order_that_is_none_is_refused(answers: Answers, order: object) -> None:
    with pytest.raises(BadInputError, match="of channels is unknown; it is bgr or rgb"):
        answers.answer(Asked(image=FRAME, parameters={"order": order}))


@pytest.mark.parametrize("raises", [False, True])
def test_labels_that_no_png_holds_are_refused_as_the_request_s(
    answers: Answers, monkeypatch: pytest.MonkeyPatch, raises: bool
) -> None:
    """OpenCV 4 raises what later ones return."""

    def imencode(*_: object) -> tuple[bool, None]:
        if raises:
            raise cv2.error("Assertion failed")
        return False, None

    monkeypatch.setattr(cv2, "imencode", imencode)
    asked = Asked(image=FRAME, parameters={"encoding": "png"})
    with pytest.raises(BadInputError, match="labels of 48x64 pixels are no PNG.* 'encoding' out"):
        answers.answer(asked)


@pytest.mark.parametrize(
    ("outputs", "parameters", "missing"),
    [
        (frozenset(), {}, None),
        (EVERY, {}, None),
        (frozenset({"label_map", "none_id"}), {}, None),
        (frozenset({"label_map"}), {"encoding": "png"}, "label_map"),
        (frozenset({"label_map_png"}), {}, "label_map_png"),
        (frozenset({"label_map", "confidence"}), {}, "confidence"),
        (frozenset({"confidence_png"}), {"encoding": "png", "confidence": True}, None),
    ],
)
def test_an_output_that_is_asked_for_by_name_is_there_or_refused(
    answers: Answers, outputs: frozenset[str], parameters: dict[str, Any], missing: str | None
) -> None:
    asked = Asked(image=FRAME, parameters=parameters, outputs=outputs)
    if missing is None:
        found = {tensor.name for tensor in answers.answer(asked)}
        assert outputs == EVERY or outputs <= found
    else:
        with pytest.raises(BadInputError, match=f"the output '{missing}' is not in this response"):
            answers.answer(asked)


@pytest.mark.parametrize(
    ("kind", "device", "groups", "threads", "gpu"),
    [
        ("CPU", "0", [("KIND_CPU", 1)], 8, 0),
        ("CPU", "0", [("KIND_CPU", 3)], 2, 0),
        ("CPU", "0", [("KIND_CPU", 20)], 1, 0),
        ("GPU", "1", [("KIND_GPU", 2), ("KIND_GPU", 2)], None, 1),
    ],
)
def test_an_instance_has_its_device_and_its_share_of_the_cores(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    kind: str,
    device: str,
    groups: list[tuple[str, int]],
    threads: int | None,
    gpu: int,
) -> None:
    loaded: list[dict[str, Any]] = []
    monkeypatch.setattr(triton, "usable_threads", lambda: 8)
    monkeypatch.setattr(
        Segmenter, "load", lambda bundle, **given: loaded.append({"bundle": bundle, **given})
    )
    config = {
        "instance_group": [{"kind": name, "count": count} for name, count in groups],
        "parameters": {
            "engine": {"string_value": "openvino"},
            "background": {"string_value": "negatives"},
        },
    }
    (tmp_path / "2").mkdir()
    given = {
        "model_config": json.dumps(config),
        "model_repository": str(tmp_path),
        "model_version": "2",
        "model_instance_kind": kind,
        "model_instance_device_id": device,
    }
    triton.open_segmenter(given)
    (tmp_path / "2" / "classes.words").touch()
    triton.open_segmenter(given)
    expected = {
        "bundle": tmp_path / "2" / "bundle",
        "engine": "openvino",
        "background": "negatives",
        "threads": threads,
        "gpu": gpu,
    }
    assert loaded == [
        {**expected, "classes": tmp_path / "2" / name} for name in ("classes.txt", "classes.words")
    ]


@pytest.mark.parametrize(
    ("parameters", "name"),
    [
        (None, "engine"),
        ({"engine": {"string_value": "cpu"}}, "background"),
        ({"engine": {}, "background": {"string_value": "none"}}, "engine"),
        ({"engine": {"string_value": ""}, "background": {"string_value": "none"}}, "engine"),
    ],
)
def test_a_configuration_without_a_parameter_is_one_sentence(
    tmp_path: Path, parameters: object, name: str
) -> None:
    config = {"instance_group": [{"kind": "KIND_CPU", "count": 1}]}
    given = {
        "model_config": json.dumps(
            config if parameters is None else config | {"parameters": parameters}
        ),
        "model_repository": str(tmp_path),
        "model_version": "1",
        "model_instance_kind": "CPU",
        "model_instance_device_id": "0",
    }
    with pytest.raises(
        BadInputError,
        match=f"config.pbtxt has no parameter '{name}' with a string_value; add it, or",
    ):
        triton.open_segmenter(given)


class FakeTriton(ModuleType):
    """What Triton's Python backend gives a model, as far as it is used."""

    class TritonError(SimpleNamespace):
        INVALID_ARG, UNAVAILABLE, INTERNAL = "invalid argument", "unavailable", "internal"

        def __init__(self, message: str, code: str) -> None:
            super().__init__(message=message, code=code)

    class InferenceResponse(SimpleNamespace):
        pass

    def get_input_tensor_by_name(self, request: SimpleNamespace, name: str) -> Any:
        return request.inputs.get(name)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (BadInputError("the picture is damaged; send a whole one"), "invalid argument"),
        (UnfinishedError("3 of 9 new words were encoded; ask again"), "unavailable"),
        (EngineError("the engine gave no numbers; export it again"), "internal"),
    ],
)
def test_what_a_client_may_do_about_an_error_is_told_by_its_code(
    monkeypatch: pytest.MonkeyPatch, error: DedosError, code: str
) -> None:
    def refuse(asked: Asked) -> None:
        assert asked.classes == b"road" and asked.parameters == {"encoding": "png"}
        raise error

    model = triton.TritonPythonModel()
    model._triton = FakeTriton("triton_python_backend_utils")
    model._answers = SimpleNamespace(answer=refuse)  # type: ignore[assignment]
    words = SimpleNamespace(as_numpy=lambda: np.array([b"road"], np.object_))
    request = SimpleNamespace(
        inputs={"classes": words},
        parameters=lambda: '{"encoding": "png"}',
        requested_output_names=lambda: ["label_map_png"],
    )
    (response,) = model.execute([request])
    assert (response.error.message, response.error.code) == (str(error), code)
