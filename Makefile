# The common commands. Each calls the script or the cargo command that does the work, so read those for options.
# `make help` lists them.

# Options for the benchmarks and the matrix: make bench ARGS="--attaches 30"
ARGS ?=
# Seconds for each fuzz target, and which targets: make fuzz SECONDS=1800 TARGETS=domain_xml
SECONDS ?= 10
TARGETS ?=
# Part of a test's name: make test-one GROUP=node NAME=gc
GROUP ?= node
NAME ?=

.PHONY: help check test test-one lab demo fuzz bench bench-overhead matrix doc

help: ## list these commands
	@sed -nE 's/^([a-z-]+):.*## (.*)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 23

check: ## format, lints, rustdoc and the pages: what fails fast
	cargo fmt --all -- --check
	cargo clippy --locked --workspace --all-targets --quiet -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --locked --no-deps --quiet
	cargo test --locked --test docs

test: ## all tests that need no lab (root)
	tests/run --fast

test-one: ## one group, or one test of it: GROUP=node NAME=part_of_a_name (root)
	cargo build --locked --workspace --bins
	cargo test --locked --test $(GROUP) -- $(NAME)

lab: ## every test, those on real OVS-DPDK, libvirt and QEMU too (root, Debian 12)
	tests/run

demo: ## plug one NIC into a real VM, ping it, unplug it (root, Debian 12)
	tests/demo

fuzz: ## each fuzz target for SECONDS (needs the nightly toolchain)
	tests/fuzz $(SECONDS) $(TARGETS)

bench: ## how long a VM stands still and how long a NIC takes, in the lab (root)
	tests/bench/hotplug $(ARGS)

bench-overhead: ## what pods without a vhost-user NIC pay (root)
	tests/bench/overhead $(ARGS)

matrix: ## every pair of OVS and libvirt; writes docs/matrix.md (root, an hour)
	tests/matrix $(ARGS)

doc: ## the crate's documentation, private items too
	cargo doc --locked --no-deps --document-private-items
