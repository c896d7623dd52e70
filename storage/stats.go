// SPDX-License-Identifier: Apache-2.0

package storage

import (
	"cmp"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"github.com/tenon-storage/tenon/primitives"
)

// CallStats counts the calls of one kind that ended in one way.
type CallStats struct {
	Op    string          // "clone", "read-at", …
	Code  primitives.Code // 0: success
	Count uint64
	Total time.Duration // waiting for locks included
	Max   time.Duration
}

type statsKey struct {
	op   string
	code primitives.Code
}

type stats struct {
	mu    sync.Mutex // guards calls
	calls map[statsKey]*CallStats
}

func (s *stats) record(op string, err error, took time.Duration) {
	key := statsKey{op, primitives.CodeOf(err)}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.calls == nil {
		s.calls = make(map[statsKey]*CallStats)
	}
	c := s.calls[key]
	if c == nil {
		c = &CallStats{Op: op, Code: key.code}
		s.calls[key] = c
	}
	c.Count++
	c.Total += took
	c.Max = max(c.Max, took)
}

func (s *stats) all() []CallStats {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]CallStats, 0, len(s.calls))
	for _, c := range s.calls {
		out = append(out, *c)
	}
	slices.SortFunc(out, func(a, b CallStats) int {
		return cmp.Or(cmp.Compare(a.Op, b.Op), cmp.Compare(a.Code, b.Code))
	})
	return out
}

func stack() []byte { return debug.Stack() }
