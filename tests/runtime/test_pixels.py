"""Frames of other libraries and in NV12, on an engine that reads them on the host."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tiny_bundle import HEIGHT, WIDTH, stripes

from dedos_deploy.errors import BadInputError
from dedos_deploy.runtime import Frame, Nv12Frame, Segmenter
from dedos_deploy.runtime.frame import resize_frame
from dedos_deploy.runtime.pixels import check_pixels
from dedos_deploy.runtime.segmentation import Segmentation


def _same(found: Segmentation, wanted: Segmentation) -> None:
    np.testing.assert_array_equal(found.label_map, wanted.label_map)
    np.testing.assert_array_equal(found.confidence, wanted.confidence)


def _nv12(seed: int = 0, size_hw: tuple[int, int] = (60, 90)) -> Nv12Frame:
    rng = np.random.default_rng(seed)
    height, width = size_hw
    rows = rng.integers(0, 256, (height * 3 // 2, width), np.uint8)
    return Nv12Frame.from_rows(rows)


class OnGpu:
    """An array of which only this is known: it lies on a GPU."""

    def __init__(self, device: int = 2) -> None:
        self._device = device

    def __dlpack__(self, **options: Any) -> Any:
        raise AssertionError("read, although the engine cannot")

    def __dlpack_device__(self) -> tuple[int, int]:
        return self._device, 0


class CudaOnly:
    __cuda_array_interface__: dict[str, Any] = {}  # noqa: RUF012


def test_a_tensor_is_read_in_place(segmenter: Segmenter) -> None:
    frame = stripes(70, 96)
    tensor = torch.from_numpy(frame)
    pixels = check_pixels(tensor, "bgr")
    assert isinstance(pixels, np.ndarray) and pixels.ctypes.data == tensor.data_ptr()
    _same(segmenter.segment(tensor), segmenter.segment(frame))
    # Channels first, as torch has them, is a view.
    planes = tensor.permute(2, 0, 1).contiguous()
    _same(segmenter.segment(planes.permute(1, 2, 0)), segmenter.segment(frame))


@pytest.mark.parametrize("size_hw", [(70, 96), (20, 30), (HEIGHT, WIDTH)])
def test_rgb_is_labelled_as_its_bgr(segmenter: Segmenter, size_hw: tuple[int, int]) -> None:
    frame = np.random.default_rng(0).integers(0, 256, (*size_hw, 3), np.uint8)
    frame[:, : size_hw[1] // 2] = stripes(*size_hw)[:, : size_hw[1] // 2]
    rgb = np.ascontiguousarray(frame[:, :, ::-1])
    _same(segmenter.segment(rgb, order="rgb"), segmenter.segment(frame))
    small = np.zeros((2, HEIGHT, WIDTH, 3), np.uint8)
    resize_frame(frame, small[0])
    resize_frame(rgb[:, :, ::-1], small[1])
    np.testing.assert_array_equal(small[1], small[0])


def test_nv12_is_labelled_as_opencv_s_bgr(segmenter: Segmenter) -> None:
    frame = _nv12()
    rows = np.concatenate([frame.luma, frame.chroma])
    bgr = cv2.cvtColor(rows, cv2.COLOR_YUV2BGR_NV12)
    np.testing.assert_array_equal(frame.frame_bgr, bgr)
    _same(segmenter.segment(frame), segmenter.segment(bgr))


def test_nv12_of_tensors_with_padded_rows(segmenter: Segmenter) -> None:
    rng = np.random.default_rng(1)
    luma = rng.integers(0, 256, (60, 128), np.uint8)
    chroma = rng.integers(0, 256, (30, 64, 2), np.uint8)
    padded = Nv12Frame(torch.from_numpy(luma)[:, :90], torch.from_numpy(chroma)[:, :45])
    packed = Nv12Frame(
        np.ascontiguousarray(luma[:, :90]), np.ascontiguousarray(chroma[:, :45]).reshape(30, 90)
    )
    np.testing.assert_array_equal(padded.frame_bgr, packed.frame_bgr)
    _same(segmenter.segment(padded), segmenter.segment(packed))


def test_grey_means_grey_in_every_matrix_and_range() -> None:
    for matrix in ("bt601", "bt709"):
        for full in (False, True):
            luma = np.array([[0, 16], [235, 255]], np.uint8)
            frame = Nv12Frame(luma, np.full((1, 2), 128, np.uint8), matrix, full)  # type: ignore[arg-type]
            wanted = luma if full else np.array([[0, 0], [255, 255]])
            np.testing.assert_array_equal(frame.frame_bgr, np.repeat(wanted[:, :, None], 3, axis=2))


def test_a_frame_of_a_source_is_converted_once() -> None:
    nv12 = _nv12()
    frame = Frame(nv12, 3, 0.0, "camera", "000003")
    assert frame.frame_bgr is nv12.frame_bgr
    assert repr(frame) == "Frame('camera', id=3, 60x90)"
    assert repr(nv12) == "Nv12Frame(60x90, bt601)"


@pytest.mark.parametrize(
    "given",
    [OnGpu(), OnGpu(13), CudaOnly(), Nv12Frame(OnGpu(), OnGpu())],
    ids=["dlpack", "managed", "cuda only", "nv12"],
)
def test_a_frame_on_a_gpu_is_not_copied_in_silence(segmenter: Segmenter, given: Any) -> None:
    with pytest.raises(BadInputError, match=r"lies on a GPU.*frame\.cpu\(\)"):
        segmenter.segment(given)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ([[0, 0, 0]], r"must be a numpy array uint8.*not a list.*or an Nv12Frame"),
        (OnGpu(10), r"neither the CPU nor an NVIDIA GPU \(type 10 of DLPack\)"),
        (torch.zeros(4, 4, 3), "dtype uint8.*not float32"),
        (torch.zeros(4, 4, 3, requires_grad=True), r"a torch\.Tensor cannot be read as it is"),
        (torch.zeros(3, 4, 4, dtype=torch.uint8), r"\[3, 4, 4\].*channels first with transpose"),
    ],
)
def test_what_is_no_frame_is_said(segmenter: Segmenter, given: Any, says: str) -> None:
    with pytest.raises(BadInputError, match=says):
        segmenter.segment(given)


def test_orders_that_mean_nothing(segmenter: Segmenter) -> None:
    with pytest.raises(BadInputError, match="order 'rbg' of channels is unknown; it is bgr or rgb"):
        segmenter.segment(stripes(), order="rbg")  # type: ignore[arg-type]
    with pytest.raises(BadInputError, match="leave order='rgb' out"):
        segmenter.segment(_nv12(), order="rgb")


def _plane(*shape: int, dtype: Any = np.uint8) -> NDArray[Any]:
    return np.zeros(shape, dtype)


@pytest.mark.parametrize(
    ("planes", "says"),
    [
        ((_plane(5, 4), _plane(2, 4)), r"even sides.*not \[5, 4\] and \[2, 4\]"),
        ((_plane(4, 4), _plane(4, 4)), r"not \[4, 4\] and \[4, 4\]; crop the padding"),
        ((_plane(4, 4, dtype=np.uint16), _plane(2, 4, dtype=np.uint16)), r"not uint16.*P010"),
        ((_plane(4, 4), OnGpu()), "both lie on the host or both on a GPU"),
        ((_plane(4, 4), [0]), "chroma of an NV12 frame must be an array"),
    ],
)
def test_planes_that_are_no_nv12(planes: tuple[Any, Any], says: str) -> None:
    with pytest.raises(BadInputError, match=says):
        Nv12Frame(*planes)
    with pytest.raises(
        BadInputError, match="matrix 'bt2020' is unknown; it is one of bt601, bt709"
    ):
        Nv12Frame(_plane(4, 4), _plane(2, 4), "bt2020")  # type: ignore[arg-type]
