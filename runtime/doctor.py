"""What this machine has for running bundles, each finding with a verdict and what to do about it.

Nothing here raises for what a machine lacks: a missing GPU is a finding.
"""

from __future__ import annotations

import ctypes.util
import os
import platform
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator

from dedos_deploy.errors import DedosError, OpenCvError
from dedos_deploy.installation import OPENCV_OF_PIP, version_of
from dedos_deploy.runtime.doctor_engines import gpu, kernels, onnxruntime, openvino, tensorrt
from dedos_deploy.runtime.findings import GIB, Finding, Machine, Verdict

SMALL_MEMORY = 9 * GIB
LEAST_DISK = 2 * GIB


def examine(machine: Machine | None = None) -> list[Finding]:
    """Return all findings; takes a few seconds, one of them for labelling a frame."""
    machine = machine or Machine()
    findings: list[Finding] = []
    for check in CHECKS:
        try:
            findings += check(machine)
        except Exception as error:
            # A doctor that dies of what it finds is of no use; the error is the finding.
            name = check.__name__.lstrip("_")
            findings.append(
                Finding(name, "bad", f"{type(error).__name__}: {error}", "report this with --json")
            )
    return findings


def usable(findings: list[Finding], engine: str) -> bool:
    """Return whether an engine can run here, going by the findings."""
    verdicts: dict[str, list[Verdict]] = {}
    for finding in findings:
        verdicts.setdefault(finding.topic, []).append(finding.verdict)
    needed = {
        "cpu": ("label a frame",),
        "openvino": ("openvino", "label a frame"),
        "cuda": ("gpu", "onnxruntime cuda"),
        "trt": ("gpu", "tensorrt", "label a frame"),
        "rtx": ("gpu", "tensorrt-rtx", "label a frame"),
    }[engine]
    return all(verdicts.get(topic) and set(verdicts[topic]) == {"ok"} for topic in needed)


def _system(machine: Machine) -> Iterator[Finding]:
    from dedos_deploy.version import __version__

    python = ".".join(map(str, sys.version_info[:3]))
    yield Finding(
        "system",
        "ok",
        f"dedos-deploy {__version__}, Python {python}, {platform.system()} {platform.machine()}",
    )


def _jetson(machine: Machine) -> Iterator[Finding]:
    from dedos_deploy.runtime.gpu.engine_key import l4t_release

    model = machine.text("/proc/device-tree/model")
    release = l4t_release(machine.root / "etc/nv_tegra_release")
    if release is None:
        return
    major = int(release.split(".")[0])
    jetpack = {35: "JetPack 5", 36: "JetPack 6", 38: "JetPack 7", 39: "JetPack 7"}.get(major)
    found = f"{model or 'Jetson'}, L4T {release}" + (f" ({jetpack})" if jetpack else "")
    if major < 36:
        yield Finding("jetson", "bad", found, "install JetPack 6 or 7: older ones have TensorRT 8")
    else:
        yield Finding("jetson", "ok", found)
    if model is not None and "Orin Nano" in model:
        yield Finding(
            "video encoder",
            "note",
            "Orin Nano has no NVENC",
            "write MP4 at a lower rate, or label maps and JSON lines instead",
        )


def _memory(machine: Machine) -> Iterator[Finding]:
    from dedos_deploy.runtime.gpu.memory import available_bytes

    text = machine.text("/proc/meminfo")
    total = re.search(r"^MemTotal:\s+(\d+)", text, re.MULTILINE) if text else None
    free = available_bytes(machine.root / "proc/meminfo")
    if total is None or free is None:
        yield Finding("memory", "note", "unknown on this system")
        return
    size = int(total[1]) * 1024
    found = f"{size / GIB:.1f} GiB, {free / GIB:.1f} free"
    small = size < SMALL_MEMORY
    advice = (
        "engines are built by the frugal recipe when little is free; docs/jetson.md"
        if small
        else ""
    )
    yield Finding("memory", "ok", found, advice)


def _disk(machine: Machine) -> Iterator[Finding]:
    from dedos_deploy.user_cache import cache_root

    folder = cache_root()
    there = next(parent for parent in (folder, *folder.parents) if os.path.exists(parent))
    free = shutil.disk_usage(there).free
    found = f"{folder}, {free / GIB:.1f} GiB free"
    if not (there.is_dir() and os.access(there, os.W_OK | os.X_OK)):
        yield Finding(
            "cache",
            "note",
            f"{found}, not writable",
            "words and engines are made anew at every start; set DEDOS_CACHE_DIR to another folder",
        )
    elif free < LEAST_DISK:
        yield Finding("cache", "note", found, "engines take up to 1 GiB each; free some space")
    else:
        yield Finding("cache", "ok", found)


def _frame(machine: Machine) -> Iterator[Finding]:
    from dedos_deploy.runtime.opencv import require_opencv

    try:
        require_opencv()
    except OpenCvError:
        yield Finding("label a frame", "bad", "not tried, see opencv")
        return
    from dedos_deploy.runtime.segmenter import Segmenter
    from dedos_deploy.scenes import render_image

    image, _ = render_image("street", seed=7, size_hw=(240, 320))
    try:
        with Segmenter.load("demo", classes="road,sky", background="none") as segmenter:
            segmenter.segment(image)
            started = time.perf_counter()
            result = segmenter.segment(image)
            took = time.perf_counter() - started
    except DedosError as error:
        yield Finding("label a frame", "bad", str(error), "install dedos-deploy again")
        return
    road = result.coverage["road"]
    if 0.05 < road < 0.95:
        yield Finding("label a frame", "ok", f"embedded bundle on the CPU, {1e3 * took:.0f} ms")
    else:
        yield Finding(
            "label a frame",
            "bad",
            f"{road:.0%} of an embedded street came out as road",
            "the results of this machine are wrong; report the processor and this output",
        )


def _opencv(machine: Machine) -> Iterator[Finding]:
    from dedos_deploy.runtime.opencv import opencv_remedy, opencvs, require_opencv

    try:
        require_opencv()
    except OpenCvError as error:
        what, _, advice = str(error).partition("; ")
        yield Finding("opencv", "bad", what, advice)
        return
    import cv2

    whose = [f"{name} of pip" for name in OPENCV_OF_PIP if version_of(name)] or ["the system's"]
    yield Finding("opencv", "ok", f"{cv2.__version__}, {' and '.join(whose)}, {opencvs()[0]}")
    built = cv2.getBuildInformation()
    for name, missing in (
        ("FFMPEG", "videos and streams cannot be read; pip install opencv-python"),
        ("GStreamer", f"CSI cameras and pipelines need it: {opencv_remedy()}"),
    ):
        found = re.search(rf"^\s*{name}:\s+YES(?: \(([^)]*)\))?", built, re.MULTILINE)
        if found:
            yield Finding(f"opencv {name.lower()}", "ok", found[1] or "yes")
        else:
            yield Finding(f"opencv {name.lower()}", "note", "not built in", missing)


def _cameras(machine: Machine) -> Iterator[Finding]:
    devices = sorted((machine.root / "dev").glob("video[0-9]*"), key=lambda path: path.name)
    if not devices:
        yield Finding("cameras", "note", "none under /dev/video*")
    for device in devices:
        name = machine.text(f"/sys/class/video4linux/{device.name}/name") or "unnamed"
        if os.access(device, os.R_OK | os.W_OK):
            yield Finding("cameras", "ok", f"/dev/{device.name}: {name}")
        else:
            yield Finding(
                "cameras",
                "bad",
                f"/dev/{device.name}: {name}, no permission",
                "add yourself to the group video and log in again",
            )


def _codecs(machine: Machine) -> Iterator[Finding]:
    jetson = machine.text("/etc/nv_tegra_release") is not None
    for topic, library, what in (
        ("nvdec", "nvcuvid", "decodes video on the GPU"),
        ("nvenc", "nvidia-encode", "encodes video on the GPU"),
    ):
        if ctypes.util.find_library(library):
            yield Finding(topic, "ok", f"lib{library}")
        elif jetson:
            yield Finding(topic, "note", "through GStreamer on Jetson", "see opencv gstreamer")
        else:
            yield Finding(
                topic, "note", f"lib{library} is not installed", f"it {what}; the CPU does so too"
            )


def _gpu_decoding(machine: Machine) -> Iterator[Finding]:
    from dedos_deploy.runtime.opencv import has_gstreamer
    from dedos_deploy.runtime.sources.gpu_decoding import gpu_decoders

    decoders = gpu_decoders()
    listed = ", ".join(f"{codec} by {element}" for codec, element in decoders.items())
    if not decoders:
        yield Finding(
            "decode=gpu",
            "note",
            "GStreamer has no decoder of NVIDIA here",
            "rtsp://…?decode=gpu needs its plugin nvcodec, or a Jetson's; the CPU decodes without",
        )
    elif not has_gstreamer():
        yield Finding("decode=gpu", "note", f"{listed}, but OpenCV has no GStreamer", "see above")
    else:
        yield Finding("decode=gpu", "ok", listed)


def _packages(machine: Machine) -> Iterator[Finding]:
    """Two OpenCVs or two ONNX Runtimes overwrite each other's files."""
    for family in (OPENCV_OF_PIP, ("onnxruntime", "onnxruntime-gpu")):
        there = [name for name in family if version_of(name)]
        if len(there) > 1:
            yield Finding(
                "packages",
                "bad",
                f"{' and '.join(there)} are installed over each other",
                f"pip uninstall {' '.join(there)}, then install the one you want",
            )


CHECKS: tuple[Callable[[Machine], Iterator[Finding]], ...] = (
    _system,
    _jetson,
    _memory,
    _disk,
    _packages,
    kernels,
    onnxruntime,
    openvino,
    _frame,
    gpu,
    tensorrt,
    _opencv,
    _cameras,
    _codecs,
    _gpu_decoding,
)
