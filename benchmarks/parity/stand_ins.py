"""What the authors' files import for training only: modules in which every name does nothing."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class _Anything(ModuleType):
    """Stands in for libraries that their files import for training: every name is a no-op."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Name


class _Name:
    """A class, decorator and function that does nothing."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        pass

    def register(self) -> Callable[[type], type]:
        return lambda kind: kind


def stand_in(*names: str, **contents: object) -> None:
    """Put modules into sys.modules that have `contents`, and no-ops for all else."""
    for name in names:
        above: ModuleType | None = None
        for depth in range(1, name.count(".") + 2):
            path = ".".join(name.split(".")[:depth])
            if path not in sys.modules:
                sys.modules[path] = _Anything(path)
                sys.modules[path].__path__ = []  # type: ignore[attr-defined]
            if above is not None:
                setattr(above, path.rsplit(".", 1)[-1], sys.modules[path])
            above = sys.modules[path]
        vars(sys.modules[name]).update(contents)


class _Registry:
    def __init__(self, name: str = "") -> None:
        pass

    def register(self) -> Callable[[type], type]:
        return lambda kind: kind


def stand_in_detectron2() -> None:
    stand_in("detectron2.config", configurable=lambda function: function, CfgNode=dict)
    stand_in(
        "detectron2.modeling", META_ARCH_REGISTRY=_Registry(), SEM_SEG_HEADS_REGISTRY=_Registry()
    )
    stand_in("detectron2.modeling.postprocessing", sem_seg_postprocess=_postprocess)
    stand_in("detectron2.modeling.backbone", "detectron2.data")
    stand_in("detectron2.utils.memory", retry_if_cuda_oom=lambda function: function)
    stand_in("detectron2.structures", ImageList=_ImageList)
    stand_in("detectron2.utils.registry", Registry=_Registry)
    stand_in("detectron2.utils.logger", log_first_n=lambda *args: None)
    stand_in("detectron2.layers", Conv2d=nn.Conv2d, CNNBlockBase=_Block)
    stand_in("fvcore.nn.weight_init", c2_xavier_fill=lambda layer: None)


class _Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()


@dataclass(frozen=True)
class _ImageList:
    tensor: Tensor
    image_sizes: list[tuple[int, int]]

    @classmethod
    def from_tensors(cls, images: list[Tensor], divisibility: int) -> _ImageList:
        return cls(torch.stack(images), [(one.shape[1], one.shape[2]) for one in images])


def _postprocess(scores: Tensor, size: tuple[int, int], height: int, width: int) -> Tensor:
    cut = scores[:, : size[0], : size[1]][None]
    return F.interpolate(cut, size=(height, width), mode="bilinear", align_corners=False)[0]


def package(name: str, folder: Path) -> None:
    """Make `name` importable file by file, without running its __init__."""
    module = ModuleType(name)
    module.__path__ = [str(folder)]
    sys.modules[name] = module
