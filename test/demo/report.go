// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"io"
	"time"
)

// report runs the demo's steps and says of each how long it took and what it
// proved. The first failure ends the demo.
type report struct {
	out    io.Writer
	began  time.Time
	proved int
	failed error
}

// chapter prints a heading.
func (r *report) chapter(text string) {
	if r.failed == nil {
		fmt.Fprintf(r.out, "\n%s\n", text)
	}
}

// step runs do, whose answer is what was proved by it. After a failure nothing
// runs any more.
func (r *report) step(ctx context.Context, name string, do func(context.Context) (string, error)) {
	if r.failed != nil {
		return
	}
	start := time.Now()
	proof, err := do(ctx)
	took, at := time.Since(start), time.Since(r.began)
	if err != nil {
		r.failed = fmt.Errorf("%s: %w", name, err)
		fmt.Fprintf(r.out, "%6.1fs  FAIL  %-50s %6.2fs\n               %v\n", at.Seconds(), name, took.Seconds(), err)
		return
	}
	r.proved++
	fmt.Fprintf(r.out, "%6.1fs  ok    %-50s %6.2fs\n", at.Seconds(), name, took.Seconds())
	if proof != "" {
		fmt.Fprintf(r.out, "               %s\n", proof)
	}
}

// summary prints the last lines.
func (r *report) summary() {
	took := time.Since(r.began).Seconds()
	if r.failed != nil {
		fmt.Fprintf(r.out, "\nThe demo FAILED after %d steps and %.1f s: %v\n", r.proved, took, r.failed)
		return
	}
	fmt.Fprintf(r.out, "\nAll %d steps did what they promise, in %.1f s.\n", r.proved, took)
}
