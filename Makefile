# Everything below needs only Python 3.11 or newer; each target installs what it lacks into .venv.

PYTHON ?= python3
PRESET ?= cpu
WORKERS ?= 2

VENV := .venv
RUN := $(VENV)/bin/python -m
BASE := $(VENV)/.installed-base
DEV := $(VENV)/.installed-dev

.DEFAULT_GOAL := help
.PHONY: help test slow gpu lint figures results readme fuzz benchmark docs clean

help: ## show this help
	@echo "make TARGET, where TARGET is one of"
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  \1 \2/p' $(MAKEFILE_LIST) | awk '{ t = $$1; $$1 = ""; printf "  %-10s%s\n", t, $$0 }'
	@echo
	@echo "Nothing needs to be installed before: the first call creates $(VENV),"
	@echo "for which it fetches 0.2 GB on macOS and 2.9 GB on Linux, with torch for CUDA (some minutes)."
	@echo "  make figures PRESET=smoke    a look at everything within a minute or so"
	@echo "  make test PYTHON=python3.12  another interpreter (after 'make clean')"

test: lint ## check style and types, then run the quick tests
	OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 MKL_NUM_THREADS=1 \
		$(RUN) pytest -m "not slow" -n $(WORKERS) --dist loadfile -q

slow: $(DEV) ## run all tests, the slow ones too
	$(RUN) pytest -q

gpu: $(DEV) ## run the tests that need a GPU, which the others are not shown
	$(RUN) pytest -m gpu -q

lint: $(DEV) ## check style and types only
	$(RUN) ruff check
	$(RUN) ruff format --check
	$(RUN) mypy

figures: $(BASE) ## run what has no up-to-date result (12 minutes), draw all, write figures/report.html
	$(RUN) experiments run all --preset $(PRESET)
	$(RUN) paper_figures report --preset $(PRESET)

results: $(BASE) ## draw the kept results of hours, compute nothing, write docs/results/*/report.html
	$(RUN) paper_figures kept --out docs/results
	$(RUN) paper_figures.report.hierarchy_page

readme: figures ## make figures, then bring README, claims and gallery up to date
	$(RUN) paper_figures.report.readme
	$(RUN) paper_figures.report.printed README.md docs/index.md docs/quickstart.md docs/tutorial.md

fuzz: $(DEV) ## read 100 seconds of damaged and hostile files of every format
	OMP_NUM_THREADS=1 $(RUN) tests.fuzz

benchmark: $(BASE) ## time the main operations
	$(RUN) experiments.benchmarks

docs: $(DEV) ## build the documentation site, docs/_build/html/index.html
	$(RUN) sphinx -b html -W docs docs/_build/html

clean: ## remove .venv and caches; results/ and figures/ stay
	rm -rf $(VENV) .hypothesis .mypy_cache .pytest_cache .ruff_cache .benchmarks
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(BASE): EXTRA := [experiments,sweep,vision]
$(DEV): EXTRA := [dev]
$(BASE) $(DEV): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "linlocal needs Python 3.11 or newer, but $(PYTHON) is " + sys.version.split()[0] + ": make $(MAKECMDGOALS) PYTHON=/path/to/python3.11")'
	@test -x $(VENV)/bin/pip || $(PYTHON) -m venv $(VENV)
	@echo "Fetching packages into $(VENV): 0.2 GB on macOS; on Linux up to 2.9 GB, with torch for CUDA."
	$(RUN) pip install --editable ".$(EXTRA)"
	@touch $(BASE) $@
