# Everything a developer or a machine needs; `make` alone lists it.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check
# torch first and by itself: a range would pull the build with CUDA.
TORCH  := $(shell sed -n 's/^\(torch==.*\)/\1/p' constraints.txt)

.DEFAULT_GOAL := help
.PHONY: help install dev demo test test-long search fuzz chaos soak check format proto bench bench-quick table wheel clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

$(VENV)/.installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet "$(TORCH)"
	$(PIP) install --quiet --constraint constraints.txt --editable .
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(PIP) install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $@

install: $(VENV)/.installed  ## install flame-run into .venv

dev: $(VENV)/.installed-dev  ## install what tests and checks need as well

demo: install  ## run the flagship job on real data
	$(BIN)/flame-run experiment=mnist_coordinated

test: dev  ## run the tests (about 25 minutes on 2 cores)
	$(BIN)/python -m pytest -m "not long" -n 2 --dist worksteal

test-long: dev  ## run the tests that take minutes
	$(BIN)/python -m pytest -m long

search: dev  ## run the property tests on many random examples (SEARCH="tests/roles -k gather"; default all of them)
	HYPOTHESIS_PROFILE=search $(BIN)/python -m pytest $(or $(SEARCH),$(shell grep -rlE '^@given|^@settings' tests)) -m "not long" -n 2

fuzz: dev  ## feed nonsense to everything that reads the network, for long (FUZZ="--minutes N --target NAME"; default 5 minutes each)
	$(BIN)/python -m tests.fuzz $(or $(FUZZ),--minutes 5)

chaos: dev  ## kill and freeze every kind of worker everywhere (hours; CHAOS="--number N --topology NAME", see --help)
	$(BIN)/python -m tests.chaos $(CHAOS)

soak: dev  ## 2,000 rounds with 8 workers: does memory or the number of open files grow? (SOAK="--rounds N --transport NAME")
	$(BIN)/python -m tests.chaos.soak $(SOAK)

check: dev  ## formatting, lint and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: dev  ## put the code into shape
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

proto: dev  ## generate the protobuf modules again
	$(BIN)/python -m grpc_tools.protoc -I . --python_out=. --pyi_out=. transports/wire.proto flame_run/control/control.proto

bench: dev  ## measure everything beside what the machine could do (about an hour)
	$(BIN)/python -m tests.benchmarks $(BENCH)
	$(if $(BENCH),,$(BIN)/python -m tests.benchmarks.codec_accuracy)

bench-quick: dev  ## the same once and smaller (minutes): whether it works, not how fast
	$(BIN)/python -m tests.benchmarks --quick $(BENCH)

table: install  ## train what papers report and print it beside theirs (less than an hour; TABLE="--only NAME --mnist URL", see --help)
	$(BIN)/python -m examples.table $(TABLE)

wheel: dev  ## build the wheel into dist/
	$(BIN)/python -m build --wheel --outdir dist

clean:  ## remove what was built
	rm -rf $(VENV) dist build .mypy_cache .ruff_cache .pytest_cache .hypothesis
