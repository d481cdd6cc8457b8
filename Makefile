# Meridian's tasks. Each sets up what it needs: on a fresh Debian 12 machine only Rust must be there.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-builtin-rules
# Order matters (set-up first), and Cargo runs in parallel by itself.
.NOTPARALLEL:

# cargo-nextest and the tests' Python land in target/, never in the user's home.
export PATH := $(CURDIR)/target/tools/bin:$(PATH)
export CARGO_TERM_COLOR ?= auto

# Build scripts run make as well; it must not see this one's flags and variables (DESTDIR above all).
# With CI set a black-box test that failed is run once more (.config/nextest.toml).
NEXTEST_PROFILE := $(if $(CI),ci,default)
CARGO  := env --unset=MAKEFLAGS --unset=MFLAGS --unset=DESTDIR cargo
# The profile of the container image: dist for releases, release where time matters more.
PROFILE ?= dist
IMAGE   ?= meridian:local
PREFIX  ?= /usr/local
# `fail` or `skip`: what image-test does on a machine where no container engine can run.
IF_NO_ENGINE ?= fail
# The same of test-conformance, where the kernel offers no io_uring.
IF_NO_IO_URING ?= fail

REVISION = $(shell git rev-parse --short=12 HEAD 2>/dev/null || echo unknown)
HOST    = $(shell rustc -vV | sed -n 's/^host: //p')
STATIC  = target/$(HOST)/$(if $(filter dev,$(PROFILE)),debug,$(PROFILE))/meridian
SHELL_SCRIPTS  = .ci/run $(wildcard scripts/*.sh benches/peers/*.sh)
PYTHON_SCRIPTS = $(shell git ls-files '*.py')

.PHONY: help
help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.* ## \(.*\)/\1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

# ---------------------------------------------------------------------------- run

.PHONY: build demo demo-once install
build: ## build target/release/meridian
	@scripts/setup.sh build
	MERIDIAN_REVISION=$(REVISION) $(CARGO) build --locked --release -p meridian

demo: build ## four simulated regions, one edge and live traffic on this machine
	@exec target/release/meridian demo

demo-once: build ## the same without a terminal: a summary, then the end
	@exec target/release/meridian demo --once

install: ## put target/release/meridian into $(PREFIX)/bin (DESTDIR is heeded); make build comes first
	@test -x target/release/meridian || { echo 'install: run make build first' >&2; exit 1; }
	install -D -m 755 target/release/meridian $(DESTDIR)$(PREFIX)/bin/meridian

# ---------------------------------------------------------------------------- check

.PHONY: test test-workspace check check-format check-scripts check-dependencies check-clippy check-docs \
    check-examples
test: ## set up, then all tests: unit, property, black-box, documentation
	@scripts/setup.sh test
	@$(MAKE) --no-print-directory test-workspace

# Black-box tests drive the binary, which Cargo does not build for them by itself. Building bins and
# tests in one go keeps one set of features, so nothing is compiled twice.
test-workspace:
	$(CARGO) build --locked --workspace --bins --tests
	if $(CARGO) nextest --version >/dev/null 2>&1; then \
	    $(CARGO) nextest run --locked --profile $(NEXTEST_PROFILE) --workspace --no-fail-fast; \
	else \
	    $(CARGO) test --locked --workspace --bins --lib --tests --no-fail-fast; \
	fi
	$(CARGO) test --locked --workspace --doc

# httpwg's client speaks to the kernel through io_uring, which containers often may not: skipped there, and said so.
.PHONY: test-conformance
test-conformance: ## the public cases of HTTP/2 (httpwg) against the binary
	@scripts/setup.sh test conformance
	$(CARGO) build --locked --workspace --bins --tests
	if ! scripts/has_io_uring.py && [ $(IF_NO_IO_URING) = skip ]; then \
	    echo 'test-conformance: SKIPPED: there is no io_uring here'; \
	elif $(CARGO) nextest --version >/dev/null 2>&1; then \
	    $(CARGO) nextest run --locked --profile $(NEXTEST_PROFILE) -p meridian-tests --run-ignored only httpwg; \
	else \
	    $(CARGO) test --locked -p meridian-tests --test http2_conformance -- --ignored httpwg; \
	fi

# On stable Rust. What it knows already stands in tests/fuzz/corpus, which `make test` goes through as well.
FUZZ_SECONDS ?= 300
.PHONY: fuzz
fuzz: ## any bytes for FUZZ_SECONDS: what is forwarded must be one request to another reader, too
	@scripts/setup.sh build fuzz
	scripts/fuzz.sh $(FUZZ_SECONDS)

# Every black-box test again, with the special path for large bodies turned off.
.PHONY: test-without-splice
test-without-splice: ## the black-box tests with edge.splice = false
	@scripts/setup.sh test
	$(CARGO) build --locked --workspace --bins --tests
	if $(CARGO) nextest --version >/dev/null 2>&1; then \
	    MERIDIAN_TEST_EDGE='splice = false' $(CARGO) nextest run --locked --profile $(NEXTEST_PROFILE) -p meridian-tests --no-fail-fast; \
	else \
	    MERIDIAN_TEST_EDGE='splice = false' $(CARGO) test --locked -p meridian-tests --tests --no-fail-fast; \
	fi

# The binary under test, and the proxies beside it in `make faults`.
FAULTS_BINARY ?= target/release/meridian
FAULTS_PEERS  ?= nginx haproxy

.PHONY: test-faults faults
test-faults: $(if $(filter file,$(origin FAULTS_BINARY)),build) ## faults under load, the short suite: a proxy that does wrong must be found out, Meridian must not
	@scripts/setup.sh test
	tests/faults/selftest.py --live
	tests/faults/run.py --short --proxy meridian=$(FAULTS_BINARY)

# The page is written even if a bound was missed: it says so.
faults: build ## all faults, next to nginx and HAProxy; rewrite docs/faults.md (a quarter of an hour, as root)
	@scripts/setup.sh test
	result=0; tests/faults/run.py --proxy meridian=target/release/meridian \
	    $(addprefix --proxy ,$(FAULTS_PEERS)) --json docs/faults.json || result=$$?; \
	tests/faults/report.py docs/faults.json; exit $$result

# The binary under test; it is built only if nobody names another one.
CONSISTENCY_BINARY ?= target/debug/meridian
CONSISTENCY = target/venv/bin/python tests/consistency/run.py --binary $(CONSISTENCY_BINARY)

.PHONY: test-consistency consistency
test-consistency: $(if $(filter file,$(origin CONSISTENCY_BINARY)),debug) ## writes and reads over PostgreSQL while things die and move, the short suite: a checker that can fail must find nothing
	@scripts/setup.sh consistency
	tests/consistency/selftest.py
	$(CONSISTENCY) --short

# The page is written even if a bound was missed: it says so.
consistency: $(if $(filter file,$(origin CONSISTENCY_BINARY)),debug) ## all of it, with Patroni; rewrite docs/consistency.md (a quarter of an hour, as root)
	@scripts/setup.sh consistency
	tests/consistency/selftest.py
	result=0; $(CONSISTENCY) --json docs/consistency.json || result=$$?; \
	tests/consistency/report.py docs/consistency.json; exit $$result

# The binary under test; it is built only if nobody names another one.
FRONT_DOOR_BINARY ?= target/debug/meridian
FRONT_DOOR = target/venv/bin/python tests/front_door/run.py --binary $(FRONT_DOOR_BINARY)

.PHONY: test-front-door front-door
test-front-door: $(if $(filter file,$(origin FRONT_DOOR_BINARY)),debug) ## public scanners, Chromium, curl, Python against the binary; each scanner must find a server that is bad on purpose
	@scripts/setup.sh front-door
	tests/front_door/selftest.py
	$(FRONT_DOOR)

# The page is written even if a bound was missed: it says so.
front-door: $(if $(filter file,$(origin FRONT_DOOR_BINARY)),debug) ## the same, and the attack pack; rewrite docs/front-door.md (five minutes)
	@scripts/setup.sh test front-door
	$(CARGO) build --locked --workspace --bins --tests
	rm -f target/attacks.jsonl
	result=0; $(FRONT_DOOR) --json docs/front-door.json || result=$$?; \
	MERIDIAN_ATTACK_FIGURES=$(CURDIR)/target/attacks.jsonl \
	    $(CARGO) test --locked -p meridian-tests --test http2_attacks -- --test-threads=1 || result=$$?; \
	tests/front_door/report.py docs/front-door.json --attacks target/attacks.jsonl; exit $$result

.PHONY: debug
debug:
	@scripts/setup.sh build
	$(CARGO) build --locked -p meridian

check: ## everything that CI checks: format, scripts, dependencies, lints, docs, tests
	@scripts/setup.sh check test
	@$(MAKE) --no-print-directory check-format check-scripts check-dependencies check-clippy \
	    check-docs test-workspace check-examples
	@echo 'check: all well'

check-format:
	$(CARGO) fmt --all --check

check-scripts:
	shellcheck $(SHELL_SCRIPTS)
	for script in $(SHELL_SCRIPTS); do bash -n "$$script"; done
	python3 -c 'import ast, sys; [ast.parse(open(f).read(), f) for f in sys.argv[1:]]' \
	    $(PYTHON_SCRIPTS)
	python3 -m json.tool docker/grafana/meridian.json /dev/null
	scripts/check_dependencies.py --self-test
	scripts/check_metrics_names.py --self-test
	benches/peers/selftest.py
	tests/faults/selftest.py
	tests/consistency/selftest.py
	tests/front_door/selftest.py
	scripts/check_metrics_names.py --source proxy/control/src/metrics
	promtool check config --lint-fatal docker/prometheus/prometheus.yml docker/prometheus/federation.yml
	promtool test rules docker/prometheus/alerts_test.yml
	diff <(sed -n '/^USER/,$$p' docker/Dockerfile | grep '^[A-Z]') \
	    <(sed -n '/^USER/,$$p' docker/Dockerfile.build | grep '^[A-Z]')

check-dependencies:
	scripts/check_dependencies.py

check-clippy:
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings

# After test-workspace, which builds the binary.
check-examples:
	scripts/check_examples.sh target/debug/meridian

check-docs:
	RUSTDOCFLAGS='-D warnings' $(CARGO) doc --locked --workspace --no-deps

# ---------------------------------------------------------------------------- measure

# The peers to compare with, how often, and for how many minutes the soak runs.
PEERS   ?= nginx haproxy caddy floor=target/release/floor
MODES   ?= all
ROUNDS  ?= 3
MINUTES ?= 30
BENCH_PYTHON = target/bench-venv/bin/python
BENCH_REPORT = $(BENCH_PYTHON) benches/peers/report.py docs/performance/*.json

.PHONY: bench bench-instructions bench-instructions-record bench-peers bench-soak bench-report
bench: ## micro-benchmarks (criterion)
	@scripts/setup.sh build
	$(CARGO) bench --locked -p meridian-benches

# The bounds are those of the static binary of profile release, on any machine with AVX2.
bench-instructions: ## hold instructions per request against benches/instructions/bounds.toml (callgrind)
	@scripts/setup.sh test
	@$(MAKE) --no-print-directory static PROFILE=release
	benches/instructions/run.py target/$(HOST)/release/meridian

bench-instructions-record: ## write those bounds anew, after a wanted change
	@scripts/setup.sh test
	@$(MAKE) --no-print-directory static PROFILE=release
	benches/instructions/run.py target/$(HOST)/release/meridian --record

# The page is written even if a measurement failed: it says so.
bench-peers: build ## compare with nginx, HAProxy, Caddy; rewrite docs/performance.md (half an hour, two idle CPUs)
	@scripts/setup.sh bench
	$(CARGO) build --locked --release -p meridian-benches --bin floor
	result=0; $(BENCH_PYTHON) benches/peers/run.py --proxy meridian=target/release/meridian \
	    $(addprefix --proxy ,$(PEERS)) --mode $(MODES) --rounds $(ROUNDS) \
	    --json docs/performance/peers.json || result=$$?; \
	$(BENCH_REPORT); exit $$result

bench-soak: build ## $(MINUTES) minutes of traffic, faults and reloads; rewrite docs/performance.md
	@scripts/setup.sh bench
	result=0; $(BENCH_PYTHON) benches/peers/soak.py --binary target/release/meridian \
	    --minutes $(MINUTES) --json docs/performance/soak.json || result=$$?; \
	$(BENCH_REPORT); exit $$result

bench-report: ## rewrite docs/performance.md from the raw figures in docs/performance
	@scripts/setup.sh bench
	$(BENCH_REPORT)

# ---------------------------------------------------------------------------- ship

.PHONY: static pgo image image-test
static: ## a statically linked binary of profile $(PROFILE)
	@scripts/setup.sh build
	scripts/static.sh $(PROFILE) $(STATIC)

# By what it does under load on this machine, which takes about 20 minutes and should have nothing else to do.
pgo: ## the same, optimised for what a proxy does (needs llvm-profdata); make image BINARY=pgo ships it
	@scripts/setup.sh build pgo
	scripts/pgo.sh $(PROFILE) $(STATIC)

# What the image is made of: static, or pgo.
BINARY ?= static
image: $(BINARY) ## the container image $(IMAGE), from the static binary; needs a running engine
	scripts/image.sh $(STATIC) $(IMAGE)

image-test: ## build the image, run docker/compose.yaml, send traffic (starts dockerd if need be)
	@scripts/setup.sh image
	@$(MAKE) --no-print-directory static
	scripts/image_test.sh --if-no-engine $(IF_NO_ENGINE) $(STATIC)
