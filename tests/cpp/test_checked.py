"""Parts of libdedos beside their Python twins, and all of it under sanitizers."""

from __future__ import annotations

import random
import struct
from pathlib import Path

import checks
import cv2
import numpy as np
import pytest
import small_bundles
from bindings import onnx_runtime
from numpy.typing import NDArray

from dedos_deploy.bundle import Bundle
from dedos_deploy.errors import BadInputError
from dedos_deploy.runtime.frame import resize_frame
from dedos_deploy.text import Tokenizer
from dedos_deploy.vocabulary import parse_vocabulary


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """check.cpp that ends at the first address or arithmetic fault, or leak."""
    return checks.build(tmp_path_factory.mktemp("check"), "address")


def test_tokens_equal_the_tokenizer_s(address: Path, demo: Path) -> None:
    with Bundle.open(demo) as bundle:
        path = bundle.path("tokenizer.json")
        tokenizer = Tokenizer(path, 77)
        chance = random.Random(1)
        letters = "abcdefghijklmnopqrstuvwxyz"
        vocabulary = [word for word in tokenizer._pairs.get_vocab() if word.isascii()]
        words = [word.removesuffix("</w>") for word in vocabulary if "<" not in word[:-4]]
        prompts = [
            "",
            "a",
            "It's 12 o'clock & we'll GO!!",
            "<START_of_text",
            "..<end_of_text>",
            "x&;",
        ]
        for _ in range(1500):
            parts = [chance.choice(words) for _ in range(chance.randint(1, 4))]
            parts.append("".join(chance.choice(letters + "-'.0A ") for _ in range(6)))
            prompts.append(chance.choice(["a photo of a ", "the "]) + " ".join(parts))
        given = "".join(f"{prompt}\n" for prompt in prompts).encode()
        lines = (
            checks.call(address, "tokens", path, "77", given=given)
            .decode()
            .removesuffix("\n")
            .split("\n")
        )
    compared = 0
    for prompt, line in zip(prompts, lines, strict=True):
        if line == "error: not plain":
            assert "&" in prompt
            continue
        row = tokenizer.encode([prompt])[0]
        expected = row[: row.argmax() + 1].tolist()
        assert [int(token) for token in line.split()] == expected, prompt
        compared += 1
    assert compared > 1400


def test_class_lists_are_read_as_in_python(address: Path) -> None:
    chance = random.Random(2)
    pieces = [
        *"ab,|@#\\ .",
        "road",
        "@0.4",
        "#00ff00",
        "\u00e4",
        "\u3000",
        "0.5",
        "/",
        "@1e-1",
        "nan",
    ]
    lists = [
        "".join(chance.choice(pieces) for _ in range(chance.randint(1, 9))) for _ in range(1500)
    ]
    lists += ["~/a", "C:\\x", "..\\x", "a.TXT", "x" * 513, "a\x7fb", ",".join("abc")]
    given = "".join(f"{text}\n" for text in lists).encode()
    lines = checks.call(address, "classes", given=given).decode().removesuffix("\n").split("\n")
    good = 0
    for text, line in zip(lists, lines, strict=True):
        try:
            entries = parse_vocabulary(text).entries
        except BadInputError:
            assert line.startswith("error: "), text
            continue
        found = [entry.split("\x1f") for entry in line.split("\x1e")[:-1]]
        assert [tuple(entry[:-1]) for entry in found] == [entry.words for entry in entries], text
        floors = [-1.0 if entry.threshold is None else entry.threshold for entry in entries]
        assert [float(entry[-1]) for entry in found] == floors, text
        good += 1
    assert 100 < good < len(lists) - 100


def _resized(
    program: Path, frame: NDArray[np.uint8], size_hw: tuple[int, int]
) -> NDArray[np.uint8]:
    sides = map(str, (*frame.shape[:2], *size_hw))
    out = checks.call(program, "resize", *sides, given=frame.tobytes())
    return np.frombuffer(out, np.uint8).reshape(*size_hw, 3)


def test_frames_are_resized_as_opencv_does(address: Path) -> None:
    """To any network's size, since the demo bundle's is only one of them."""
    chance = np.random.default_rng(3)
    # A thousandth of a cell is left out for 1001, halves are rounded for 2 x 2, and sides stay.
    pairs = [
        ((40, 60), (20, 30)),
        ((40, 90), (20, 30)),
        ((60, 90), (20, 30)),
        ((1001, 8), (1000, 4)),
    ]
    pairs += [((1, 1), (8, 12)), ((20, 33), (20, 32)), ((20, 31), (20, 32)), ((37, 3), (8, 8))]
    for _ in range(24):
        sides = chance.integers(1, 90, 4)
        pairs.append(((int(sides[0]), int(sides[1])), (int(sides[2]), int(sides[3]))))
    for source_hw, size_hw in pairs:
        frame = chance.integers(0, 256, (*source_hw, 3), dtype=np.uint8)
        expected = np.empty((*size_hw, 3), np.uint8)
        resize_frame(frame, expected)
        found = _resized(address, frame, size_hw)
        np.testing.assert_array_equal(
            found, expected, f"{source_hw} to {size_hw}, {cv2.__version__}"
        )


def _mutants(seeds: list[bytes], count: int) -> list[bytes]:
    chance = random.Random(4)
    mutants = []
    for _ in range(count):
        content = bytearray(chance.choice(seeds))
        for _ in range(chance.randint(1, 4)):
            at = chance.randrange(len(content))
            kind = chance.randrange(4)
            if kind == 0:
                content[at] ^= 1 << chance.randrange(8)
            elif kind == 1:
                content[at] = chance.choice((0, 0xFF, 0x7F, ord('"'), ord("{")))
            elif kind == 2:
                del content[at : at + chance.randint(1, 8)]
            else:
                content[at:at] = content[at : at + chance.randint(1, 40)]
            if not content:
                break
        mutants.append(bytes(content))
    return mutants


def test_damaged_bundles_cause_no_fault(address: Path, tmp_path: Path) -> None:
    small_bundles.write_seeds(tmp_path)
    seeds = [path.read_bytes() for path in sorted(tmp_path.glob("seed-*"))]
    given = b"".join(struct.pack("<Q", len(one)) + one for one in [*seeds, *_mutants(seeds, 1500)])
    assert checks.call(address, "open", given=given) == b"1504 opened\n"


def test_two_threads_cause_no_fault(address: Path, demo: Path) -> None:
    assert checks.call(address, "threads", demo, onnx_runtime()) == b"0 wrong\n"


def test_two_threads_do_not_race(tmp_path: Path, demo: Path) -> None:
    program = checks.build(tmp_path, "thread")
    assert checks.call(program, "threads", demo, onnx_runtime()) == b"0 wrong\n"
