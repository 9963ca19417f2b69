# Two commands do everything: `make demo` and `make test`. Both set up what they need in .venv.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
NATIVE := CMakeLists.txt $(wildcard runtime/native/*)
# One pytest leaves a core idle: two share the folders, each with about half of the time.
FIRST_HALF := $(addprefix tests/,attack export model text training)

.PHONY: demo docs test first-half second-half sanitize lint sbom clean

demo: $(VENV)/.base
	mkdir -p demo
	$(BIN)/dedos-run --source "scene:street?frames=60&size=480x640&seed=5" --bundle demo \
		--classes "road,sidewalk,car,tree,building,sky,grass" --background none \
		--output demo/street.mp4 --output demo/street.png --overwrite
	@echo "look at demo/street.mp4 and demo/street.png"

test: lint docs
	$(MAKE) --jobs 2 --keep-going first-half second-half

first-half: $(VENV)/.dev
	$(BIN)/python -m pytest -q $(FIRST_HALF)

second-half: $(VENV)/.dev
	$(BIN)/python -m pytest -q $(addprefix --ignore=,$(FIRST_HALF))

# Part of `test`; alone, and without the right to skip, for work on the native code.
sanitize: $(VENV)/.dev
	DEDOS_REQUIRE=all $(BIN)/python -m pytest tests/native/test_sanitized.py

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run --Werror $(wildcard runtime/native/*.cpp runtime/native/*.h \
		runtime/cpp/*.cpp runtime/cpp/*.h runtime/cpp/*.hpp)

# A page that is linked from nowhere, a link or a heading that is not there ends it.
docs: $(VENV)/.dev
	$(BIN)/sphinx-build -W --keep-going -q -b html docs build/site
# The wheel of a release and its bill of materials, in dist/.
sbom: $(VENV)/.dev
	$(BIN)/python .ci/sbom.py --output dist

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10 or newer is needed, this is " + sys.version.split()[0])'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip

# Editable, so that a change to the Python sources needs no new install.
$(VENV)/.base: pyproject.toml $(NATIVE) | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

$(VENV)/.dev: pyproject.toml $(NATIVE) | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@ $(VENV)/.base

clean:
	rm -rf $(VENV) build dist demo
