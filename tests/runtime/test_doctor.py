"""dedos-doctor on this machine, on made-up machines, and on broken ones."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dedos_deploy.cli.doctor import main
from dedos_deploy.errors import BadBundleError
from dedos_deploy.installation import pip_install
from dedos_deploy.runtime import Segmenter, doctor
from dedos_deploy.runtime.doctor import examine, usable
from dedos_deploy.runtime.findings import Finding, Machine


def _by_topic(findings: list[Finding]) -> dict[str, Finding]:
    return {finding.topic: finding for finding in findings}


def _jetson(root: Path, *, revision: str = "R36 (release), REVISION: 4.3", model: str) -> Machine:
    for name, text in {
        "etc/nv_tegra_release": f"# {revision}, GCID: 1, BOARD: generic\n",
        "proc/device-tree/model": f"{model}\0",
        "proc/meminfo": "MemTotal:  7802000 kB\nMemAvailable:  5000000 kB\n",
        "sys/class/video4linux/video0/name": "imx219\n",
        "dev/video0": "",
    }.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return Machine(root)


def test_this_machine_can_label_on_its_cpu() -> None:
    findings = examine()
    topics = _by_topic(findings)
    assert {"system", "memory", "cache", "onnxruntime", "gpu", "opencv", "label a frame"} <= set(
        topics
    )
    assert topics["label a frame"].verdict == "ok" and usable(findings, "cpu")
    for finding in findings:
        assert finding.verdict == "ok" or finding.found
        assert "\n" not in finding.found + finding.advice


def test_an_orin_nano(tmp_path: Path) -> None:
    machine = _jetson(tmp_path, model="NVIDIA Jetson Orin Nano Developer Kit")
    topics = _by_topic(examine(machine))
    assert topics["jetson"].found == ("NVIDIA Jetson Orin Nano Developer Kit, L4T 36.4 (JetPack 6)")
    assert topics["jetson"].verdict == "ok"
    assert "no NVENC" in topics["video encoder"].found
    assert topics["memory"].found == "7.4 GiB, 4.8 free" and "frugal" in topics["memory"].advice
    assert topics["cameras"].found == "/dev/video0: imx219"
    assert "GStreamer" in topics["nvdec"].found


def test_decoders_of_the_gpu_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    from dedos_deploy.runtime import opencv
    from dedos_deploy.runtime.sources import gpu_decoding

    def finding() -> Finding:
        (found,) = doctor._gpu_decoding(Machine())
        return found

    monkeypatch.setattr(opencv, "has_gstreamer", lambda: True)
    monkeypatch.setattr(gpu_decoding, "has_element", lambda name: name == "nvh265dec")
    assert finding() == Finding("decode=gpu", "ok", "h265 by nvh265dec")
    monkeypatch.setattr(opencv, "has_gstreamer", lambda: False)
    assert finding().verdict == "note" and "OpenCV has no GStreamer" in finding().found
    monkeypatch.setattr(gpu_decoding, "has_element", lambda name: False)
    assert finding().verdict == "note" and "plugin nvcodec" in finding().advice


def test_an_old_jetpack_is_bad(tmp_path: Path) -> None:
    machine = _jetson(tmp_path, revision="R35 (release), REVISION: 5.0", model="Jetson AGX Orin")
    topics = _by_topic(examine(machine))
    assert topics["jetson"].verdict == "bad" and "JetPack 6" in topics["jetson"].advice
    assert "video encoder" not in topics


def test_a_machine_with_nothing(tmp_path: Path) -> None:
    topics = _by_topic(examine(Machine(tmp_path)))
    assert topics["memory"].found == "unknown on this system"
    assert topics["cameras"].verdict == "note" and "jetson" not in topics


def test_a_camera_without_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = _jetson(tmp_path, model="x")
    monkeypatch.setattr(doctor.os, "access", lambda path, mode: "video" not in str(path))
    found = _by_topic(examine(machine))["cameras"]
    assert found.verdict == "bad" and "group video" in found.advice


def test_a_broken_installation_is_bad(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: Any, **options: Any) -> Segmenter:
        raise BadBundleError("the demo bundle is damaged")

    monkeypatch.setattr(Segmenter, "load", refuse)
    findings = examine()
    assert _by_topic(findings)["label a frame"].found == "the demo bundle is damaged"
    assert not usable(findings, "cpu")


def test_wrong_results_are_bad(monkeypatch: pytest.MonkeyPatch) -> None:
    load = Segmenter.load
    monkeypatch.setattr(
        Segmenter,
        "load",
        lambda bundle, **options: load(bundle, **{**options, "classes": "sky,road"}),
    )
    # Still right: names, not positions, are looked at.
    assert usable(examine(), "cpu")
    monkeypatch.setattr(
        "dedos_deploy.scenes.render_image", lambda *a, **k: (doctor_picture(), None)
    )
    finding = _by_topic(examine())["label a frame"]
    assert finding.verdict == "bad" and "came out as road" in finding.found


def doctor_picture() -> Any:
    """A sky and nothing else."""
    import numpy as np

    picture = np.empty((240, 320, 3), np.uint8)
    picture[:] = (230, 180, 140)
    return picture


def test_a_check_that_fails_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    def _odd(machine: Machine) -> Iterator[Finding]:
        raise ZeroDivisionError("odd")
        yield

    monkeypatch.setattr(doctor, "CHECKS", (_odd, *doctor.CHECKS))
    findings = examine()
    assert findings[0] == Finding("odd", "bad", "ZeroDivisionError: odd", "report this with --json")
    assert usable(findings, "cpu")


def test_packages_over_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        doctor, "version_of", lambda name: "1" if name.startswith("onnxruntime") else None
    )
    finding = _by_topic(examine())["packages"]
    assert finding.verdict == "bad" and "onnxruntime and onnxruntime-gpu" in finding.found


def test_a_gpu_that_cannot_be_used_is_found_with_its_remedy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from dedos_deploy.runtime.gpu.cuda import Cuda
    from dedos_deploy.runtime.gpu.cuda_errors import insufficient_driver

    def refuse() -> Cuda:
        raise insufficient_driver("cudaErrorInsufficientDriver", driver=12060, bindings=13040)

    monkeypatch.setattr(Cuda, "open", refuse)
    monkeypatch.setattr(doctor, "CHECKS", (doctor.gpu,))
    (finding,) = examine()
    assert finding.found.endswith("serves CUDA 12.6, these bindings need CUDA 13.4")
    assert finding.advice.startswith("run pip install ") and "[cuda12]" in finding.advice


@pytest.mark.parametrize(("capability", "found"), [((12, 0), True), ((8, 9), False)])
def test_problems_of_this_gpu_with_this_tensorrt_are_found(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], found: bool
) -> None:
    from dedos_deploy.runtime.gpu.cuda import Cuda
    from dedos_deploy.runtime.gpu.device import Device

    device = Device(0, "a GPU", capability, 2**34, False, 13000)
    monkeypatch.setattr(Cuda, "open", lambda: SimpleNamespace(device=device))
    monkeypatch.setitem(sys.modules, "tensorrt", SimpleNamespace(__version__="10.16.1"))
    monkeypatch.setattr(doctor, "CHECKS", (doctor.tensorrt,))
    words = [finding.found for finding in examine() if finding.topic == "tensorrt 10.16.1"]
    assert any("#4837" in text for text in words) is found


@pytest.mark.parametrize("engine", ["cuda", "trt", "rtx"])
def test_engines_need_all_of_theirs(engine: str) -> None:
    names = ["gpu", "onnxruntime cuda", "tensorrt", "tensorrt-rtx", "label a frame"]
    good = [Finding(name, "ok", "there") for name in names]
    assert usable(good, engine)
    for index, finding in enumerate(good):
        if finding.topic == "gpu":
            assert not usable([*good[:index], *good[index + 1 :]], engine)
            assert not usable([*good, Finding("gpu", "note", "a second one is broken")], engine)


def test_openvino_needs_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    frame, found = Finding("label a frame", "ok", ""), Finding("openvino", "ok", "")
    assert usable([frame, found], "openvino") and not usable([frame], "openvino")
    monkeypatch.setitem(sys.modules, "openvino", None)
    [missing] = doctor.openvino(Machine())
    assert missing.verdict == "note" and pip_install("openvino") in missing.advice
    assert not usable([frame, missing], "openvino")


def test_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    text = capsys.readouterr().out
    assert text.endswith("the cpu engine can run on this machine\n")
    assert all(len(line) <= 100 for line in text.splitlines())
    code = main(["--json", "--engine", "trt"])
    report = json.loads(capsys.readouterr().out)
    assert report["usable"] is (code == 0) and report["engine"] == "trt"
    assert {"topic", "verdict", "found", "advice"} == set(report["findings"][0])


def test_a_typing_mistake(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["--engine", "tensorrt"])
    assert "invalid choice: 'tensorrt'" in capsys.readouterr().err
