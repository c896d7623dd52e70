#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# Prints the folder that holds the tools of tools.mod, and builds them if it is not there yet.
#
# Building takes some minutes (golangci-lint and buf are large), so the programs are kept outside of the tree, under a key made
# of tools.mod, tools.sum and Go's version: a clean tree, a second work tree and the next CI run start with them at once. Each
# tool's source is pinned with its digest, and nothing but Go is needed to build it.
set -eu
cd "$(dirname "$0")/.."

key=$({ go version && cat tools.mod tools.sum; } | sha256sum | cut -c 1-16)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/tenon/tools
folder=$cache/$key

if [ ! -d "$folder" ]; then
    echo "tools: building golangci-lint, buf and the protoc plugins into $folder, which takes some minutes" >&2
    mkdir -p "$cache"
    draft=$(mktemp -d "$cache/.draft-XXXXXX")
    trap 'rm -rf "$draft"' EXIT
    CGO_ENABLED=0 GOFLAGS= go build -modfile=tools.mod -trimpath -o "$draft/" tool >&2
    chmod 755 "$draft"
    # Another run may have been faster; its result is as good.
    mv -T "$draft" "$folder" 2>/dev/null || [ -d "$folder" ]
fi
echo "$folder"
