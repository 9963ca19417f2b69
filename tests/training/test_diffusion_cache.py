"""The cache of latents and denoised images: hits equal misses, damage is repaired, faults named."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_diffusion import write_tiny_diffusion

from dedos_deploy.errors import BadInputError
from dedos_deploy.training.diffusion import DiffusionSettings, LatentDiffusion, load_diffusion
from dedos_deploy.training.diffusion_cache import DiffusionCache

KEYS = ("aa01", "bb02")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> LatentDiffusion:
    folder = write_tiny_diffusion(tmp_path_factory.mktemp("sd") / "tiny")
    return load_diffusion(DiffusionSettings(str(folder), size_hw=(32, 32)))


@pytest.fixture
def images() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (2, 32, 32, 3), dtype=torch.uint8, generator=generator)


def test_a_hit_equals_a_miss_and_needs_no_encoder(
    tmp_path: Path, tiny: LatentDiffusion, images: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = DiffusionCache(tmp_path, tiny)
    latents, after = cache.latents_and_decoded(KEYS, images)
    assert torch.allclose(latents, tiny.encode(images), atol=2e-3)
    assert after.shape == (2, 32, 32, 3) and after.dtype == torch.uint8

    def never(_images: torch.Tensor) -> torch.Tensor:
        raise AssertionError("the encoder ran")

    monkeypatch.setattr(tiny, "encode", never)
    again = cache.latents_and_decoded(KEYS[::-1], images.flip(0))
    assert torch.equal(again[0], latents.flip(0)) and torch.equal(again[1], after.flip(0))


def test_only_what_is_missing_is_computed(
    tmp_path: Path, tiny: LatentDiffusion, images: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = DiffusionCache(tmp_path, tiny)
    cache.latents_and_decoded(KEYS[:1], images[:1])
    counts = []
    encode = tiny.encode
    monkeypatch.setattr(tiny, "encode", lambda x: counts.append(len(x)) or encode(x))
    cache.latents_and_decoded(KEYS, images)
    assert counts == [1]


def test_a_damaged_file_is_made_again_with_a_warning(
    tmp_path: Path, tiny: LatentDiffusion, images: torch.Tensor, caplog: pytest.LogCaptureFixture
) -> None:
    cache = DiffusionCache(tmp_path, tiny)
    first = cache.latents_and_decoded(KEYS, images)
    path = cache.path(KEYS[0])
    path.write_bytes(path.read_bytes()[:-20])
    again = cache.latents_and_decoded(KEYS, images)
    assert torch.equal(first[0], again[0]) and torch.equal(first[1], again[1])
    assert "is damaged" in caplog.text
    caplog.clear()
    cache.latents_and_decoded(KEYS, images)
    assert not caplog.text


def test_another_walk_reads_nothing_of_it(tmp_path: Path, tiny: LatentDiffusion) -> None:
    other = load_diffusion(replace(tiny.settings, timesteps=(100,)))
    assert DiffusionCache(tmp_path, tiny).folder != DiffusionCache(tmp_path, other).folder


def test_nothing_half_written_stays_when_the_disk_is_full(
    tmp_path: Path, tiny: LatentDiffusion, images: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    import os

    cache = DiffusionCache(tmp_path, tiny)

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(BadInputError, match="No space left on device.*without --diffusion-cache"):
        cache.latents_and_decoded(KEYS, images)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path, tiny: LatentDiffusion) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInputError, match="cannot make diffusion cache"):
        DiffusionCache(tmp_path / "file", tiny)
