# SPDX-License-Identifier: Apache-2.0
#
# Everything except `generate`, the checks and the tests needs only Go: the compiled BPF programs
# are committed.

GO      ?= go
# clang 14 (Debian 12) made the committed objects. Another major version makes other objects, which
# work as well. check-generated then compares only the sources.
CLANG   ?= clang-14
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null)

GO_DIRS := bpf cmd docs event internal output pipeline schema test tracer
C_SOURCES := vmlinux.h $(wildcard bpf/*.c bpf/*.h bpf/lib/*.h)
GENERATED_FROM := $(C_SOURCES) bpf/gen.go

.DEFAULT_GOAL := build

.PHONY: help
help: ## show this help
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 18

.PHONY: build
build: ## build ./nstrace
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '-s -w -X main.version=$(VERSION)' -o nstrace ./cmd/nstrace

PREFIX ?= /usr/local

.PHONY: install
install: build ## install nstrace and its systemd units below PREFIX (/usr/local)
	install -D -m 0755 nstrace $(DESTDIR)$(PREFIX)/bin/nstrace
	install -d $(DESTDIR)$(PREFIX)/lib/systemd/system
	for unit in nstrace nstrace-folder; do \
		sed 's:/usr/local/:$(PREFIX)/:' systemd/$$unit.service > $(DESTDIR)$(PREFIX)/lib/systemd/system/$$unit.service || exit; done

.PHONY: generate
generate: ## compile the BPF programs again (clang, llvm, libbpf-dev)
	BPF2GO_CC=$(CLANG) $(GO) generate ./bpf
	sha256sum $(GENERATED_FROM) > bpf/sources.sum

.PHONY: format
format: ## format Go and C
	gofmt -w $(GO_DIRS)
	clang-format -i $(C_SOURCES) $(wildcard test/e2e/testdata/*.c)

.PHONY: deps
deps: ## install what the tests need (Debian, root), or print what that is
	@./test/deps

.PHONY: lint
lint: ## run the checks that need no kernel: formats, vet, staticcheck, generated code
	@unformatted=$$(gofmt -l $(GO_DIRS)); \
	if [ -n "$$unformatted" ]; then echo "gofmt: $$unformatted"; exit 1; fi
	clang-format --dry-run -Werror $(C_SOURCES) $(wildcard test/e2e/testdata/*.c)
	$(GO) vet ./...
	$(GO) tool staticcheck ./...
	$(GO) tool go-errorlint ./...
	@$(GO) tool misspell -error $$(git ls-files '*.c' '*.go' '*.h' '*.md' '*.sh' '*.yaml' Makefile)
	$(GO) mod tidy -diff
	$(GO) test ./test/docs
	GOARCH=arm64 $(GO) vet ./bpf ./cmd/... ./event ./internal/... ./output ./pipeline ./tracer
	$(MAKE) --no-print-directory check-headers check-generated check-messages

.PHONY: check-headers
check-headers: ## fail if a header of bpf/ cannot be read on its own
	@CLANG=$(CLANG) ./bpf/check-headers

.PHONY: check-generated
check-generated: ## fail if the committed BPF objects are not those of their sources
	@sha256sum --check --quiet bpf/sources.sum || { echo 'bpf: sources changed since the objects were made: make generate'; exit 1; }
	@if command -v $(CLANG) >/dev/null; then \
		tmp=$$(mktemp -d) && trap 'rm -rf "$$tmp"' EXIT && mkdir "$$tmp/bpf" && \
		cp go.mod go.sum vmlinux.h "$$tmp" && cp -r bpf/*.c bpf/*.h bpf/lib bpf/gen.go "$$tmp/bpf" && \
		(cd "$$tmp" && BPF2GO_CC=$(CLANG) $(GO) generate ./bpf) && \
		for f in bpf/*_bpfel.*; do cmp "$$f" "$$tmp/$$f" || { echo "$$f is stale: make generate"; exit 1; }; done; \
	else echo "bpf: no $(CLANG) here, compared the objects' sources only"; fi

# protoc writes its own version into the file.
.PHONY: check-messages
check-messages: ## fail if the committed messages of CRI are not those of their source
	@if command -v protoc >/dev/null; then \
		tmp=$$(mktemp -d) && trap 'rm -rf "$$tmp"' EXIT && ./internal/runtimes/cri/generate "$$tmp" && \
		diff -I '^//.*protoc ' internal/runtimes/cri/cri.pb.go "$$tmp/cri.pb.go" || { echo 'cri.pb.go is stale: go generate ./internal/runtimes/cri'; exit 1; }; \
	else echo "cri: no protoc here, compared nothing"; fi

# -p 1: the suites that load programs and boot kernels run alone. gotestsum prints each failure
# again at the end, with its output; otherwise it would be thousands of lines above.
TESTSUM = $(GO) tool gotestsum --format standard-verbose --hide-summary skipped --

# The race detector leaves out SQLite, which is C translated to Go: checking that code would make
# the tests of the history four times slower.
UNRACED = '-gcflags=modernc.org/...=-race=false'

.PHONY: test
test: deps lint ## run all tests, native and in virtual machines of the main kernels (Debian, root)
	$(GO) test -race $(UNRACED) -timeout 20m $$($(GO) list ./... | grep -v /test/)
	$(GO) test -timeout 10m ./internal/history
	$(TESTSUM) -p 1 -count 1 -timeout 80m ./test/...

# The tests that `make test` leaves out, in parts that take less than an hour each on two CPUs.
# Each part for a kernel runs the end-to-end tests that depend on the kernel on it.
ALL_KERNELS := 5.10 6.1 6.12 6.12-full 6.12-rt 6.16 6.17 6.18 6.19 7.0 7.1 7.2 7.3
# The core of the suite runs on these.
ARM64_KERNELS := 5.10 6.12 newest

.PHONY: test-all
test-all: test test-more $(addprefix test-kernel-,$(ALL_KERNELS)) $(addprefix test-arm64-,$(ARM64_KERNELS)) ## run test, and its long form on each kernel

.PHONY: test-more
test-more: export NSTRACE_TEST_ALL = 1
test-more: deps ## run the long tests that need no other kernel: containers, power cut, benchmark
	$(TESTSUM) -p 1 -count 1 -timeout 60m ./test/bench ./test/containers ./test/e2e ./test/packages ./internal/store
	$(TESTSUM) -count 1 -timeout 60m ./test/vm -skip 'Test(Kernel|Arm64)$$'

.PHONY: $(addprefix test-kernel-,$(ALL_KERNELS))
$(addprefix test-kernel-,$(ALL_KERNELS)): test-kernel-%: deps
	NSTRACE_TEST_ALL=1 $(TESTSUM) -count 1 -timeout 60m ./test/vm -run 'TestKernel/$*'

.PHONY: $(addprefix test-arm64-,$(ARM64_KERNELS))
$(addprefix test-arm64-,$(ARM64_KERNELS)): test-arm64-%: deps
	NSTRACE_TEST_ALL=1 $(TESTSUM) -count 1 -timeout 60m ./test/vm -run 'TestArm64/$*'

# What it finds is in testdata/fuzz of the package: fix it, and commit the file. go test runs it again.
FUZZTIME ?= 10m
.PHONY: fuzz
fuzz: ## fuzz each parser of foreign bytes for FUZZTIME (10m)
	@failed=; for package in $$($(GO) list ./cmd/... ./event ./internal/... ./output ./pipeline ./tracer); do \
		for target in $$($(GO) test -list '^Fuzz' "$$package" | grep '^Fuzz'); do \
			echo "$$package $$target"; \
			$(GO) test -run '^$$' -fuzz "^$$target\$$" -fuzztime '$(FUZZTIME)' "$$package" || failed="$$failed $$package.$$target"; done; done; \
	[ -z "$$failed" ] || { echo "failed:$$failed"; exit 1; }

.PHONY: coverage
coverage: deps ## generate docs/coverage.md and a table of docs/limits.md from the results of the tests on each kernel
	NSTRACE_TEST_ALL=1 NSTRACE_COVERAGE=1 NSTRACE_GUEST_RUN='^TestCoverage$$' $(GO) test -count 1 -timeout 60m -v ./test/vm -run 'Test(Kernel|Arm64)/.*/TestCoverage$$' | $(GO) run ./test/e2e/coverage/cmd

.PHONY: bench-deps
bench-deps: ## install the programs that the benchmark compares nstrace with (Debian, root)
	@./test/bench/deps

# BENCHFLAGS adds flags, such as BENCHFLAGS='-soak 100000'. go run ./test/bench -h lists them.
.PHONY: bench
bench: build bench-deps ## measure the cost of nstrace on this machine (root)
	$(GO) test -run '^$$' -bench . -benchmem ./event ./internal/filter ./internal/history ./internal/runtimes ./output ./tracer
	$(GO) run ./test/bench -nstrace ./nstrace $(BENCHFLAGS)

KERNEL ?= 6.1
CPUS   ?= 2
.PHONY: bench-vm
bench-vm: build deps bench-deps ## measure it on another kernel: KERNEL=6.1 CPUS=2
	$(GO) run ./test/bench -nstrace ./nstrace -vm $(KERNEL) -cpus $(CPUS) $(BENCHFLAGS)

# Packages are for the architectures in ARCHS. The same commit makes the same bytes.
ARCHS ?= amd64 arm64
.PHONY: packages
packages: ## make the tar.gz, deb and rpm for ARCHS (amd64 and arm64) in dist
	./packaging/build dist '$(VERSION)' $(ARCHS)

.PHONY: release
release: packages ## make the packages, a list of what is in the program (SBOM), and checksums, in dist
	./packaging/sbom dist '$(VERSION)' $(ARCHS)
	cd dist && sha256sum -- *.tar.gz *.deb *.rpm *.cdx.json > SHA256SUMS

.PHONY: clean
clean: ## remove the output of build
	rm -f nstrace
	rm -rf dist
