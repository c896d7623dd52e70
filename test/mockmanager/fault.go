// SPDX-License-Identifier: Apache-2.0

package mockmanager

import (
	"math/rand/v2"
	"slices"
	"time"
)

// Fault is one thing that befalls messages.
type Fault struct {
	Of    string        `yaml:"of"`    // "orders" go down, "reports" come up
	Do    string        `yaml:"do"`    // "lose", "repeat", "reorder", "delay" or "late"
	Count int           `yaml:"count"` // how many messages it befalls; 0: one. Reorder: how many change places; 0: two
	Times int           `yaml:"times"` // repeat: how often each comes; 0: twice
	By    time.Duration `yaml:"by"`    // delay: for how long
}

// Chaos befalls messages at random, each with a probability of 0 to 1.
type Chaos struct {
	Seed   uint64  `yaml:"seed"`
	Lose   float64 `yaml:"lose"`
	Repeat float64 `yaml:"repeat"`
	Swap   float64 `yaml:"swap"`
}

// verdict is what becomes of a message and of those that were kept.
type verdict[M any] struct {
	now   []M // pass now, in this order
	after time.Duration
	later []M    // pass after that time
	did   string // what befell the message; "" is nothing
}

// channel is one direction of one session, with what befalls it. It is not safe
// for use by several goroutines.
type channel[M any] struct {
	faults []Fault // the first one is at work
	chaos  *rand.Rand
	odds   Chaos
	kept   []M // held back
	first  []M // the first message that ever passed, for "late"
}

// pass decides about one message.
func (c *channel[M]) pass(m M) verdict[M] {
	if len(c.first) == 0 {
		c.first = []M{m}
	}
	if len(c.faults) > 0 {
		return c.fault(m)
	}
	if c.chaos != nil {
		return c.roll(m)
	}
	return verdict[M]{now: []M{m}}
}

// fault lets the first fault have its way.
func (c *channel[M]) fault(m M) verdict[M] {
	f := &c.faults[0]
	v := verdict[M]{did: f.Do}
	switch f.Do {
	case "lose":
	case "repeat":
		v.now = slices.Repeat([]M{m}, max(f.Times, 2))
	case "delay":
		v.later, v.after = []M{m}, f.By
	case "late":
		v.now = append([]M{m}, c.first...)
	case "reorder":
		c.kept = append(c.kept, m)
		if len(c.kept) < max(f.Count, 2) {
			return v
		}
		slices.Reverse(c.kept)
		v.now, c.kept = c.kept, nil
		f.Count = 0
	}
	if f.Count--; f.Count <= 0 {
		c.faults = c.faults[1:]
	}
	return v
}

// roll lets chance have its way.
func (c *channel[M]) roll(m M) verdict[M] {
	var v verdict[M]
	switch p := c.chaos.Float64(); {
	case p < c.odds.Lose:
		v.did = "lose"
	case p < c.odds.Lose+c.odds.Repeat:
		v.did, v.now = "repeat", []M{m, m}
	case p < c.odds.Lose+c.odds.Repeat+c.odds.Swap && len(c.kept) == 0:
		v.did, c.kept = "reorder", []M{m}
		return v
	default:
		v.now = []M{m}
	}
	v.now, c.kept = append(v.now, c.kept...), nil
	return v
}
