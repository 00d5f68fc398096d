# Everything happens in .venv in this checkout.
PYTHON ?= python3
BIN = .venv/bin

.PHONY: install demo test check benchmark clean

install: .venv/installed

.venv/installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $@

demo: install  ## compare two starts on simulated scenes; needs no data
	$(BIN)/sartransfer demo --out demo

test: install check  ## layers, lint, types, tests
	$(BIN)/python -m pytest -n 2 --dist loadfile

benchmark: install  ## against peers, side by side; benchmarks/README.md says where those are found
	$(BIN)/python benchmarks/topk_loss.py
	$(BIN)/python benchmarks/simulated_scenes.py
	$(BIN)/python benchmarks/archive_cost.py
	$(BIN)/python benchmarks/pixels.py
	$(BIN)/python benchmarks/products.py
	$(BIN)/python benchmarks/random_patches.py
	$(BIN)/python benchmarks/whole_scenes.py --figure benchmarks/figures/whole_scenes.png

check: install
	$(BIN)/lint-imports --no-logo
	$(BIN)/ruff check src tests
	$(BIN)/ruff format --check src tests
	$(BIN)/mypy

clean:
	rm -rf demo build dist
