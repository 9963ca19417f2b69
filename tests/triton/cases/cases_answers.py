"""What a model answers over both protocols, and what it says of requests that it cannot answer."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from conftest import CLASSES
from triton_clients import clients_at_once, expected_of
from triton_server import PROTOCOLS, Server, ask
from tritonclient.utils import InferenceServerException

from dedos_deploy import Segmenter

EXAMPLE = Path(__file__).parents[3] / "examples/triton_client.py"
SECONDS = 4.0


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_labels_are_those_of_the_runtime(
    server: Server, segmenter: Segmenter, frame: np.ndarray, protocol: str
) -> None:
    expected = segmenter.segment(frame)
    with server.client(protocol) as client:
        raw = ask(client, frame)
        small = ask(client, frame, encoding="png", confidence=True)
        whole = ask(client, frame, confidence=True)
        turned = ask(client, np.ascontiguousarray(frame[:, :, ::-1]), order="rgb")
        chosen = ask(client, frame, outputs=("label_map",))
    assert set(raw) == {"label_map", "class_names", "class_ids", "none_id"}
    assert raw["label_map"].dtype == np.uint8 and raw["none_id"].tolist() == [255]
    assert raw["class_names"].tolist() == [b"road", b"car", b"sky"]
    assert raw["class_ids"].tolist() == [0, 1, 2]
    for answer in (raw, whole, turned, chosen):
        np.testing.assert_array_equal(answer["label_map"], expected.label_map)
    np.testing.assert_array_equal(whole["confidence"], expected.confidence)
    assert set(chosen) == {"label_map"}
    for name, there in (("label_map", expected.label_map), ("confidence", expected.confidence)):
        content = np.frombuffer(small[f"{name}_png"][0], np.uint8)
        np.testing.assert_array_equal(cv2.imdecode(content, cv2.IMREAD_UNCHANGED), there)
    assert not {"label_map", "confidence"} & set(small)


def test_a_picture_file_is_decoded_there(server: Server, segmenter: Segmenter, jpeg: bytes) -> None:
    expected = segmenter.segment(cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR))
    with server.client("http") as client:
        np.testing.assert_array_equal(ask(client, picture=jpeg)["label_map"], expected.label_map)


def test_more_classes_than_a_byte_has_values(server: Server, frame: np.ndarray) -> None:
    words = ",".join(["road", *(f"road {number}" for number in range(254))])
    with server.client("grpc") as client:
        answer = ask(client, frame, classes=words)
        said = refused(client, frame, classes=words, outputs=("label_map",))
    assert answer["label_map_uint16"].dtype == np.uint16 and len(answer["class_names"]) == 255
    assert answer["none_id"].tolist() == [65535] and "label_map" not in answer
    assert said.startswith("the output 'label_map' is not in this response, which has")


def refused(client: Any, *given: Any, **more: Any) -> str:
    with pytest.raises(InferenceServerException) as caught:
        ask(client, *given, **more)
    assert caught.value.status() in ("400", "StatusCode.INVALID_ARGUMENT")
    return str(caught.value.message())


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_wrong_requests_get_one_sentence(
    server: Server, segmenter: Segmenter, frame: np.ndarray, jpeg: bytes, protocol: str
) -> None:
    neither = "a request has one of the inputs 'image', uint8 [H, W, 3], and 'picture'"
    words = "the class list has 257 words, synonyms counted, at most 256 are allowed in one request"
    wrong: list[tuple[dict[str, Any], str]] = [
        ({}, neither),
        ({"classes": "road"}, neither),
        ({"image": frame, "picture": jpeg}, neither),
        (
            {"image": frame[:0]},
            "a frame must have shape [H, W, 3] in BGR order and at least one pixel",
        ),
        ({"picture": jpeg[:60]}, "the picture is damaged; send a whole JPEG or PNG"),
        ({"picture": b"GIF89a"}, "the body is no JPEG or PNG picture; send one as it is"),
        ({"picture": jpeg, "order": "rgb"}, "the parameter 'order' is of the input 'image'"),
        ({"image": frame, "classes": ""}, "the class list is empty; name at least one class"),
        ({"image": frame, "classes": "a,a"}, "'a' occurs twice, in position 1 of the class list"),
        ({"image": frame, "classes": "a@2"}, "position 1 of the class list has the threshold '2'"),
        ({"image": frame, "classes": b"\xff"}, "the input 'classes' is not UTF-8 text at byte 0"),
        (
            {"image": frame, "classes": "/etc/passwd"},
            "the class list is '/etc/passwd', which looks",
        ),
        ({"image": frame, "classes": ",".join(map("w{}".format, range(257)))}, words),
        (
            {"image": frame, "encoding": "jpg"},
            "the parameter 'encoding' is 'jpg'; it is one of raw",
        ),
        (
            {"image": frame, "confidence": "yes"},
            "the parameter 'confidence' is 'yes'; it is true or",
        ),
        (
            {"image": frame, "encodin": "png"},
            "the parameter 'encodin' is unknown, did you mean 'enc",
        ),
        (
            {"image": frame, "order": "xyz"},
            "the order 'xyz' of channels is unknown; it is bgr or rgb",
        ),
        # By Triton, from the model's configuration:
        ({"image": frame[..., 0]}, "unexpected shape for input 'image' for model 'demo'. Expected"),
        ({"image": frame.astype(np.float32)}, "inference input 'image' data-type is 'FP32', but"),
    ]
    with server.client(protocol) as client:
        for given, sentence in wrong:
            said = refused(client, **given)
            assert sentence in said and said.strip().count("\n") == 0, said
        # It goes on, and parameters of others are none of its business.
        answer = ask(client, frame, traceparent="00-1")
    np.testing.assert_array_equal(answer["label_map"], segmenter.segment(frame).label_map)


def test_words_of_clients_never_mix(server: Server, frame: np.ndarray) -> None:
    """Eight clients at once, half over each protocol, whose words change with every request."""
    expected = expected_of(frame, 12)
    assert len({labels.tobytes() for labels in expected.labels.values()}) > 8
    tally = clients_at_once(server, expected, 8, SECONDS)
    assert not tally.failed and not tally.mixed
    assert all(len(times) >= 4 for times in tally.times_ms.values())


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_the_example_labels_a_picture(
    server: Server, jpeg: bytes, tmp_path: Path, protocol: str
) -> None:
    (tmp_path / "street.jpg").write_bytes(jpeg)
    place = f"{protocol}://127.0.0.1:{server.ports[list(PROTOCOLS).index(protocol)]}"
    words = CLASSES.replace("sky", "tree")
    done = subprocess.run(
        [sys.executable, EXAMPLE, place, "demo", "street.jpg", words, "labels.png"],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=tmp_path,
    )
    assert done.stdout.split() == ["0", "road", "1", "car", "2", "tree", "255", "unlabelled"]
    labels = cv2.imread(str(tmp_path / "labels.png"), cv2.IMREAD_UNCHANGED)
    assert labels.shape == (120, 160) and set(np.unique(labels)) <= {0, 1, 2, 255}
