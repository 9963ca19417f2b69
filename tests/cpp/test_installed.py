"""What a C or C++ program finds once libdedos is installed: symbols, CMake, pkg-config, the example."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import cv2
import numpy as np
import pytest
from bindings import SOURCE, onnx_runtime, run

from dedos_deploy.runtime import Segmenter
from dedos_deploy.scenes import render_image
from dedos_deploy.version import __version__

HERE = Path(__file__).parent


def _pkg_config(prefix: Path, *asked: str) -> list[str]:
    program = shutil.which("pkg-config")
    if program is None:
        pytest.skip("needs pkgconf")
    folder = prefix / "lib" / "pkgconfig"
    done = subprocess.run(
        [program, *asked, "dedos"],
        env={**os.environ, "PKG_CONFIG_PATH": str(folder)},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.split()


def test_the_symbols_are_those_of_the_list(prefix: Path) -> None:
    library = prefix / "lib" / "libdedos.so"
    found = re.findall(r" T (\w+)@@DEDOS_0", run("nm", "-D", "--defined-only", str(library)))
    assert found == (HERE / "symbols.txt").read_text().split()
    # No C++ of this library is seen from outside, so none of it can be bound to by mistake.
    assert not re.findall(
        r" [A-Z] (?!dedos_|DEDOS_0)\w+", run("nm", "-D", "--defined-only", str(library))
    )


def test_the_soname_has_a_version(prefix: Path) -> None:
    found = run("readelf", "-d", str(prefix / "lib" / "libdedos.so"))
    assert "Library soname: [libdedos.so.0]" in found
    # ONNX Runtime is loaded at run time, and OpenCV is no part of it.
    assert "onnxruntime" not in found and "opencv" not in found


def test_pkg_config_serves_a_program_in_c99(prefix: Path, demo: Path, tmp_path: Path) -> None:
    assert _pkg_config(prefix, "--modversion") == [__version__]
    program = str(tmp_path / "c99")
    flags = ("-std=c99", "-pedantic", "-Wall", "-Wextra", "-Werror")
    given = _pkg_config(prefix, "--cflags", "--libs")
    run("gcc", *flags, str(HERE / "c99.c"), *given, f"-Wl,-rpath,{prefix / 'lib'}", "-o", program)
    assert run(program, str(demo), str(onnx_runtime())) == f"{__version__} 352x480\n"


def test_cmake_finds_it_and_the_example_labels_pictures(
    prefix: Path, demo: Path, tmp_path: Path
) -> None:
    if not Path("/usr/include/opencv4/opencv2/imgproc.hpp").is_file():
        pytest.skip("needs libopencv-imgcodecs-dev and libopencv-imgproc-dev")
    build = tmp_path / "build"
    run("cmake", "-S", str(SOURCE / "examples"), "-B", str(build), f"-DCMAKE_PREFIX_PATH={prefix}")
    run("cmake", "--build", str(build))
    picture = tmp_path / "street.png"
    frame = render_image("street", seed=0, size_hw=(240, 320))[0]
    cv2.imwrite(str(picture), frame)
    command = [str(build / "label_pictures"), str(demo), "road,sky", str(picture)]
    place = {**os.environ, "DEDOS_ONNXRUNTIME": str(onnx_runtime())}
    done = subprocess.run(command, env=place, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    with Segmenter.load(demo, classes="road,sky") as segmenter:
        labelled = segmenter.segment(frame)
    road, sky = labelled.counts
    assert done.stdout == f"{picture} road={road} sky={sky}\n"
    painted = cv2.imread(f"{picture}.labels.png")
    black = (painted == 0).all(axis=2)
    np.testing.assert_array_equal(black, labelled.label_map == labelled.none_id)
    # Without ONNX Runtime, one sentence that says where to get it.
    missing = {**place, "DEDOS_ONNXRUNTIME": "/nowhere.so"}
    done = subprocess.run(command, env=missing, capture_output=True, text=True)
    assert done.returncode == 2
    assert "name its libonnxruntime.so" in done.stderr and done.stderr.count("\n") == 1
