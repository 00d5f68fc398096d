# Everything happens in .venv in this checkout; libraries that benchmarks compare with are in .peers.
PYTHON ?= python3
BIN = .venv/bin
# make benchmark PEERS= leaves those libraries out; SMOOTH_TOPK=FOLDER names a checkout of oval-group/smooth-topk.
PEERS ?= .peers
SMOOTH_TOPK ?=

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

# Of the Python of .venv: whole_scenes.py imports the peers behind what is installed there.
.peers/installed: | .venv/installed
	$(BIN)/python -m venv --clear .peers
	.peers/bin/python -m pip install --quiet --disable-pip-version-check torchgeo monai terratorch requests
	touch $@

benchmark: install $(PEERS:%=%/installed)  ## against peers, side by side; benchmarks/README.md says which
	$(BIN)/python benchmarks/topk_loss.py $(if $(SMOOTH_TOPK),--peer "$(SMOOTH_TOPK)")
	$(BIN)/python benchmarks/simulated_scenes.py
	$(BIN)/python benchmarks/archive_cost.py
	OMP_NUM_THREADS=2 $(BIN)/python benchmarks/pixels.py --threads 2 --turns 2 --pixels 100000000
	$(BIN)/python benchmarks/products.py
	$(BIN)/python benchmarks/training.py --parity
	$(BIN)/python benchmarks/random_patches.py $(if $(PEERS),--peer $(PEERS)/bin/python)
	$(BIN)/python benchmarks/whole_scenes.py --figure benchmarks/figures/whole_scenes.png \
		$(if $(PEERS),--peers $(PEERS)/lib/python*/site-packages)

check: install
	$(BIN)/lint-imports --no-logo
	$(BIN)/ruff check src tests
	$(BIN)/ruff format --check src tests
	$(BIN)/mypy

clean:
	rm -rf demo build dist .peers
