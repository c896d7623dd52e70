// SPDX-License-Identifier: Apache-2.0

package move

import (
	"time"

	"github.com/tenon-storage/tenon/hypervisor"
)

// outrunRounds is how many looks in a row may find no less left to copy than the
// best before, until the copy is made to converge.
const outrunRounds = 10

// pace follows one copy by what its status shows.
type pace struct {
	seen      bool
	done      int64     // at the last look
	least     int64     // that was ever left
	rounds    int       // looks since then
	converged bool      // it was asked to
	moved     time.Time // when it last showed any progress
}

// step is what a look at a copy calls for.
type step uint8

const (
	wait     step = iota // look again
	converge             // the guest outruns it
	stuck                // nothing moves any more
)

// look takes in a status of a copy that runs, and says what to do.
func (p *pace) look(st hypervisor.MoveStatus, now time.Time, stall time.Duration) step {
	if !p.seen || st.Done != p.done {
		p.moved = now
	}
	left := st.Total - st.Done
	if !p.seen || left < p.least {
		p.least, p.rounds = left, 0
	} else if st.Done != p.done {
		p.rounds++ // it copies, and gets no nearer
	}
	p.seen, p.done = true, st.Done
	switch {
	case now.Sub(p.moved) > stall:
		return stuck
	case !p.converged && p.rounds >= outrunRounds:
		p.converged, p.least, p.rounds = true, st.Total, 0
		return converge
	}
	return wait
}
