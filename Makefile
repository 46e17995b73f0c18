# make demo: build it and try it.  make test: everything that is checked before a change goes in.

GO      ?= go
VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
FUZZTIME ?= 10s

# Pinned, so that a finding comes from a change here and not from there.
STATICCHECK   := honnef.co/go/tools/cmd/staticcheck@v0.8.2
GOLANGCI_LINT := github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0
GOVULNCHECK   := golang.org/x/vuln/cmd/govulncheck@v1.8.0

# The race detector needs a C compiler.
RACE := $(if $(shell command -v $(or $(shell $(GO) env CC),gcc)),-race)

.PHONY: build demo test lint bench bench-peers fuzz packages clean

build:
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags "-s -w -X main.version=$(VERSION)" -o bin/gateway ./cmd/gateway

demo: build
	@command -v php-cgi >/dev/null || \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends php-cgi </dev/null || \
		echo "demo: php-cgi could not be installed; going on with CGI only"; \
	else \
		echo "demo: php-cgi is not installed; going on with CGI only (on Debian: sudo apt-get install php-cgi)"; \
	fi
	bin/gateway demo

test: packages
	$(if $(RACE),,@echo "test: no C compiler, so no race detector")
	@unformatted=$$(gofmt -l .); [ -z "$$unformatted" ] || { echo "not as gofmt has it:"; echo "$$unformatted"; exit 1; }
	$(GO) vet ./...
	$(GO) test $(RACE) -timeout 14m ./...

packages:
	@.ci/packages

lint:
	$(GO) run $(STATICCHECK) ./...
	$(GO) run $(GOLANGCI_LINT) run ./...
	$(GO) run $(GOVULNCHECK) ./...

bench:
	$(GO) run ./bench micro

# Side by side with the web servers that are installed. As root they run as www-data, as they would.
bench-peers: build
	$(GO) run ./bench peers -gateway bin/gateway

# Go fuzzes one target at a time. What it finds goes to the package's testdata/fuzz and is a test from then on.
fuzz:
	@set -e; for package in $$($(GO) list ./...); do \
		for target in $$($(GO) test -list '^Fuzz' $$package | grep '^Fuzz' || :); do \
			echo "$$package $$target"; \
			$(GO) test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) $$package; \
		done; \
	done

clean:
	rm -rf bin
