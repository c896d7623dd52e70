# SPDX-License-Identifier: Apache-2.0

GO       ?= go
PACKAGES ?= ./...
FLAGS    ?=
# The libvirt binding opens libvirt when it is used, so that one binary runs where libvirt is absent.
TAGS     := libvirt_dlopen
# gRPC's page of traces brings html/template, and with that the linker may leave out no method: a quarter of the program.
PROGRAM_TAGS := $(TAGS),grpcnotrace
BENCHES  := idle attach stat list maintenance

SHELL       := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
# mkfs and losetup live there, and an ordinary user's path may lack it.
export PATH := $(PATH):/usr/sbin:/sbin
# File systems on loop devices and libvirt need root. What is built stays the caller's.
AS_ROOT     := $(if $(filter 0,$(shell id -u)),,sudo -E env PATH=$(PATH))
READY       := test/install-packages.sh && mkdir -p build "$${XDG_CACHE_HOME:-$$HOME/.cache}/tenon"
WITH_TOOLS  := tools=$$(test/tools.sh) && export PATH="$$tools:$$PATH" &&

.DEFAULT_GOAL := help
.PHONY: help build generate check lint test demo bench tools clean $(BENCHES:%=bench-%)

help: ## Say what there is to make
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: ## Build tenond and tenonctl into build/
	@test/install-packages.sh
	$(GO) build -tags $(PROGRAM_TAGS) -trimpath -o build/ ./cmd/tenond ./cmd/tenonctl

generate: ## Make Go of the protocol buffers in api/
	$(WITH_TOOLS) buf lint && buf generate

check: ## Everything that a change must pass: clean generation, vet, lint, architecture, tests with -race, demo
	@test/check.sh

lint: ## Run the linters, and see that api/ is generated from what it says
	$(WITH_TOOLS) golangci-lint run && test/generated.sh

test: ## Run all tests, on real guests and file systems; PACKAGES=./storage/... and FLAGS=-race narrow and sharpen it
	@$(READY)
	@$(GO) build -o build/summary ./test/summary
	@$(GO) test -tags $(TAGS) -timeout 20m $(if $(AS_ROOT),-exec '$(AS_ROOT)') $(FLAGS) -json $(PACKAGES) | tee build/test.json | build/summary

demo: build ## Show the main job on a real guest, step by step, in under two minutes
	@$(READY)
	@$(GO) build -tags $(TAGS) -o build/demo ./test/demo
	@$(AS_ROOT) build/demo -bin build

bench: $(BENCHES:%=bench-%) ## Measure against the peers; tables here, rows in build/bench/NAME.json

$(BENCHES:%=bench-%): bench-%: build
	@$(READY)
	@$(GO) build -tags $(TAGS) -o build/bench/run ./test/bench
	@$(AS_ROOT) build/bench/run -bin build -out build/bench $*

tools: ## Build the pinned tools into the cache, or find them there
	@test/tools.sh

clean: ## Remove build/; the caches outside of the tree stay
	rm -rf build
