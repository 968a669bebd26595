# The programs that read from the engine, and the tests that run them. Most of these programs take long to build.

# Package scripts do not run. Versions and checksums come from the lock file.
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

# This goes beside the plugin under test, because Vault has a single plugin directory.
bin/race/vault-plugin-auth-kubernetes: tools/vault-plugin-auth-kubernetes/go.mod
	$(call tool,vault-plugin-auth-kubernetes,github.com/hashicorp/vault-plugin-auth-kubernetes/cmd/vault-plugin-auth-kubernetes)

bin/kubernetes/vault-secrets-operator: tools/vault-secrets-operator/go.mod
	$(call tool,vault-secrets-operator,github.com/hashicorp/vault-secrets-operator)

bin/kubernetes/secrets-store-csi-driver: tools/secrets-store-csi-driver/go.mod tools/secrets-store-csi-driver/main.go
	$(call tool,secrets-store-csi-driver,.)

bin/tofu: tools/opentofu/go.mod
	$(call tool,opentofu,github.com/opentofu/opentofu/cmd/tofu)

bin/vals: tools/vals/go.mod
	$(call tool,vals,github.com/helmfile/vals/cmd/vals)

bin/gomplate: tools/gomplate/go.mod
	$(call tool,gomplate,github.com/hairyhenderson/gomplate/v4/cmd/gomplate)

bin/kubernetes/external-secrets: tools/external-secrets/go.mod
	$(call tool,external-secrets,github.com/external-secrets/external-secrets)

# Without service discovery, which is most of Prometheus and not needed here.
bin/prometheus bin/promtool: tools/prometheus/go.mod
	cd tools/prometheus && CGO_ENABLED=0 go build -tags remove_all_sd -trimpath -ldflags "-s -w" -o ../../$@ \
		github.com/prometheus/prometheus/cmd/$(notdir $@)

.PHONY: test-node
test-node: race-notice vault build-race bin/node/node_modules ## Run the tests that need Vault, Node and npm
	VAULT_BIN="$(CURDIR)/bin/vault" PLUGIN_BIN="$(CURDIR)/bin/race/$(PLUGIN)" \
	NODE_MODULES="$(CURDIR)/bin/node/node_modules" \
		go test $(RACE) -count=1 -timeout 5m $(TESTFLAGS) -run '^TestNodeClient$$|^TestRequestsBesideTheSDK$$|^TestApplications$$/^node$$|^TestProxyClients$$/^node$$' ./acceptance

.PHONY: test-sdk
test-sdk: race-notice bin/node/node_modules ## Test the simulator with Pipedream's SDK; needs Node and npm
	NODE_MODULES="$(CURDIR)/bin/node/node_modules" go test $(RACE) -count=1 -timeout 5m $(TESTFLAGS) ./acceptance/sdk

.PHONY: test-prometheus
test-prometheus: bin/promtool ## Check the alert rules, scrape job and dashboard with promtool
	PROMTOOL_BIN="$(CURDIR)/bin/promtool" go test -count=1 ./docs/examples

# -parallel: the tests of the alerts mostly wait.
.PHONY: test-metrics
test-metrics: race-notice vault build-race bin/prometheus bin/promtool ## Run a real Prometheus and Vault, and check that each alert fires
	VAULT_BIN="$(CURDIR)/bin/vault" PLUGIN_BIN="$(CURDIR)/bin/race/$(PLUGIN)" \
	PROMETHEUS_BIN="$(CURDIR)/bin/prometheus" PROMTOOL_BIN="$(CURDIR)/bin/promtool" \
		go test $(RACE) -count=1 -parallel 12 -timeout 20m $(TESTFLAGS) -run '^TestPrometheusWatchesTheEngine$$' ./acceptance

# A real API server with its etcd, and the programs that read from Vault in a cluster, all as plain processes.
KUBERNETES := bin/kubernetes/etcd bin/kubernetes/kube-apiserver bin/race/vault-plugin-auth-kubernetes

# $(call module,<module>,<path>) is the directory of the module <path> that tools/<module> requires.
module = $$(cd tools/$(1) && go list -m -f '{{.Dir}}' $(2))

# make does not build these. CSI_PROVIDER_BIN is the path of a Vault CSI Provider. SECRETS_OPERATOR_BIN is the path of a
# Vault Secrets Operator of 1.4.0 or later, and SECRETS_OPERATOR_SOURCE that of its source. They replace the older operator.
CSI_PROVIDER_BIN        ?=
SECRETS_OPERATOR_BIN    ?=
SECRETS_OPERATOR_SOURCE ?=
OPERATOR := $(if $(SECRETS_OPERATOR_BIN),,bin/kubernetes/vault-secrets-operator)

.PHONY: test-kubernetes
test-kubernetes: race-notice csi-notice vault build-race $(KUBERNETES) bin/kubernetes/vault-k8s \
	bin/kubernetes/secrets-store-csi-driver $(OPERATOR) ## Run the examples for Kubernetes in a real API server
	VAULT_BIN="$(CURDIR)/bin/vault" PLUGIN_BIN="$(CURDIR)/bin/race/$(PLUGIN)" \
	CSI_PROVIDER_BIN="$(abspath $(CSI_PROVIDER_BIN))" \
	CSI_DRIVER_MODULE="$(call module,secrets-store-csi-driver,sigs.k8s.io/secrets-store-csi-driver)" \
	SECRETS_OPERATOR_BIN="$(abspath $(SECRETS_OPERATOR_BIN))" \
	SECRETS_OPERATOR_MODULE="$(if $(SECRETS_OPERATOR_BIN),$(abspath $(SECRETS_OPERATOR_SOURCE)),$(call module,vault-secrets-operator,github.com/hashicorp/vault-secrets-operator))" \
		go test $(RACE) -tags kubernetes -count=1 -timeout 30m $(TESTFLAGS) -run '^TestKubernetes' ./acceptance

.PHONY: csi-notice
csi-notice:
	@if [[ -z "$(CSI_PROVIDER_BIN)" ]]; then echo "no CSI_PROVIDER_BIN: skipping the test of the Vault CSI Provider" >&2; fi

# This is a separate target because this operator takes longer to build than all others together.
.PHONY: test-external-secrets
test-external-secrets: race-notice vault build-race $(KUBERNETES) bin/kubernetes/external-secrets ## Run the example for the External Secrets Operator in a real API server
	VAULT_BIN="$(CURDIR)/bin/vault" PLUGIN_BIN="$(CURDIR)/bin/race/$(PLUGIN)" \
	EXTERNAL_SECRETS_MODULE="$(call module,external-secrets,github.com/external-secrets/external-secrets)" \
		go test $(RACE) -tags kubernetes -count=1 -timeout 30m $(TESTFLAGS) -run '^TestExternalSecrets' ./acceptance

# make does not build these either: they are the paths of an envconsul, and of the vault-env of bank-vaults.
# Ansible is used if it is installed, with its collection community.hashi_vault.
ENVCONSUL_BIN        ?=
BANK_VAULTS_ENV_BIN  ?=
ANSIBLE_PLAYBOOK_BIN ?= $(shell command -v ansible-playbook)

.PHONY: test-one-shot
test-one-shot: race-notice one-shot-notice vault build-race bin/vals bin/gomplate ## Run programs that read a credential once
	VAULT_BIN="$(CURDIR)/bin/vault" PLUGIN_BIN="$(CURDIR)/bin/race/$(PLUGIN)" \
	ENVCONSUL_BIN="$(abspath $(ENVCONSUL_BIN))" BANK_VAULTS_ENV_BIN="$(abspath $(BANK_VAULTS_ENV_BIN))" \
	ANSIBLE_PLAYBOOK_BIN="$(ANSIBLE_PLAYBOOK_BIN)" \
		go test $(RACE) -tags oneshot -count=1 -timeout 5m $(TESTFLAGS) -run '^TestOneShot' ./acceptance

.PHONY: one-shot-notice
one-shot-notice:
	@if [[ -z "$(ENVCONSUL_BIN)" ]]; then echo "no ENVCONSUL_BIN: skipping the test of envconsul" >&2; fi
	@if [[ -z "$(BANK_VAULTS_ENV_BIN)" ]]; then echo "no BANK_VAULTS_ENV_BIN: skipping the test of vault-env" >&2; fi
	@if [[ -z "$(ANSIBLE_PLAYBOOK_BIN)" ]]; then echo "no ansible-playbook: skipping the test of Ansible" >&2; fi

# OpenBao is not a module that can be built here, so OPENBAO_BIN=path names it. Running the Node and Python clients with
# another server would add nothing.
.PHONY: test-openbao
test-openbao: race-notice build build-race sim bin/consul-template ## Run the tests and the demo on OpenBao: OPENBAO_BIN=path
	@[[ -x "$(OPENBAO_BIN)" ]] || { echo "OPENBAO_BIN=$(OPENBAO_BIN): no such program" >&2; exit 1; }
	VAULT_BIN="$(abspath $(OPENBAO_BIN))" PLUGIN_BIN="$(CURDIR)/bin/race/$(PLUGIN)" \
	CONSUL_TEMPLATE_BIN="$(CURDIR)/bin/consul-template" \
		go test $(RACE) -count=1 -parallel 6 -timeout 30m $(TESTFLAGS) ./acceptance/...
	DEMO_SERVER="$(abspath $(OPENBAO_BIN))" scripts/demo.sh

# The provider hashicorp/vault is not a module that can be built here, so VAULT_PROVIDER_BIN=path names it.
VAULT_PROVIDER_BIN ?=

.PHONY: test-terraform
test-terraform: race-notice provider-notice vault build-race bin/tofu ## Run the examples for Terraform with OpenTofu; needs VAULT_PROVIDER_BIN=path
	VAULT_BIN="$(CURDIR)/bin/vault" PLUGIN_BIN="$(CURDIR)/bin/race/$(PLUGIN)" \
	TOFU_BIN="$(CURDIR)/bin/tofu" PROVIDER_BIN="$(abspath $(VAULT_PROVIDER_BIN))" \
		go test $(RACE) -tags terraform -count=1 -timeout 15m $(TESTFLAGS) -run '^TestTerraform' ./acceptance

.PHONY: provider-notice
provider-notice:
	@if [[ -z "$(VAULT_PROVIDER_BIN)" ]]; then echo "VAULT_PROVIDER_BIN is not set: skipping the Terraform tests" >&2; fi
