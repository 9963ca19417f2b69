from __future__ import annotations

import subprocess
import sys

import pytest

from dedos_deploy.text import TEMPLATES


def test_counts_and_placeholders() -> None:
    assert {name: len(set(sentences)) for name, sentences in TEMPLATES.items()} == {
        "single": 1,
        "vild14": 14,
        "imagenet80": 80,
    }
    assert all(s.count("{}") == 1 for sentences in TEMPLATES.values() for s in sentences)
    assert TEMPLATES["single"] == ("A photo of a {} in the scene",)


def test_vild_is_a_frame_and_three_sizes() -> None:
    frames = ("a photo of a {} {{}}.", "This is a photo of a {} {{}}.")
    sized = [frame.format(size) for frame in frames for size in ("small", "medium", "large")]
    sized += [f"There is a {size} {{}} in the scene." for size in ("small", "medium", "large")]
    assert list(TEMPLATES["vild14"][5:]) == sized


def test_imagenet_templates_are_those_of_open_clip() -> None:
    metadata = pytest.importorskip("open_clip.zero_shot_metadata")
    theirs = tuple(template("{}") for template in metadata.OPENAI_IMAGENET_TEMPLATES)
    assert TEMPLATES["imagenet80"] == theirs


def test_templates_import_nothing_heavy() -> None:
    code = (
        "import sys; from dedos_deploy.text import TEMPLATES; import dedos_deploy.vocabulary; "
        "print([m for m in ('numpy', 'tokenizers', 'onnxruntime', 'ftfy', 'torch') "
        "if m in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"
