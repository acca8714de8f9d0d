# Needs only Python 3.11, gcc/g++, make and git.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: setup demo loop docs test lint types wheel peers bench nightly clean

setup: .venv/.ready

.venv/.ready: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet torch==2.13.0
	$(BIN)/python -m pip install --quiet --editable ".[test]"
	$(BIN)/python -m hwcompile.hw_targets.verilator
	$(BIN)/python -m hwcompile.hw_targets.browser
	@touch $@

demo: setup
	$(BIN)/hwcompile examples/jet_tagger.onnx --target vu9p --data examples/jet_tagger.npz --synth --output build/jet_tagger --overwrite

loop: setup
	$(BIN)/python examples/search_jet_tagger.py

docs: setup
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

test: setup
	$(BIN)/python -m pytest -n 2 -m "not slow"

nightly: setup
	$(BIN)/python -m pytest -n 2

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup
	$(BIN)/pyright

wheel: setup
	$(BIN)/python -m pytest -q tests/test_packaging.py

peers: .venv-peers/.ready

.venv-peers/.ready: benchmarks/peers.txt
	$(PYTHON) -m venv .venv-peers
	.venv-peers/bin/python -m pip install --quiet --upgrade pip
	.venv-peers/bin/python -m pip install --quiet torch==2.13.0
	.venv-peers/bin/python -m pip install --quiet -r benchmarks/peers.txt
	@touch $@

bench: setup peers
	$(BIN)/python benchmarks/run.py

clean:
	rm -rf build .venv .venv-peers
