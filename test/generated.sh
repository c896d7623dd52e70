#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# Fails unless the generated files in api/ are what the protocol buffers beside them make. Expects the tools in the path.
set -eu
cd "$(dirname "$0")/.."

fresh=$(mktemp -d)
trap 'rm -rf "$fresh"' EXIT
digests() { find api -name '*.pb.go' | sort | xargs sha256sum; }

buf lint
buf generate -o "$fresh"
(cd "$fresh" && digests) >"$fresh/want"
if ! digests | diff "$fresh/want" - >&2; then
    echo "generated: api/ is not what its .proto files make; run make generate" >&2
    exit 1
fi
