# demo       the whole workflow on a simulated scene
# test       every test; test-fast leaves out those that take over two seconds
# fuzz       inputs of every kind, damaged at random; FUZZ="--mutants 100 --only safe"
# kill       a run killed in every stage, and faults of the machine; KILLS=40 MINUTES=60
# soak       a run that grows by one acquisition at a time; INCREMENTS=20 MINUTES=60
# docs       the documentation as pages, in site/index.html
# bench      speed and memory beside other software; REFERENCE=<checkout of pytorch-psetae> adds that

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
CORES ?= all
# The recipes use the shell's own $$PWD. A shell would run a command in make's CURDIR, such as $$(...).

.PHONY: demo test test-fast fuzz kill soak bench docs lint format configs lock clean

demo: $(VENV)/ready
	PATH="$$PWD/$(BIN):$$PATH" parcelwise run configs/demo.yaml --cores $(CORES)

test: $(VENV)/ready
	PATH="$$PWD/$(BIN):$$PATH" python -m pytest

test-fast: $(VENV)/ready
	PATH="$$PWD/$(BIN):$$PATH" python -m pytest -m "not slow"

fuzz: $(VENV)/ready
	PATH="$$PWD/$(BIN):$$PATH" python -m tests.fuzz $(FUZZ)

KILLS ?= 40
INCREMENTS ?= 20
MINUTES ?= 60

kill: $(VENV)/ready
	PATH="$$PWD/$(BIN):$$PATH" python -m tests.endurance kill --kills $(KILLS) --minutes $(MINUTES)
	PATH="$$PWD/$(BIN):$$PATH" python -m tests.endurance faults --minutes $(MINUTES)

soak: $(VENV)/ready
	PATH="$$PWD/$(BIN):$$PATH" python -m tests.endurance soak --increments $(INCREMENTS) --minutes $(MINUTES)

# BENCH="training --quick" selects what to run and how; the default is everything.
bench: benchmarks/.venv/ready
	PATH="$$PWD/benchmarks/.venv/bin:$$PATH" python -m benchmarks $(BENCH)

# No network is used: the theme's fonts are those of the system, and docs/vendor has the other libraries.
docs: $(VENV)/ready
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet
	@echo "Open $$PWD/site/index.html"

lint: $(VENV)/ready
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m mypy
	$(BIN)/python -m snakefmt --check Snakefile rules
	PATH="$$PWD/$(BIN):$$PATH" python -m snakemake --lint --configfile configs/demo.yaml

format: $(VENV)/ready
	$(BIN)/python -m ruff check --fix .
	$(BIN)/python -m ruff format .
	$(BIN)/python -m snakefmt Snakefile rules

$(VENV)/ready: requirements.txt pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --requirement requirements.txt
	$(BIN)/python -m pip install --quiet --no-deps --editable .
	touch $@

# A separate environment, because the project does not depend on the software it is compared with.
benchmarks/.venv/ready: requirements.txt benchmarks/requirements.txt pyproject.toml
	$(PYTHON) -m venv benchmarks/.venv
	benchmarks/.venv/bin/python -m pip install --quiet $(patsubst %,--requirement %,$(filter %.txt,$^))
	benchmarks/.venv/bin/python -m pip install --quiet --no-deps --editable .
	touch $@

# default.yaml and schema.json, after an edit of pipeline/workflow/sections/ or a recipe.
configs: $(VENV)/ready
	$(BIN)/python -m pipeline.workflow.generate_configs

# Pin every package, also the indirect ones, after an edit of pyproject.toml. pip itself chooses the
# packages that only a GPU build of torch needs.
lock:
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -c 'import tomllib; p = tomllib.load(open("pyproject.toml", "rb")); \
	 groups = p["dependency-groups"]; \
	 print(*p["project"]["dependencies"], *groups["dev"], *groups["docs"], sep="\n")' \
	 | $(BIN)/python -m pip install --quiet --requirement /dev/stdin
	(echo '# Written by `make lock` from pyproject.toml: every package, pinned.'; \
	 $(BIN)/python -m pip freeze \
	 | grep -vE '^(nvidia|cuda|triton)' | sed -E 's/\+(cpu|cu[0-9]+)$$//') > requirements.txt
	$(BIN)/python -m pip install --quiet --no-deps --editable .
	touch $(VENV)/ready

clean:
	rm -rf results/demo .snakemake site
