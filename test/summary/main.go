// SPDX-License-Identifier: Apache-2.0

// Command summary reads the output of "go test -json" and prints what a person wants to know: each package as it ends,
// the output of what failed, why something was skipped, and last the line "N passed, N failed, N skipped". It exits with 1
// if anything failed or no test ran.
package main

import (
	"fmt"
	"os"
)

func main() {
	counts, err := summarize(os.Stdin, os.Stdout)
	if err != nil {
		fmt.Fprintln(os.Stderr, "summary:", err)
		os.Exit(1)
	}
	if !counts.good() {
		os.Exit(1)
	}
}
