"""What the doctor finds of the engines: their libraries, the GPU, the CUDA kernels."""

from __future__ import annotations

import platform
from collections.abc import Iterator

from dedos_deploy.errors import DedosError, EngineError
from dedos_deploy.installation import pip_install
from dedos_deploy.runtime.findings import GIB, Finding, Machine


def kernels(machine: Machine) -> Iterator[Finding]:
    """Tell for which GPUs and drivers the CUDA kernels are, and whether they load here."""
    from dedos_deploy.runtime.gpu.cuda import Cuda
    from dedos_deploy.runtime.gpu.kernels_file import kernels_file, kernels_in

    file = kernels_file()
    if file is None:
        yield Finding(
            "cuda kernels",
            "note",
            "not in this installation",
            "frames are resized and labelled on the CPU; on a GPU, install from source with nvcc",
        )
        return
    image = file.read_bytes()
    try:
        found = str(kernels_in(image))
    except EngineError as error:
        found, _, advice = str(error).partition("; ")
        yield Finding("cuda kernels", "bad", found, advice)
        return
    try:
        cuda = Cuda.open()
    except (DedosError, ImportError):
        yield Finding("cuda kernels", "ok", f"{found}; not tried, see gpu")
        return
    try:
        cuda.kernels(image).close()
    except EngineError as error:
        refusal, _, advice = str(error).partition("; ")
        advice = f"{advice}; until then frames are resized and labelled on the CPU"
        yield Finding("cuda kernels", "bad", f"{found}, but {refusal}", advice)
    else:
        yield Finding("cuda kernels", "ok", f"{found}; loaded on {cuda.device.name}")


def onnxruntime(machine: Machine) -> Iterator[Finding]:
    """Tell what ONNX Runtime can run on."""
    import onnxruntime as library

    providers = library.get_available_providers()
    yield Finding("onnxruntime", "ok", f"{library.__version__}: {', '.join(providers)}")
    if "CUDAExecutionProvider" in providers:
        yield Finding("onnxruntime cuda", "ok", "CUDAExecutionProvider")
        return
    aarch64 = platform.machine() == "aarch64"
    yield Finding(
        "onnxruntime cuda",
        "note",
        "this ONNX Runtime has no CUDA",
        "on Jetson use --engine trt"
        if aarch64
        else f"for --engine cuda: {pip_install('cuda')} in an environment of its own, and pip "
        "uninstall onnxruntime",
    )


def openvino(machine: Machine) -> Iterator[Finding]:
    """Tell what OpenVINO computes in here."""
    from dedos_deploy.runtime.engines.openvino_engine import arithmetics, load_openvino, processor

    try:
        library = load_openvino()
        able = arithmetics(library)
        name = processor(library)
    except (DedosError, ImportError) as error:
        found, _, advice = str(error).partition("; ")
        yield Finding("openvino", "note", found, f"for --engine openvino, {advice}")
        return
    here = ", ".join(arithmetic.upper() for arithmetic in able)
    gain = (
        ""
        if "bf16" in able
        else "without BF16 it is little faster than the cpu engine, or not at all"
    )
    yield Finding("openvino", "ok", f"{library.__version__}: {here} on {name}", gain)


def gpu(machine: Machine) -> Iterator[Finding]:
    """Tell which GPU there is."""
    from dedos_deploy.runtime.gpu.cuda import Cuda
    from dedos_deploy.runtime.gpu.cuda_errors import dotted

    try:
        cuda = Cuda.open()
        free, total = cuda.free_memory()
    except (DedosError, ImportError) as error:
        found, _, advice = str(error).partition("; ")
        yield Finding("gpu", "note", found, advice or "the cpu engine needs none")
        return
    device = cuda.device
    yield Finding(
        "gpu",
        "ok",
        f"{device.name}, compute capability {device.sm}, CUDA {dotted(device.driver)} by the driver, "
        f"{free / GIB:.1f} of {total / GIB:.1f} GiB free",
    )


def tensorrt(machine: Machine) -> Iterator[Finding]:
    """Tell which of TensorRT's two flavours are there, and what is known of them."""
    from dedos_deploy.runtime.gpu.cuda import Cuda
    from dedos_deploy.runtime.gpu.flavours import FLAVOURS, known_problems, version_of

    try:
        capability = Cuda.open().device.sm
    except (DedosError, ImportError):
        capability = None
    for target, flavour in FLAVOURS.items():
        try:
            trt = flavour.load(f"--engine {target}")
        except (DedosError, ImportError, OSError) as error:
            yield Finding(flavour.name, "note", str(error).splitlines()[0])
            continue
        yield Finding(flavour.name, "ok", str(trt.__version__))
        for row in known_problems(
            flavour,
            version_of(trt),
            precision="fp16",
            batch=2,
            integrated=machine.text("/etc/nv_tegra_release") is not None,
            capability=capability,
        ):
            yield Finding(f"{flavour.name} {trt.__version__}", "note", row.what, row.workaround)
