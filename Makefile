# The kit's commands; `make` lists them.
#
#   CONDA=         use .venv although conda, mamba or micromamba is on the PATH
#   PYTHON3=...    the Python that .venv is made with
#   PYTHON=...     run everything with this Python and set nothing up
#   ARGS="..."     more arguments for demo, test or docker-build: make test ARGS="-k unet";
#                  the command for docker-run

NAME := plumbline
PYTHON3 ?= python3
# a .venv that is there stays in use
CONDA := $(if $(wildcard .venv),,$(firstword $(foreach tool,conda mamba micromamba,\
    $(if $(shell command -v $(tool) 2>/dev/null),$(tool)))))
ENV := $(if $(CONDA),.conda,.venv)
PYTHON := $(ENV)/bin/python
# stamps: what was installed, renewed when the list of dependencies changes
BASE := $(if $(filter file,$(origin PYTHON)),$(ENV)/.base)
DEV := $(if $(filter file,$(origin PYTHON)),$(ENV)/.dev)
CODE := $(wildcard config utils layers models training experiments *.py)

export CONDA_ALWAYS_YES := true
export MAMBA_ALWAYS_YES := true

.DELETE_ON_ERROR:
.PHONY: help env env-dev env-remove demo test test-all lint format doc clean clean-doc docker-build docker-run

help: ## list these commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

env: $(BASE) ## install what training in plain PyTorch and prediction need

env-dev: env $(DEV) ## install all the rest: Ignite, fastai, Lightning, tests, lint, docs

env-remove: ## remove the environment
	$(if $(CONDA),$(CONDA) env remove --name $(NAME) && rm -f .conda,rm -rf .venv)

demo: env ## train on scenes that the kit draws itself; needs no data
	$(PYTHON) train.py $(ARGS)

test: env-dev ## run the tests, bar the slow ones
	$(PYTHON) -m pytest -m "not slow" $(ARGS)

test-all: env-dev ## run all tests
	$(PYTHON) -m pytest $(ARGS)

lint: env-dev ## check format, imports and code
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m pylint $(CODE)

format: env-dev ## format the code and mend what ruff can mend
	$(PYTHON) -m ruff check --fix .
	$(PYTHON) -m ruff format .

doc: env-dev ## build the documentation into docs/_build/html
	$(PYTHON) -m sphinx -W --keep-going -b html docs docs/_build/html

clean: ## remove caches and build files; data, logs and weights stay
	find . \( -name .git -o -name .venv -o -path ./data -o -path ./logs -o -path ./weights \) -prune \
	    -o -type d -name __pycache__ -prune -exec rm -rf {} +
	rm -rf .pytest_cache .ruff_cache .mypy_cache build *.egg-info

clean-doc: ## remove the built documentation
	rm -rf docs/_build docs/_generated

# for docker-run: folders of the host, memory that workers share, and GPUS= for none
DATA_DIR := data
LOG_DIR := logs
WEIGHT_DIR := weights
SHM_SIZE := 8g
GPUS = $(if $(findstring GPU 0:,$(shell nvidia-smi -L 2>/dev/null)),all)

docker-build: ## build the image; ARGS="--build-arg SETUP=env-dev" for all of env-dev
	docker build --tag $(NAME) $(ARGS) .

docker-run: ## run ARGS in the image: make docker-run ARGS="python train.py" DATA_DIR=/my/data
	@docker image inspect $(NAME) >/dev/null || { echo "make docker-run: expected the image $(NAME), got none." \
	    "Run: make docker-build" >&2; exit 1; }
	@mkdir -p "$(DATA_DIR)" "$(LOG_DIR)" "$(WEIGHT_DIR)"
	docker run --rm --init $$([ -t 0 ] && echo --interactive --tty) --stop-timeout 60 \
	    --user "$$(id -u):$$(id -g)" --shm-size $(SHM_SIZE) $(if $(GPUS),--gpus $(GPUS)) \
	    --volume "$$(cd "$(DATA_DIR)" && pwd):/app/data" \
	    --volume "$$(cd "$(LOG_DIR)" && pwd):/app/logs" \
	    --volume "$$(cd "$(WEIGHT_DIR)" && pwd):/app/weights" \
	    $(if $(wildcard .env),--volume "$(CURDIR)/.env:/app/.env:ro") \
	    $(if $(wildcard .git/HEAD),--volume "$(CURDIR)/.git:/app/.git:ro") \
	    $(NAME) $(ARGS)

# -- the environment: .venv by uv, or a conda environment that .conda links to

.venv/bin/python:
	@$(PYTHON3) -c "" 2>/dev/null || { echo "make env: expected Python >= 3.11 as $(PYTHON3), got none." \
	    "Install it and run: make env PYTHON3=python3.11" >&2; exit 1; }
	@$(PYTHON3) -c "import platform, sys; sys.version_info >= (3, 11) or sys.exit('make env: expected\
	 Python >= 3.11 as $(PYTHON3), got %s. Install it and run: make env PYTHON3=python3.11' % platform.python_version())"
	@$(PYTHON3) -c "import ensurepip, venv" 2>/dev/null || { echo "make env: expected the venv module in" \
	    "$(PYTHON3), got none. Install it (Debian, Ubuntu: apt install python3-venv)" >&2; exit 1; }
	$(PYTHON3) -m venv .venv

.venv/.base: pyproject.toml constraints.txt | .venv/bin/python
	$(PYTHON) -m pip install --quiet --constraint constraints.txt uv
	$(PYTHON) -m uv pip install --python $(PYTHON) --constraints constraints.txt --requirements pyproject.toml
	@touch $@

.venv/.dev: .venv/.base
	$(PYTHON) -m uv pip install --python $(PYTHON) --constraints constraints.txt --requirements pyproject.toml --extra dev
	@touch $@

.conda/.base: pyproject.toml constraints.txt environment.yml
	if $(CONDA) env list | grep -Eq "/$(NAME)$$"; \
	then $(CONDA) run --name $(NAME) python -m pip install --constraint constraints.txt .; \
	else $(CONDA) env create --file environment.yml; fi
	ln -sfn "$$($(CONDA) run --name $(NAME) python -c 'import sys; print(sys.prefix)')" .conda
	@touch $@

.conda/.dev: .conda/.base dev.yml
	$(PYTHON) -m pip install --constraint constraints.txt ".[dev]"
	@touch $@
