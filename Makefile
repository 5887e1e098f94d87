# Each target sets up what it needs in .venv by itself, the first time and whenever the lock changes.
# The lock is complete, so nothing is installed for being another package's dependency.
# Paths are relative throughout, so that a clone may lie in a folder with a space in its name.

PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/installed

LOCK := uv pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links \
	--custom-compile-command "make lock" --quiet

# pyright asks no registry whether it is the newest.
export PYRIGHT_PYTHON_IGNORE_WARNINGS := 1

.PHONY: demo test stress interop installed check coverage contracts build mcpb lock clean

demo: $(STAMP)
	@$(BIN)/mcp-server-milvus demo

test: $(STAMP)
	@$(BIN)/pytest --ignore tests/stress --numprocesses 3 --dist loadgroup

stress: $(STAMP)
	@$(BIN)/pytest tests/stress --numprocesses 2 --dist loadgroup

interop: $(STAMP)
	@$(BIN)/python tests/interop/run.py conformance inspector openai_agents pydantic_ai

installed: $(STAMP)
	@$(BIN)/python tests/interop/run.py installed bundle lowest

coverage: $(STAMP)
	@$(BIN)/pytest --ignore tests/stress --numprocesses 3 --dist loadgroup --cov --cov-report=term

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/python tools/generate.py --check

contracts: $(STAMP)
	$(BIN)/python tools/generate.py

build: $(STAMP)
	@$(BIN)/python -m hatchling build --clean

mcpb: $(STAMP)
	@$(BIN)/python tools/bundle.py dist

lock:
	@command -v uv >/dev/null || { echo "make lock needs uv: pip install uv" >&2; exit 1; }
	$(LOCK) --upgrade pyproject.toml --group dev --group live --output-file requirements.lock
	$(LOCK) --constraint requirements.lock pyproject.toml --output-file requirements-runtime.lock
	$(LOCK) --constraint requirements.lock --group build --output-file requirements-build.lock

clean:
	rm -rf .venv .interop .coverage .coverage.* .pytest_cache .ruff_cache .hypothesis build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(STAMP): requirements.lock pyproject.toml
	@command -v "$(PYTHON)" >/dev/null || \
		{ echo "There is no $(PYTHON) here. Name a Python 3.11 or newer: make PYTHON=python3.12" >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.version_info >= (3, 11) or sys.exit( \
		"mcp-server-milvus needs Python 3.11 or newer; $(PYTHON) is %d.%d. Name a newer one: make PYTHON=python3.12" \
		% sys.version_info[:2])'
	@echo "Setting up .venv: once, and when the lock changes"
	@rm -f $@
	@if command -v uv >/dev/null; then \
		{ test -x $(BIN)/python || uv venv --quiet --python "$(PYTHON)" .venv; } && \
		uv pip sync --quiet --python $(BIN)/python --require-hashes requirements.lock && \
		uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable . ; \
	else \
		{ $(BIN)/python -m pip --version >/dev/null 2>&1 || "$(PYTHON)" -m venv --clear .venv; } && \
		$(BIN)/python -m pip --quiet --quiet --disable-pip-version-check install --require-hashes --no-deps --requirement requirements.lock && \
		$(BIN)/python -m pip --quiet --quiet --disable-pip-version-check install --no-deps --no-build-isolation --editable . ; \
	fi
	@touch $@
