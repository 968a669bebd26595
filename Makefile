# Everything is built into bin/ from the Go module proxy. Only Go, git, make and bash are needed.
SHELL := bash
space := $(subst ,, )
comma := ,
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

PLUGIN  := vault-plugin-secrets-pipedream
VERSION ?= v0.1.0
# Vault registers only canonical semantic versions that start with v.
ifneq ($(shell [[ "$(VERSION)" =~ ^v[0-9]+\.[0-9]+\.[0-9]+([-+].+)?$$ ]] && echo valid),valid)
$(error VERSION must look like v1.2.3, but is "$(VERSION)")
endif
MODULE  := $(shell go list -m)
# The version is set in the root package, whatever the path of the module is.
LDFLAGS := -s -w -X $(MODULE).version=$(VERSION)

# Exactly the toolchain in go.mod, so that the same source makes the same bits on every machine. To use the installed one
# without a download: make GOTOOLCHAIN=local.
export GOTOOLCHAIN := $(shell sed -n 's/^toolchain //p' go.mod)

# Other settings of a user that would change the plugin's bits. They can be set on make's command line, but not in the
# environment: make build GOAMD64=v3.
GOAMD64      := v1
GOARM64      := v8.0
GO386        := sse2
GOARM        := 6
GOEXPERIMENT :=
GOFIPS140    := off
# -trimpath and -buildvcs=false: the directory and the git state of the source make no difference.
REPRODUCIBLE := CGO_ENABLED=0 GOFLAGS=-buildvcs=false GOWORK=off GOAMD64=$(GOAMD64) GOARM64=$(GOARM64) GO386=$(GO386) \
	GOARM=$(GOARM) GOEXPERIMENT=$(GOEXPERIMENT) GOFIPS140=$(GOFIPS140)

# A plugin for another platform, set with GOOS and GOARCH in the environment, gets its own file.
PLATFORM := $(shell go env GOOS)_$(shell go env GOARCH)
NATIVE   := $(shell go env GOHOSTOS)_$(shell go env GOHOSTARCH)
ifeq ($(PLATFORM),$(NATIVE))
OUT := bin/$(PLUGIN)$(shell go env GOEXE)
else
OUT := bin/$(PLUGIN)_$(PLATFORM)$(shell go env GOEXE)
endif

# The race detector needs a C compiler. Without one, Go turns cgo off, and the tests run without the race detector.
RACE ?= $(if $(filter 1,$(shell go env CGO_ENABLED)),-race)

# More flags for go test, such as TESTFLAGS='-v -run TestCreds'.
TESTFLAGS ?=

# Every directory with a Go module, for tidy-check. Each tool has its own, so that no tool changes the versions of another.
# tools/goreleaser is left out: tidying it fetches a module of a dependency's tests that not every module proxy has.
MODULE_DIRS := . tools/actionlint tools/consul-template tools/contract tools/external-secrets tools/golangci-lint tools/gomplate \
	tools/govulncheck tools/kubernetes tools/links tools/notices tools/opentofu tools/plots tools/prometheus \
	tools/secrets-store-csi-driver tools/vals tools/vault tools/vault-k8s tools/vault-plugin-auth-kubernetes \
	tools/vault-secrets-operator

# Some tests run Node programs. They are skipped with a notice if Node and npm are missing, or with NODE=.
NODE ?= $(and $(shell command -v npm),$(shell command -v node))
NODE_MODULES := $(if $(NODE),$(CURDIR)/bin/node/node_modules)

# One example program is in Python and needs hvac. It is skipped with a notice if either is missing.
PYTHON ?= $(shell for python in python3 /usr/bin/python3; do $$python -c 'import hvac' 2>/dev/null && { echo $$python; break; }; done)

.PHONY: help
help: ## Show this help
	@sed -e ':next' -e '/\\$$/ { N; s/ *\\\n[[:space:]]*/ /; b next' -e '}' $(MAKEFILE_LIST) | \
		awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-22s %s\n", $$1, $$2 }'

.PHONY: build
build: ## Build the plugin: bin/vault-plugin-secrets-pipedream, or with GOOS and GOARCH bin/…_<os>_<arch>
	$(REPRODUCIBLE) go build -trimpath -ldflags "$(LDFLAGS)" -o $(OUT) ./cmd/$(PLUGIN)

bin/goreleaser: tools/goreleaser/go.mod
	cd tools/goreleaser && $(TOOLS_ENV) go build -trimpath -ldflags "-s -w" -o ../../$@ github.com/goreleaser/goreleaser/v2

bin/cyclonedx-gomod: tools/goreleaser/go.mod
	cd tools/goreleaser && $(TOOLS_ENV) go build -trimpath -ldflags "-s -w" -o ../../$@ \
		github.com/CycloneDX/cyclonedx-gomod/cmd/cyclonedx-gomod

# Tools run here, whatever platform is built for.
TOOLS_ENV := env -u GOOS -u GOARCH CGO_ENABLED=0 GOFLAGS=-buildvcs=false GOWORK=off

# Those of .goreleaser.yml, such as linux/amd64.
ALL_PLATFORMS := $(shell sed -nE 's,^      - ([a-z]+)_([a-z0-9]+)(_6)?$$,\1/\2,p' .goreleaser.yml)
PLATFORMS     ?= $(ALL_PLATFORMS)
# The programs in an archive: those with a build in .goreleaser.yml.
RELEASED      := $(PLUGIN) pipedream-check

# One build after the other: the programs of an archive are in it in the order in which they were built.
.PHONY: release
release: bin/goreleaser bin/cyclonedx-gomod ## Make a release of VERSION in dist/; GPG_KEY=<key id> signs it, PLATFORMS="linux/amd64 ..." selects platforms
	rm -rf dist bin/release
	mkdir -p bin
	scripts/release-notes.sh $(VERSION) > bin/RELEASE_NOTES.md
	cd tools/notices && $(TOOLS_ENV) go run . -name $(PLUGIN) -version $(VERSION) -source ../.. \
		-packages $(subst $(space),$(comma),$(RELEASED:%=./cmd/%)) $(ALL_PLATFORMS) > ../../bin/THIRD_PARTY_NOTICES.txt
	date=$$(scripts/release-notes.sh -date $(VERSION)); \
	wanted=$$(tr ' ' '\n' <<< "$(PLATFORMS)" | tr / _); \
	awk -v wanted="$${wanted//$$'\n'/ }" '/^      - [a-z]+_[a-z0-9]+(_6)?$$/ { t = $$2; sub(/_6$$/, "", t); if (!index(" " wanted " ", " " t " ")) next } 1' \
		.goreleaser.yml > bin/goreleaser.yml; \
	umask 022; \
	env -u GOOS -u GOARCH $(REPRODUCIBLE) TZ=UTC PATH="$(CURDIR)/bin:$$PATH" GPG_KEY="$(GPG_KEY)" GORELEASER_CURRENT_TAG=$(VERSION) \
		RELEASE_VERSION=$(VERSION) RELEASE_LDFLAGS="$(LDFLAGS)" RELEASE_DATE="$${date}T00:00:00Z" \
		RELEASE_TIME=$$(date -u -d "$$date" +%s 2>/dev/null || date -ju -f %F%T "$${date}00:00:00" +%s) \
		RELEASE_MODULES="$$(go env GOMODCACHE)" RELEASE_PROXY="$$(go env GOPROXY)" \
		goreleaser release --config bin/goreleaser.yml --snapshot --clean --parallelism 1 $(if $(GPG_KEY),,--skip=sign)
	mkdir -p dist
	cp bin/release/*.tar.gz bin/release/*.cdx.json bin/release/SHA256SUMS* bin/RELEASE_NOTES.md dist/
	if compgen -G 'bin/release/*.zip' > /dev/null; then cp bin/release/*.zip dist/; fi

# One with an archive of each kind, and one with a processor level. PLATFORMS on the command line tries others.
SAMPLE := linux/amd64 windows/arm64 freebsd/arm

.PHONY: test-release
test-release: bin/goreleaser bin/cyclonedx-gomod ## Make a release of some platforms in several places, and check that all are complete and identical
	scripts/test-release.sh $(if $(filter command environment,$(firstword $(origin PLATFORMS))),$(PLATFORMS),$(SAMPLE))

.PHONY: test-module-path
test-module-path: bin/golangci-lint ## Check that a copy of the tree builds, and is linted, after scripts/set-module-path.sh
	scripts/test-module-path.sh

# For scripts.
.PHONY: print-version print-out
print-version:
	@echo $(VERSION)
print-out:
	@echo $(OUT)

# The acceptance tests upgrade to this version, which is the same code.
NEXT_VERSION := v99.0.0

.PHONY: build-race
build-race: ## Build the plugin with the race detector, for the acceptance tests: bin/race/
	go build $(RACE) -trimpath -ldflags "$(LDFLAGS)" -o bin/race/$(PLUGIN) ./cmd/$(PLUGIN)
	go build $(RACE) -trimpath -ldflags "-s -w -X $(MODULE).version=$(NEXT_VERSION)" -o bin/race/next/$(PLUGIN) ./cmd/$(PLUGIN)

.PHONY: sim
sim: ## Build the simulated Pipedream API: bin/pipedream-sim
	CGO_ENABLED=0 go build -trimpath -ldflags "-s -w" -o bin/pipedream-sim ./cmd/pipedream-sim

.PHONY: check
check: ## Build the program that checks the real Pipedream: bin/pipedream-check
	$(REPRODUCIBLE) go build -trimpath -ldflags "-s -w -X main.version=$(VERSION)" -o bin/pipedream-check ./cmd/pipedream-check

# Such as CHECKFLAGS='-watch=1h -write'.
CHECKFLAGS ?=

.PHONY: check-pipedream
check-pipedream: check ## Check the real Pipedream with your own key, fact by fact; see docs/live-check.md. More flags: CHECKFLAGS
	bin/pipedream-check -report=bin/pipedream-report $(CHECKFLAGS)

.PHONY: vault
vault: bin/vault ## Build Vault: bin/vault, which takes 10 to 30 minutes the first time; VAULT_BIN=path uses that Vault instead

# VAULT_BIN may be a path or a name in PATH. If it were bin/vault itself, the link would point to itself.
ifneq ($(filter-out $(abspath bin/vault),$(abspath $(VAULT_BIN))),)
.PHONY: bin/vault
bin/vault:
	@found=$$(command -v "$(VAULT_BIN)") || { echo "VAULT_BIN=$(VAULT_BIN): no such program" >&2; exit 1; }; \
	mkdir -p bin; \
	ln -sf "$$(cd "$$(dirname "$$found")" && pwd)/$$(basename "$$found")" $@
else
# The old file is removed first: it may be a link to another Vault, which go build would overwrite.
bin/vault: tools/vault/go.mod
	@echo "building Vault: on two cores this takes 10 to 30 minutes, mostly without a word. To use yours: VAULT_BIN=path" >&2
	rm -f $@
	cd tools/vault && go build -tags minimal -trimpath -ldflags "-s -w" -o ../../$@ \
		github.com/hashicorp/vault
endif

bin/consul-template: tools/consul-template/go.mod
	cd tools/consul-template && CGO_ENABLED=0 go build -trimpath -ldflags "-s -w" -o ../../$@ \
		github.com/hashicorp/consul-template

bin/golangci-lint: tools/golangci-lint/go.mod
	cd tools/golangci-lint && go build -trimpath -ldflags "-s -w" -o ../../$@ \
		github.com/golangci/golangci-lint/v2/cmd/golangci-lint

include consumers.mk

.PHONY: test
test: test-unit test-acceptance ## Run all tests

.PHONY: test-unit
test-unit: race-notice ## Run the tests that do not need Vault
	go test $(RACE) -timeout 40m $(TESTFLAGS) $$(go list ./... | grep -v "^$(MODULE)/acceptance")

# Hours of CPU time; FLEETS=500 tries that many of all.
FLEETS ?= 100000
.PHONY: test-fleets
test-fleets: ## Try all combinations of fleets, limits, lists and readers, and print what each cost
	FLEETS=$(FLEETS) go test -count=1 -timeout 24h -v -run '^(TestFleets|TestAFleetBeyondAMinutesPages|TestAFleetAfterAnOutage|TestABackendThatReadsAllItsCustomers)$$' . | grep -E 'requests for|^ *--- FAIL|Error|^(ok|FAIL)' | sed 's/^ *[a-z]*_test.go:[0-9]*: //'

SEEDS ?= 1000
.PHONY: test-chaos
test-chaos: race-notice ## Make everything go wrong in SEEDS different ways while accounts are fetched
	CHAOS_SEEDS=$(SEEDS) go test $(RACE) -count=1 -timeout 3h -run '^TestChaos$$' ./internal/fetch

# -count=1: go test's cache does not notice changes of the binaries under test. -parallel: the tests mostly wait.
.PHONY: test-acceptance
test-acceptance: race-notice node-notice python-notice vault build build-race sim bin/consul-template $(if $(NODE),bin/node/node_modules) ## Run the tests against a real Vault server
	VAULT_BIN="$(CURDIR)/bin/vault" PLUGIN_BIN="$(CURDIR)/bin/race/$(PLUGIN)" \
	CONSUL_TEMPLATE_BIN="$(CURDIR)/bin/consul-template" NODE_MODULES="$(NODE_MODULES)" PYTHON="$(PYTHON)" \
		go test $(RACE) -count=1 -parallel 6 -timeout 20m $(TESTFLAGS) ./acceptance/...

# Without the race detector, which needs far more memory.
.PHONY: test-size
test-size: race-notice vault build ## Check that large answers do not make the plugin's process grow
	VAULT_BIN="$(CURDIR)/bin/vault" PLUGIN_BIN="$(CURDIR)/bin/$(PLUGIN)" \
		go test $(RACE) -count=1 -timeout 10m $(TESTFLAGS) -run '^TestLargeAnswersDoNotGrowMemory$$' ./acceptance

# The document is not part of this project.
PIPEDREAM_OPENAPI ?=

.PHONY: test-contract
test-contract: contract-notice ## Check the engine and the simulator against PIPEDREAM_OPENAPI=path, a document of Pipedream's API
	cd tools/contract && go vet ./... && PIPEDREAM_OPENAPI="$(abspath $(PIPEDREAM_OPENAPI))" go test -count=1 $(TESTFLAGS) ./...

# Of the report of make check-pipedream, or of one with as many odd forms as the engine can bear.
REPORT ?= internal/livecheck/testdata/odd-report.json

.PHONY: test-replay
test-replay: ## Run tests of the engine with a simulator that answers as in REPORT=path, a JSON report of make check-pipedream
	PIPEDREAM_REPLAY="$(abspath $(REPORT))" go test -count=1 $(TESTFLAGS) \
		-run '^Test(Creds|StaticCreds|Refresh|Connect|Link|Config|Status|Role)' .

.PHONY: contract-notice
contract-notice:
	@if [[ -z "$(PIPEDREAM_OPENAPI)" ]]; then echo "no PIPEDREAM_OPENAPI: leaving out the comparison with Pipedream's OpenAPI document" >&2; fi

# How long the soak test runs.
SOAK ?= 10m

.PHONY: soak
soak: race-notice vault build-race ## Put mixed load on the plugin for SOAK=10m, with faults, and check that it does not grow
	VAULT_BIN="$(CURDIR)/bin/vault" PLUGIN_BIN="$(CURDIR)/bin/race/$(PLUGIN)" \
		go test -tags soak -count=1 -timeout 0 -v -run '^TestSoak$$' ./acceptance -args -soak=$(SOAK)

.PHONY: race-notice
race-notice:
	@if [[ -z "$(RACE)" ]]; then echo "no C compiler, or cgo is off: testing without the race detector" >&2; fi

# One test uses a real browser. On Debian, install the package chromium.
BROWSER := $(firstword $(foreach name,chromium chromium-browser google-chrome google-chrome-stable,$(shell command -v $(name))))

test-acceptance: browser-notice

.PHONY: browser-notice
browser-notice:
	@if [[ -z "$(BROWSER)" ]]; then echo "no Chromium: skipping the test in a real browser" >&2; fi

.PHONY: node-notice
node-notice:
	@if [[ -z "$(NODE)" ]]; then echo "no Node and npm: skipping the tests with the Node client and Pipedream's SDK (make test-node test-sdk)" >&2; fi

.PHONY: python-notice
python-notice:
	@if [[ -z "$(PYTHON)" ]]; then echo "no Python with hvac: skipping the test with the Python client" >&2; fi

.PHONY: demo
demo: vault build sim ## Show the plugin in a real Vault; uses the real Pipedream if PIPEDREAM_API_KEY is set
	@scripts/demo.sh

.PHONY: record-demo
record-demo: vault build sim ## Record a run of the demo: docs/demo.cast, for asciinema; needs Python
	scripts/record-demo.py docs/demo.cast scripts/demo.sh

# Plugins of its own, built without the race detector, in one directory as Vault wants them. Each program leaves what it
# measured in bin/bench/, and tables and pictures are made of that alone.
.PHONY: bench-plugins
bench-plugins: ## Build the two plugins that make bench compares
	CGO_ENABLED=0 go build -trimpath -ldflags "$(LDFLAGS)" -o bin/bench/$(PLUGIN) ./cmd/$(PLUGIN)
	CGO_ENABLED=0 go build -trimpath -ldflags "-s -w" -o bin/bench/donothing ./bench/donothing

.PHONY: bench-reads
bench-reads: vault bench-plugins ## Measure only the reads of make bench whose names match ONLY, a regular expression
	go run ./bench -vault bin/vault -plugins bin/bench -version $(VERSION) -only '$(ONLY)' $(BENCHFLAGS) > bin/bench/only.json

.PHONY: bench
bench: vault bench-plugins ## Measure the engine against a plugin that does nothing, print the figures, and draw docs/images/
	go run ./bench -vault bin/vault -plugins bin/bench -version $(VERSION) $(BENCHFLAGS) > bin/bench/reads.json
	go test -run '^$$' -bench . . | tee bin/bench/engine.txt
	STEADY_STATE_ACCOUNTS=5000 go test -count=1 -timeout 30m -v -run '^TestSteadyState$$|^TestAColdFleetO' . | tee bin/bench/requests.txt | grep -v '^==='
	$(MAKE) plots

.PHONY: plots
plots: ## Draw docs/images/ from the last run of make bench, and print the tables of docs/performance.md
	cd tools/plots && go run . ../../bin/bench ../../docs/images

# The scrapes of some hours in a test's fake time, what Prometheus's own query engine makes of them, and the picture.
.PHONY: dashboard
dashboard: ## Record what the Grafana dashboard shows of some simulated hours, and draw docs/images/dashboard.svg
	mkdir -p bin/dashboard
	METRICS_OUT="$(CURDIR)/bin/dashboard/scrapes.txt" go test -count=1 -ldflags "$(LDFLAGS)" -run '^TestMetricsShowIncidents$$' .
	cd tools/prometheus && go run -tags remove_all_sd ./figures ../../docs/examples/grafana-dashboard.json \
		../../bin/dashboard/scrapes.txt > ../plots/dashboard-figures.json
	cd tools/plots && go run . ../../docs/examples/grafana-dashboard.json dashboard-figures.json ../../docs/images/dashboard.svg

.PHONY: test-plots
test-plots: ## Test the program that draws the figures of make bench and the dashboard
	cd tools/plots && go vet ./... && go test ./...

.PHONY: lint
lint: bin/golangci-lint ## Check the formatting, vet, and run golangci-lint
	@unformatted=$$(gofmt -l .); \
	if [[ -n "$$unformatted" ]]; then echo "not formatted (make fmt): $$unformatted" >&2; exit 1; fi
	go vet ./...
	bin/golangci-lint run

bin/actionlint: tools/actionlint/go.mod
	cd tools/actionlint && go build -trimpath -ldflags "-s -w" -o ../../$@ github.com/rhysd/actionlint/cmd/actionlint

bin/govulncheck: tools/govulncheck/go.mod
	cd tools/govulncheck && go build -trimpath -ldflags "-s -w" -o ../../$@ golang.org/x/vuln/cmd/govulncheck

.PHONY: lint-workflows
lint-workflows: bin/actionlint ## Check the GitHub workflows with actionlint
	bin/actionlint .github/workflows/*.yml

.PHONY: vulncheck
vulncheck: bin/govulncheck ## Look for known vulnerabilities in code that is called; queries Go's vulnerability database
	bin/govulncheck ./...

.PHONY: fmt
fmt: bin/golangci-lint ## Format the code
	bin/golangci-lint fmt

.PHONY: tidy-check
tidy-check: ## Check that every go.mod and go.sum is tidy
	@for dir in $(MODULE_DIRS); do \
		echo "go mod tidy -diff ($$dir)"; \
		(cd "$$dir" && go mod tidy -diff); \
	done

# The tests of the checker run first, because nothing else would show that it misses bad links.
.PHONY: check-links
check-links: ## Check all links in the pages: files and headings; for other sites only the form
	cd tools/links && go vet ./... && go test ./...
	cd tools/links && go run . ../..

.PHONY: clean
clean: ## Remove bin/, dist/ and the cached test results
	rm -rf bin dist
	go clean -testcache
