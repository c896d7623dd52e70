#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# Everything that a change must pass, the quick things first. Stops at the first step that fails and names it.
set -eu
cd "$(dirname "$0")/.."

tags=libvirt_dlopen
start=$(date +%s)

# step NAME COMMAND...: run one step between two lines that say what it is and how long it took
step() {
    name=$1
    shift
    began=$(date +%s)
    echo "== $name"
    if ! "$@"; then
        echo "== $name: FAILED after $(($(date +%s) - began)) s; the command was: $*" >&2
        exit 1
    fi
    echo "== $name: $(($(date +%s) - began)) s"
}

step "packages" test/install-packages.sh
step "architecture" go test .
step "vet" go vet -tags "$tags" ./...
step "build" make --no-print-directory build
step "lint and generated code" make --no-print-directory lint
# The protocol has no goroutines: without the race detector its schedules are ten times as many in the same time.
step "a million schedules of maintenance" go test ./primitives/maintenance
step "tests with the race detector" make --no-print-directory test FLAGS=-race
step "demo" make --no-print-directory demo
echo "check: all good after $(($(date +%s) - start)) s"
