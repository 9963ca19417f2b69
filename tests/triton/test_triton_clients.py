"""benchmarks/triton_clients.py refuses numbers that are none, without Triton."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--seconds 0", "--seconds: '0' is no finite number from 1"),
        ("--seconds nan", "--seconds: 'nan' is no finite number from 1"),
        ("--clients 0", "--clients: '0' is no whole number from 2 on"),
        ("--clients 1", "--clients: '1' is no whole number from 2 on"),
        ("--instances 0", "--instances: '0' is no whole number from 1 on"),
        ("--vocabularies 0", "--vocabularies: '0' is no whole number from 1 on"),
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
