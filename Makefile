# The front door.  `make test` and `make demo` do all their set-up themselves and are quick the second time.

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
NATIVE := setup.py native/Cargo.lock $(wildcard native/Cargo.toml native/*/Cargo.toml native/src/*.rs native/*/src/*.rs native/src/*/*.rs)
NATIVE_IS_BUILT = $(BIN)/python -c 'import easytier_host._native, easytier_kcp_plugin._native' 2>/dev/null

# Where rustup puts cargo, whether the shell's start-up files say so or not.
export PATH := $(PATH):$(HOME)/.cargo/bin

# The first of these that runs and is new enough makes the virtual environment; PYTHON=... on the command line overrules.
PYTHONS := python3 python3.14 python3.13 python3.12 python3.11

# Programs that tests and the demo call, and the packages that hold them on Debian and Ubuntu.
SYSTEM_COMMANDS := ip iperf3 ping nft tmux curl
SYSTEM_PACKAGES := iproute2 iperf3 iputils-ping nftables tmux curl

# Those that keep a core busy run beside each other; then the others one by one, quick ones first, and whatever else has a folder;
# the soak, which mostly waits, beside them.
BUSY_TESTS = $(wildcard $(addprefix tests/,unit simulation fuzz attack))
TEST_ORDER := plugins docs interop netns
TEST_DIRS = $(wildcard $(TEST_ORDER:%=tests/%))
OTHER_TESTS = $(TEST_DIRS) $(filter-out $(BUSY_TESTS) $(TEST_DIRS),$(sort $(patsubst %/,%,$(dir $(wildcard tests/*/test_*.py)))))
PYTEST_ARGS ?=
BENCH_ARGS ?=
MATRIX_ARGS ?=
FUZZ_ROUNDS ?= 2000

.DEFAULT_GOAL := help
.PHONY: help venv system-deps check unit native-test test fuzz soak matrix demo bench dist docs format clean

help:
	@echo 'make test         lint, types, import contracts and all tests'
	@echo 'make fuzz         fuzz every parser and state machine (SECONDS=60 for each; TARGETS=... chooses)'
	@echo 'make soak         let flows come and go for long and see that nothing grows (root; SECONDS=3600)'
	@echo 'make demo         see it work'
	@echo 'make matrix       each fault with each kind of node and flow (root; 10 minutes; MATRIX_ARGS=... chooses)'
	@echo 'make bench        measure it beside stock and plain TCP (root; an hour; BENCH_ARGS=... chooses)'
	@echo 'make check        lint, types and import contracts'
	@echo 'make unit         the quick tests; neither root nor network needed'
	@echo 'make format       let ruff format the code and mend what it can'
	@echo 'make dist         wheel and source distribution, in dist/'
	@echo 'make docs         the documentation as a web site, in build/docs/'
	@echo 'make system-deps  install the system programs that tests call (root, apt-get)'
	@echo 'make clean        remove the virtual environment and all caches'

venv: $(STAMP)

$(STAMP): pyproject.toml $(NATIVE)
	@if [ ! -x $(BIN)/python ]; then \
	    for python in $(PYTHON) $(PYTHONS); do \
	        if "$$python" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	            echo "making $(VENV) with $$python"; \
	            "$$python" -m venv $(VENV) && break; \
	        fi; \
	    done; \
	    if [ ! -x $(BIN)/python ]; then \
	        echo 'make: no Python 3.11 or newer with venv and ensurepip found (Debian: apt-get install python3-venv)' >&2; \
	        exit 1; \
	    fi; \
	fi
	@echo 'installing the project and its tools into $(VENV): half a minute, the first time'
	@! command -v cargo >/dev/null || [ "$$EASYTIER_NATIVE" = 0 ] || echo 'cargo compiles the native parts meanwhile: one or two minutes more, the first time'
	@$(BIN)/python -m pip install --quiet --upgrade pip
	@# setuptools warns of any folder in the working directory that is called like a package, which is how this tree is laid out.
	@PYTHONWARNINGS=ignore $(BIN)/python -m pip install --quiet --editable '.[test]'
	@$(NATIVE_IS_BUILT) || echo 'make: no native modules (they need cargo 1.91 or newer), so no user-space TCP stack and a slower node' >&2
	@touch $@

system-deps:
	@missing=; for command in $(SYSTEM_COMMANDS); do \
	    command -v "$$command" >/dev/null || PATH="$$PATH:/usr/sbin:/sbin" command -v "$$command" >/dev/null || missing="$$missing $$command"; \
	done; \
	if [ -z "$$missing" ]; then exit 0; fi; \
	if [ "$$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then \
	    echo "make: missing:$$missing; tests that need them skip themselves.  As root: apt-get install $(SYSTEM_PACKAGES)" >&2; \
	    exit 0; \
	fi; \
	echo "installing $(SYSTEM_PACKAGES) (missing:$$missing)"; \
	export DEBIAN_FRONTEND=noninteractive; \
	apt-get update -q </dev/null >/dev/null || echo 'make: apt-get update failed; trying with the lists at hand' >&2; \
	apt-get install -q -y --no-install-recommends $(SYSTEM_PACKAGES) </dev/null >/dev/null || \
	    echo 'make: apt-get install failed; tests that need these programs skip themselves' >&2

check: $(STAMP)
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/lint-imports
	@if $(NATIVE_IS_BUILT); then \
	    echo 'stubtest, cargo fmt, cargo clippy'; \
	    $(BIN)/stubtest --mypy-config-file pyproject.toml --allowlist native/stubtest.allow \
	        easytier_kcp_plugin._native easytier_host._native && \
	    cd native && cargo fmt --all --check && \
	    cargo clippy --quiet --locked --workspace --no-default-features --all-targets -- --deny warnings; \
	fi

native-test: $(STAMP)
	@if $(NATIVE_IS_BUILT); then cd native && echo 'cargo test' && cargo test --quiet --locked --workspace --no-default-features; fi

unit: $(STAMP)
	$(BIN)/python -m pytest tests/unit $(PYTEST_ARGS)

test: system-deps check native-test
	$(BIN)/python -m pytest --numprocesses auto --dist worksteal $(BUSY_TESTS) $(PYTEST_ARGS)
	$(BIN)/python -m pytest --numprocesses 2 --dist loadgroup $(OTHER_TESTS) $(PYTEST_ARGS)

fuzz: $(STAMP)
	@$(BIN)/python -c 'import atheris' 2>/dev/null || \
	    PYTHONWARNINGS=ignore $(BIN)/python -m pip install --quiet --editable '.[test,fuzz]' || \
	    echo 'make: atheris cannot be installed; fuzzing blindly' >&2
	$(BIN)/python -m tests.fuzz --seconds $(or $(SECONDS),60) $(TARGETS)
	@if $(NATIVE_IS_BUILT); then cd native && FUZZ_ROUNDS=$(FUZZ_ROUNDS) cargo test --quiet --locked --workspace --no-default-features --test hostile; fi
	@# Led by coverage where there is cargo-fuzz.
	@if $(NATIVE_IS_BUILT) && cargo +nightly fuzz --version >/dev/null 2>&1; then \
	    cd native && for target in frames runs stack; do \
	        cargo +nightly fuzz run $$target -- -max_total_time=$(or $(SECONDS),60) -print_final_stats=1 || exit 1; \
	    done; \
	fi

soak: system-deps $(STAMP)
	ET_SOAK_SECONDS=$(or $(SECONDS),3600) $(BIN)/python -m pytest tests/netns/test_soak.py $(PYTEST_ARGS)

matrix: system-deps $(STAMP)
	$(BIN)/python -m tests.netns.matrix $(MATRIX_ARGS)

demo: system-deps $(STAMP)
	@$(BIN)/python -m bench.demo

bench: system-deps $(STAMP)
	$(BIN)/python -m bench $(BENCH_ARGS)

dist: $(STAMP)
	@# Where cargo is, a wheel without the native modules would be a mistake.
	native=$${EASYTIER_NATIVE-$$(command -v cargo >/dev/null && echo 1 || echo 0)}; \
	EASYTIER_NATIVE=$$native PYTHONWARNINGS=ignore $(BIN)/python -m build --quiet --outdir dist .
	@ls dist

docs: $(STAMP)
	$(BIN)/python -m sphinx --quiet --fail-on-warning --keep-going -c docs . build/docs
	@echo 'open build/docs/docs/index.html'

format: $(STAMP)
	$(BIN)/ruff format
	$(BIN)/ruff check --fix
	@if $(NATIVE_IS_BUILT); then cd native && cargo fmt --all; fi

clean:
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis build dist *.egg-info
	rm -rf native/target easytier_kcp_plugin/_native.*.so host/easytier_host/_native.*.so
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
