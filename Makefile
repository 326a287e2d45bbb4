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
		/^[a-z%-]+:.*## / { printf "  %-14s %s\n", $$1, $$2 }' Makefile

.PHONY: venv
venv: $(ENV) ## Make .venv with all dependencies (minutes); PYTHON=python3.12 picks the interpreter

$(ENV): pyproject.toml constraints.txt
	@test -x $(BIN)/pip || { \
		$(PYTHON) -c 'import sys; v = sys.version_info; v >= (3, 11) or sys.exit( \
			"mmrec needs Python 3.11 or newer, $(PYTHON) is %d.%d: try make venv PYTHON=python3.11" % v[:2])' \
		&& $(PYTHON) -m venv .venv; }
	@echo 'Installing into .venv: minutes the first time; pip names what it fetches'
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --progress-bar off --constraint constraints.txt --editable '.[dev]'
	@touch $(ENV)

##@ Use

.PHONY: demo
demo: $(ENV) ## Train four models on planted data until they are done, compare them and recommend (minutes)
	$(BIN)/python -m experiments.demo

##@ Many runs: DATA=planted SEEDS=0,1,2 OPTIONS='trainer=gpu'; finished runs are kept

DATA ?= planted
SEEDS ?= 0,1,2
GRID = $(BIN)/python -m mmrec.run -m data=$(DATA) seed=$(SEEDS) $(OPTIONS)
empty :=
comma := ,
ABLATED := $(subst $(empty) $(empty),$(comma),$(strip $(notdir $(wildcard conf/ablation/*))))

.PHONY: ablations baselines
ablation-%: $(ENV) ## One model with each of its ablations, for example ablation-gated-lightgcn
	$(GRID) grid=ablations model=$(subst -,_,$*)

ablations: $(ENV) ## The same for every model that has ablations
	$(GRID) grid=ablations model=$(ABLATED)

baselines: $(ENV) ## Baseline models with the settings of conf/model
	$(GRID) grid=baselines

# What was asked for on the command line; the leaderboard has its own data sets.
given = $(if $(filter command environment,$(firstword $(origin $(1)))),$(2))
SETS = $(call given,DATA,--data $(subst $(comma), ,$(DATA)))
ablation-mamex: DATA := $(or $(call given,DATA,$(DATA)),planted_cold)

.PHONY: table
table: $(ENV) ## Search every model alike, three seeds: experiments/leaderboard
	$(BIN)/python -m experiments.leaderboard $(OPTIONS) --seeds $(SEEDS) $(SETS)

.PHONY: cold
cold: $(ENV) ## Search every cold-start model alike, five splits: experiments/mamex
	$(BIN)/python -m experiments.mamex $(OPTIONS) $(SETS)

.PHONY: sequences sequences-ablations
sequences: $(ENV) ## Search every model of sequences alike, three seeds: experiments/cammsr
	$(BIN)/python -m experiments.cammsr $(OPTIONS) --seeds $(SEEDS) $(SETS)

sequences-ablations: $(ENV) ## CAMMSR without each of its parts, at the settings that were found
	$(BIN)/python -m experiments.cammsr.ablate $(SETS)

##@ Studies: OPTIONS=--help lists the options of each

.PHONY: compare
compare: $(ENV) ## Run the Gated LightGCN study
	$(BIN)/python -m experiments.gated_lightgcn

.PHONY: roles
roles: $(ENV) ## Does the routing of MAGNET recover the roles of planted items?
	$(BIN)/python -m experiments.magnet

.PHONY: study-missing
study-missing: $(ENV) ## Accuracy on cold items that lack a modality
	$(BIN)/python -m experiments.missing $(OPTIONS) $(SETS)

.PHONY: study-noise
study-noise: $(ENV) ## Accuracy of EGRA, MGCN and FREEDOM as content gets worse
	$(BIN)/python -m experiments.noise $(OPTIONS) $(SETS)

.PHONY: reference
reference: $(ENV) ## Compare with published numbers
	$(BIN)/python -m experiments.reference

.PHONY: bench
bench: $(ENV) ## Time and memory of each part, on small data
	$(BIN)/python -m experiments.benchmarks

.PHONY: bench-full
bench-full: $(ENV) ## The same at full size
	$(BIN)/python -m experiments.benchmarks --full

##@ Check

.PHONY: test
test: $(ENV) ## All tests and notebooks
	$(BIN)/python -m pytest -n 2 --dist loadgroup --nbmake

.PHONY: test-fast
test-fast: $(ENV) ## Fast tests without data sets (about 3 minutes on two cores)
	$(BIN)/python -m pytest -n 2 --dist loadgroup -m 'not slow and not data' tests

.PHONY: test-gpu
test-gpu: $(ENV) ## Tests that need a GPU; fails without one
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
clean: ## Remove build results and tool caches; .venv and outputs stay
	rm -rf dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find mmrec tests experiments -name __pycache__ -prune -exec rm -rf {} +
