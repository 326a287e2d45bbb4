# `make` alone lists the targets.
.DEFAULT_GOAL := help
PYTHON ?= python3

BIN := .venv/bin
ENV := .venv/.installed

##@ Set up

.PHONY: help
help: ## List the targets
	@awk 'BEGIN { FS = ":.*## " } \
		/^##@ / { printf "\n%s\n", substr($$0, 5) } \
		/^[a-z%-]+:.*## / { printf "  %-20s %s\n", $$1, $$2 }' Makefile

.PHONY: venv
venv: $(ENV) ## Create .venv with all dependencies (takes minutes); PYTHON=python3.12 selects the interpreter

$(ENV): pyproject.toml constraints.txt
	@test -x $(BIN)/pip || { \
		$(PYTHON) -c 'import sys; v = sys.version_info; v >= (3, 11) or sys.exit( \
			"mmrec needs Python 3.11 or newer, but $(PYTHON) is %d.%d; try make venv PYTHON=python3.11" % v[:2])' \
		&& $(PYTHON) -m venv .venv; }
	@echo 'Installing into .venv (takes minutes the first time)'
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --progress-bar off --constraint constraints.txt --editable '.[dev]'
# timm needs torchvision, whose wheels are built for CUDA. Beside a torch for the CPU they break
# each package that imports them, so both have a folder that only the tests of timm use.
	$(BIN)/python -m pip install --progress-bar off --constraint constraints.txt --no-deps --upgrade \
		--target .venv/vision timm torchvision
	@touch $(ENV)

##@ Use

.PHONY: demo
demo: $(ENV) ## Train four models on planted data, compare them and recommend (takes minutes)
	$(BIN)/python -m experiments.demo

##@ Many runs (settings: DATA=planted SEEDS=0,1,2 OPTIONS='trainer=gpu'; finished runs are skipped)

DATA ?= planted
SEEDS ?= 0,1,2
GRID = $(BIN)/python -m mmrec.run -m data=$(DATA) seed=$(SEEDS) $(OPTIONS)
empty :=
comma := ,
ABLATED := $(subst $(empty) $(empty),$(comma),$(strip $(notdir $(wildcard conf/ablation/*))))

.PHONY: ablations baselines
ablation-%: $(ENV) ## Run a model with each of its ablations, for example ablation-gated-lightgcn
	$(GRID) grid=ablations model=$(subst -,_,$*)

ablations: $(ENV) ## Run all models that have ablations with each of their ablations
	$(GRID) grid=ablations model=$(ABLATED)

baselines: $(ENV) ## Run the baseline models with the settings of conf/model
	$(GRID) grid=baselines

# Variables set on the command line or in the environment; the leaderboard has its own data sets.
given = $(if $(filter command environment,$(firstword $(origin $(1)))),$(2))
SETS = $(call given,DATA,--data $(subst $(comma), ,$(DATA)))
ablation-mamex: DATA := $(or $(call given,DATA,$(DATA)),planted_cold)

.PHONY: table
table: $(ENV) ## Search all models with the same budget, three seeds (experiments/leaderboard)
	$(BIN)/python -m experiments.leaderboard $(OPTIONS) --seeds $(SEEDS) $(SETS)

.PHONY: cold
cold: $(ENV) ## Search all cold-start models with the same budget, five splits (experiments/mamex)
	$(BIN)/python -m experiments.mamex $(OPTIONS) $(SETS)

.PHONY: sequences sequences-ablations
sequences: $(ENV) ## Search all sequential models with the same budget, three seeds (experiments/cammsr)
	$(BIN)/python -m experiments.cammsr $(OPTIONS) --seeds $(SEEDS) $(SETS)

sequences-ablations: $(ENV) ## Run the ablations of CAMMSR with the settings found by the search
	$(BIN)/python -m experiments.cammsr.ablate $(SETS)

##@ Studies (OPTIONS=--help lists the options of a study)

.PHONY: compare
compare: $(ENV) ## Run the Gated LightGCN study
	$(BIN)/python -m experiments.gated_lightgcn

.PHONY: roles
roles: $(ENV) ## Check whether the router of MAGNET recovers the roles of planted items
	$(BIN)/python -m experiments.magnet

.PHONY: study-missing
study-missing: $(ENV) ## Measure the accuracy on cold items that lack a modality
	$(BIN)/python -m experiments.missing $(OPTIONS) $(SETS)

.PHONY: study-noise
study-noise: $(ENV) ## Measure the accuracy of EGRA, MGCN and FREEDOM with noisy content
	$(BIN)/python -m experiments.noise $(OPTIONS) $(SETS)

.PHONY: reference
reference: $(ENV) ## Compare with published results
	$(BIN)/python -m experiments.reference

.PHONY: bench
bench: $(ENV) ## Measure time and memory of each component on small data
	$(BIN)/python -m experiments.benchmarks

.PHONY: bench-full
bench-full: $(ENV) ## Measure time and memory of each component at full size
	$(BIN)/python -m experiments.benchmarks --full

##@ Check

.PHONY: test
test: $(ENV) ## Run all tests and notebooks
	$(BIN)/python -m pytest -n 2 --dist loadgroup --nbmake

.PHONY: test-fast
test-fast: $(ENV) ## Run the fast tests without data sets (about 3 minutes on two cores)
	$(BIN)/python -m pytest -n 2 --dist loadgroup -m 'not slow and not data' tests

.PHONY: test-gpu
test-gpu: $(ENV) ## Run the tests that need a GPU; fails without one
	$(BIN)/python -m pytest -m gpu tests

.PHONY: notebooks
notebooks: $(ENV) ## Execute the notebooks
	$(BIN)/python -m pytest --nbmake notebooks

.PHONY: lint
lint: $(ENV) ## Check style, types and import contracts
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

.PHONY: docs
docs: $(ENV) ## Build the manual in site/; warnings such as broken links are errors
	NO_MKDOCS_2_WARNING=1 PYTHONPATH=. $(BIN)/python -m mkdocs build --clean --quiet

.PHONY: format
format: $(ENV) ## Format the code and apply automatic fixes
	$(BIN)/ruff check --fix
	$(BIN)/ruff format
	$(BIN)/nbstripout notebooks/*.ipynb

##@ Ship

.PHONY: wheel
wheel: $(ENV) ## Build dist/*.whl
	$(BIN)/python -m build --wheel --no-isolation

.PHONY: clean
clean: ## Remove build results and tool caches, but keep .venv and outputs
	rm -rf dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find mmrec tests experiments -name __pycache__ -prune -exec rm -rf {} +
