"""Damaged bundles: always one sentence that names the file or field, or nothing was damaged."""

from __future__ import annotations

import copy
import json
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dedos_deploy.bundle import Bundle, Manifest
from dedos_deploy.config_json import WRITTEN_LATER
from dedos_deploy.errors import BadBundleError

ROUNDS = 150
FREE = ("precision", "thresholds", "tools")
"""Objects of the manifest whose keys are the user's own."""

Json = Any


def outcome(path: Path) -> tuple[Manifest, dict[str, bytes]] | str:
    """Open a bundle: its manifest and contents, or the one-line message of a BadBundleError."""
    try:
        with Bundle.open(path) as bundle:
            names = bundle.manifest.files
            return bundle.manifest, {name: bundle.path(name).read_bytes() for name in names}
    except BadBundleError as error:
        message = str(error)
        assert message.isprintable() and len(message) < 600, message
        return message


def damaged_bytes(data: bytes, rng: random.Random) -> bytes:
    """Return `data` with bytes flipped, cut, inserted, or a stretch removed; never the same."""
    kind = rng.choice(["flip", "cut", "insert", "remove", "zero"])
    at = rng.randrange(len(data))
    if kind == "cut":
        return data[:at]
    if kind == "insert":
        return data[:at] + rng.randbytes(rng.randint(1, 8)) + data[at:]
    if kind == "remove":
        return data[:at] + data[at + rng.randint(1, 16) :]
    end = min(len(data), at + rng.randint(1, 8))
    changed = bytearray(data)
    for index in range(at, end):
        changed[index] = 0 if kind == "zero" else changed[index] ^ rng.randint(1, 255)
    return bytes(changed)


def test_damaged_files_of_a_folder(folder: Path, tmp_path: Path) -> None:
    rng = random.Random(0)
    names = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    intact = outcome(folder)
    assert not isinstance(intact, str)
    for number in range(ROUNDS):
        broken = tmp_path / f"broken{number}"
        shutil.copytree(folder, broken)
        name = rng.choice(names)
        before = (broken / name).read_bytes()
        match rng.choice(["damage", "damage", "damage", "delete", "swap", "directory"]):
            case "damage":
                (broken / name).write_bytes(damaged_bytes(before, rng))
            case "delete":
                (broken / name).unlink()
            case "swap":
                other = rng.choice([other for other in names if other != name])
                (broken / name).write_bytes((broken / other).read_bytes())
                (broken / other).write_bytes(before)
            case "directory":
                (broken / name).unlink()
                (broken / name).mkdir()
        result = outcome(broken)
        if isinstance(result, str):
            assert any(f"{known!r}" in result or known in result for known in names), result
        else:
            # A damaged manifest may still say something valid, about the very same files.
            assert result[1] == intact[1]
            assert name == "manifest.json" or (broken / name).read_bytes() == before


def test_truncated_archives(archive: Path, tmp_path: Path) -> None:
    whole = archive.read_bytes()
    lengths = {*range(0, len(whole), 1 + len(whole) // ROUNDS), len(whole) - 1, 1, 21, 22, 23}
    for length in lengths:
        path = tmp_path / "cut.dedos"
        path.write_bytes(whole[:length])
        result = outcome(path)
        assert isinstance(result, str) and "cut.dedos" in result, length


def test_damaged_archives(archive: Path, tmp_path: Path) -> None:
    rng = random.Random(1)
    intact = outcome(archive)
    data = archive.read_bytes()
    directory = data.index(b"PK\1\2")
    messages = set()
    for number in range(2 * ROUNDS):
        path = tmp_path / "bad.dedos"
        # Half of the damage hits the directory at the end, which is small and decides most.
        start = directory if number % 2 else 0
        path.write_bytes(data[:start] + damaged_bytes(data[start:], rng))
        result = outcome(path)
        if isinstance(result, str):
            assert "bad.dedos" in result
            messages.add(result)
        else:
            assert result == intact, "damage that was let through must not have changed anything"
    assert len(messages) > 20  # many ways to be broken were met, not one


def json_places(value: Json, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    if path:
        yield path
    if not isinstance(value, (dict, list)):
        return
    for key, item in value.items() if isinstance(value, dict) else enumerate(value):
        yield from json_places(item, (*path, key))


def dotted(path: tuple[str | int, ...]) -> str:
    text = "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in path)
    return text.removeprefix(".")


def parent_of(values: Json, path: tuple[str | int, ...]) -> Json:
    for key in path[:-1]:
        values = values[key]
    return values


@pytest.fixture
def read(folder: Path) -> Callable[[Json], str | None]:
    """Open the tiny bundle with other manifest values; the message, or None when it opens."""

    def read_with(values: Json) -> str | None:
        (folder / "manifest.json").write_text(json.dumps(values))
        result = outcome(folder)
        return result if isinstance(result, str) else None

    return read_with


@pytest.fixture
def values(folder: Path) -> Json:
    return json.loads((folder / "manifest.json").read_text())


OTHERS: tuple[Json, ...] = ("\u0000", 5, 5.5, True, None, [], {}, [[]], {"x": {}}, -(10**30))


def test_every_value_of_another_type_is_named(
    values: Json, read: Callable[[Json], str | None]
) -> None:
    rng = random.Random(2)
    for path in json_places(values):
        old = parent_of(values, path)[path[-1]]
        number = (int, float) if type(old) in (int, float) else type(old)
        nullable = path in (("calibration_hash",), ("base_vocabulary",), ("checkpoint_sha256",))
        others = [
            other
            for other in OTHERS
            if not (isinstance(other, number) and type(other) is not bool)
            and not (other is None and nullable)
            and type(other) is not type(old)
        ]
        changed = copy.deepcopy(values)
        parent_of(changed, path)[path[-1]] = rng.choice(others)
        message = read(changed)
        assert message is not None and dotted(path).split("[")[0] in message, (path, message)


def test_every_missing_or_added_key_is_named(
    values: Json, read: Callable[[Json], str | None]
) -> None:
    for path in json_places(values):
        parent = parent_of(values, path)
        if isinstance(parent, dict) and path[0] not in (*FREE, "files"):
            without, beside = copy.deepcopy(values), copy.deepcopy(values)
            del parent_of(without, path)[path[-1]]
            message = read(without)
            later = path[0] == "config" and path[-1] in WRITTEN_LATER
            assert later or (message is not None and dotted(path) in message), (path, message)
            parent_of(beside, path)[f"{path[-1]}x"] = parent[path[-1]]
            message = read(beside)
            assert message is not None and f"{dotted(path)}x" in message, (path, message)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=6,
)


@settings(
    max_examples=ROUNDS,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data(), value=json_values, key=st.text(max_size=8))
def test_any_value_anywhere(
    data: st.DataObject, value: Json, key: str, values: Json, read: Callable[[Json], str | None]
) -> None:
    path = data.draw(st.sampled_from(sorted(json_places(values), key=str)))
    changed = copy.deepcopy(values)
    parent = parent_of(changed, path)
    if isinstance(parent, dict) and data.draw(st.booleans()):
        parent[key] = value
    else:
        parent[path[-1]] = value
    if read(changed) is None:
        graph = ("spec", "files", "format_version", "context_length", "activation")
        assert all(changed[name] == values[name] or name == "spec" for name in graph)
        assert changed["spec"]["text_width"] == values["spec"]["text_width"]
