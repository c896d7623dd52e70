// SPDX-License-Identifier: Apache-2.0

// Command cases writes docs/cases.md: each numbered case that tenon is held to, with the tests that show it or the part
// of tenon that brings it. A test shows a case by a comment "// Cases: E20, C3.5" above it, above one of its subtests or
// above a row of its table. Without -write it says what is wrong, and with -owed which cases have no test yet.
package main

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
)

// page is the generated file, below the root of the tree.
const page = "docs/cases.md"

func main() {
	root := flag.String("root", ".", "the root of the source tree")
	write := flag.Bool("write", false, "write "+page)
	owed := flag.Bool("owed", false, "list the cases that have no test yet")
	flag.Parse()
	if err := run(*root, *write, *owed); err != nil {
		fmt.Fprintln(os.Stderr, "cases:", err)
		os.Exit(1)
	}
}

func run(root string, write, owed bool) error {
	book, err := collect(os.DirFS(root))
	if err != nil {
		return err
	}
	for _, wrong := range book.wrong() {
		fmt.Fprintln(os.Stderr, "cases:", wrong)
	}
	for _, c := range book.cases() {
		if owed && len(c.tests) == 0 {
			fmt.Printf("%-6s %-14s %s\n", c.id, c.part, c.title)
		}
	}
	if write {
		return os.WriteFile(filepath.Join(root, page), []byte(book.page()), 0o644)
	}
	text, err := os.ReadFile(filepath.Join(root, page))
	if err != nil {
		return err
	}
	if !slices.Equal(text, []byte(book.page())) {
		return fmt.Errorf("%s is not what the tests say: go run ./test/cases -write", page)
	}
	return nil
}
