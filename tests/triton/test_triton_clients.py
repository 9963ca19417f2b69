"""benchmarks/triton_clients.py refuses numbers that are none, without Triton."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--seconds 0", "--seconds is 0; 1 or more are needed"),
        ("--seconds nan", "--seconds is nan; 1 or more are needed"),
        ("--clients 0", "--clients is 0; 2 or more are needed"),
        ("--clients 1", "--clients is 1; 2 or more are needed"),
        ("--instances 0", "--instances is 0; 1 or more are needed"),
        ("--vocabularies 0", "--vocabularies is 0; 1 or more are needed"),
    ],
)
def test_numbers_that_are_none_are_refused(
    words: str,
    message: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("tritonclient", "tritonclient.grpc", "tritonclient.http"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    for name in ("triton_server", "triton_clients"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    import triton_clients

    with pytest.raises(SystemExit) as ended:
        triton_clients.main(words.split())
    assert ended.value.code == 2 and message in capsys.readouterr().err
