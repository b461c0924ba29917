# A fresh machine needs two commands: `make demo` and `make test`. Both make their own virtual environment.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin

.PHONY: demo gallery test test-fast soak lint format bench clean

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet --editable ".[cpu,deid,export,preview,test]"
	touch $@

demo: $(VENV)/.installed
	$(BIN)/python -m examples.demo

gallery: $(VENV)/.installed
	$(BIN)/python -m export gallery

# files share what is dear to make within themselves, so each goes to one process
test: $(VENV)/.installed
	$(BIN)/python -m pytest -n auto --dist loadfile

test-fast: $(VENV)/.installed
	$(BIN)/python -m pytest -n auto --dist loadfile -m "not slow"

# two minutes of live video: memory, threads, open files, sound against pictures, latency
soak: $(VENV)/.installed
	$(BIN)/python -m benchmarks.live --minutes 2

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.installed
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

bench: $(VENV)/.installed
	$(BIN)/python -m benchmarks

clean:
	rm -rf $(VENV) build dist bundles demo gallery *.egg-info
