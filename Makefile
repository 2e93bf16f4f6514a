# Two commands do all the set-up: `make demo` runs the main job, `make test` passes the tests.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
WORKERS ?= 2
RUN ?= runs/demo-$(shell date +%Y%m%d-%H%M%S)
# To watch every branch doubles the time of the tests: it is asked for by itself, and by .ci/run.
MEASURED := --cov --cov-report=term:skip-covered --cov-fail-under=90
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.PHONY: lock demo test coverage test-bits test-slow test-network lint mutants meshes bench clean help

help:
	@echo "make demo       install, train a customised model on real digits, name the report to open"
	@echo "make test       install, run the tests"
	@echo "make coverage   the same, with the branches that they take: at least 90 %"
	@echo "make test-bits  what promises equal bits, under each vector width of the CPU"
	@echo "make test-slow  the long ones: full kill sweep, compilers, soak"
	@echo "make test-network   hosts in network namespaces, killed and cut off (as root)"
	@echo "make lint       ruff, mypy --strict"
	@echo "make mutants    planted bugs against the laws: caught and missed, five seeds"
	@echo "make meshes     what each kind of mesh keeps of one process, measured on real ranks, into docs/meshes.md"
	@echo "make lock       names, versions and hashes of what the tests and benchmarks install, anew, into locks/"
	@echo "make bench      the benchmarks (peers are installed first); results: benchmarks/RESULTS.md"

$(VENV)/.demo: pyproject.toml
	@echo "installing mapsto[demo] into $(VENV) ..."
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(PIP) --upgrade pip && $(PIP) -e ".[demo]"
	@touch $@

# All is installed as locked, by hash; then PyTorch, in the build that suits the machine.
$(VENV)/.test: pyproject.toml locks/test.txt
	@echo "installing mapsto[test] into $(VENV) ..."
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(PIP) --upgrade pip && $(PIP) --no-deps --require-hashes -r locks/test.txt
	@$(PIP) --no-build-isolation -e ".[test]"
	@touch $@ $(VENV)/.demo

$(VENV)/.bench: $(VENV)/.test locks/bench.txt
	@$(PIP) --no-deps --require-hashes -r locks/bench.txt
	@$(PIP) --no-build-isolation -e ".[bench]" && touch $@

lock: $(VENV)/.test
	@$(PIP) uv && $(BIN)/python locks/lock.py

demo: $(VENV)/.demo
	OMP_NUM_THREADS=1 $(BIN)/mapsto train recipes/digits.py --run $(RUN)
	$(BIN)/mapsto evaluate $(RUN) --data test

test: $(VENV)/.test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder -m "not slow and not network" $(if $(COVERAGE),$(MEASURED))
	OMP_NUM_THREADS=1 ATEN_CPU_CAPABILITY=default $(BIN)/python -m pytest -m "bits and not slow" tests/mesh/test_norms.py tests/mesh/test_pipeline.py

coverage:
	$(MAKE) test COVERAGE=1

# Equal bits are promised of equal arithmetic, whatever that is: a coincidence of one vector width shows under another.
test-bits: $(VENV)/.test
	for width in ATEN_CPU_CAPABILITY=default ATEN_CPU_CAPABILITY=avx2 -uATEN_CPU_CAPABILITY; do \
		echo "env $$width"; \
		env $$width OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile -m "bits and not slow" tests || exit 1; \
	done

test-slow: $(VENV)/.bench
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile -m slow

test-network: $(VENV)/.test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m network

lint: $(VENV)/.test
	$(BIN)/ruff check src tests recipes benchmarks examples locks
	$(BIN)/ruff format --check src tests recipes benchmarks examples locks
	$(BIN)/mypy

mutants: $(VENV)/.test
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.mutants --seeds 5

meshes: $(VENV)/.test
	OMP_NUM_THREADS=1 $(BIN)/python -W ignore -m tests.mesh.law_table > docs/meshes.md

bench: $(VENV)/.bench
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/overhead.py
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/data.py
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/images.py
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/check.py
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/ranks.py --ranks 2
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/ranks.py --ranks 4
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/strict.py
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/checkpoints.py
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/servers.py
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/recovery.py
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/vitals.py

clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache htmlcov .coverage*
