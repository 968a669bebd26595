# Everything is built into bin/, from the Go module proxy alone: Go, git, make and bash are all that is needed.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

PLUGIN  := vault-plugin-secrets-pipedream
VERSION ?= v0.1.0
# Vault registers no other: canonical semantic versions that start with v.
ifneq ($(shell [[ "$(VERSION)" =~ ^v[0-9]+\.[0-9]+\.[0-9]+([-+].+)?$$ ]] && echo valid),valid)
$(error VERSION must look like v1.2.3, and is "$(VERSION)")
endif
MODULE  := $(shell go list -m)
# The version lands in the root package, whatever the module is called.
LDFLAGS := -s -w -X $(MODULE).version=$(VERSION)

# The race detector needs a C compiler. Without one, Go says so by turning cgo off, and the tests run without it.
RACE ?= $(if $(filter 1,$(shell go env CGO_ENABLED)),-race)

# More flags for go test, say TESTFLAGS='-v -run TestCreds'.
TESTFLAGS ?=

# Every directory with a Go module of its own; the tools have one each, so that none can bend another's versions.
MODULE_DIRS := . tools/consul-template tools/golangci-lint tools/vault

# Some tests run Node programs. Without Node and npm they are left out, which is said; NODE= leaves them out too.
NODE ?= $(and $(shell command -v npm),$(shell command -v node))
NODE_MODULES := $(if $(NODE),$(CURDIR)/bin/node/node_modules)

.PHONY: help
help: ## Show this help
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-16s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

.PHONY: build
build: ## Build the plugin: bin/vault-plugin-secrets-pipedream
	CGO_ENABLED=0 go build -trimpath -ldflags "$(LDFLAGS)" -o bin/$(PLUGIN) ./cmd/$(PLUGIN)

.PHONY: build-race
build-race: ## Build the plugin with the race detector, for the acceptance tests: bin/race/
	go build $(RACE) -trimpath -ldflags "$(LDFLAGS)" -o bin/race/$(PLUGIN) ./cmd/$(PLUGIN)

.PHONY: sim
sim: ## Build the simulated Pipedream API: bin/pipedream-sim
	CGO_ENABLED=0 go build -trimpath -ldflags "-s -w" -o bin/pipedream-sim ./cmd/pipedream-sim

.PHONY: vault
vault: bin/vault ## Build Vault: bin/vault, some minutes the first time; VAULT_BIN=path uses that one instead

# VAULT_BIN may be a path or a name in PATH. Pointing at bin/vault itself would make a link to nowhere.
ifneq ($(filter-out $(abspath bin/vault),$(abspath $(VAULT_BIN))),)
.PHONY: bin/vault
bin/vault:
	@found=$$(command -v "$(VAULT_BIN)") || { echo "VAULT_BIN=$(VAULT_BIN): no such program" >&2; exit 1; }; \
	mkdir -p bin; \
	ln -sf "$$(cd "$$(dirname "$$found")" && pwd)/$$(basename "$$found")" $@
else
# The old file goes first: it may be a link to someone's own Vault, which go build would write through.
bin/vault: tools/vault/go.mod
	rm -f $@
	cd tools/vault && go build -tags minimal -trimpath -ldflags "-s -w" -o ../../$@ \
		github.com/hashicorp/vault
endif

bin/consul-template: tools/consul-template/go.mod
	cd tools/consul-template && CGO_ENABLED=0 go build -trimpath -ldflags "-s -w" -o ../../$@ \
		github.com/hashicorp/consul-template

# Without the scripts of the packages, and at the versions and checksums of the lock file.
bin/node/node_modules: acceptance/node/package.json acceptance/node/package-lock.json
	mkdir -p bin/node
	cp $^ bin/node/
	cd bin/node && npm ci --ignore-scripts --no-audit --no-fund
	touch $@

bin/golangci-lint: tools/golangci-lint/go.mod
	cd tools/golangci-lint && go build -trimpath -ldflags "-s -w" -o ../../$@ \
		github.com/golangci/golangci-lint/v2/cmd/golangci-lint

.PHONY: test
test: test-unit test-acceptance ## Run all tests

.PHONY: test-unit
test-unit: race-notice ## Run the tests that need no Vault
	go test $(RACE) -timeout 15m $(TESTFLAGS) $$(go list ./... | grep -v "^$(MODULE)/acceptance")

# -count=1: the binaries under test are files, which go test's cache does not see. -parallel: the tests wait more than
# they compute.
.PHONY: test-acceptance
test-acceptance: race-notice node-notice vault build-race sim bin/consul-template $(if $(NODE),bin/node/node_modules) ## Run the tests against a real Vault server
	VAULT_BIN="$(CURDIR)/bin/vault" PLUGIN_BIN="$(CURDIR)/bin/race/$(PLUGIN)" \
	CONSUL_TEMPLATE_BIN="$(CURDIR)/bin/consul-template" NODE_MODULES="$(NODE_MODULES)" \
		go test $(RACE) -count=1 -parallel 6 -timeout 20m $(TESTFLAGS) ./acceptance/...

.PHONY: test-node
test-node: race-notice vault build-race bin/node/node_modules ## Run the tests that need Node and npm beside Vault
	VAULT_BIN="$(CURDIR)/bin/vault" PLUGIN_BIN="$(CURDIR)/bin/race/$(PLUGIN)" \
	NODE_MODULES="$(CURDIR)/bin/node/node_modules" \
		go test $(RACE) -count=1 -timeout 5m $(TESTFLAGS) -run '^TestNodeClient$$|^TestRequestsBesideTheSDK$$' ./acceptance

.PHONY: test-sdk
test-sdk: race-notice bin/node/node_modules ## Run the tests of the simulator by Pipedream's SDK, which need Node and npm
	NODE_MODULES="$(CURDIR)/bin/node/node_modules" go test $(RACE) -count=1 -timeout 5m $(TESTFLAGS) ./acceptance/sdk

# How long to put load on the plugin.
SOAK ?= 10m

.PHONY: soak
soak: race-notice vault build-race ## Put mixed load on the plugin for SOAK=10m, with faults, and watch its size
	VAULT_BIN="$(CURDIR)/bin/vault" PLUGIN_BIN="$(CURDIR)/bin/race/$(PLUGIN)" \
		go test -tags soak -count=1 -timeout 0 -v -run '^TestSoak$$' ./acceptance -args -soak=$(SOAK)

.PHONY: race-notice
race-notice:
	@if [[ -z "$(RACE)" ]]; then echo "no C compiler, or cgo is off: testing without the race detector" >&2; fi

# One test clicks in a real browser. Debian has it as chromium.
BROWSER := $(firstword $(foreach name,chromium chromium-browser google-chrome google-chrome-stable,$(shell command -v $(name))))

test-acceptance: browser-notice

.PHONY: browser-notice
browser-notice:
	@if [[ -z "$(BROWSER)" ]]; then echo "no Chromium: testing without a real browser" >&2; fi

.PHONY: node-notice
node-notice:
	@if [[ -z "$(NODE)" ]]; then echo "no Node and npm: testing without the Node client and without Pipedream's SDK (make test-node test-sdk)" >&2; fi

.PHONY: demo
demo: vault build sim ## Show the plugin at work in a real Vault; with PIPEDREAM_API_KEY set, on the real Pipedream
	@scripts/demo.sh

# Plugins of its own, built without the race detector, in one directory as Vault wants them.
.PHONY: bench
bench: vault ## Measure the engine against a plugin that does nothing, and print the figures
	CGO_ENABLED=0 go build -trimpath -ldflags "$(LDFLAGS)" -o bin/bench/$(PLUGIN) ./cmd/$(PLUGIN)
	CGO_ENABLED=0 go build -trimpath -ldflags "-s -w" -o bin/bench/donothing ./bench/donothing
	go run ./bench -vault bin/vault -plugins bin/bench -version $(VERSION) $(BENCHFLAGS)
	go test -run '^$$' -bench . .
	STEADY_STATE_ACCOUNTS=5000 go test -count=1 -run '^TestSteadyState$$|^TestAColdFleetCostsAPageForEachHundred$$' -v . | grep -v '^==='

.PHONY: lint
lint: bin/golangci-lint ## Check the formatting, vet, and run golangci-lint
	@unformatted=$$(gofmt -l .); \
	if [[ -n "$$unformatted" ]]; then echo "not formatted (make fmt): $$unformatted" >&2; exit 1; fi
	go vet ./...
	bin/golangci-lint run

.PHONY: fmt
fmt: bin/golangci-lint ## Format the code
	bin/golangci-lint fmt

.PHONY: tidy-check
tidy-check: ## Check that every go.mod and go.sum is tidy
	@for dir in $(MODULE_DIRS); do \
		echo "go mod tidy -diff ($$dir)"; \
		(cd "$$dir" && go mod tidy -diff); \
	done

.PHONY: clean
clean: ## Remove bin/ and the cached test results
	rm -rf bin
	go clean -testcache
