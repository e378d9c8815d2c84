# Two commands matter: `make quickstart` and `make test`. Both set everything up first.
PYTHON ?= python3
BIN := .venv/bin
RECIPE := recipes/synthetic_retina/mask2former_tiny.yaml
export HF_HUB_OFFLINE ?= 1
export TOKENIZERS_PARALLELISM ?= false
# Threads that wait for one another sleep: spinning makes a run many times slower once anything else wants a core.
export OMP_WAIT_POLICY ?= PASSIVE

.PHONY: setup quickstart test test-lowest test-newest style quality docs clean

setup: .venv/.ready

.venv/.ready: setup.cfg pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

quickstart: setup
	$(BIN)/accelerate launch --num_processes 1 --num_machines 1 --mixed_precision no --dynamo_backend no \
		--num_cpu_threads_per_process $(shell getconf _NPROCESSORS_ONLN) \
		train.py $(RECIPE) --overwrite training.output_dir=out/quickstart

test: setup
	$(BIN)/python -m pytest -n 2 tests

# The oldest versions that setup.cfg allows, and the newest that there are, each in an environment of its own. Python and
# what is run can be chosen: make test-newest PYTHON=python3.12 TESTS="tests/models tests/recipe"
TESTS ?= tests

test-lowest: .venv-lowest/.ready
	.venv-lowest/bin/python -m pytest -n 2 $(TESTS)

test-newest: .venv-newest/.ready
	.venv-newest/bin/python -m pytest -n 2 $(TESTS)

.venv-lowest/.ready: setup.cfg
	$(PYTHON) -m venv .venv-lowest
	sed -n 's/^ *\([A-Za-z0-9_-]*\)\(\[[a-z]*\]\)*>=\([0-9.]*\).*/\1==\3/p' setup.cfg > .venv-lowest/constraints.txt
	.venv-lowest/bin/python -m pip install --quiet -c .venv-lowest/constraints.txt -e '.[dev]'
	touch $@

.venv-newest/.ready: setup.cfg
	$(PYTHON) -m venv .venv-newest
	.venv-newest/bin/python -m pip install --quiet --upgrade --upgrade-strategy eager -e '.[dev]'
	touch $@

style: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

quality: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy hf_dinoseg train.py

docs: setup
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet
	@echo "The site is in build/site; look at it with: $(BIN)/python -m http.server --directory build/site"

clean:
	rm -rf .venv .venv-lowest .venv-newest out build dist *.egg-info
