// SPDX-License-Identifier: Apache-2.0

package storagetest

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/tenon-storage/tenon/primitives"
)

// must ends the check when a call that has to succeed did not.
func (c *C) must(err error, format string, args ...any) {
	c.Helper()
	if err != nil {
		c.Fatalf("%s = %v, want success", fmt.Sprintf(format, args...), err)
	}
}

// refused reports a call that succeeded or that failed otherwise than with one
// of the codes.
func (c *C) refused(err error, what string, codes ...primitives.Code) {
	c.Helper()
	_ = c.refusal(err, what, codes...)
}

// refusal is refused for those who look into the error.
func (c *C) refusal(err error, what string, codes ...primitives.Code) *primitives.Error {
	c.Helper()
	if err == nil {
		c.Errorf("%s succeeded, want %v", what, codes)
		return &primitives.Error{}
	}
	e, typed := errors.AsType[*primitives.Error](err)
	if !typed || e.Code == 0 {
		c.Errorf("%s = %v, an error without a code; want %v", what, err, codes)
		return &primitives.Error{}
	}
	if !slices.Contains(codes, e.Code) {
		c.Errorf("%s = %v (code %v), want code %v", what, err, e.Code, codes)
	}
	return e
}

// allowed reports an error that is not one of the codes; success is fine. It
// returns whether the call succeeded.
func (c *C) allowed(err error, what string, codes ...primitives.Code) bool {
	c.Helper()
	if err == nil {
		return true
	}
	c.refused(err, what, codes...)
	return false
}

// blocked checks that e names a blocker.
func (c *C) blocked(e *primitives.Error, name string) {
	c.Helper()
	for _, b := range e.Blocked {
		if strings.Contains(b.Name, name) {
			return
		}
	}
	c.Errorf("blockers = %v, want one that names %q", e.Blocked, name)
}

// same reports two values that differ.
func (c *C) same(got, want any, what string) {
	c.Helper()
	if d := cmp.Diff(want, got); d != "" {
		c.Errorf("%s differs (-want +got):\n%s", what, d)
	}
}

// identity is the part of an object that a repeated call must give again.
type identity struct {
	URI    primitives.URI
	Handle primitives.Handle
	Kind   primitives.Kind
	State  primitives.State
	Size   int64
	Format primitives.Format
}

func identityOf(o primitives.Object) identity {
	return identity{o.URI, o.Handle, o.Kind, o.State, o.Size, o.Format}
}

func identities(all []primitives.Object) []identity {
	ids := make([]identity, len(all))
	for i, o := range all {
		ids[i] = identityOf(o)
	}
	return ids
}

// repeats checks that a call and its repeat gave the same object.
func (c *C) repeats(again, first primitives.Object, what string) {
	c.Helper()
	c.same(identityOf(again), identityOf(first), what+", repeated,")
}

// sound checks what holds for every object.
func (c *C) sound(o primitives.Object) {
	c.Helper()
	switch {
	case o.Handle == "":
		c.Errorf("%v has no handle", o.URI)
	case o.Kind == 0 || o.State == 0:
		c.Errorf("%v is of kind %d and state %d, want both set", o.URI, o.Kind, o.State)
	case o.Kind != primitives.KindTombstone && o.Format == "":
		c.Errorf("%v has no format", o.URI)
	case o.Used < -1:
		c.Errorf("%v uses %d bytes, want -1 or more", o.URI, o.Used)
	}
}

// together runs every f at once and waits for all. A panic of one fails the check.
func (c *C) together(fs ...func()) {
	c.Helper()
	var wg sync.WaitGroup
	start := make(chan struct{})
	for _, f := range fs {
		wg.Go(func() {
			defer func() {
				if r := recover(); r != nil {
					c.Errorf("panic in a concurrent call: %v", r)
				}
			}()
			<-start
			f()
		})
	}
	close(start)
	wg.Wait()
}

// waits polls until ok, for what a backend does a moment later.
func (c *C) waits(what string, ok func() bool) {
	c.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-c.ctx.Done():
			c.Fatalf("%s did not happen", what)
		}
	}
}
