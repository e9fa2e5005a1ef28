# rtm: each target explains itself in `make help`.

GO    ?= go
export CGO_ENABLED = 0
SEEDS ?= 3000
FROM  ?= 1
FOR   ?= 1h
ROUNDS ?= 20
RATE ?= 150
SESSIONS ?= 1000000
RACE  ?= . ./store/... ./diameter/peer/... ./front ./cdr/... ./api/... ./ctf/... ./replay/...
FUZZTIME ?= 10m
FUZZERS ?= 2

.PHONY: help build check test install race bench demo demo-redis redis-sentinel redis-cluster sim-test fault-test soak fuzz guard scale scaling generate clean

help: ## show this help
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  %-14s %s\n", $$1, $$2}' Makefile

build: ## build bin/rtm
	$(GO) build -trimpath -o bin/rtm ./cmd/rtm

demo: build ## a minute of it: instances come and go, every cent is accounted for
	bin/rtm demo

demo-redis: build install ## the same in processes on a redis-server, one of them killed with -9
	bin/rtm demo --redis

redis-sentinel: install ## a master, two replicas and three Sentinels on loopback until Ctrl-C (PORT=6391)
	@scripts/redis.sh sentinel $(PORT)

redis-cluster: install ## three masters and six replicas on loopback until Ctrl-C (PORT=6401)
	@scripts/redis.sh cluster $(PORT)

install: ## install what the tests need (Debian, Ubuntu)
	@scripts/install.sh

check: ## the fast round before a commit: gofmt, vet, staticcheck, tests without race
	@test -z "$$(gofmt -l $$(git ls-files '*.go'))" || { gofmt -l $$(git ls-files '*.go'); echo "run gofmt -w on these"; exit 1; }
	$(GO) vet ./...
	$(GO) tool -modfile=tools/go.mod staticcheck ./...
	$(GO) test -timeout 25m ./...

race: ## tests with the race detector, where goroutines are
	CGO_ENABLED=1 $(GO) test -timeout 25m -race $(RACE)
	CGO_ENABLED=1 $(GO) test -timeout 25m -race ./backup -skip 'Damaged|Interrupted|Dies|ServersFail' # those take three times as long as the rest

test: install ## exactly what CI runs: install what is missing, check, race
	$(MAKE) check
	$(MAKE) race

sim-test: ## simulate SEEDS worlds from FROM on (default 3000 from 1), and find each planted mistake
	$(GO) test ./rtmtest -run 'TestSeed|TestPlantedBugsAreFound' -count=1 -v -timeout 0 -args -seeds $(SEEDS) -from $(FROM)

fault-test: install ## the long form of the tests with faults and timers, ROUNDS (default 20) at RATE sessions a second (default 150); hours
	RTM_FAULTS=long $(GO) test ./store/embed -run 'Power|Killed|Failing' -count=1 -v -timeout 20m
	RTM_FAULTS=long $(GO) test . -run 'TerminationsRaceTimers' -count=1 -v -timeout 20m
	RTM_FAULTS=long RTM_FAULT_ROUNDS=$(ROUNDS) RTM_FAULT_RATE=$(RATE) $(GO) test ./cmd/rtm -run 'Kill|Shared|Fault|Timers' -count=1 -v -timeout 300m
	RTM_FAULT_ROUNDS=$(ROUNDS) RTM_FAULT_RATE=$(RATE) $(GO) test ./cmd/rtm -run '^$$' -bench '^BenchmarkFault' -benchtime 1x -timeout 60m

soak: ## simulate worlds from FROM on until one fails, or for FOR (default 1h)
	$(GO) test ./rtmtest -run TestSeed -count=1 -v -timeout 0 -args -from $(FROM) -for $(FOR)

fuzz: ## every fuzz target for FUZZTIME (default 10m), one after the other; what fails is kept in testdata/fuzz
	@grep -roE --include='*_test.go' '^func Fuzz[A-Za-z]*' . | sort | sed 's/:func / /' | while read -r file name; do \
		dir=$$(dirname $$file); \
		echo "$$dir $$name"; \
		$(GO) test $$dir -run '^$$' -fuzz "^$$name$$" -fuzztime $(FUZZTIME) -parallel $(FUZZERS) || exit 1; \
	done

guard: ## a good peer beside a storm at five times what can be done, and beside hostile peers; about a minute
	$(GO) test ./cmd/rtm -run '^$$' -bench '^BenchmarkGuard$$' -benchtime 1x -timeout 15m

bench: ## benchmarks: ns and allocations of each step
	$(GO) test -run '^$$' -bench . -skip '^Benchmark(Scale|Scaling|Timers|Guard|Fault.*)$$' -benchmem ./...

scale: install ## a million open sessions on Redis and embedded, timers beside a kill; some 10 minutes, 4 GB
	RTM_SCALE=$(SESSIONS) $(GO) test ./cmd/rtm -run '^$$' -bench '^Benchmark(Scale|Timers)$$' -benchtime 1x -timeout 40m

scaling: install ## 1, 2 and 4 instances with equal shares of the processor (as root); some 3 minutes
	$(GO) test ./cmd/rtm -run '^$$' -bench '^BenchmarkScaling$$' -benchtime 1x -timeout 15m

generate: ## generated code again
	$(GO) generate ./...

clean: ## remove what make made
	rm -rf bin
