# The two that matter: `make demo` and `make test`. Another interpreter: make test PYTHON=python3.13

PYTHON ?= python3

SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:

VERSION := $(shell $(PYTHON) -c 'import sys; print("%d.%d%s" % (*sys.version_info[:2], sys.abiflags))')
ifeq ($(VERSION),)
$(error PYTHON=$(PYTHON) does not run)
endif

# Each interpreter has a virtual environment of its own.
VENV := .venv/$(VERSION)
PY := $(CURDIR)/$(VENV)/bin/python
LOADGEN := benches/loadgen/target/release/loadgen
LOADGEN_MANIFEST := --manifest-path benches/loadgen/Cargo.toml
CONNECTS ?= 100000
# What `make test-all` tests, as far as the interpreters are there.
VERSIONS ?= 3.10 3.11 3.12 3.13 3.14 3.15
# What has to be in the crate's package, besides its sources.
PACKAGED := LICENSE-APACHE LICENSE-MIT README.md docs/guide.md \
	$(patsubst crates/oxloop/%,%,$(wildcard crates/oxloop/examples/*.rs))
FREE_THREADED := 3.14 3.15
# What the runs leave for `make compatibility`.
RESULTS := results/$(VERSION)
SCRIPTS ?= 2000
SEED ?= 1
LOOP ?= oxloop:new_event_loop
# In the names of results; nothing for oxloop.
OF_LOOP := $(patsubst %,-%,$(filter-out oxloop,$(firstword $(subst :, ,$(LOOP)))))
LOCKED := $(if $(CI),--locked)
# A process for each core; a module's tests share its servers. On a busy CI machine a test that fails is
# run once more, and the summary names it, as CPython's own CI does.
PARALLEL := --numprocesses auto --dist loadfile $(if $(CI),--reruns 1)
# Run once more for each way that a switch asks for.
TESTS_OF_HANDLES := $(patsubst %,tests/test_%.py,handles scheduling contexts tasks debug wrapped_run)
# The Python package does without it: OpenSSL is CPython's.
TLS := oxloop/tls
SERVERS := redis-server postgresql dbus
SOURCES := $(shell find crates python Cargo.toml Cargo.lock -name __pycache__ -prune -o -type f -print)

export PATH := $(CURDIR)/$(VENV)/bin:$(PATH):$(HOME)/.cargo/bin
export PYO3_PYTHON := $(PY)
export PIP_DISABLE_PIP_VERSION_CHECK := 1

##@ See it work

demo: $(VENV)/.oxloop $(VENV)/.bench $(LOADGEN) ## The echo examples in Rust and Python, then asyncio, uvloop and oxloop side by side
	cargo build $(LOCKED) --release --package oxloop --features tls --examples
	$(PY) scripts/demo.py

##@ Check it

test: lint test-rust $(VENV)/.integrations test-py ## All lints and tests, with the interpreter PYTHON

lint: lint-rust lint-py ## All lints

lint-rust: $(VENV)/.pip ## rustfmt, clippy, rustdoc, and where unsafe and I/O may be
	@cargo clippy --version >/dev/null 2>&1 && cargo fmt --version >/dev/null 2>&1 \
		|| rustup component add clippy rustfmt
	cargo fmt --all --check
	cargo fmt --check $(LOADGEN_MANIFEST)
	cargo clippy $(LOCKED) --workspace --all-targets --features $(TLS) -- -D warnings
	cargo clippy $(LOCKED) --package oxloop -- -D warnings
	cargo clippy $(LOCKED) --all-targets $(LOADGEN_MANIFEST) -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc $(LOCKED) --no-deps --package oxloop --features tls
	$(PY) scripts/check_sources.py

lint-py: $(VENV)/.oxloop $(VENV)/.dev stubtest ## ruff, mypy, pyright, stubtest
	$(PY) -m ruff check
	$(PY) -m ruff format --check
	$(PY) -m mypy
	$(PY) -m pyright --pythonpath $(PY)

# What asyncio's classes look like depends on the version.
stubtest: $(VENV)/.oxloop $(VENV)/.dev
	$(PY) -m mypy.stubtest oxloop --allowlist scripts/stubtest-allowlist.txt

test-rust: ## The tests of the crate and of the load generator
	cargo test $(LOCKED) --workspace --exclude oxloop-python --features $(TLS)
	cargo test $(LOCKED) $(LOADGEN_MANIFEST)

test-py: stubtest pytest conformance ## All Python tests

test-core: stubtest pytest-core conformance ## The same without real programs and resources

pytest: $(VENV)/.oxloop $(VENV)/.dev ## Our tests; PYTEST="-k name" selects
	$(PY) -m pytest $(if $(PYTEST),$(PYTEST),$(PARALLEL) --junitxml=$(RESULTS)/pytest.xml)
	$(if $(PYTEST),,OXLOOP_TLS_BIO=memory $(PY) -m pytest $(PARALLEL) -k oxloop tests/test_tls*.py)
	$(if $(PYTEST),,OXLOOP_HANDLES=python $(PY) -m pytest $(PARALLEL) -k oxloop $(TESTS_OF_HANDLES))
	$(if $(PYTEST),,OXLOOP_CONTEXTS=copy $(PY) -m pytest $(PARALLEL) -k oxloop $(TESTS_OF_HANDLES))

pytest-core: $(VENV)/.oxloop $(VENV)/.dev
	$(PY) -m pytest $(PARALLEL) --ignore tests/frameworks --ignore tests/resources --junitxml=$(RESULTS)/pytest.xml

integrations: $(VENV)/.oxloop $(VENV)/.dev $(VENV)/.integrations ## Every program of docs/integrations.md, on oxloop
	$(PY) -m pytest $(PARALLEL) tests/frameworks/test_integrations*.py

servers: ## Install the servers that some tests talk to, and are skipped without (apt, as root)
	@if type redis-server dbus-daemon && ls -d /usr/lib/postgresql/*/bin/postgres; then \
		true; \
	elif [ "$$(id -u)" = 0 ] && type apt-get; then \
		export DEBIAN_FRONTEND=noninteractive; \
		apt-get update -qq; apt-get install -qq --no-install-recommends $(SERVERS); \
	else \
		echo "NOT INSTALLED: $(SERVERS) (needs apt-get and root)"; \
	fi

conformance: $(VENV)/.oxloop ## CPython's own asyncio tests, run on oxloop
	@if $(PY) -c 'import test.test_asyncio' 2>/dev/null; then \
		set -x; $(PY) -m tests.conformance --json $(RESULTS)/conformance.json; \
	else \
		echo "NOT RUN: $(PYTHON) has no test package (Debian: apt install libpython3-testsuite)"; \
	fi

test-all: lint test-rust ## The Python tests with every Python of VERSIONS; a missing one is named and counted
	python3 scripts/every_python.py test-py $(VERSIONS)

pythons: ## Bring Python 3.14 and 3.15 into .pythons, beside the system's (Debian, as root)
	scripts/newer_pythons.sh .pythons 3.14 3.15

compatibility: $(VENV)/.pip ## The table of all results so far, into docs/compatibility.md
	$(PY) scripts/compatibility.py results --update docs/compatibility.md

check-free-threaded: $(addprefix free-threaded-,$(FREE_THREADED)) ## Compile and link for Pythons without a global lock; needs none of them

free-threaded-%:
	@mkdir -p target/free-threaded
	printf '%s\n' implementation=CPython version=$* shared=true lib_name=python$*t pointer_width=64 \
		build_flags=Py_GIL_DISABLED > target/free-threaded/$*t.txt
	PYO3_CONFIG_FILE=$(CURDIR)/target/free-threaded/$*t.txt PYO3_BUILD_EXTENSION_MODULE=1 \
		cargo clippy $(LOCKED) --package oxloop-python --target-dir target/free-threaded -- -D warnings
	PYO3_CONFIG_FILE=$(CURDIR)/target/free-threaded/$*t.txt PYO3_BUILD_EXTENSION_MODULE=1 \
		cargo build $(LOCKED) --package oxloop-python --target-dir target/free-threaded

check-refused: ## The build stops for a Python that is not CPython, and says why; needs none
	@mkdir -p target/free-threaded
	printf '%s\n' implementation=PyPy version=3.11 shared=true lib_name=pypy3.11 pointer_width=64 \
		> target/free-threaded/pypy.txt
	export PYO3_CONFIG_FILE=$(CURDIR)/target/free-threaded/pypy.txt PYO3_BUILD_EXTENSION_MODULE=1; \
		{ cargo check $(LOCKED) --package oxloop-python --target-dir target/free-threaded 2>&1 \
		|| true; } | grep "oxloop is for CPython"

wheels: $(VENV)/.wheels ## The sdist and wheels for every Python of VERSIONS into dist/, each tried
	$(PY) scripts/wheels.py $(VERSIONS)

package: ## The crate as it would be published, built from its own archive
	cargo package $(LOCKED) --package oxloop --allow-dirty
	@tar --list --gzip --file target/package/oxloop-*.crate > target/package/contents
	@for file in $(PACKAGED); do \
		grep -q "/$$file\$$" target/package/contents || { echo "not in the package: $$file"; exit 1; }; \
	done

fuzz: $(VENV)/.oxloop $(VENV)/.dev ## Random scripts on asyncio and on oxloop, compared; SCRIPTS=2000 SEED=1 LOOP=uvloop:new_event_loop
	$(PY) -m tests.differential.generate --scripts $(SCRIPTS) \
		--seed $(SEED) --loop $(LOOP) --results $(RESULTS)/generated$(OF_LOOP).json

test-frameworks: $(VENV)/.oxloop ## The test suites of aiohttp, uvicorn and others, on both loops; SUITES="uvicorn"
	$(PY) -m tests.frameworks.upstream --json $(RESULTS)/upstream.json $(SUITES)

stress: $(VENV)/.oxloop $(VENV)/.dev ## 100,000 connects, half of them given up, in Rust and Python; CONNECTS=1000000
	OXLOOP_STRESS_CONNECTS=$(CONNECTS) cargo test $(LOCKED) --release --package oxloop --test connect_stress
	OXLOOP_STRESS_CONNECTS=$(CONNECTS) $(PY) -m pytest tests/resources/test_connect_stress.py

##@ Measure it

bench: $(VENV)/.oxloop $(VENV)/.bench $(LOADGEN) ## All benchmarks; BENCH="--workloads 'tcp_*'" selects
	$(PY) benches/python/compare.py --output benches/results/latest.json $(BENCH)

performance: bench ## The same, and its table into docs/performance.md
	$(PY) benches/python/report.py benches/results/latest.json --update docs/performance.md

##@ Work on it

build: $(VENV)/.oxloop ## Build a release and install it into the virtual environment

fmt: $(VENV)/.dev ## Format everything
	cargo fmt --all
	cargo fmt $(LOADGEN_MANIFEST)
	$(PY) -m ruff check --fix
	$(PY) -m ruff format

clean: ## Remove all that was built, virtual environments too
	rm -rf .venv build .pythons results dist target benches/loadgen/target benches/results .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -prune -exec rm -rf {} +

help: ## This list
	@awk 'BEGIN { FS = ":.*## " } \
		/^##@/ { printf "\n%s\n", substr($$0, 5) } \
		/^[a-z-]+:.*## / { printf "  make %-20s %s\n", $$1, $$2 }' Makefile

.PHONY: demo test test-core lint lint-rust lint-py stubtest test-rust test-py pytest pytest-core integrations servers conformance fuzz test-frameworks stress \
	test-all pythons compatibility check-free-threaded check-refused wheels package \
	bench performance build fmt clean help

# Debian's python3 may come without ensurepip (package python3-venv): then its pip serves.
$(VENV)/.pip:
	rm -rf $(VENV)
	if $(PYTHON) -c 'import ensurepip' 2>/dev/null; then \
		$(PYTHON) -m venv $(VENV); \
	else \
		$(PYTHON) -m venv --without-pip $(VENV); \
		$(PYTHON) -m pip install --quiet --target \
			"$$($(PY) -c 'import sysconfig; print(sysconfig.get_path("purelib"))')" pip; \
	fi
	$(PY) -m pip install --quiet --upgrade 'pip>=25.1'
	@touch $@

# One stamp for each group of tools in pyproject.toml.
$(VENV)/.dev $(VENV)/.bench $(VENV)/.build $(VENV)/.wheels: $(VENV)/.%: pyproject.toml | $(VENV)/.pip
	$(PY) -m pip install --quiet --group $*
	@touch $@

# With mitmproxy in a folder of its own: PYTHONPATH puts it before the rest of the environment.
$(VENV)/.integrations: pyproject.toml | $(VENV)/.pip
	$(PY) -m pip install --quiet --group integrations
	rm -rf $(VENV)/mitmproxy
	$(PY) -m pip install --quiet --no-warn-conflicts --target $(VENV)/mitmproxy --group mitmproxy
	@touch $@

$(VENV)/.oxloop: $(SOURCES) pyproject.toml $(VENV)/.build
	$(PY) -m pip install --no-deps --no-build-isolation .
	@touch $@

$(LOADGEN): $(wildcard benches/loadgen/src/*.rs benches/loadgen/Cargo.*)
	cargo build $(LOCKED) --release $(LOADGEN_MANIFEST)
	@touch $@
