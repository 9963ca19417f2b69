"""Licence and credits of a bundle's weights, from its manifest to the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dedos_deploy.bundle import Bundle, credits_text
from dedos_deploy.cli.run import main

DEMO_SOURCE = "TQB hall: Roboflow Universe cttnhh-1-mnh-t/tqb-data-500 v3 (CC BY 4.0)"


def test_the_embedded_bundle_names_its_sources_without_a_camera(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["--licenses"]) == 0
    with Bundle.open("demo") as bundle:
        manifest = bundle.manifest
    out = capsys.readouterr().out
    first, second, *sources = out.splitlines()
    assert (first, second) == (f"licence of the weights: {manifest.licence}", "sources:")
    assert [line.strip() for line in sources] == manifest.sources
    assert DEMO_SOURCE in out


def test_credits_for_machines(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--licenses", "--json", "--bundle", "demo"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["licence"].startswith("Apache-2.0;")
    assert any(line.startswith(DEMO_SOURCE) for line in facts["sources"])


def test_a_bundle_without_credits_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Bundle.open("demo") as bundle:
        for name in ("manifest.json", *bundle.manifest.files):
            copy = tmp_path / "bare" / name
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(
                (
                    bundle.path(name)
                    if name in bundle.manifest.files
                    else bundle.path("model.onnx").parent / name
                ).read_bytes()
            )
    path = tmp_path / "bare" / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "sources": [], "licence": ""}))
    assert main(["--licenses", "--bundle", str(tmp_path / "bare")]) == 0
    assert capsys.readouterr().out == (
        "licence of the weights: not stated\nthis bundle names no sources; ask whoever made it what "
        "its weights learned from\n"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--output", "x.mp4"], "--licenses labels nothing; leave --output out"),
        (["--max-frames", "3"], "--licenses labels nothing; leave --max-frames out"),
        (["--bundle", "nowhere"], "bundle 'nowhere' does not exist"),
    ],
)
def test_what_does_not_fit_is_refused(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--licenses", *arguments]) == 2
    printed = capsys.readouterr()
    assert message in printed.err and printed.out == ""


def test_credits_are_text_for_a_terminal() -> None:
    """What a manifest could hold to take a terminal over does not get as far as this."""
    with Bundle.open("demo") as bundle:
        assert credits_text(bundle.manifest).replace("\n", "").isprintable()
