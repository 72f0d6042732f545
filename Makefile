# `make example` and `make test` do all set-up themselves. See README.md.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
PYTHON ?= python3
VENV := .venv
WORK := .work
BIN := $(VENV)/bin
EXAMPLE := $(WORK)/example/topology.toml
NIGHTLY := $(WORK)/nightly/topology.toml

# What the host needs; everything else is locked and extracted.
HOST_PACKAGES := apt dpkg debian-archive-keyring python3-venv uidmap util-linux

# What the tests need beside: a browser, which looks at the report, and the ssh that uploads go through; by night also
# the programs of the README's examples.
TEST_PACKAGES := chromium-headless-shell fonts-dejavu-core openssh-client
NIGHT_PACKAGES := nmap sslscan swaks

# Sessions of tests at once. Those without machines mostly wait, so they are more. Files stay whole: what they share is dear.
JOBS ?= 2
MORE_JOBS ?= 3
PYTEST := $(BIN)/pytest -q --dist loadfile --reruns 1 -rfER

.PHONY: example test nightly fast lint golden host bench verify clean

example: $(VENV)/ready host $(EXAMPLE)
	$(BIN)/python -m tests.at_hand $(EXAMPLE)
	$(BIN)/imagebuilder test -t $(EXAMPLE) -k "reaches_the_inbox or arrives_outside"

# A busy host may miss a deadline: what failed gets a second try, and is told as rerun or flaky.
test: HOST_PACKAGES += $(TEST_PACKAGES)
test: $(VENV)/ready host lint $(EXAMPLE)
	$(BIN)/python -m tests.at_hand $(EXAMPLE)
	$(BIN)/imagebuilder build -t $(EXAMPLE)
	$(PYTEST) -n $(MORE_JOBS) -m "not vm and not nightly" --topology $(EXAMPLE) tests
	$(PYTEST) -n $(JOBS) -m "vm and not nightly" --topology $(EXAMPLE) tests/vm
	$(BIN)/imagebuilder test --jobs $(JOBS) --reruns 1 -t $(EXAMPLE)

# What the night does: the reference topology with a lock made afresh, built, built again and compared, tested.
nightly: HOST_PACKAGES += $(TEST_PACKAGES) $(NIGHT_PACKAGES)
nightly: $(VENV)/ready host
	rm -rf $(dir $(NIGHTLY)) && mkdir -p $(dir $(NIGHTLY))
	cp tests/topologies/reference.toml $(NIGHTLY)
	$(BIN)/imagebuilder init --plain -t $(NIGHTLY)
	$(BIN)/imagebuilder lock -t $(NIGHTLY)
	$(BIN)/imagebuilder build -t $(NIGHTLY)
	$(BIN)/imagebuilder verify -t $(NIGHTLY)
	$(BIN)/imagebuilder test --jobs $(JOBS) --reruns 1 -t $(NIGHTLY)
	$(PYTEST) -n $(JOBS) -m nightly --topology $(NIGHTLY) tests

# What needs no image: seconds.
fast: $(VENV)/ready lint
	$(BIN)/pytest -q tests/unit tests/golden

lint: $(VENV)/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(BIN)/check-jsonschema --quiet --builtin-schema vendor.github-workflows .github/workflows/*.yml
	$(BIN)/actionlint -shellcheck= -pyflakes= .github/workflows/*.yml

# Write the trees that tests/golden compares with, and the list of behaviours; the difference is for review.
golden: $(VENV)/ready
	for name in reference rich; do \
	    rm -rf tests/golden/$$name && $(BIN)/imagebuilder render -t tests/topologies/$$name.toml tests/golden/$$name; \
	done
	{ sed '/^###/,$$d' tests/golden/behaviours.md; $(BIN)/imagebuilder test --list -t tests/topologies/rich.toml; } >tests/golden/behaviours.new
	mv tests/golden/behaviours.new tests/golden/behaviours.md

bench: $(VENV)/ready host $(EXAMPLE)
	$(BIN)/python -m tests.bench.build $(EXAMPLE)
	$(BIN)/python -m tests.bench.mail $(EXAMPLE)
	$(BIN)/python -m tests.bench.shipping $(EXAMPLE)

# Build the reference topology twice, under circumstances that must not matter; digests to .work/verify/verdict.json.
verify: $(VENV)/ready host
	mkdir -p $(WORK)/verify
	cp tests/topologies/reference.* $(WORK)/verify/
	$(BIN)/python -m tests.at_hand $(WORK)/verify/reference.toml
	$(BIN)/imagebuilder verify --json -t $(WORK)/verify/reference.toml | tee $(WORK)/verify/verdict.json

# The example works on a copy of the reference topology, with keys of its own, made here and kept until `make clean`.
$(EXAMPLE): $(addprefix tests/topologies/reference,.toml .lock) $(VENV)/ready
	mkdir -p $(@D)
	cp tests/topologies/reference.lock $(@:.toml=.lock)
	cp tests/topologies/reference.toml $@
	$(BIN)/imagebuilder init --plain -t $@

$(VENV)/ready: pyproject.toml
	@$(PYTHON) -c 'import sys, ensurepip; sys.exit(sys.version_info < (3, 11))' || $(MAKE) --no-print-directory host
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[dev]'
	touch $@

host:
	@missing=""; \
	command -v dpkg-query >/dev/null || { echo "error: this needs Debian 12 or 13" >&2; exit 1; }; \
	for package in $(HOST_PACKAGES); do \
	    dpkg-query -W -f '$${Status}' $$package 2>/dev/null | grep -q 'ok installed' || missing="$$missing $$package"; \
	done; \
	if [ -n "$$missing" ]; then \
	    if [ "$$(id -u)" = 0 ]; then \
	        apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing; \
	    else \
	        echo "error: packages are missing on this host" >&2; \
	        echo "hint: sudo apt install$$missing" >&2; exit 1; \
	    fi; \
	fi

clean:
	rm -rf $(WORK)
