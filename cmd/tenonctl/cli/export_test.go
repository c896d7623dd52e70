// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"io"
	"time"
)

// NewLines returns the meter of places that are no terminal.
func NewLines(out io.Writer, now func() time.Time) interface {
	Bytes(what string, done, total int64)
	Away()
} {
	return exportedLines{&lines{out: out, now: now, last: now()}}
}

type exportedLines struct{ *lines }

func (l exportedLines) Bytes(what string, done, total int64) { l.bytes(what, done, total) }
func (l exportedLines) Away()                                { l.away() }
