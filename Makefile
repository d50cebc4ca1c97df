# The recipes of the repository; `make` lists them. Everything heavier is a script that can be called alone.

.DEFAULT_GOAL := help
.PHONY: help demo test test-nested test-ml2 test-amphora test-long sim check build soak bench bench-services conformance lab-up lab-down codegen

help: ## this list
	@sed -n 's/^\([a-z0-9-]*\):.*## /  make \1	/p' $(MAKEFILE_LIST) | expand -t 20

demo: ## build, bring the lab up, show pods on Neutron ports; MODE=nested-vlan: on virtual machines; the lab goes on running
	@test/prerequisites
	@demo/demo $(if $(MODE),--mode $(MODE))

test: ## everything: format, lints, tidy, unit and namespace tests, scenarios on the lab
	@test/prerequisites
	@test/run

test-nested: ## all scenarios on nodes that are virtual machines with trunks
	@test/prerequisites
	@test/run --nodes nested-vlan,nested-vlan

test-ml2: ## scenarios with ML2/OVS, where Neutron's own agents drive the switches
	@test/prerequisites
	@test/run --ml2

test-amphora: ## scenarios about Octavia's amphora provider, on a lab with its API and worker on no-op compute
	@test/prerequisites
	@test/run --amphora

test-long: ## the whole simulation, and scenarios that take longer than those of `make test` may (NODES: kinds, ovs,ovs if none)
	@test/prerequisites
	@test/run --long $(if $(NODES),--nodes $(NODES))

sim: ## the real programs on paused time, faults at every call, SEEDS=100 scenarios from FIRST=1; again: SEED=7, SEED=7 SCENARIO=services, or SCENARIO=coming CALL=9 FAULT=Lost
ifneq ($(SEED)$(CALL),)
	@SIM_SEED=$(SEED) SIM_SCENARIO=$(SCENARIO) SIM_CALL=$(CALL) SIM_FAULT='$(FAULT)' cargo test -q --release -p kuryr-sim --test seeds one_run -- --ignored --nocapture
else
	@SEEDS=$(SEEDS) FIRST=$(FIRST) cargo test --release -p kuryr-sim --test seeds -- --ignored --skip one_run --nocapture
endif

soak: ## an hour (MINUTES) of pods that come and go while parts fail, on a lab of its own (NODES: kinds)
	@test/prerequisites
	@test/build
	@e2e/soak/run $(if $(MINUTES),--minutes $(MINUTES)) $(if $(NODES),--nodes $(NODES))

check: ## what needs neither root nor the lab
	cargo fmt --check
	cargo clippy --workspace --all-targets -- -D warnings
	cargo xtask tidy
	cargo test --workspace --exclude kuryr-datapath
	cargo test -p kuryr-datapath --lib

build: ## release binaries: kuryr-controller, kuryr-daemon, kuryr-cni (static); as the caller, also under sudo
	@test/build

bench: ## what a pod costs, against the ptp plugin and bare calls to Neutron, on a lab that is up; ARGS=--write: into docs/benchmarks.md
	@test/prerequisites
	@test/build
	@bench/run $(ARGS)

bench-services: ## what Services cost, against kube-proxy and load balancers made step by step; ARGS=--write as above, --parts: some of it
	@test/prerequisites
	@test/build
	@bench/services $(ARGS)

conformance: ## Kubernetes' own specs of the network, on labs of its own, into docs/conformance.md; ARGS: see conformance/run --help
	@test/prerequisites
	@test/build
	@conformance/run $(if $(ARGS),$(ARGS),--write)

lab-up: ## the lab alone
	lab/lab up

lab-down: ## stop the lab; keeps its state and caches
	lab/lab down

codegen: ## write generated files
	cargo xtask codegen
