"""Ctrl-C after engines of OpenVINO, whose CPU plugin gives threads stacks for signals."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from tiny_bundle import image_graph

pytest.importorskip("openvino", reason="needs pip install 'dedos-deploy[openvino]'")

OPENED = """
import signal, sys, threading
from pathlib import Path
from tiny_bundle import tiny_spec
from dedos_deploy.runtime.engines.openvino_engine import OpenVinoEngine, load_openvino, processor

processor(load_openvino())
engines = [OpenVinoEngine(Path(sys.argv[1]), tiny_spec(), arithmetic="fp32") for _ in range(2)]
"""
CLOSED = {
    "in the order of opening": "while engines: engines.pop(0).close()",
    "by another thread": """
def close():
    while engines: engines.pop().close()
thread = threading.Thread(target=close)
thread.start()
thread.join()""",
}
STOPPED = """
try:
    signal.raise_signal(signal.SIGINT)
except KeyboardInterrupt:
    print("stopped")
"""


@pytest.mark.parametrize("closed", CLOSED)
def test_ctrl_c_is_an_interrupt_after_engines_were_closed(closed: str, tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(image_graph())
    program = OPENED + CLOSED[closed] + STOPPED
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "model.onnx")],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode, done.stdout) == (0, "stopped\n"), done.stderr
