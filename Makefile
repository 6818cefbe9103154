.PHONY: build test race lint generate bench ci

build:
	CGO_ENABLED=0 go build -trimpath -o bin/ingot ./cmd/ingot

test:
	go test -timeout 30m ./...

race:
	go test -race ./...

lint:
	@test -z "$$(gofmt -l $$(git ls-files '*.go'))" || { gofmt -l $$(git ls-files '*.go'); exit 1; }
	go vet ./...
	go run honnef.co/go/tools/cmd/staticcheck@v0.8.2 ./...

generate:
	go generate ./cmd/ingot ./specs

bench:
	go test -run '^$$' -bench . -benchtime 3x ./...

ci:
	CI=true .ci/run
