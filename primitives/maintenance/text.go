// SPDX-License-Identifier: Apache-2.0

package maintenance

import "strconv"

// String returns term, epoch and rank, such as "1.7.2".
func (s Stamp) String() string {
	return strconv.FormatUint(s.Term, 10) + "." + strconv.FormatUint(s.Epoch, 10) + "." + strconv.Itoa(int(s.Rank))
}

// String returns the gate in words.
func (g Gate) String() string { return word(int(g), "unknown", "open", "closed", "fenced") }

// String returns the impact in words.
func (i Impact) String() string { return word(int(i), "none", "io stall", "disconnect", "data loss") }

// String returns the phase in words.
func (p Phase) String() string {
	return word(int(p), "in service", "announced", "preparing", "blocked", "fencing", "in maintenance", "returning", "return failed")
}

// String returns the phase in words.
func (p HostPhase) String() string {
	return word(int(p), "unknown", "open", "noticed", "draining", "drained", "fencing", "fenced", "verifying", "return failed")
}

// String returns the state in words.
func (s UseState) String() string {
	return word(int(s), "notified", "accepted", "working", "ready", "objected", "lost", "rolling back")
}

// String returns what follows in words.
func (o OnDeadline) String() string { return word(int(o), "hold", "escalate", "force") }

func word(i int, words ...string) string {
	if i < len(words) {
		return words[i]
	}
	return "number " + strconv.Itoa(i)
}
