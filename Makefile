# SPDX-FileCopyrightText: The nvidia-container-runtime authors
# SPDX-License-Identifier: Apache-2.0

PROGRAMS   := nvidia-container-runtime.experimental nvsysfs
VERSION    := 0.1.0
COMMIT     := $(shell git rev-parse --short=12 HEAD 2>/dev/null || echo unknown)
GO         ?= go
LDFLAGS    := -s -w \
	-X github.com/nvsysfs/nvidia-container-runtime/cmd/internal/version.version=$(VERSION) \
	-X github.com/nvsysfs/nvidia-container-runtime/cmd/internal/version.commit=$(COMMIT)
BUILD      := CGO_ENABLED=0 $(GO) build -trimpath -buildvcs=false -ldflags '$(LDFLAGS)'
GOLANGCI   := github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0
FUZZTIME   ?= 10s

.PHONY: all
all: $(PROGRAMS:%=cmd-%) ## build the programs in this directory

.PHONY: help
help: ## print this list
	@echo 'usage: make [TARGET] [VARIABLE=VALUE]'; echo
	@awk -F ' *## *' '/^[a-z%-]+:.* ## / { sub(/:.*/, "", $$1); printf "  %-18s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

cmd-%:
	$(BUILD) -o $* ./cmd/$*

docker-cmd-%: ## build program % in a container; needs only make and Docker
	docker build $(DOCKER_BUILD_FLAGS) --build-arg VERSION=$(VERSION) --build-arg COMMIT=$(COMMIT) --build-arg PROGRAM=$* --tag nvsysfs-build-$* .
	container=$$(docker create nvsysfs-build-$* none) && docker cp $$container:/$* . ; docker rm $$container >/dev/null

.PHONY: demo
demo: all ## run a container with this machine's GPUs, or a fixture's
	./nvsysfs demo

.PHONY: test
test: ## run all tests; the end says which were skipped, and why
	{ $(GO) test -v -timeout 90m ./...; echo "=== EXIT $$?"; } | awk -f .ci/skipped.awk

.PHONY: race
race: ## run the race detector on packages with goroutines
	$(GO) test -race -short ./ldcache ./mig ./sysfs/... ./spec ./spec/rawjson ./spec/requirement ./cmd/internal/plan ./cmd/internal/configure

.PHONY: lint
lint: ## run gofmt, vet and golangci-lint, as in CI
	test -z "$$(gofmt -l .)" || { gofmt -d . ; exit 1; }
	$(GO) vet ./...
	GOOS=linux GOARCH=arm64 $(GO) vet ./...
	$(GO) run $(GOLANGCI) run ./...

.PHONY: fuzz
fuzz: ## run each fuzz target for FUZZTIME (10s)
	GO='$(GO)' .ci/fuzz $(FUZZTIME)

.PHONY: bench
bench: ## measure a start; BENCHFLAGS=-write updates BENCHMARKS.md
	$(GO) run ./cmd/internal/bench $(BENCHFLAGS)

.PHONY: gobench
gobench: ## run each Go benchmark, with allocations
	$(GO) test -run '^$$' -bench . -benchmem ./...

.PHONY: check-static
check-static: ## check that the programs are static, for amd64 and arm64
	@set -e; readelf --version >/dev/null; for arch in amd64 arm64; do for p in $(PROGRAMS); do \
		GOARCH=$$arch $(BUILD) -o .cache/$$p-$$arch ./cmd/$$p; \
		if readelf -d .cache/$$p-$$arch | grep -q 'Dynamic section'; then echo "$$p for $$arch is not static"; exit 1; fi; \
		if readelf -l .cache/$$p-$$arch | grep -q INTERP; then echo "$$p for $$arch wants a loader"; exit 1; fi; \
		echo "$$p $$arch: static, $$(stat -c %s .cache/$$p-$$arch) bytes"; \
	done; done

# Where "make install" puts files; DESTDIR is for building packages.
PREFIX     ?= /usr/local
DESTDIR    ?=
INSTALL    ?= install
SHARE       = $(DESTDIR)$(PREFIX)/share

# "make install" does not rebuild programs, so that root, under sudo, needs no Go.
$(PROGRAMS):
	$(MAKE) cmd-$@

.PHONY: install
install: $(PROGRAMS) install-files ## install into $DESTDIR$PREFIX (/usr/local), nothing in /etc
	$(INSTALL) -D -m 755 -t $(DESTDIR)$(PREFIX)/bin $(PROGRAMS)

# Everything except the programs.
.PHONY: install-files
install-files: $(if $(GOARCH),,nvsysfs)
	$(INSTALL) -d $(DESTDIR)$(PREFIX)/lib/systemd/system
	$(INSTALL) -D -m 644 -t $(SHARE)/doc/$(PACKAGE) LICENSE README.md CHANGELOG.md SECURITY.md docs/*.md
	$(INSTALL) -D -m 644 -t $(SHARE)/$(PACKAGE) cmd/internal/dist/config.toml
	@set -e; for page in cmd/internal/dist/man/*.[1-9]; do \
		echo "$(INSTALL) $$page"; $(INSTALL) -D -m 644 -t $(SHARE)/man/man$${page##*.} $$page; \
	done; \
	for unit in cmd/internal/dist/systemd/*.*; do \
		echo "$(INSTALL) $$unit"; file=$(DESTDIR)$(PREFIX)/lib/systemd/system/$${unit##*/}; \
		sed 's|/usr/bin/|$(PREFIX)/bin/|' $$unit >$$file; chmod 644 $$file; \
	done; \
	completion() { \
		echo "$(INSTALL) $$2"; $(INSTALL) -d $(SHARE)/$${2%/*}; \
		$(if $(GOARCH),$(HOSTGO) run ./cmd/nvsysfs,./nvsysfs) completion $$1 >$(SHARE)/$$2; chmod 644 $(SHARE)/$$2; \
	}; \
	completion bash bash-completion/completions/nvsysfs; \
	completion zsh zsh/site-functions/_nvsysfs; \
	completion fish fish/vendor_completions.d/nvsysfs.fish

DURATION   ?= 10m

.PHONY: lab
lab: dist ## test the package on cgroup v2, systemd, current engines
	NVCR_LAB=$(abspath $(DISTDIR))/$(PACKAGE)_$(VERSION)_amd64.deb $(GO) test -count 1 -timeout 60m -v ./cmd/internal/lab

.PHONY: soak
soak: ## run many real containers at a time, for DURATION (10m)
	NVCR_SOAK=$(DURATION) $(GO) test -count 1 -timeout 0 -v -run '^TestSoak$$' ./cmd/internal/securitytest

.PHONY: fault
fault: ## fail, and kill before, every system call of a create
	NVCR_FAULTS=all $(GO) test -count 1 -timeout 0 -v -run 'Faults$$' ./cmd/internal/securitytest

.PHONY: reproducible
reproducible: ## check that builds in two directories are identical
	@set -e; rm -rf .cache/reproducible; here=$$PWD; for d in one another/place; do \
		mkdir -p .cache/reproducible/$$d; git ls-files -coz --exclude-standard | tar -c --null -T - --ignore-failed-read | tar -x -C .cache/reproducible/$$d; \
		(cd .cache/reproducible/$$d; for p in $(PROGRAMS); do GOCACHE=$$PWD/.gocache $(BUILD) -o $$p ./cmd/$$p; done); \
	done; for p in $(PROGRAMS); do cmp .cache/reproducible/one/$$p .cache/reproducible/another/place/$$p; \
		(cd .cache/reproducible/one; sha256sum $$p); done; rm -rf $$here/.cache/reproducible

PACKAGE    := nvidia-container-runtime-experimental
GORELEASER := github.com/goreleaser/goreleaser/v2@v2.15.1
CYCLONEDX  := github.com/CycloneDX/cyclonedx-gomod/cmd/cyclonedx-gomod@v1.10.0
TOOLS      := $(CURDIR)/.cache/$(notdir $(CYCLONEDX))
EPOCH      := $(or $(SOURCE_DATE_EPOCH),$(shell git log -1 --format=%ct 2>/dev/null || echo 0))
HOSTGO     := env -u GOOS -u GOARCH $(GO)
DISTDIR    ?= dist
PARTS      := .cache/parts

# An SBOM contains the checksums of the tool that made it, so the tool is built the same way everywhere.
$(TOOLS)/cyclonedx-gomod:
	CGO_ENABLED=0 GOFLAGS= GOBIN=$(TOOLS) $(HOSTGO) install -trimpath $(CYCLONEDX)

.PHONY: sbom
sbom: all $(TOOLS)/cyclonedx-gomod ## write the SBOM of each program, as CycloneDX, to dist/
	@set -e; mkdir -p dist; for p in $(PROGRAMS); do \
		$(TOOLS)/cyclonedx-gomod bin -json -noserial -notimestamp -std -version v$(VERSION) -output dist/$$p.cdx.json $$p; echo dist/$$p.cdx.json; done

.PHONY: dist
dist: $(TOOLS)/cyclonedx-gomod ## build packages for amd64 and arm64, SBOMs and checksums
	rm -rf $(PARTS); mkdir -p $(PARTS)/sbom/amd64 $(PARTS)/sbom/arm64 $(DISTDIR)
	@$(MAKE) --silent install-files DESTDIR=$(PARTS) PREFIX=/usr GOARCH=amd64 >/dev/null
	gzip -9nf $(PARTS)/usr/share/man/man*/*
	@set -e; { for arch in amd64 arm64; do \
		GOOS=linux GOARCH=$$arch CGO_ENABLED=0 $(GO) list -deps -f '{{with .Module}}{{if not .Main}}{{.Path}} {{.Version}} {{.Dir}}{{end}}{{end}}' $(PROGRAMS:%=./cmd/%); \
		done; echo std $$($(GO) env GOVERSION GOROOT); } | LC_ALL=C sort -u | grep . >$(PARTS)/modules; \
	$(HOSTGO) run ./cmd/internal/dist <$(PARTS)/modules >$(PARTS)/usr/share/doc/$(PACKAGE)/THIRD-PARTY-LICENSES
	PATH=$(TOOLS):$$PATH VERSION=$(VERSION) COMMIT=$(COMMIT) SOURCE_DATE_EPOCH=$(EPOCH) MTIME=$$(date -u -d @$(EPOCH) +%FT%TZ) \
		$(HOSTGO) run $(GORELEASER) release --snapshot --clean --skip=publish
	cp .cache/release/SHA256SUMS .cache/release/$(PACKAGE)[-_]* $(DISTDIR) && cat $(DISTDIR)/SHA256SUMS

.PHONY: dist-reproducible
dist-reproducible: dist ## check that packages built elsewhere are identical
	@set -e; there=.cache/dist-reproducible/another/place; rm -rf .cache/dist-reproducible; mkdir -p $$there; \
	git ls-files -coz --exclude-standard | tar -c --null -T - --ignore-failed-read | tar -x -C $$there; \
	(umask 077; cd $$there; TZ=Asia/Tokyo SOURCE_DATE_EPOCH=$(EPOCH) $(MAKE) COMMIT=$(COMMIT) dist >/dev/null); \
	cmp $(DISTDIR)/SHA256SUMS $$there/dist/SHA256SUMS; rm -rf .cache/dist-reproducible

.PHONY: vuln
vuln: ## find known vulnerabilities (govulncheck; needs the network)
	$(GO) run golang.org/x/vuln/cmd/govulncheck@v1.9.0 ./...

.PHONY: clean
clean: ## remove everything that was built
	rm -rf $(PROGRAMS) .cache dist
