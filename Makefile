# `make help` lists the commands. Each sets up what it needs in .venv; nothing is installed twice.

PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
MUTANTS := .venv/.mutants
# One thread: small models gain nothing from more, and sums stay the same.
export OMP_NUM_THREADS := 1
export HF_HUB_OFFLINE := 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: help book test test-full mutants lab notebooks repository colab-check serve lint clean setup
.DELETE_ON_ERROR:

help: ## List the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' Makefile
	@echo
	@echo "  On Linux pip takes PyTorch's CUDA build (gigabytes); pip's PIP_EXTRA_INDEX_URL can name PyTorch's CPU index."

book: $(READY) ## Build the book into _build/html
	@$(BIN)/python book/_tools/build_book.py

test: $(READY) ## Run every check and every test, the notebooks' outputs included
	@$(BIN)/ruff check .
	@$(BIN)/python book/_tools/chromium.py
	@# Three processes for two cores, since browsers and kernels often wait; in the order given, longest first.
	@$(BIN)/python -m pytest --nbval -n 3 --dist loadscope --no-loadscope-reorder

test-full: $(READY) ## The same with every combination of variant, base and colour scheme
	@$(BIN)/python -m pytest --nbval --full -n 3 --dist loadscope --no-loadscope-reorder

mutants: $(MUTANTS) ## Mutation testing of variants/ and runtime.py, a quarter of an hour (ARGS="--jobs 2", ARGS="--sample 100")
	@PYTHONHASHSEED=0 $(BIN)/python tests/mutants.py $(ARGS)

# Without a lab there is nothing to set up for.
LAB = $(wildcard labs/lab$(N)_*.ipynb)
lab: export HF_HUB_OFFLINE := 0
lab: $(if $(LAB),$(READY)) ## Open a lab in JupyterLab: make lab N=3 opens the third (ARGS="--no-browser" shows its address)
	@test -n "$(LAB)" || { echo "Which lab? \`make lab N=3\` opens the third, and N is the number of one of:"; ls labs/*.ipynb; exit 1; }
	@$(BIN)/jupyter lab --ServerApp.root_dir=. $(LAB) $(ARGS)

notebooks: $(READY) ## Execute the notebooks again, in place (REFRESH=1: also the cells whose results vary)
	@$(BIN)/python book/_tools/execute.py

repository: $(READY) ## Write the public address wherever it stands (URL=https://github.com/OWNER/NAME, or URL=none)
	@$(BIN)/python book/_tools/repository.py $(URL)

colab-check: $(READY) ## Run the labs in Colab's public runtime image (needs docker and a network)
	@$(BIN)/python book/_tools/colab_check.py

serve: $(READY) ## Serve the built book on this machine
	@$(BIN)/python book/_tools/serve.py

lint: $(READY) ## Check style and formatting
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

clean: ## Remove what was built; .venv and the vendored JavaScript stay
	rm -rf _build .pytest_cache .ruff_cache .hypothesis

setup: $(READY) ## Only set up .venv

# PyTorch goes first and alone, so that everything after it settles for that build.
$(READY): pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "Adapter Lab needs Python 3.10 to 3.13, and $(PYTHON) is not installed. Install it, or name another: make PYTHON=python3.11"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 14))' || { echo "Adapter Lab needs Python 3.10 to 3.13; $(PYTHON) is $$($(PYTHON) -V 2>&1). Name another: make PYTHON=python3.11"; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { echo "This Python cannot make environments. On Debian and Ubuntu: sudo apt install python3-venv"; exit 1; }
	@echo "Setting up .venv; this takes a minute or two."
	@$(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet -c constraints.txt torch || { echo "PyTorch could not be installed; pip's message above says why."; exit 1; }
	@$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[kit,quant,peft,train,lab,book,test]' || { echo "The environment could not be set up; pip's message above says why."; exit 1; }
	@touch $(READY)

# What only `make mutants` needs.
$(MUTANTS): $(READY)
	@$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[mutants]' || { echo "cosmic-ray could not be installed; pip's message above says why."; exit 1; }
	@touch $(MUTANTS)
