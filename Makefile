# make demo | test | test-all | check | bench | docs | wheel | pictures | setup | install   (or: make test PYTHON=python3.12 VENV=...)
PYTHON ?= python3
VENV ?= .venv
# What a new environment is installed with; `make install EXTRAS=onnx,serve` has no torch.
EXTRAS ?= train,onnx,serve
BIN := $(VENV)/bin
DEMO := runs/demo
# What a user needs, and what the tests need besides.
INSTALLED := $(VENV)/.installed-user
ALL := $(VENV)/.installed-all
DOCS := $(VENV)/.installed-docs
PINS := $(VENV)/constraints.txt
# A test process for each core (more than eight would mostly start up), and whole files, so that what a file's tests share
# is made once and a SLURM cluster runs once; in the order of the folders, whose first ones take longest.
PYTEST := $(BIN)/python -m pytest -q -n auto --maxprocesses 8 --max-worker-restart 0 --dist loadfile --no-loadscope-reorder

# A PyTorch with a label of its own (2.15.0+cpu, say) is somebody's choice and stays, whatever its version.
INSTALL = { $(BIN)/python -m pip list --format freeze | grep -E '^torch(vision)?==.*[+]' || true; cat constraints.txt; } \
  | awk -F '==' '!seen[$$1]++' > $(PINS) && $(BIN)/python -m pip install --disable-pip-version-check -c $(PINS)

# Tests that hold what is computed against recorded values or between worlds, within a tolerance.
NUMBERS := $(addprefix tests/numerics/,test_golden.py test_gradients.py test_worlds.py)

.PHONY: setup install demo test test-all check bench docs wheel pictures format clean

setup: $(ALL)

install: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v <= (3, 13) else f"error: Python 3.11 to 3.13 is needed, $(PYTHON) is {v[0]}.{v[1]}; name another: make PYTHON=python3.12")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	# It chooses versions in a third of the time that Python 3.11's own pip takes.
	$(INSTALL) pip
	@echo '== Fetching $(EXTRAS): train takes 3.3 GB, 6.8 GB on disk; 0.7 GB where $(VENV) has the CPU build of PyTorch (README.md, Quick start)'
	$(INSTALL) -e '.[$(EXTRAS)]'
	touch $@

$(ALL): $(INSTALLED)
	@echo '== Fetching 0.1 GB more, for the tests'
	$(INSTALL) -e '.[train,dev]'
	touch $@

$(DOCS): $(INSTALLED)
	$(INSTALL) -c docs/constraints.txt -e '.[train,onnx,docs]'
	touch $@

# site/index.html, to be opened as a file or put on any server; a broken link is an error.
docs: $(DOCS)
	$(BIN)/python -m mkdocs build --clean

# One file for a machine that only predicts. What a build leaves would be packed the next time, too, whatever is gone since.
wheel: $(INSTALLED)
	rm -rf build
	$(BIN)/python -m pip wheel --disable-pip-version-check --no-deps -w wheels .
	rm -rf build

# Needs a Chromium on the PATH, and what `make demo` left.
pictures: $(DOCS)
	$(BIN)/python -m bench.pictures $(DEMO) --out docs/pictures

demo: $(INSTALLED)
	VENV=$(VENV) OUT=$(DEMO) sh launch/demo.sh

test: $(ALL)
	$(PYTEST)
	# Losses and gradients must hold whatever the processor can do: once more, without its newer instructions.
	ATEN_CPU_CAPABILITY=default ONEDNN_MAX_CPU_ISA=SSE41 $(PYTEST) $(NUMBERS)

test-all: $(ALL)
	$(PYTEST) -m ''

# The tables of speed that two CPU cores can make; they want a quiet machine.
bench: $(ALL)
	$(BIN)/python -m bench.startup
	$(BIN)/python -m bench.train_step --device cpu --sizes 192x192 --batch 16
	$(BIN)/python -m bench.speed
	$(BIN)/python -m bench.scaling

check: $(ALL)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	# Code that nothing calls, tests not counted.
	$(BIN)/vulture

format: $(ALL)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) build wheels site *.egg-info .pytest_cache .mypy_cache .ruff_cache
