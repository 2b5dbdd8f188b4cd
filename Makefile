# make demo   set up .venv and run the main job on real data
# make test   set up .venv and run every check
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: demo test lint types layers unit bench clean

demo: $(INSTALLED)
	$(BIN)/hqc demo

test: lint types layers unit

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check torch==2.13.0 -c constraints.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(INSTALLED)
	$(BIN)/mypy -p hqc

layers: $(INSTALLED)
	$(BIN)/lint-imports --no-cache

# Two workers for two cores; one numeric thread each, so that they do not fight.
unit: $(INSTALLED)
	OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadgroup --durations=8


bench: $(INSTALLED)
	$(BIN)/python -m benchmarks.bench_passes
	$(BIN)/python -m benchmarks.bench_conv
	$(BIN)/python -m benchmarks.bench_models
	$(BIN)/python -m benchmarks.bench_qat_step
	$(BIN)/python -m benchmarks.bench_zoo

clean:
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
