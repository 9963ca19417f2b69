"""Weights by a tag: fetched whole or not at all, held against their hash, found again without internet."""

from __future__ import annotations

import hashlib
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest
import torch

from dedos_deploy.errors import BadInputError
from dedos_deploy.head_numbers import HEADS
from dedos_deploy.model import load_open_clip
from dedos_deploy.model.heads import DenseClip, build_dense
from dedos_deploy.model.hub_files import HubFile, published_sha256
from dedos_deploy.presets import DenseConfig

from .conftest import MICRO_CLIP

open_clip = pytest.importorskip("open_clip")
constants = pytest.importorskip("huggingface_hub.constants")

SAFE, OLD = "open_clip_model.safetensors", "open_clip_pytorch_model.bin"
REPOSITORY = "maker/clip"
MODEL_CFG = {
    "embed_dim": MICRO_CLIP.text_width,
    "vision_cfg": {"image_size": 32, "patch_size": 8, "width": 24, "layers": 4, "head_width": 8},
    "text_cfg": {"context_length": 12, "vocab_size": 50, "width": 16, "heads": 2, "layers": 2},
}


@dataclass
class Hub:
    """A hub of one repository on this machine."""

    files: dict[str, bytes] = field(default_factory=dict)
    published: str | None = None
    """Hash that it gives; None: the true one."""
    cuts: int = 0
    """Answers that end after half of what they promised."""
    stuck: bool = False
    """Answers stop after half, and the connection stays."""
    ranges: list[str] = field(default_factory=list)
    """Parts that were asked for."""
    half_sent: Event = field(default_factory=Event)
    url: str = ""

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        data = self.files.get(request.path.rpartition("/")[2])
        if data is None:
            request.send_response(404)
            request.send_header("X-Error-Code", "EntryNotFound")
            request.send_header("X-Repo-Commit", "0" * 40)
            request.send_header("Content-Length", "0")
            request.end_headers()
            return
        wanted = request.headers.get("Range", "")
        start = int(wanted.removeprefix("bytes=").partition("-")[0] or 0)
        part = data[start:]
        request.send_response(206 if wanted else 200)
        request.send_header("X-Repo-Commit", "0" * 40)
        request.send_header("ETag", f'"{self.published or hashlib.sha256(data).hexdigest()}"')
        request.send_header("Content-Length", str(len(part)))
        if wanted:
            request.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        request.end_headers()
        if request.command == "GET":
            self._send(request, part, wanted)

    def _send(self, request: BaseHTTPRequestHandler, part: bytes, wanted: str) -> None:
        self.ranges.append(wanted)
        whole = not (self.stuck or self.cuts)
        request.wfile.write(part if whole else part[: len(part) // 2])
        request.wfile.flush()
        self.half_sent.set()
        if self.stuck:
            request.rfile.read(1)  # Until the other side is gone.
        self.cuts = max(0, self.cuts - 1)
        request.close_connection = True


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """huggingface_hub asks this hub, has a cache of its own, and waits for nothing."""
    import huggingface_hub.file_download as downloads

    one = Hub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            one.answer(self)

        def do_GET(self) -> None:
            one.answer(self)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    one.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    monkeypatch.setattr(constants, "ENDPOINT", one.url)
    template = one.url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1024)
    monkeypatch.setattr(downloads.time, "sleep", lambda seconds: None)
    yield one
    server.shutdown()
    server.server_close()
    thread.join(5)


@pytest.fixture(autouse=True)
def _micro_tag(monkeypatch: pytest.MonkeyPatch) -> None:
    """open_clip knows our small tower, and a tag of it."""
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "micro-hub", MODEL_CFG)
    told = {
        "small": {"hf_hub": f"{REPOSITORY}/", "url": ""},
        "lost": {"hf_hub": "", "url": "http:"},
    }
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, "micro-hub", told)


def state() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    found: dict[str, torch.Tensor] = open_clip.create_model("micro-hub").state_dict()
    return {name: value.contiguous() for name, value in found.items()}


def weights() -> bytes:
    from safetensors.torch import save

    return save(state())


def micro() -> DenseClip:
    clip = replace(MICRO_CLIP, architecture="micro-hub", activation="gelu")
    return build_dense(DenseConfig("dense-micro", clip, (48, 64), HEADS["sc-clip"](4)))


def file() -> HubFile:
    return HubFile(REPOSITORY, (SAFE, OLD))


def blobs(tmp_path: Path) -> list[Path]:
    return [path for path in (tmp_path / "hub").rglob("blobs/*") if path.is_file()]


def test_a_tag_is_fetched_once_and_found_again_without_internet(
    hub: Hub,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    hub.files[SAFE] = weights()
    monkeypatch.setenv("TQDM_POSITION", "-1")  # As on a terminal.
    found = load_open_clip(micro(), "small")
    assert (
        found.sha256 == hashlib.sha256(hub.files[SAFE]).hexdigest() == published_sha256(found.path)
    )
    assert (found.licence, found.credit) == (
        f"see huggingface.co/{REPOSITORY}",
        f"CLIP micro-hub 'small': huggingface.co/{REPOSITORY}",
    )
    assert f"{SAFE}: 100%" in capsys.readouterr().err
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    model = micro()
    assert load_open_clip(model, "small").path == found.path == file().cached()
    torch.testing.assert_close(model.trunk.cls, state()["visual.class_embedding"])
    assert hub.ranges == [""]


def test_a_file_of_a_space_is_fetched_from_there(hub: Hub) -> None:
    hub.files["model_base.pth"] = b"weights"
    space = HubFile(REPOSITORY, ("model_base.pth",), space=True)
    found = space.fetch()
    assert found == space.cached() and "spaces--maker--clip" in found.parts


def test_a_broken_connection_goes_on_where_it_broke(hub: Hub) -> None:
    hub.files[SAFE], hub.cuts = weights(), 2
    found = load_open_clip(micro(), "small")
    assert found.path.read_bytes() == hub.files[SAFE]
    first, *more = hub.ranges
    starts = [int(wanted.removeprefix("bytes=").removesuffix("-")) for wanted in more]
    assert first == "" and len(starts) == 2 and 0 < starts[0] < starts[1]


def test_a_connection_that_stays_broken_leaves_nothing_and_the_next_try_is_whole(
    hub: Hub, tmp_path: Path
) -> None:
    hub.files[SAFE], hub.cuts = weights(), 1000
    with pytest.raises(
        BadInputError, match=f"could not be fetched .*; bring {SAFE} of huggingface"
    ):
        load_open_clip(micro(), "small")
    assert not blobs(tmp_path) and file().cached() is None
    hub.cuts = 0
    assert load_open_clip(micro(), "small").path.read_bytes() == hub.files[SAFE]


def test_a_killed_download_is_not_taken_for_whole(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.files[SAFE], hub.stuck = weights(), True
    program = (
        "from dedos_deploy.model.hub_files import HubFile\n"
        f"HubFile({REPOSITORY!r}, ({SAFE!r},)).fetch()"
    )
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    with subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.PIPE) as child:
        assert hub.half_sent.wait(120)
        child.send_signal(signal.SIGKILL)
    assert file().cached() is None
    hub.stuck = False
    assert load_open_clip(micro(), "small").path.read_bytes() == hub.files[SAFE]


def test_a_file_that_is_not_what_was_published_is_refused_until_it_is_deleted(hub: Hub) -> None:
    hub.files[SAFE], hub.published = weights(), "ab" * 32
    for _ in range(2):  # Fetched, and cached.
        with pytest.raises(
            BadInputError, match="is damaged in the cache .*published is abab"
        ) as told:
            load_open_clip(micro(), "small")
    hub.published = None
    Path(str(told.value).partition("delete ")[2].partition(" and run")[0]).unlink()
    assert load_open_clip(micro(), "small").path.read_bytes() == hub.files[SAFE]


def test_a_cached_file_that_changed_is_refused(hub: Hub) -> None:
    hub.files[SAFE] = weights()
    path = load_open_clip(micro(), "small").path
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.resolve().write_bytes(data)
    with pytest.raises(BadInputError, match="is damaged in the cache"):
        load_open_clip(micro(), "small")


def test_an_older_repository_has_its_weights_as_torch_saves_them(hub: Hub, tmp_path: Path) -> None:
    path = tmp_path / OLD
    several = {f"module.{name}": value for name, value in state().items()}
    torch.save({"epoch": 3, "state_dict": several}, path)
    hub.files[OLD] = path.read_bytes()
    model = micro()
    assert load_open_clip(model, "small").path.name == OLD
    torch.testing.assert_close(model.trunk.cls, state()["visual.class_embedding"])


def test_without_internet_the_file_to_bring_is_named(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    said = (
        rf"could not be fetched \({{}}\); bring {SAFE} of huggingface.co/{REPOSITORY} to this machine and "
        "give it as --clip-weights FILE$"
    )
    with monkeypatch.context() as offline:
        offline.setattr(constants, "HF_HUB_OFFLINE", True)
        with pytest.raises(BadInputError, match=said.format("HF_HUB_OFFLINE is set")):
            load_open_clip(micro(), "small")
    assert not hub.ranges
    nobody = "http://127.0.0.1:9"
    monkeypatch.setattr(constants, "ENDPOINT", nobody)
    template = nobody + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    with pytest.raises(BadInputError, match=said.format("huggingface.co could not be reached")):
        load_open_clip(micro(), "small")
    assert caplog.text.count(f"{SAFE}") > 0 and OLD not in caplog.text


def test_a_tag_without_a_repository_is_told() -> None:
    with pytest.raises(
        BadInputError, match="names no repository of huggingface.co for 'lost' of mic"
    ):
        load_open_clip(micro(), "lost")


def test_what_an_older_repository_cached_is_found_without_internet(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save(state(), tmp_path / OLD)
    hub.files[OLD] = (tmp_path / OLD).read_bytes()
    load_open_clip(micro(), "small")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert load_open_clip(micro(), "small").path.name == OLD
