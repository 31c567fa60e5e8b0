# Needs Go, Node.js with npm, git and make; `make help` lists the targets.
# Tests that need more (redis-server, redis-sentinel, haproxy, chromium, promtool) are
# skipped where it is missing, and fail there when CI is set.

GOLANGCI_LINT_VERSION := v2.15.0

# The name says the version: a new one is built by the next `make lint`.
GOLANGCI_LINT := bin/golangci-lint-$(GOLANGCI_LINT_VERSION)

# What npm delivers, and the browser module. All come from one build; one of them stands for it.
ASSETS := web/dist/client.js

UNIT    := ./api/... ./client/... ./cmd/... ./deploy/... ./internal/... ./templates/... ./web/... ./test/contract/... ./test/gotest/...
SYSTEM  := ./test/system/... ./test/deploy/... ./test/drill/... ./test/chaos/...

# A bound for each package: what hangs says where.
GOTEST  := go run ./test/gotest -timeout 12m
SKIPPED := bin/skipped
export GOTEST_SKIPPED

.DEFAULT_GOAL := help

.PHONY: help
help: ## list the targets
	@awk 'BEGIN { FS = ":.*## " } /^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: run
run: build ## serve on http://localhost:8080 with the embedded store (flags go into ARGS, such as ARGS="-listen :8081")
	@exec ./bin/server $(ARGS)

.PHONY: build
build: assets ## build bin/server, with the browser assets in it
	CGO_ENABLED=0 go build -trimpath -o bin/server ./cmd/server

.PHONY: assets
assets: $(ASSETS) ## install the browser assets of web/package-lock.json

$(ASSETS): web/package.json web/package-lock.json web/.npmrc web/build.mjs web/presence/presence.js
	@command -v npm >/dev/null || { echo "make: npm is missing: please install Node.js (https://nodejs.org)" >&2; exit 1; }
	cd web && npm ci --ignore-scripts --no-audit --no-fund && npm run --silent build

.PHONY: test
test: export GOTEST_SKIPPED := $(SKIPPED)
test: ## all tests: vet, unit, simulator, browser, system (CI also runs `make lint`)
	@mkdir -p bin && rm -f $(SKIPPED)
	@failed=; for part in assets vet test-unit test-sim test-browser test-system; do \
		echo "=== $$part"; begin=$$(date +%s); \
		$(MAKE) --no-print-directory $$part || failed="$$failed $$part"; \
		echo "=== $$part: $$(( $$(date +%s) - begin )) s"; \
	done; \
	if [ -s $(SKIPPED) ]; then echo "Not everything was tested here:"; cat $(SKIPPED); fi; \
	if [ -n "$$failed" ]; then echo "FAILED:$$failed"; exit 1; fi; \
	echo "All tests passed."

# The race detector watches our code and what it uses, but not the Lua interpreter of the
# in-memory Redis: that runs under one lock, and watching it takes a third of the time. (Only
# a package without generic code may be left out: the linker merges its instances with ours.)
RACE := -race -gcflags='github.com/yuin/gopher-lua/...=-race=false'

# Packages run side by side, each with one processor: with several, timers of a bubble let
# the race detector break the process now and then (https://go.dev/issue/78156).
RACE += -cpu 1

.PHONY: test-unit
test-unit: assets ## packages one by one, with the race detector
	$(GOTEST) $(RACE) -shuffle=on $(UNIT)

.PHONY: test-sim
test-sim: assets ## a thousand seeds of the simulator, without the race detector
	$(GOTEST) -count=1 ./internal/sim

# These tests wait more than they work.
PARALLEL := -parallel 4

.PHONY: test-browser
test-browser: assets ## pages in a real browser (needs chromium)
	$(GOTEST) -count=1 $(PARALLEL) ./test/browser/...

.PHONY: test-system
test-system: assets ## several replicas on a real Redis behind a real balancer (needs redis-server, haproxy, promtool)
	$(GOTEST) -count=1 -p 1 $(PARALLEL) $(SYSTEM)

.PHONY: cluster
cluster: assets ## three replicas behind HAProxy on this machine, without Docker (flags go into ARGS, such as ARGS="-replicas 5")
	go run ./cmd/cluster $(ARGS)

.PHONY: drill
drill: assets ## kill a replica under load and watch what people see, with a stopwatch
	go test -count=1 -v -run TestDrill ./test/drill

.PHONY: chaos
chaos: assets ## ten minutes of random trouble (PRESENCE_CHAOS=1h for longer, PRESENCE_CHAOS_SEED=7 for the same again, CLUSTER=1 on a Redis Cluster)
	PRESENCE_CHAOS_CLUSTER=$(CLUSTER) PRESENCE_CHAOS=$${PRESENCE_CHAOS:-10m} go test -count=1 -v -timeout 24h -run TestChaos ./test/chaos

.PHONY: vet
vet: ## go vet
	go vet ./...

.PHONY: lint
lint: $(GOLANGCI_LINT) ## golangci-lint, go vet, go fix and go.mod
	$(GOLANGCI_LINT) run
	go vet ./...
	go fix -diff ./...
	go mod tidy -diff

$(GOLANGCI_LINT):
	@echo "building golangci-lint $(GOLANGCI_LINT_VERSION), once: takes some minutes"
	@mkdir -p bin/tmp
	GOBIN="$(CURDIR)/bin/tmp" go install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(GOLANGCI_LINT_VERSION)
	@mv bin/tmp/golangci-lint $@ && rmdir bin/tmp

.PHONY: lint-tool
lint-tool: $(GOLANGCI_LINT) ## build golangci-lint into bin

.PHONY: fmt
fmt: $(GOLANGCI_LINT) ## format all Go files
	$(GOLANGCI_LINT) fmt

.PHONY: pictures
pictures: assets ## take the pictures of the documentation and of shared links anew (needs chromium)
	go test -count=1 -v -run 'TestScreenshots|TestMovie' ./test/browser -screenshots

FUZZTIME := 20s

.PHONY: fuzz
fuzz: ## run each fuzz target for 20 s (FUZZTIME=5m for longer)
	@grep -rE --include='*_test.go' '^func Fuzz[A-Za-z0-9_]*\(' cmd internal templates web \
	| sed -E 's/^(.*)\/[^/]*_test\.go:func (Fuzz[A-Za-z0-9_]*)\(.*/\1 \2/' | sort \
	| while read -r dir target; do \
		echo "$$dir: $$target"; \
		go test -run='^$$' -fuzz="^$$target\$$" -fuzztime=$(FUZZTIME) "./$$dir" || exit 1; \
	done

.PHONY: bench
bench: assets ## measure beside others, in 25 minutes (needs redis-server; ARGS="-row joins,sweep -quick -doc")
	@mkdir -p test/bench/out
	go test -c -o test/bench/out/bench ./test/bench
	cd test/bench && ./out/bench -test.run '^TestBench$$' -test.timeout 1h -row all $(ARGS)

.PHONY: bench-doc
bench-doc: ## write docs/performance.md from what the last `make bench` has measured
	go test -count=1 -run '^TestBench$$' ./test/bench -args -doc

SIMSEED := 1
SIMRUNS := 100000

.PHONY: sim
sim: assets ## many seeds of the simulator (SIMSEED=1 is the first, SIMRUNS=100000 how many)
	PRESENCE_SIM_SEED=$(SIMSEED) PRESENCE_SIM_RUNS=$(SIMRUNS) go test -count=1 -v -timeout 24h -run TestSeeds ./internal/sim

.PHONY: clean
clean: ## remove what was built or installed here
	rm -rf bin web/node_modules test/shots test/bench/out
	find web/dist -mindepth 1 ! -name .gitkeep -delete
