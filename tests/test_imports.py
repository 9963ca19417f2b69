"""Who may import whom, and how light the first import is; each case in a clean interpreter."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from importlib import import_module
from importlib.metadata import EntryPoint, distribution
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "dedos_deploy"
SCRIPTS = [
    entry for entry in distribution("dedos-deploy").entry_points if entry.group == "console_scripts"
]

# What a room imports of ours besides itself and the files at the top of the package, at the top of a
# file or inside a function: cli -> (training | export | calib | serving) -> evaluation -> runtime ->
# bundle, text -> spec. A folder within a room is a room of its own where it stands here.
DATA = {"assets", "bundle", "scenes", "text"}
RUNTIME = {
    "runtime",
    "runtime.engines",
    "runtime.flow",
    "runtime.gpu",
    "runtime.sinks",
    "runtime.sources",
}
TRAINING = {"training", "training.diffusion", "training.pretraining"}
PROGRAMS = {"training.miniature", "training.recipes"}
BELOW = DATA | RUNTIME | {"model"}
ALLOWED: dict[str, set[str]] = {
    "assets": set(),
    "scenes": set(),
    "text": set(),
    "bundle": {"text"},
    "model": {"text"},
    "runtime": DATA | RUNTIME,
    "runtime.engines": {"bundle", "runtime", "runtime.gpu"},
    "runtime.gpu": {"bundle", "runtime", "runtime.engines", "scenes"},
    # A live source drops what nobody asked for by a feed of its own.
    "runtime.sources": {"runtime", "runtime.flow", "scenes"},
    "runtime.sinks": {"runtime"},
    "runtime.flow": {"runtime", "runtime.sinks", "runtime.sources"},
    "runtime.serving": {"runtime", "runtime.flow", "runtime.sinks", "runtime.sources"},
    "evaluation": BELOW,
    "corpus": {"bundle", "evaluation"} | RUNTIME,
    "bench": BELOW,
    "calib": BELOW | {"evaluation"},
    "export": BELOW | {"calib", "evaluation"},
    "training": BELOW | {"evaluation", "training.diffusion"},
    "training.diffusion": BELOW | {"training"},
    "training.pretraining": BELOW | {"evaluation", "training", "training.diffusion"},
    # Programs that go the whole way, from pictures to a bundle.
    "training.miniature": BELOW | TRAINING | {"evaluation", "export"},
    "training.recipes": BELOW | TRAINING | {"evaluation", "export"},
    "cli": BELOW
    | {"bench", "calib", "corpus", "evaluation", "export", "runtime.serving"}
    | TRAINING
    | PROGRAMS,
}
TOP = "the top of the package"

# What a room must not import from elsewhere either, and what must not be loaded with it.
FORBIDDEN = {
    "runtime": {
        "torch",
        "torchvision",
        "onnx",
        "onnxscript",
        "open_clip",
        "diffusers",
        "transformers",
        "dedos_deploy.model",
        "dedos_deploy.training",
        "dedos_deploy.export",
        "dedos_deploy.calib",
        "dedos_deploy.cli",
    },
    "bundle": {"torch", "onnx", "pickle", "dedos_deploy.model", "dedos_deploy.runtime"},
    "model": {"diffusers", "dedos_deploy.training", "dedos_deploy.runtime", "dedos_deploy.export"},
    "evaluation": {"dedos_deploy.training", "dedos_deploy.export", "dedos_deploy.cli"},
    "calib": {"diffusers", "dedos_deploy.training", "dedos_deploy.cli"},
    "export": {"diffusers", "dedos_deploy.training", "dedos_deploy.cli"},
    "training": {"dedos_deploy.cli"},
}


def statements(path: Path) -> Iterator[tuple[str, str | None]]:
    """Module, as an absolute name, and name out of it, of every import, wherever it stands."""
    package = ["dedos_deploy", *path.relative_to(PACKAGE).parts[:-1]]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, None) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield from ((module, alias.name) for alias in node.names)


def imported(path: Path) -> Iterator[str]:
    """Absolute names of all that a source file imports, wherever the statement stands."""
    for module, name in statements(path):
        yield module
        if name is not None:
            yield f"{module}.{name}"


def within(name: str, roots: set[str]) -> bool:
    return any(name == root or name.startswith(root + ".") for root in roots)


@pytest.mark.parametrize("room", FORBIDDEN)
def test_sources_keep_to_their_side(room: str) -> None:
    files = sorted((PACKAGE / room).rglob("*.py"))
    assert files
    found = {
        f"{path.name}: {name}"
        for path in files
        for name in imported(path)
        if within(name, FORBIDDEN[room])
    }
    assert not found


def sources() -> dict[str, Path]:
    """Python files of the package, through its links, by the names of their modules."""
    tops = [PACKAGE, *(child for child in PACKAGE.iterdir() if child.is_dir())]
    named = {}
    for path in {path for top in tops for path in top.rglob("*.py")}:
        name = ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)
        named[name.removesuffix(".__init__")] = path
    return named


SOURCES = sources()


def arrows(module: str) -> set[str]:
    """Modules of ours that a module imports."""
    known = {*SOURCES, "dedos_deploy._native"}
    found = set()
    for origin, name in statements(SOURCES[module]):
        found.add(whole if (whole := f"{origin}.{name}") in known else origin)
    return {name for name in found if within(name, {"dedos_deploy"})} - {module}


def room_of(module: str) -> str:
    rooms = [room for room in ALLOWED if within(module, {f"dedos_deploy.{room}"})]
    return max(rooms, key=len, default=TOP)


def test_every_folder_is_a_room() -> None:
    folders = {path.name for path in PACKAGE.iterdir() if any(path.glob("*.py"))}
    inner = {
        f"{room}.{path.parent.name}"
        for room in ("runtime", "training")
        for path in (PACKAGE / room).glob("*/*.py")
    }
    assert folders | inner == set(ALLOWED)


@pytest.mark.parametrize("room", [TOP, *ALLOWED])
def test_rooms_import_only_what_lies_below_them(room: str) -> None:
    allowed = {TOP, room, *ALLOWED.get(room, ())}
    # The package itself only names its rooms, for whoever uses it.
    modules = [name for name in SOURCES if room_of(name) == room and name != "dedos_deploy"]
    assert modules
    assert not {
        f"{module} imports {other}"
        for module in modules
        for other in arrows(module)
        if room_of(other) not in allowed
    }


def test_nothing_imports_in_a_circle() -> None:
    """Imports inside functions count, and those for type annotations."""
    try:
        list(TopologicalSorter({name: arrows(name) for name in SOURCES}).static_order())
    except CycleError as error:
        pytest.fail(" imports ".join(reversed(error.args[1])))


def modules_after(code: str) -> set[str]:
    """Names in sys.modules after running `code` in a fresh interpreter, apart from this folder."""
    report = "\nimport json, sys\nprint(json.dumps(sorted(sys.modules)))"
    finished = subprocess.run(
        [sys.executable, "-I", "-c", code + report], capture_output=True, text=True
    )
    assert finished.returncode == 0, finished.stderr
    return set(json.loads(finished.stdout.splitlines()[-1]))


IMPORT_ALL = """
import importlib, pkgutil
package = importlib.import_module({name!r})
for found in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
    importlib.import_module(found.name)
"""


@pytest.mark.parametrize("room", ["runtime", "model"])
def test_loaded_modules_keep_to_their_side(room: str) -> None:
    if room == "model":
        pytest.importorskip("torch")
    loaded = modules_after(IMPORT_ALL.format(name=f"dedos_deploy.{room}"))
    assert f"dedos_deploy.{room}" in loaded
    assert not {name for name in loaded if within(name, FORBIDDEN[room])}


def test_importing_the_runtime_is_light() -> None:
    heavy = {"cv2", "onnxruntime", "tokenizers", "torch", "scipy"}
    loaded = modules_after("import dedos_deploy.runtime")
    assert not {name for name in loaded if within(name, heavy)}


def test_importing_the_package_loads_only_the_standard_library() -> None:
    before = modules_after("")
    loaded = modules_after("import dedos_deploy") - before
    ours = {name for name in loaded if within(name, {"dedos_deploy"})}
    foreign = {name.split(".")[0] for name in loaded - ours} - sys.stdlib_module_names
    assert not foreign


# Everything but the standard library and ourselves is out of reach, base dependencies included.
HELP = """
import importlib.abc, sys

class Refuse(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        root = name.split(".")[0]
        if root != "dedos_deploy" and root not in sys.stdlib_module_names:
            raise ModuleNotFoundError(f"{name} must not be needed for --help", name=name)

sys.meta_path.insert(0, Refuse())
from importlib import import_module
sys.argv = [SCRIPT, *ARGUMENTS]
sys.exit(getattr(import_module(MODULE), FUNCTION)([*ARGUMENTS]))
"""


def help_text(entry: EntryPoint, *arguments: str) -> str:
    values = {
        "SCRIPT": entry.name,
        "MODULE": entry.module,
        "FUNCTION": entry.attr,
        "ARGUMENTS": list(arguments),
    }
    setup = "".join(f"{name} = {value!r}\n" for name, value in values.items())
    finished = subprocess.run(
        [sys.executable, "-I", "-c", setup + HELP], capture_output=True, text=True
    )
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


@pytest.mark.parametrize("entry", SCRIPTS, ids=lambda entry: entry.name)
def test_help_needs_only_the_standard_library(entry: EntryPoint) -> None:
    assert help_text(entry, "--help").startswith(f"usage: {entry.name}")


def verbs(entry: EntryPoint) -> list[str]:
    """Further commands, as `dedos-train text`."""
    return sorted(getattr(import_module(entry.module), "VERBS", ()))


@pytest.mark.parametrize(
    ("entry", "verb"),
    [pytest.param(e, v, id=f"{e.name} {v}") for e in SCRIPTS for v in verbs(e)],
)
def test_help_of_a_further_command_needs_no_more(entry: EntryPoint, verb: str) -> None:
    assert help_text(entry, verb, "--help").startswith(f"usage: {entry.name} {verb}")


@pytest.mark.parametrize("entry", SCRIPTS, ids=lambda entry: entry.name)
def test_a_command_runs_as_a_module_too(entry: EntryPoint) -> None:
    command = [sys.executable, "-m", entry.module, "--no-such-option"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and f"{entry.name}: error" in done.stderr


@pytest.mark.parametrize("room", ["calib", "export", "runtime", "training"])
def test_a_room_is_no_package_of_its_own(room: str) -> None:
    """From the repository's root, where its folder would be found as one."""
    command = [sys.executable, "-c", f"import {room}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=PACKAGE.parent)
    assert done.returncode == 1
    assert f"ImportError: import dedos_deploy.{room};" in done.stderr


def test_what_a_bundle_is_made_for_is_named_once() -> None:
    names = {"Target", "Precision", "Background", "TARGETS", "PRECISIONS", "BACKGROUNDS", "ENGINES"}
    declared = [
        (module, target.id)
        for module, path in SOURCES.items()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        for target in (*getattr(node, "targets", ()), getattr(node, "target", None))
        if isinstance(node, (ast.Assign, ast.AnnAssign)) and isinstance(target, ast.Name)
    ]
    found = {(module, name) for module, name in declared if name in names}
    assert found == {("dedos_deploy.spec", name) for name in names}


def test_every_name_of_an_engine_opens_one() -> None:
    from dedos_deploy.runtime.engines import opening
    from dedos_deploy.spec import ENGINES, TARGETS

    assert set(opening._OPEN) == set(ENGINES) == {*TARGETS, "openvino"}


def test_the_version_is_the_same_everywhere() -> None:
    import dedos_deploy

    root = PACKAGE.parent
    project = (root / "pyproject.toml").read_text(encoding="utf-8")
    citation = (root / "CITATION.cff").read_text(encoding="utf-8")
    stated = re.findall(r'^version[ :=]+"?([^"\n]+)"?$', project + citation, re.MULTILINE)
    assert stated == [dedos_deploy.__version__] * 2
    assert distribution("dedos-deploy").version == dedos_deploy.__version__


def test_every_script_is_tested() -> None:
    assert {"dedos-train", "dedos-export", "dedos-run", "dedos-bench"} <= {
        entry.name for entry in SCRIPTS
    }


def test_no_line_is_exempt_from_the_formatter() -> None:
    root = PACKAGE.parent
    rooms = (
        "dedos_deploy",
        "runtime",
        "training",
        "export",
        "calib",
        "tests",
        "benchmarks",
        "examples",
    )
    marks = tuple(f"# fmt: {word}" for word in ("skip", "off"))
    found = {
        str(path.relative_to(root))
        for room in rooms
        for path in (root / room).rglob("*.py")
        if any(mark in path.read_text(encoding="utf-8") for mark in marks)
    }
    assert not found
