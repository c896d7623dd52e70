// SPDX-License-Identifier: Apache-2.0

// Command tenonctl asks tenond for things and shows what it answers. It knows the
// API and nothing else of tenon.
package main

import (
	"os"

	"github.com/tenon-storage/tenon/cmd/tenonctl/cli"
)

func main() { os.Exit(cli.Main()) }
