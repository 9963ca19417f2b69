"""The cache of latents and denoised images: hits equal misses, damage is repaired, faults named."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from micro import Write
from safetensors.torch import load_file, save_file
from tiny_diffusion import write_tiny_diffusion

from dedos_deploy.cli.train import main
from dedos_deploy.errors import BadInputError
from dedos_deploy.progress import Progress
from dedos_deploy.training.data import Batch, BatchSettings, BatchStream
from dedos_deploy.training.diffusion import cache_fill
from dedos_deploy.training.diffusion.cache import DiffusionCache
from dedos_deploy.training.diffusion.cache_fill import fill_cache, image_paths
from dedos_deploy.training.diffusion.walk import (
    DiffusionSettings,
    LatentDiffusion,
    load_diffusion,
)
from dedos_deploy.training.folders import open_folder

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


@pytest.mark.parametrize("name", ["latents", "after"])
def test_a_flipped_bit_is_noticed(
    tmp_path: Path,
    tiny: LatentDiffusion,
    images: torch.Tensor,
    caplog: pytest.LogCaptureFixture,
    name: str,
) -> None:
    cache = DiffusionCache(tmp_path, tiny)
    first = cache.latents_and_decoded(KEYS, images)
    path = cache.path(KEYS[0])
    stored = load_file(path)
    stored[name].view(-1).view(torch.uint8)[60] ^= 1
    save_file(stored, path)
    again = cache.latents_and_decoded(KEYS, images)
    assert torch.equal(first[0], again[0]) and torch.equal(first[1], again[1])
    assert "is damaged" in caplog.text and cache.counts.computed == 3


def test_what_is_stored_does_not_depend_on_autocast(
    tmp_path: Path, tiny: LatentDiffusion, images: torch.Tensor
) -> None:
    plain = DiffusionCache(tmp_path / "a", tiny).latents_and_decoded(KEYS, images)
    with torch.autocast("cpu", torch.bfloat16):
        cast = DiffusionCache(tmp_path / "b", tiny).latents_and_decoded(KEYS, images)
    assert torch.equal(plain[0], cast[0]) and torch.equal(plain[1], cast[1])


def test_writers_of_one_image_do_not_disturb_each_other(
    tmp_path: Path, tiny: LatentDiffusion, images: torch.Tensor, caplog: pytest.LogCaptureFixture
) -> None:
    expected = DiffusionCache(tmp_path / "one", tiny).latents_and_decoded(KEYS, images)

    def ask(_: int) -> tuple[torch.Tensor, torch.Tensor]:
        return DiffusionCache(tmp_path / "many", tiny).latents_and_decoded(KEYS, images)

    with ThreadPoolExecutor(8) as pool:
        for latents, after in pool.map(ask, range(16)):
            assert torch.equal(latents, expected[0]) and torch.equal(after, expected[1])
    assert not caplog.text
    assert sorted(p.stem for p in (tmp_path / "many").rglob("*") if p.is_file()) == list(KEYS)


def test_a_full_cache_keeps_what_it_has(
    tmp_path: Path, tiny: LatentDiffusion, images: torch.Tensor, caplog: pytest.LogCaptureFixture
) -> None:
    size = DiffusionCache(tmp_path, tiny)
    expected = size.latents_and_decoded(KEYS, images)
    room = size.path(KEYS[0]).stat().st_size
    size.path(KEYS[1]).unlink()
    size.path(KEYS[0]).unlink()
    cache = DiffusionCache(tmp_path, tiny, max_bytes=room + 10)
    for _ in range(2):
        found = cache.latents_and_decoded(KEYS, images)
        assert torch.equal(found[0], expected[0]) and torch.equal(found[1], expected[1])
    assert cache.holds(KEYS[0]) and not cache.holds(KEYS[1]) and cache.full
    assert caplog.text.count("is full") == 1
    assert (cache.counts.computed, cache.counts.read) == (3, 1)
    # Another process, or the next run, counts what is there.
    again = DiffusionCache(tmp_path, tiny, max_bytes=room + 10)
    again.latents_and_decoded(["cc03"], images[:1])
    assert again.full and again.stored_bytes() == room


def test_noise_is_not_cached(tmp_path: Path, tiny: LatentDiffusion) -> None:
    noisy = load_diffusion(replace(tiny.settings, add_noise=True))
    with pytest.raises(BadInputError, match="cannot hold walks with added noise"):
        DiffusionCache(tmp_path, noisy)


@pytest.mark.parametrize("key", ["../../etc", "a", "a/b", ""])
def test_keys_cannot_leave_the_cache(tmp_path: Path, tiny: LatentDiffusion, key: str) -> None:
    with pytest.raises(BadInputError, match="cannot name a file"):
        DiffusionCache(tmp_path, tiny).holds(key)


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


def paths_of(root: Path) -> list[Path]:
    return image_paths([open_folder(str(root))])


def test_training_finds_what_was_filled_ahead(
    tmp_path: Path,
    tiny: LatentDiffusion,
    write_folder: Write,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    root = write_folder(items=5)
    cache = DiffusionCache(tmp_path / "cache", tiny)
    report = fill_cache(cache, paths_of(root), batch=2)
    assert (report.images, report.there, report.stored, report.counts.computed) == (5, 0, 5, 5)
    assert report.bytes == 5 * report.bytes_per_image + report.bytes % 5
    monkeypatch.setattr(tiny, "encode", lambda images: pytest.fail("the encoder ran"))
    settings = BatchSettings((32, 32), 5, whole_hw=tiny.size_hw)
    batch = BatchStream([open_folder(str(root))], settings)[0]
    assert isinstance(batch, Batch) and batch.whole is not None
    latents, after = cache.latents_and_decoded(batch.keys, batch.whole)
    assert latents.shape == (5, 4, 8, 8) and after.shape == (5, 32, 32, 3)


def test_a_pass_that_was_stopped_goes_on(
    tmp_path: Path, tiny: LatentDiffusion, write_folder: Write
) -> None:
    paths = paths_of(write_folder(items=6))
    cache = DiffusionCache(tmp_path / "cache", tiny)

    class Stop(Progress):
        def count(self, done: int, total: int, unit: str = "image") -> None:
            if done >= 4:
                raise KeyboardInterrupt

    class Seen(Progress):
        def count(self, done: int, total: int, unit: str = "image") -> None:
            self.last = done, total

    with pytest.raises(KeyboardInterrupt):
        fill_cache(cache, paths, batch=2, progress=Stop())
    seen = Seen()
    report = fill_cache(DiffusionCache(tmp_path / "cache", tiny), paths, progress=seen)
    assert (report.there, report.counts.computed, seen.last) == (4, 2, (6, 6))


def test_images_that_look_the_same_are_computed_once(
    tmp_path: Path, tiny: LatentDiffusion, write_folder: Write
) -> None:
    paths = paths_of(write_folder(items=3))
    cache = DiffusionCache(tmp_path / "cache", tiny)
    report = fill_cache(cache, [*paths, *paths], batch=4)
    assert (report.images, report.there, report.stored) == (6, 3, 3)


def test_processes_share_the_images(write_folder: Write) -> None:
    folder = open_folder(str(write_folder(items=5)))
    shares = [image_paths([folder], first=rank, by=2) for rank in (0, 1)]
    assert [len(share) for share in shares] == [3, 2]
    assert sorted(shares[0] + shares[1]) == [image for image, _ in folder.items]


def test_a_disk_too_small_is_noticed_after_the_first_images(
    tmp_path: Path,
    tiny: LatentDiffusion,
    write_folder: Write,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    paths = paths_of(write_folder(items=6))
    cache = DiffusionCache(tmp_path / "cache", tiny)

    class Usage:
        free = 100

    monkeypatch.setattr(cache_fill.shutil, "disk_usage", lambda path: Usage())
    with pytest.raises(BadInputError, match=r"needs about 0.0 GiB more, but .* has 0.0 GiB free"):
        fill_cache(cache, paths, batch=1)
    assert cache.counts.computed == 1
    # A limit, as the message advises, makes it a choice.
    room = int(2.5 * cache.stored_bytes())
    limited = DiffusionCache(tmp_path / "cache", tiny, max_bytes=room)
    report = fill_cache(limited, paths, batch=1)
    assert 1 < report.stored < 6 and report.bytes <= room


def test_an_unreadable_image_is_named(
    tmp_path: Path, tiny: LatentDiffusion, write_folder: Write
) -> None:
    root = write_folder(items=2)
    (root / "images/train/001.png").write_bytes(b"no image")
    with pytest.raises(BadInputError, match=r"001.png' cannot be read"):
        fill_cache(DiffusionCache(tmp_path / "cache", tiny), paths_of(root))


@pytest.fixture
def command(tiny: LatentDiffusion, tmp_path: Path) -> Callable[..., int]:
    def call(root: Path, *options: str) -> int:
        return main(
            [
                "cache-diffusion",
                "--data",
                f"{root}=2",
                "--diffusion",
                tiny.settings.model,
                "--cache",
                str(tmp_path / "cache"),
                "--diffusion-size",
                "32x32",
                "--device",
                "cpu",
                *options,
            ]
        )

    return call


def test_the_command_line_fills_the_cache_that_training_opens(
    tmp_path: Path,
    tiny: LatentDiffusion,
    write_folder: Write,
    command: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
) -> None:
    root = write_folder(items=5)
    assert command(root) == 0
    found = capsys.readouterr()
    assert "5, of which 0 were there and 5 were computed" in found.out
    assert "encode" in found.out and "of each image that a step reads" in found.out
    # What is cached is of one size, which the paper's presets would not take by themselves.
    assert "/cache --view whole --diffusion-size 32x32 and the same other options" in found.err
    assert command(root, "--batch", "3") == 0
    assert "5, of which 5 were there and 0 were computed" in capsys.readouterr().out
    cache = DiffusionCache(tmp_path / "cache", tiny)
    assert all(cache.holds(path.stem) for path in cache.folder.glob("*/*"))
    assert len(list(cache.folder.glob("*/*.safetensors"))) == 5
    # Component II walks one timestep, so that its images after denoising are others.
    assert command(root, "--component", "II") == 0
    assert "0 were there" in capsys.readouterr().out
    assert len(list((tmp_path / "cache").iterdir())) == 2


def test_the_command_line_refuses_what_makes_no_sense(
    write_folder: Write, command: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    root = write_folder(items=2)
    for options, message in (
        (("--batch", "0"), "--batch is 0, but must be more than 0"),
        (("--max-gib", "-1"), "--max-gib is -1.0, but must be more than 0"),
        (("--max-gib", "nan"), "--max-gib is nan, but must be more than 0"),
        (("--timesteps", "5000"), "timestep 5000 is beyond the 1000 steps"),
        (("--diffusion-size", "30x32"), "must be a multiple of 8; the nearest is 32x32"),
    ):
        assert command(root, *options) == 2
        assert message in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["cache-diffusion", "--data", str(root)])
