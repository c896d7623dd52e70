// SPDX-License-Identifier: Apache-2.0

package maintenance

import "time"

// Report tells management all of it. uses are the caller's of now.
func (h *Host) Report(uses []Use) Report {
	r := Report{
		Device: h.Device, Host: h.ID, Boot: h.Boot, AgentStart: h.AgentStart, Seq: h.Seq,
		Seen: h.Order.Stamp, Gate: h.Gate, Phase: h.Phase, Fence: h.Fence,
		Foreign: h.Foreign, Failure: h.Failure, Lapsed: h.Lapsed, Leased: h.Lease.Left > 0,
	}
	if len(uses) > 0 || len(h.Outcomes) > 0 {
		r.Uses = make([]UseReport, 0, max(len(uses), len(h.Outcomes)))
	}
	sum := digest(0)
	for i := range uses {
		u := &uses[i]
		line := UseReport{
			ID: u.ID, Kind: u.Kind, Subject: u.Subject, Domain: u.Domain, Disk: u.Disk,
			Writer: u.Writer, Admitted: u.Admitted, Grant: u.Grant,
		}
		if at, found := h.find(u.ID); found {
			line.follow(&h.Outcomes[at])
		}
		r.Uses = append(r.Uses, line)
		if h.overridden(u.ID) == nil { // who is overruled may go when the fence is due
			sum.use(u.ID, u.Admitted)
		}
	}
	for i := range h.Outcomes {
		o := &h.Outcomes[i]
		if !o.Residue {
			continue
		}
		line := UseReport{ID: o.ID, Kind: o.Kind, Subject: o.Subject, Domain: o.Domain, Disk: o.Disk}
		line.follow(o)
		r.Uses = append(r.Uses, line)
		if h.overridden(o.ID) == nil {
			sum.use(o.ID, Stamp{})
		}
	}
	for _, f := range h.Foreign {
		sum.use(f.Name+"\x00"+f.Path, Stamp{})
	}
	r.UsesDigest = sum.String()
	return r
}

// follow tells how far a use has come.
func (u *UseReport) follow(o *Outcome) {
	u.State, u.How, u.Percent, u.ETA, u.Silent, u.Reason = o.State, o.How, o.Percent, o.ETA, o.Silent, o.Reason
	switch {
	case o.Cut != "":
		u.Action = "cut off"
	case o.Acting && o.Taken:
		u.Action = "take back " + string(o.Step.Action)
	case o.Acting:
		u.Action = string(o.Step.Action)
	}
	u.Silent = u.Silent.Round(time.Millisecond)
}

// A digest is of a set, whatever its order: the sum of its members' hashes.
type digest uint64

func (d *digest) use(id string, admitted Stamp) {
	const prime = 1099511628211 // FNV-1a
	sum := uint64(14695981039346656037)
	for i := range len(id) {
		sum = (sum ^ uint64(id[i])) * prime
	}
	for _, n := range [...]uint64{admitted.Term, admitted.Epoch, uint64(admitted.Rank)} {
		sum = (sum ^ n) * prime
		sum ^= sum >> 29 // stamps are small: spread them
	}
	// A sum of hashes that are nearly linear would let sets meet: mix (splitmix64).
	sum = (sum ^ sum>>30) * 0xbf58476d1ce4e5b9
	sum = (sum ^ sum>>27) * 0x94d049bb133111eb
	*d += digest(sum ^ sum>>31)
}

func (d digest) String() string {
	const digits = "0123456789abcdef"
	var text [16]byte
	for i := range text {
		text[i] = digits[d>>(60-4*i)&15]
	}
	return string(text[:])
}
