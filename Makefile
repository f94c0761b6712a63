# `make` lists what there is. What a target needs beyond Go, `make test` installs (see .ci/setup).
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help run build test check lint fuzz soak bench conformance

VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
PKG ?= ./...
FUZZTIME ?= 30s
BENCH ?= .
KILLS ?= 1000
SEED ?= 0
export PKG FUZZTIME

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: ## run the server from source, with its data in ./data
	go run ./server

build: ## build bin/embercast, a static binary
	CGO_ENABLED=0 go build -trimpath -ldflags '-X main.version=$(VERSION)' -o bin/embercast ./server

test: ## run every test, installing what they need; PKG=./realtime/... restricts the packages
	@.ci/test

check: ## run the formatters, linters and unit tests: quick, no clients, no browser; takes PKG
	@.ci/test format lint unit

lint: ## check the formatting and run the linters; takes PKG
	@.ci/test format lint

conformance: ## write docs/conformance.md from what the last make test has shown
	@go run ./docs/conformance -write docs/conformance.md bin/tests.json

fuzz: ## run every fuzz target for FUZZTIME (30s) each; takes PKG
	@.ci/fuzz

soak: ## kill the server KILLS (1000) times on each store, while clients publish and subscribe; SEED repeats a plan
	@go test -race -count=1 -timeout 6h -v -run '^TestNothingAcknowledgedIsLost' ./server/e2e -crash.rounds $(KILLS) -crash.seed $(SEED)

bench: ## run the benchmarks BENCH (.) of PKG ten times, for benchstat
	@go test -run '^$$' -bench '$(BENCH)' -benchmem -count 10 $(PKG)
