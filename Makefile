# Two commands on a fresh machine with Python >= 3.10 and make: `make demo` and `make test`.
export OMP_NUM_THREADS ?= 1
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
EPSILON ?= 8
DATA := .cache/demo
RELEASE := build/release

.PHONY: demo test lint compare bench step-share campaign memorisation study mutants docs dist test-wheel compatibility clean

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[dev]"
	touch $@

demo: $(VENV)/installed  ## fine-tune a language model privately, and judge the run by three accountants
	$(BIN)/python examples/fetch_demo_data.py --output $(DATA)
	$(BIN)/python examples/finetune_movie_reviews.py --data $(DATA) --target-epsilon $(EPSILON)

test: lint  ## check style and types, then run every test
	$(BIN)/python -m pytest -n auto --dist worksteal

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python

compare: $(VENV)/installed  ## the README's table against RDP and PRV
	$(BIN)/python benchmarks/compare.py

bench: $(VENV)/bench-installed  ## every public accountant side by side; BENCH=--quick for a part of it
	PYTHONPATH=benchmarks $(BIN)/python -m bench $(BENCH)

step-share: $(VENV)/installed  ## what share of a training step accounting takes, epsilon logged at every step
	$(BIN)/python benchmarks/step_share.py

study: $(VENV)/installed  ## accountants and recipes on real tasks, over seeds; goes on where it was stopped
	PYTHONPATH=benchmarks $(BIN)/python -m study $(STUDY)

campaign: $(VENV)/installed  ## random regimes against ball arithmetic; goes on where it was stopped
	$(BIN)/python benchmarks/campaign.py $(CAMPAIGN)

memorisation: $(VENV)/installed  ## what tuned models remember, beside the proved bound; goes on where it was stopped
	$(BIN)/python benchmarks/memorisation.py

mutants: $(VENV)/mutants-installed  ## mutation testing of the numerical core; goes on where it was stopped
	$(BIN)/python benchmarks/mutants.py $(MUTANTS)

docs: $(VENV)/docs-installed  ## the documentation's site, in build/site; a warning is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

$(VENV)/docs-installed: $(VENV)/installed
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[docs]"
	touch $@

$(VENV)/mutants-installed: $(VENV)/installed
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[mutants]"
	touch $@

$(VENV)/bench-installed: $(VENV)/installed
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[bench]"
	touch $@

dist: $(RELEASE)/installed  ## the sdist, and the wheel built from it, in dist/; checked
	rm -rf dist
	$(RELEASE)/bin/python -m build --outdir dist .
	$(RELEASE)/bin/twine check --strict dist/*
	$(RELEASE)/bin/check-wheel-contents dist/*.whl
	$(RELEASE)/bin/vermin --target=3.10- --violations --no-tips --eval-annotations --backport typing_extensions opacus_edgeworth

test-wheel: dist  ## every test against the wheel alone, in an environment of its own; WHEEL="tests/test_package.py -n 2" for a part
	$(RELEASE)/bin/nox --session wheel -- $(WHEEL)

compatibility: dist  ## tests with older and newer versions; another Python takes part if PATH has it
	$(RELEASE)/bin/nox --session compatibility core -- $(COMPATIBILITY)
	$(RELEASE)/bin/python benchmarks/compatibility.py

$(RELEASE)/installed: pyproject.toml
	$(PYTHON) -m venv $(RELEASE)
	$(RELEASE)/bin/python -m pip install --quiet --upgrade pip
	$(RELEASE)/bin/python -m pip install --quiet --group release
	touch $@

clean:
	rm -rf $(VENV) .cache .nox demo_output build dist mutants *.egg-info
