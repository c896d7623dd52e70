// SPDX-License-Identifier: Apache-2.0

package storagetest

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Cases is how many cases the storage contract's list has; each is in a check or
// in NotHere.
const Cases = 104

// NotHere says why a case, or the named part of one, is in no check.
var NotHere = map[int]string{
	47:  "in part: what lies in extents that were given back cannot be read through the contract; a new volume can, and is",
	61:  "in part: the guest's own rescan belongs to the hypervisor's suite",
	62:  "in part: a call is cut short by its context and by a crash after it, not inside the backend",
	86:  "in part: the death of the server process is the export's, in the agent's tests",
	87:  "a mapping has no serial; the disk's serial belongs to the hypervisor's suite",
	88:  "needs a backend of 4 KiB blocks; that every mapping states sound block sizes is checked with each map",
	95:  "the contract has no call that changes properties; storage.Device and the agent check such a change before they reopen",
	96:  "as 95: a missing key can only mean something in a change",
	103: "is this suite, run once more with Store.Open; the suite's own test shows that a wrapper skips the same checks",
}

// CasesChecked returns the numbers of the cases that are in a check, in order.
func CasesChecked() []int {
	var all []int
	for _, k := range checks() {
		if k.topic == "" {
			all = append(all, k.cases...)
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}

func notHereList() string {
	var b strings.Builder
	for _, n := range slices.Sorted(maps.Keys(NotHere)) {
		fmt.Fprintf(&b, "\n  %03d %s", n, NotHere[n])
	}
	return b.String()
}
