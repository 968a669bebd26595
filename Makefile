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

# The toolchain that go.mod names and no other, so that the same source makes the same bits on every machine. Where none may
# be fetched and another is at hand: make GOTOOLCHAIN=local.
export GOTOOLCHAIN := $(shell sed -n 's/^toolchain //p' go.mod)

# Whatever else of someone's own settings would change the plugin's bits. On make's command line, not in the environment,
# each can still be set: make build GOAMD64=v3.
GOAMD64      := v1
GOARM64      := v8.0
GO386        := sse2
GOARM        := 6
GOEXPERIMENT :=
GOFIPS140    := off
# -trimpath and -buildvcs=false: where the source lies and how it came there make no difference.
REPRODUCIBLE := CGO_ENABLED=0 GOFLAGS=-buildvcs=false GOWORK=off GOAMD64=$(GOAMD64) GOARM64=$(GOARM64) GO386=$(GO386) \
	GOARM=$(GOARM) GOEXPERIMENT=$(GOEXPERIMENT) GOFIPS140=$(GOFIPS140)

# A plugin for another platform, as GOOS and GOARCH in the environment say, has a file of its own.
PLATFORM := $(shell go env GOOS)_$(shell go env GOARCH)
NATIVE   := $(shell go env GOHOSTOS)_$(shell go env GOHOSTARCH)
ifeq ($(PLATFORM),$(NATIVE))
OUT := bin/$(PLUGIN)$(shell go env GOEXE)
else
OUT := bin/$(PLUGIN)_$(PLATFORM)$(shell go env GOEXE)
endif

# The race detector needs a C compiler. Without one, Go says so by turning cgo off, and the tests run without it.
RACE ?= $(if $(filter 1,$(shell go env CGO_ENABLED)),-race)

# More flags for go test, say TESTFLAGS='-v -run TestCreds'.
TESTFLAGS ?=

# Every directory with a Go module of its own; the tools have one each, so that none can bend another's versions.
MODULE_DIRS := . tools/actionlint tools/consul-template tools/external-secrets tools/golangci-lint tools/gomplate \
	tools/govulncheck tools/kubernetes tools/links tools/opentofu tools/plots tools/prometheus tools/release tools/vals tools/vault \
	tools/vault-k8s tools/vault-plugin-auth-kubernetes tools/vault-secrets-operator

# Some tests run Node programs. Without Node and npm they are left out, which is said; NODE= leaves them out too.
NODE ?= $(and $(shell command -v npm),$(shell command -v node))
NODE_MODULES := $(if $(NODE),$(CURDIR)/bin/node/node_modules)

# One program of the examples is in Python, and needs hvac. Without both it is left out, which is said.
PYTHON ?= $(shell for python in python3 /usr/bin/python3; do $$python -c 'import hvac' 2>/dev/null && { echo $$python; break; }; done)

.PHONY: help
help: ## Show this help
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-22s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

.PHONY: build
build: ## Build the plugin: bin/vault-plugin-secrets-pipedream, or with GOOS and GOARCH bin/…_<os>_<arch>
	$(REPRODUCIBLE) go build -trimpath -ldflags "$(LDFLAGS)" -o $(OUT) ./cmd/$(PLUGIN)

# All that Go has of these systems on these processors.
PLATFORMS ?= $(shell go tool dist list | grep -E '^(linux|darwin|windows|freebsd)/(amd64|arm64|386|arm)$$')

.PHONY: release
release: ## Make a release of VERSION in dist/; GPG_KEY=<key id> signs it, PLATFORMS="linux/amd64 ..." makes less
	rm -rf dist bin/release
	for platform in $(PLATFORMS); do \
		os=$${platform%/*} arch=$${platform#*/}; \
		GOOS=$$os GOARCH=$$arch $(MAKE) build OUT="bin/release/$${os}_$$arch/$(PLUGIN)$$(GOOS=$$os go env GOEXE)"; \
	done
	mkdir -p dist
	cd tools/release && env -u GOOS -u GOARCH $(REPRODUCIBLE) go run . -name $(PLUGIN) -version $(VERSION) -source ../.. \
		-binaries ../../bin/release -out ../../dist $(PLATFORMS)
	if [[ -n "$(GPG_KEY)" ]]; then \
		gpg --batch --yes --local-user "$(GPG_KEY)" --armor --detach-sign --output dist/SHA256SUMS.asc dist/SHA256SUMS; \
	fi

.PHONY: test-release
test-release: ## Make a release of PLATFORMS in several places, and check that each is the same and is whole
	cd tools/release && go test .
	scripts/test-release.sh $(PLATFORMS)

.PHONY: test-module-path
test-module-path: ## Check that scripts/set-module-path.sh gives a copy of the tree another path, under which it builds
	scripts/test-module-path.sh

# For scripts.
.PHONY: print-version print-out
print-version:
	@echo $(VERSION)
print-out:
	@echo $(OUT)

# What an upgrade goes to in the acceptance tests: the same code under another version.
NEXT_VERSION := v99.0.0

.PHONY: build-race
build-race: ## Build the plugin with the race detector, for the acceptance tests: bin/race/
	go build $(RACE) -trimpath -ldflags "$(LDFLAGS)" -o bin/race/$(PLUGIN) ./cmd/$(PLUGIN)
	go build $(RACE) -trimpath -ldflags "-s -w -X $(MODULE).version=$(NEXT_VERSION)" -o bin/race/next/$(PLUGIN) ./cmd/$(PLUGIN)

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

# $(call tool,<module>,<package>) builds a package of tools/<module> at $@.
tool = cd tools/$(1) && CGO_ENABLED=0 go build -trimpath -ldflags "-s -w" -o "$(CURDIR)/$@" $(2)

bin/kubernetes/kube-apiserver: tools/kubernetes/go.mod
	$(call tool,kubernetes,k8s.io/kubernetes/cmd/kube-apiserver)

bin/kubernetes/etcd: tools/kubernetes/go.mod
	$(call tool,kubernetes,go.etcd.io/etcd/server/v3)

bin/kubernetes/vault-k8s: tools/vault-k8s/go.mod
	$(call tool,vault-k8s,github.com/hashicorp/vault-k8s)

# Beside the plugin under test, for Vault has one directory of plugins.
bin/race/vault-plugin-auth-kubernetes: tools/vault-plugin-auth-kubernetes/go.mod
	$(call tool,vault-plugin-auth-kubernetes,github.com/hashicorp/vault-plugin-auth-kubernetes/cmd/vault-plugin-auth-kubernetes)

bin/kubernetes/vault-secrets-operator: tools/vault-secrets-operator/go.mod
	$(call tool,vault-secrets-operator,github.com/hashicorp/vault-secrets-operator)

bin/tofu: tools/opentofu/go.mod
	$(call tool,opentofu,github.com/opentofu/opentofu/cmd/tofu)

bin/vals: tools/vals/go.mod
	$(call tool,vals,github.com/helmfile/vals/cmd/vals)

bin/gomplate: tools/gomplate/go.mod
	$(call tool,gomplate,github.com/hairyhenderson/gomplate/v4/cmd/gomplate)

bin/kubernetes/external-secrets: tools/external-secrets/go.mod
	$(call tool,external-secrets,github.com/external-secrets/external-secrets)

bin/golangci-lint: tools/golangci-lint/go.mod
	cd tools/golangci-lint && go build -trimpath -ldflags "-s -w" -o ../../$@ \
		github.com/golangci/golangci-lint/v2/cmd/golangci-lint

# Without service discovery, which nothing here needs: that is most of it.
bin/prometheus bin/promtool: tools/prometheus/go.mod
	cd tools/prometheus && CGO_ENABLED=0 go build -tags remove_all_sd -trimpath -ldflags "-s -w" -o ../../$@ \
		github.com/prometheus/prometheus/cmd/$(notdir $@)

.PHONY: test
test: test-unit test-acceptance ## Run all tests

.PHONY: test-unit
test-unit: race-notice ## Run the tests that need no Vault
	go test $(RACE) -timeout 15m $(TESTFLAGS) $$(go list ./... | grep -v "^$(MODULE)/acceptance")

# -count=1: the binaries under test are files, which go test's cache does not see. -parallel: the tests wait more than
# they compute.
.PHONY: test-acceptance
test-acceptance: race-notice node-notice python-notice vault build-race sim bin/consul-template $(if $(NODE),bin/node/node_modules) ## Run the tests against a real Vault server
	VAULT_BIN="$(CURDIR)/bin/vault" PLUGIN_BIN="$(CURDIR)/bin/race/$(PLUGIN)" \
	CONSUL_TEMPLATE_BIN="$(CURDIR)/bin/consul-template" NODE_MODULES="$(NODE_MODULES)" PYTHON="$(PYTHON)" \
		go test $(RACE) -count=1 -parallel 6 -timeout 20m $(TESTFLAGS) ./acceptance/...

# Without the race detector, which takes many times the memory.
.PHONY: test-size
test-size: race-notice vault build ## Check that fat answers leave the plugin's process small
	VAULT_BIN="$(CURDIR)/bin/vault" PLUGIN_BIN="$(CURDIR)/bin/$(PLUGIN)" \
		go test $(RACE) -count=1 -timeout 10m $(TESTFLAGS) -run '^TestFatAnswersLeaveMemoryAlone$$' ./acceptance

.PHONY: test-node
test-node: race-notice vault build-race bin/node/node_modules ## Run the tests that need Node and npm beside Vault
	VAULT_BIN="$(CURDIR)/bin/vault" PLUGIN_BIN="$(CURDIR)/bin/race/$(PLUGIN)" \
	NODE_MODULES="$(CURDIR)/bin/node/node_modules" \
		go test $(RACE) -count=1 -timeout 5m $(TESTFLAGS) -run '^TestNodeClient$$|^TestRequestsBesideTheSDK$$|^TestApplications$$/^node$$' ./acceptance

.PHONY: test-sdk
test-sdk: race-notice bin/node/node_modules ## Run the tests of the simulator by Pipedream's SDK, which need Node and npm
	NODE_MODULES="$(CURDIR)/bin/node/node_modules" go test $(RACE) -count=1 -timeout 5m $(TESTFLAGS) ./acceptance/sdk

.PHONY: test-prometheus
test-prometheus: bin/promtool ## Have Prometheus's promtool check and test the alert rules, scrape job and dashboard
	PROMTOOL_BIN="$(CURDIR)/bin/promtool" go test -count=1 ./docs/examples

# -parallel: each alert waits for its own cause.
.PHONY: test-metrics
test-metrics: race-notice vault build-race bin/prometheus bin/promtool ## Have a real Prometheus watch the plugin in a real Vault, and see each alert fire
	VAULT_BIN="$(CURDIR)/bin/vault" PLUGIN_BIN="$(CURDIR)/bin/race/$(PLUGIN)" \
	PROMETHEUS_BIN="$(CURDIR)/bin/prometheus" PROMTOOL_BIN="$(CURDIR)/bin/promtool" \
		go test $(RACE) -count=1 -parallel 12 -timeout 20m $(TESTFLAGS) -run '^TestPrometheusWatchesTheEngine$$' ./acceptance

# A real API server with its etcd, and what reads from Vault in a cluster, all as plain processes of the test.
KUBERNETES := bin/kubernetes/etcd bin/kubernetes/kube-apiserver bin/kubernetes/vault-k8s \
	bin/kubernetes/vault-secrets-operator bin/race/vault-plugin-auth-kubernetes

.PHONY: test-kubernetes
test-kubernetes: race-notice vault build-race $(KUBERNETES) ## Run the examples for Kubernetes in a real API server
	VAULT_BIN="$(CURDIR)/bin/vault" PLUGIN_BIN="$(CURDIR)/bin/race/$(PLUGIN)" \
	SECRETS_OPERATOR_MODULE="$$(cd tools/vault-secrets-operator && go list -m -f '{{.Dir}}' github.com/hashicorp/vault-secrets-operator)" \
		go test $(RACE) -tags kubernetes -count=1 -timeout 30m $(TESTFLAGS) -run '^TestKubernetes' ./acceptance

# A target of its own: this operator alone takes longer to build than all the others.
.PHONY: test-external-secrets
test-external-secrets: race-notice vault build-race $(KUBERNETES) bin/kubernetes/external-secrets ## Run the example for the External Secrets Operator in a real API server
	VAULT_BIN="$(CURDIR)/bin/vault" PLUGIN_BIN="$(CURDIR)/bin/race/$(PLUGIN)" \
	EXTERNAL_SECRETS_MODULE="$$(cd tools/external-secrets && go list -m -f '{{.Dir}}' github.com/external-secrets/external-secrets)" \
		go test $(RACE) -tags kubernetes -count=1 -timeout 30m $(TESTFLAGS) -run '^TestExternalSecrets' ./acceptance

.PHONY: test-one-shot
test-one-shot: race-notice vault build-race bin/vals bin/gomplate ## Run programs that read a credential once: vals and gomplate
	VAULT_BIN="$(CURDIR)/bin/vault" PLUGIN_BIN="$(CURDIR)/bin/race/$(PLUGIN)" \
		go test $(RACE) -tags oneshot -count=1 -timeout 5m $(TESTFLAGS) -run '^TestOneShot' ./acceptance

# OpenBao is no module that could be built here: OPENBAO_BIN=path gives it. The Node and Python clients tell nothing more
# of another server.
.PHONY: test-openbao
test-openbao: race-notice build build-race sim bin/consul-template ## Run the tests and the demo on OpenBao: OPENBAO_BIN=path
	@[[ -x "$(OPENBAO_BIN)" ]] || { echo "OPENBAO_BIN=$(OPENBAO_BIN): no such program" >&2; exit 1; }
	VAULT_BIN="$(abspath $(OPENBAO_BIN))" PLUGIN_BIN="$(CURDIR)/bin/race/$(PLUGIN)" \
	CONSUL_TEMPLATE_BIN="$(CURDIR)/bin/consul-template" \
		go test $(RACE) -count=1 -parallel 6 -timeout 30m $(TESTFLAGS) ./acceptance/...
	DEMO_SERVER="$(abspath $(OPENBAO_BIN))" scripts/demo.sh

# The provider hashicorp/vault is no module that could be built here: VAULT_PROVIDER_BIN=path gives it.
VAULT_PROVIDER_BIN ?=

.PHONY: test-terraform
test-terraform: race-notice provider-notice vault build-race bin/tofu ## Run the examples for Terraform with OpenTofu; needs VAULT_PROVIDER_BIN=path
	VAULT_BIN="$(CURDIR)/bin/vault" PLUGIN_BIN="$(CURDIR)/bin/race/$(PLUGIN)" \
	TOFU_BIN="$(CURDIR)/bin/tofu" PROVIDER_BIN="$(abspath $(VAULT_PROVIDER_BIN))" \
		go test $(RACE) -tags terraform -count=1 -timeout 15m $(TESTFLAGS) -run '^TestTerraform' ./acceptance

.PHONY: provider-notice
provider-notice:
	@if [[ -z "$(VAULT_PROVIDER_BIN)" ]]; then echo "no VAULT_PROVIDER_BIN: leaving out the tests of Terraform" >&2; fi

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

.PHONY: python-notice
python-notice:
	@if [[ -z "$(PYTHON)" ]]; then echo "no Python with hvac: testing without the Python client" >&2; fi

.PHONY: demo
demo: vault build sim ## Show the plugin at work in a real Vault; with PIPEDREAM_API_KEY set, on the real Pipedream
	@scripts/demo.sh

# Plugins of its own, built without the race detector, in one directory as Vault wants them. Each program leaves what it
# measured in bin/bench/, and tables and pictures are made of that alone.
.PHONY: bench
bench: vault ## Measure the engine against a plugin that does nothing, print the figures, and draw docs/images/
	CGO_ENABLED=0 go build -trimpath -ldflags "$(LDFLAGS)" -o bin/bench/$(PLUGIN) ./cmd/$(PLUGIN)
	CGO_ENABLED=0 go build -trimpath -ldflags "-s -w" -o bin/bench/donothing ./bench/donothing
	go run ./bench -vault bin/vault -plugins bin/bench -version $(VERSION) $(BENCHFLAGS) > bin/bench/reads.json
	go test -run '^$$' -bench . . | tee bin/bench/engine.txt
	STEADY_STATE_ACCOUNTS=5000 go test -count=1 -v -run '^TestSteadyState$$|^TestAColdFleetO' . | tee bin/bench/requests.txt | grep -v '^==='
	$(MAKE) plots

.PHONY: plots
plots: ## Draw docs/images/ from the last run of make bench, and print the tables of docs/performance.md
	cd tools/plots && go run . ../../bin/bench ../../docs/images

.PHONY: test-plots
test-plots: ## Test the program that draws the figures of make bench
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
vulncheck: bin/govulncheck ## Look for known vulnerabilities in what is called; asks Go's vulnerability database
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

# The checker has tests of its own, which run first: it is all that tells a good link from a bad one.
.PHONY: check-links
check-links: ## Check the links of all pages: files and headings; of what is outside the form alone
	cd tools/links && go vet ./... && go test ./...
	cd tools/links && go run . ../..

.PHONY: clean
clean: ## Remove bin/, dist/ and the cached test results
	rm -rf bin dist
	go clean -testcache
