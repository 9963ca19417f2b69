"""`dedos-doctor --weights`: what could be fetched, what is on this machine, and whether it is whole."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from dedos_deploy.cli.doctor import main
from dedos_deploy.installation import pip_install
from dedos_deploy.presets import DENSE_PRESETS

pytest.importorskip("open_clip")
constants = pytest.importorskip("huggingface_hub.constants")

OPENAI_B = "--preset dense-b --clip-weights openai"
OPENAI_L = "--preset dense-l --clip-weights openai"
SAN = "--from san-b:san_vit_b_16.pth"
CATSEG = "--from catseg-l:model_large.pth"


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty cache, and no internet."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path


def put(cache: Path, folder: str, name: str, data: bytes, *, named: bytes | None = None) -> Path:
    """Write a file as huggingface_hub caches it; named: the content that its hash is of."""
    root, commit = cache / folder, "1" * 40
    blob = root / "blobs" / hashlib.sha256(named or data).hexdigest()
    link = root / "snapshots" / commit / name
    for path in (blob, link, root / "refs" / "main"):
        path.parent.mkdir(parents=True, exist_ok=True)
    (root / "refs" / "main").write_text(commit)
    blob.write_bytes(data)
    link.symlink_to(f"../../blobs/{blob.name}")
    return link


def told(capsys: pytest.CaptureFixture[str], code: int = 0) -> dict[str, dict[str, object]]:
    assert main(["--weights", "--json"]) == code
    report = json.loads(capsys.readouterr().out)
    assert report["offline"] is True
    return {row["use"]: row for row in report["weights"]}


def test_it_says_what_could_be_fetched(capsys: pytest.CaptureFixture[str]) -> None:
    rows = told(capsys)
    openai = rows[OPENAI_B]
    assert (openai["licence"], openai["state"], openai["path"]) == ("MIT", "absent", None)
    assert openai["address"] == "huggingface.co/timm/vit_base_patch16_clip_224.openai"
    assert openai["bytes"] == 4 * 149_620_736
    gelu = rows["--preset dense-l-gelu --clip-weights laion2b_s32b_b82k"]
    assert gelu["licence"] == "MIT" and gelu["bytes"] == rows[OPENAI_L]["bytes"]
    assert str(rows["--preset dense-b --clip-weights metaclip_400m"]["licence"]).startswith(
        "see hug"
    )
    assert rows[SAN]["address"] == "huggingface.co/Mendel192/san"
    assert rows[CATSEG]["address"] == "huggingface.co/spaces/hamacojr/CAT-Seg-weights"
    # Weights of the other activation are no offer.
    assert "--preset dense-b-gelu --clip-weights openai" not in rows
    assert "--preset dense-b --clip-weights laion2b_s34b_b88k" not in rows
    assert {use.split()[1] for use in rows if use.startswith("--preset")} == set(DENSE_PRESETS)


def test_it_says_what_is_here_and_whole(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    timm = "models--timm--vit_base_patch16_clip_224.openai"
    whole = put(cache, timm, "open_clip_model.safetensors", b"whole")
    old = put(
        cache,
        "models--timm--vit_large_patch14_clip_224.openai",
        "open_clip_pytorch_model.bin",
        b"old",
    )
    san = cache / "models--Mendel192--san" / "snapshots" / ("1" * 40) / "san_vit_b_16.pth"
    put(cache, "models--Mendel192--san", "other", b"x")
    san.write_bytes(b"a copy, where links are not to be had")
    space = put(cache, "spaces--hamacojr--CAT-Seg-weights", "model_large.pth", b"space")
    rows = told(capsys)
    seen = {use: (rows[use]["state"], rows[use]["path"], rows[use]["bytes"]) for use in rows}
    assert seen[OPENAI_B] == ("cached", str(whole), 5)
    assert seen[OPENAI_L] == ("cached", str(old), 3)
    assert seen[SAN] == ("unverified", str(san), 37)
    assert seen[CATSEG] == ("cached", str(space), 5)
    assert seen["--from catseg-b:model_base.pth"][0] == "absent"


def test_a_damaged_file_is_named_with_what_to_do(
    cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    timm = "models--timm--vit_base_patch16_clip_224.openai"
    link = put(cache, timm, "open_clip_model.safetensors", b"cut", named=b"cut short")
    assert told(capsys, 2)[OPENAI_B]["state"] == "damaged"
    assert main(["--weights"]) == 2
    text = " ".join(capsys.readouterr().out.split())
    assert f"BAD {OPENAI_B} damaged in the cache" in text
    found = re.search(r"delete (\S+) and run the same again", text)
    assert found is not None and Path(found[1]) == link.resolve()
    link.resolve().unlink()
    assert told(capsys)[OPENAI_B]["state"] == "absent"


def test_engine_and_weights_are_two_questions(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["--weights", "--engine", "trt"])
    assert stopped.value.code == 2
    assert "not allowed with argument" in capsys.readouterr().err


@pytest.mark.parametrize("missing", ["torch", "open_clip"])
def test_without_the_extra_one_sentence_names_it(missing: str) -> None:
    program = (
        "import importlib.util, sys\n"
        "find = importlib.util.find_spec\n"
        f"importlib.util.find_spec = lambda name: None if name == {missing!r} else find(name)\n"
        "from dedos_deploy.cli.doctor import main\n"
        "sys.exit(main(['--weights']))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 2 and done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert "listing published weights needs the package" in line and pip_install("export") in line
