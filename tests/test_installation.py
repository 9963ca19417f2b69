"""Advice on what to install names a command that works from where the user is."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import shlex
from pathlib import Path

import pytest

from dedos_deploy import installation
from dedos_deploy.errors import MissingExtraError, require
from dedos_deploy.installation import NAME, pip_install


class Noted:
    """A distribution of which pip noted `origin`."""

    def __init__(self, origin: object) -> None:
        self._origin = origin

    def read_text(self, name: str) -> str | None:
        assert name == "direct_url.json"
        return None if self._origin is None else json.dumps(self._origin)


def command(monkeypatch: pytest.MonkeyPatch, origin: object) -> list[str]:
    monkeypatch.setattr(importlib.metadata, "distribution", lambda name: Noted(origin))
    return shlex.split(pip_install("rtx"))


def test_a_clone_is_named_by_its_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    clone = tmp_path / "a clone"
    clone.mkdir()
    for info in ({}, {"editable": True}):
        words = command(monkeypatch, {"url": clone.as_uri(), "dir_info": info})
        assert words == ["pip", "install", f"{clone}[rtx]"]
    clone.rmdir()
    words = command(monkeypatch, {"url": clone.as_uri(), "dir_info": {}})
    assert words[:3] == ["pip", "install", ".[rtx]"] and "clone" in " ".join(words[3:])


def test_a_wheel_is_named_by_its_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    wheel = tmp_path / "dedos_deploy-0.1.0-cp311-cp311-linux_x86_64.whl"
    wheel.touch()
    origin = {"url": wheel.as_uri(), "archive_info": {}}
    assert command(monkeypatch, origin) == ["pip", "install", f"{wheel}[rtx]"]


@pytest.mark.parametrize(
    ("origin", "requirement"),
    [
        (None, f"{NAME}[rtx]"),
        (
            {"url": "https://host/x.git", "vcs_info": {"vcs": "git", "commit_id": "0"}},
            f"{NAME}[rtx] @ git+https://host/x.git",
        ),
        ({"url": "https://host/d.whl", "archive_info": {}}, f"{NAME}[rtx] @ https://host/d.whl"),
    ],
)
def test_where_the_name_is_enough(
    monkeypatch: pytest.MonkeyPatch, origin: object, requirement: str
) -> None:
    assert command(monkeypatch, origin) == ["pip", "install", requirement]


def test_without_metadata_the_folder_of_the_package_counts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def missing(name: str) -> None:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "distribution", missing)
    assert shlex.split(pip_install("train")) == [
        "pip",
        "install",
        f"{Path(__file__).parents[1]}[train]",
    ]


def test_a_missing_extra_says_that_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dedos_deploy.installation._origin", dict)
    with pytest.raises(MissingExtraError, match=r"pip install 'dedos-deploy\[rtx\]'$"):
        require("no_such_package", extra="rtx", purpose="building")


def test_the_opencv_of_the_system_and_its_numpy_are_left_in_use(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    versions = {"numpy": "1.26.4"}
    monkeypatch.setattr(installation, "version_of", versions.get)
    words = command(monkeypatch, None)
    kept = ["&&", "pip", "uninstall", "--yes", "opencv-python"]
    assert words == ["pip", "install", "numpy<2", f"{NAME}[rtx]", *kept]
    versions["numpy"] = "2.4.6"
    assert command(monkeypatch, None) == ["pip", "install", f"{NAME}[rtx]", *kept]
    versions["opencv-contrib-python"] = "4.12.0.88"
    assert command(monkeypatch, None) == ["pip", "install", f"{NAME}[rtx]"]
    del versions["opencv-contrib-python"]
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert command(monkeypatch, None) == ["pip", "install", f"{NAME}[rtx]"]  # there is none to keep
