# Two commands on a fresh machine: `make demo` and `make test`. Python 3.11 or later, make and git are all they need.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: setup demo fleet evidence docs test test-slow lint check bench lock clean

setup: $(READY)

$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("medsynth needs Python 3.11 or later, found " + sys.version.split()[0] + "; run make PYTHON=/path/to/python3.11") if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	@# Compiled here, once: where PYTHONDONTWRITEBYTECODE is set, as in many images, every start would take 4 s more.
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python --requirement requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --editable .
	@touch $@

# The whole flow on the built-in phantom corpus, in demo/: a workspace of its own, ignored by git.
demo: setup
	$(BIN)/medsynth init demo
	$(BIN)/medsynth run --workspace demo

# A store, a Prefect server and a Ray cluster of two workers on this machine, and a workspace in fleet/ that knows them.
fleet: setup
	$(BIN)/python -m benchmarks.local_fleet fleet

# All that docs/evidence.md claims, in at most three hours of two cores: make evidence OUT=/tmp/evidence FILMS=/data/films
OUT ?= evidence
evidence: setup
	$(BIN)/python -m benchmarks.evidence $(OUT) $(if $(FILMS),--films $(FILMS))

# The documentation as a site, in site/; fails on a broken link and on a page that no navigation names.
docs: setup
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

test: setup
	$(BIN)/pytest -m "not slow"

# What takes a minute or more: nights in fast motion, runs that are stopped at random moments, automations, extensions.
test-slow: setup
	$(BIN)/pytest -m slow

lint: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/pymarkdown scan --recurse README.md docs infra/README.md

# Exactly the gate of continuous integration.
check: lint test test-slow

bench: setup
	$(BIN)/python -m benchmarks.phantom

# Of the environment here, of the container image (the same versions, without what only development needs), and of the
# tools that build the image.
LOCK := $(BIN)/uv pip compile --python-version 3.11 --universal --generate-hashes
lock:
	$(LOCK) pyproject.toml --all-extras --group dev -o requirements.lock
	$(LOCK) pyproject.toml --all-extras -c requirements.lock -o infra/image.lock
	$(LOCK) --group build -o infra/build.lock

clean:
	rm -rf demo fleet site
