#!/bin/sh
# The whole life of an image on this machine: two versions baked and proved,
# promoted, rolled out without a lost request, and rolled back.
# Run it from the repository: sh examples/quickstart/tour.sh
set -eu
cd "$(dirname "$0")/../.."

bin=$(mktemp -d)/ingot
go build -o "$bin" ./cmd/ingot
trap '"$bin" rollout stop web >/dev/null 2>&1 || true; rm -rf "$(dirname "$bin")"' EXIT
say() { printf '\n$ %s\n' "$*"; }
ingot() { say ingot "$@"; "$bin" "$@"; }

ingot build examples/quickstart
one=$("$bin" show -json web | sed -n 's/^ *"number": \([0-9]*\).*/v\1/p' | head -n 1)
ingot promote -reason "first release" "web@$one" production
ingot rollout web
say curl http://127.0.0.1:8808/
curl -fsS http://127.0.0.1:8808/

ingot build -var "greeting=Hello from version 2" examples/quickstart
two=$("$bin" show -json web | sed -n 's/^ *"number": \([0-9]*\).*/v\1/p' | head -n 1)
ingot promote -reason "new greeting" "web@$two" production
ingot rollout web
say curl http://127.0.0.1:8808/
curl -fsS http://127.0.0.1:8808/

ingot rollout status
ingot rollout back
say curl http://127.0.0.1:8808/
curl -fsS http://127.0.0.1:8808/

ingot images
ingot history web
