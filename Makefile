# make demo   set up .venv and run the main job on real data
# make test   set up .venv and run every check
# make sbom   write sbom.json (CycloneDX): what is installed, with versions and hashes
# make lock   write requirements.lock anew (needs uv), after a change of pyproject.toml or constraints.txt
# With LOCKED=1, .venv is set up from requirements.lock: every file is compared with its hash, but for torch and CUDA's libraries, which
# are builds for a machine and come from wherever the machine gets them.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

CUDA := torch triton cuda-bindings cuda-pathfinder cuda-toolkit nvidia-cublas nvidia-cuda-cupti nvidia-cuda-nvrtc nvidia-cuda-runtime \
	nvidia-cudnn-cu13 nvidia-cufft nvidia-cufile nvidia-curand nvidia-cusolver nvidia-cusparse nvidia-cusparselt-cu13 nvidia-nccl-cu13 \
	nvidia-nvjitlink nvidia-nvshmem-cu13 nvidia-nvtx
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.PHONY: demo test lint types layers unit bench clean lock sbom

demo: $(INSTALLED)
	$(BIN)/hqc demo

test: lint types layers unit

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
ifdef LOCKED
	$(PIP) --require-hashes --no-deps -r requirements.lock
	$(PIP) torch==2.13.0 -c constraints.txt
	$(PIP) --no-deps --no-build-isolation -e .
else
	$(PIP) torch==2.13.0 -c constraints.txt
	$(PIP) -c constraints.txt -e '.[dev]'
endif
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

sbom: $(INSTALLED)
	$(BIN)/python -m tools.sbom sbom.json

lock:
	uv pip compile pyproject.toml --extra dev --universal --python-version 3.10 --generate-hashes -c constraints.txt --no-header \
		--no-annotate $(CUDA:%=--no-emit-package %) -o requirements.lock

clean:
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
