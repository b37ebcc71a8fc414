# make               installs everything into .venv (locked versions)
# make demo          a whole federated training on this machine; ARGS="--participants 8 --exit"
# make jupyter       the server, and JupyterLab with the dashboard and tutorials; ARGS="--port 9000"
# make up            the server, until Ctrl-C; ARGS="--port 9000"
# make test          what a change has to pass
# make screenshots   pictures of every page, of a demo that trains; ARGS=--serve goes on serving
# make vendor        fetches the browser libraries again; ARGS=--accept takes what has come
# make lock          locks what pyproject.toml asks for; ARGS=--upgrade takes the newest versions
# make clean         removes what these made, .venv and var (the server's data) among them

PYTHON ?= python3
ARGS ?=
BIN := .venv/bin
INSTALLED := .venv/.installed
LOCK := requirements/locked.txt

# Without compiled bytecode every start of TensorFlow costs a quarter of a minute.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := install
.PHONY: install demo jupyter up test lint types checks test-jax test-sqlite browser \
    test-postgresql screenshots format vendor lock clean

install: $(INSTALLED)

$(INSTALLED): $(LOCK) pyproject.toml requirements/install.sh
	@PYTHON='$(PYTHON)' sh requirements/install.sh
	@touch $@

demo jupyter up: install
	@$(BIN)/python manage.py $@ $(ARGS)

# The quick ones first, side by side, as each keeps one processor busy; the tests keep all.
test: install
	@$(MAKE) --no-print-directory --jobs=4 lint types checks test-jax
	@$(MAKE) --no-print-directory test-sqlite
	@$(MAKE) --no-print-directory test-postgresql

lint: install
	$(BIN)/ruff check
	$(BIN)/ruff format --check

types: install
	$(BIN)/mypy

# In a home of its own: the settings make one, and yours is not for checks.
checks: install
	@home=$$(mktemp -d) && trap 'rm -rf "$$home"' EXIT && export FEDSERVER_HOME="$$home" && set -ex && \
	$(BIN)/python manage.py makemigrations --check --dry-run && \
	env FEDSERVER_SECRET_KEY="$$($(BIN)/python -c 'import secrets; print(secrets.token_urlsafe(64))')" \
	    FEDSERVER_ALLOWED_HOSTS=fedserver.example FEDSERVER_HTTPS=true FEDSERVER_PROXIES=1 \
	    $(BIN)/python manage.py check --deploy --fail-level WARNING

# What fails gets a second try, and is shown at the end: to be mended, and no reason to stop.
PYTEST := $(BIN)/python -m pytest --numprocesses=auto --reruns 1 -rR --rerun-show-tracebacks

test-sqlite: install browser
	$(PYTEST) $(ARGS)

# The browser tests' Chromium, where it is missing and can be had.
browser:
	@sh requirements/browser.sh

screenshots: install browser
	$(BIN)/python -m tests.browser.screenshots $(ARGS)

# What touches the database, once more, but for what does not depend on which database it is:
# pages read through selectors, which are among what runs.
test-postgresql: install
	$(PYTEST) --database=postgresql -m "not keras and not browser and not alike" \
	    --ignore=tests/frontend $(ARGS)

# What trains, once more, on Keras' other backend: a process has one.
test-jax: install
	KERAS_BACKEND=jax $(BIN)/python -m pytest tests/client_sdk -m jax -q

format: install
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

vendor:
	@sh requirements/vendor.sh $(ARGS)

lock: install
	$(BIN)/uv pip compile pyproject.toml --all-extras --group dev --universal --python-version 3.11 \
	    --no-emit-index-url --no-emit-find-links --generate-hashes --no-annotate --no-header \
	    --quiet --output-file $(LOCK) $(ARGS)
	@echo "$(LOCK) is new; 'make' installs it"

clean:
	rm -rf .venv var build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
