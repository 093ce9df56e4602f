# demo: the whole workflow on a simulated scene.  test: everything that proves it right.
# bench: how fast it is beside its peers; REFERENCE=<checkout of pytorch-psetae> for all of them.

PYTHON ?= python3
BIN := .venv/bin
CORES ?= all
# Where the folder is named, it is by the shell's own $$PWD: make's CURDIR would be read as a command.

.PHONY: demo test bench lint format configs lock clean

demo: .venv/ready
	PATH="$$PWD/$(BIN):$$PATH" parcelwise run configs/demo.yaml --cores $(CORES)

test: .venv/ready
	PATH="$$PWD/$(BIN):$$PATH" python -m pytest

# BENCH="training --quick": what to run, and how; everything without it.
bench: benchmarks/.venv/ready
	PATH="$$PWD/benchmarks/.venv/bin:$$PATH" python -m benchmarks $(BENCH)

lint: .venv/ready
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m mypy
	$(BIN)/python -m snakefmt --check Snakefile rules
	PATH="$$PWD/$(BIN):$$PATH" python -m snakemake --lint --configfile configs/demo.yaml

format: .venv/ready
	$(BIN)/python -m ruff check --fix .
	$(BIN)/python -m ruff format .
	$(BIN)/python -m snakefmt Snakefile rules

.venv/ready: requirements.txt pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --requirement requirements.txt
	$(BIN)/python -m pip install --quiet --no-deps --editable .
	touch $@

# An environment of its own, as the peers are no part of the project.
benchmarks/.venv/ready: requirements.txt benchmarks/requirements.txt pyproject.toml
	$(PYTHON) -m venv benchmarks/.venv
	benchmarks/.venv/bin/python -m pip install --quiet $(patsubst %,--requirement %,$(filter %.txt,$^))
	benchmarks/.venv/bin/python -m pip install --quiet --no-deps --editable .
	touch $@

# default.yaml and schema.json, after an edit of pipeline/workflow/sections.py or a recipe.
configs: .venv/ready
	$(BIN)/python -m pipeline.workflow.generate_configs

# Pin every package, those that others need included, after an edit of pyproject.toml. What only a
# GPU build of torch needs is left to pip.
lock:
	$(PYTHON) -m venv --clear .venv
	$(BIN)/python -c 'import tomllib; p = tomllib.load(open("pyproject.toml", "rb")); \
	 print(*p["project"]["dependencies"], *p["dependency-groups"]["dev"], sep="\n")' \
	 | $(BIN)/python -m pip install --quiet --requirement /dev/stdin
	(echo '# Written by `make lock` from pyproject.toml: every package, pinned.'; \
	 $(BIN)/python -m pip freeze \
	 | grep -vE '^(nvidia|cuda|triton)' | sed -E 's/\+(cpu|cu[0-9]+)$$//') > requirements.txt
	$(BIN)/python -m pip install --quiet --no-deps --editable .
	touch .venv/ready

clean:
	rm -rf results/demo .snakemake
