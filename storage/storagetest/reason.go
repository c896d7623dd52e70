// SPDX-License-Identifier: Apache-2.0

package storagetest

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
)

// ReasonKind is one of the few grounds on which a check may be left out.
type ReasonKind uint8

const (
	NilFacet ReasonKind = iota + 1 // the backend does not offer the calls
	Declared                       // a capability says that it cannot, or need not, be done
	Answered                       // the contract lets a backend say no to this, with a code, and it did
	NoHook                         // the harness cannot do this to the store
)

// Reason says why a check was left out.
type Reason struct {
	Kind ReasonKind
	What string // the facet, the capability with its value, or the hook
}

// String returns the reason in words.
func (r Reason) String() string {
	switch r.Kind {
	case NilFacet:
		return "the facet " + r.What + " is not offered"
	case Declared:
		return "declared: " + r.What
	case Answered:
		return "answered: " + r.What
	case NoHook:
		return "the harness has no " + r.What
	}
	return fmt.Sprintf("reason %d: %s", r.Kind, r.What)
}

// skip leaves the running check out. It is the only way to do so.
func (c *C) skip(r Reason) {
	c.Helper()
	c.left.add(r, c.check, c.v.Name)
	c.Skip(r.String())
}

// leftOut collects what was left out in one run.
type leftOut struct {
	mu     sync.Mutex                     // guards checks
	checks map[Reason]map[string][]string // by check, the variants
}

func (l *leftOut) add(r Reason, check, variant string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.checks == nil {
		l.checks = make(map[Reason]map[string][]string)
	}
	if l.checks[r] == nil {
		l.checks[r] = make(map[string][]string)
	}
	l.checks[r][check] = append(l.checks[r][check], variant)
}

// String lists the reasons in order, each with its checks and their variants.
func (l *leftOut) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var b strings.Builder
	byText := func(x, y Reason) int { return strings.Compare(x.String(), y.String()) }
	for _, r := range slices.SortedFunc(maps.Keys(l.checks), byText) {
		fmt.Fprintf(&b, "\n  %s:", r)
		for _, check := range slices.Sorted(maps.Keys(l.checks[r])) {
			variants := strings.Join(slices.Sorted(slices.Values(l.checks[r][check])), ", ")
			fmt.Fprintf(&b, "\n    %s (%s)", check, variants)
		}
	}
	return b.String()
}
