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
all: $(PROGRAMS:%=cmd-%) ## build both programs into this folder

cmd-%:
	$(BUILD) -o $* ./cmd/$*

docker-cmd-%: ## the same, built in a container: needs only make and docker
	DOCKER_BUILDKIT=1 docker build --build-arg VERSION=$(VERSION) --build-arg COMMIT=$(COMMIT) \
		--build-arg PROGRAM=$* --output type=local,dest=. .

.PHONY: demo
demo: all ## start a container through the shim, on this machine's GPUs or on a machine from a text archive
	./nvsysfs demo

.PHONY: test
test: ## all tests; those that need root, runc, crun or gcc say so when they are skipped
	$(GO) test ./...

.PHONY: race
race:
	$(GO) test -race -short ./...

.PHONY: lint
lint: ## gofmt, vet and golangci-lint, as in CI
	test -z "$$(gofmt -l .)" || { gofmt -d . ; exit 1; }
	$(GO) vet ./...
	GOOS=linux GOARCH=arm64 $(GO) vet ./...
	$(GO) run $(GOLANGCI) run ./...

.PHONY: fuzz
fuzz: ## each fuzz target for FUZZTIME
	@set -e; for pkg in $$($(GO) list ./...); do \
		for target in $$($(GO) test -list '^Fuzz' $$pkg | grep '^Fuzz' || true); do \
			echo "== $$pkg $$target"; \
			$(GO) test -run '^$$' -fuzz "^$$target$$" -fuzztime $(FUZZTIME) $$pkg; \
		done; \
	done

.PHONY: bench
bench: ## each benchmark, with allocations
	$(GO) test -run '^$$' -bench . -benchmem ./...

.PHONY: check-static
check-static: ## both programs, for amd64 and arm64, are static
	@set -e; for arch in amd64 arm64; do for p in $(PROGRAMS); do \
		GOARCH=$$arch $(BUILD) -o .cache/$$p-$$arch ./cmd/$$p; \
		if readelf -d .cache/$$p-$$arch | grep -q 'Dynamic section'; then echo "$$p for $$arch is not static"; exit 1; fi; \
		if readelf -l .cache/$$p-$$arch | grep -q INTERP; then echo "$$p for $$arch wants a loader"; exit 1; fi; \
		echo "$$p $$arch: static, $$(stat -c %s .cache/$$p-$$arch) bytes"; \
	done; done

.PHONY: clean
clean:
	rm -rf $(PROGRAMS) .cache
