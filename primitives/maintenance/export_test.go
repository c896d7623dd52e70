// SPDX-License-Identifier: Apache-2.0

package maintenance

// Flaw is a rule that a machine leaves out.
type Flaw = flaw

// The rules, for tests.
const (
	FollowsAnyStamp     = followsAnyStamp
	CountsStaleAnswers  = countsStaleAnswers
	IgnoresObjections   = ignoresObjections
	ForcesUnasked       = forcesUnasked
	ForcesUnaudited     = forcesUnaudited
	UnfencesOnRestart   = unfencesOnRestart
	CountsStaleReports  = countsStaleReports
	CountsOldBoots      = countsOldBoots
	IgnoresDigest       = ignoresDigest
	FencesOverObjection = fencesOverObjection
	SkipsFencing        = skipsFencing
	KeepsGrants         = keepsGrants
	RepeatsNothing      = repeatsNothing
	CancelsInPlace      = cancelsInPlace
)

// Break has h leave out rules.
func (h *Host) Break(f Flaw) { h.flaw = f }

// Break has m leave out rules.
func (m *Management) Break(f Flaw) { m.flaw = f }

// LoseMemory is what a crash of management does: all that is not durable is gone.
func (m *Management) LoseMemory() {
	m.resend = 0
	for i := range m.Members {
		m.Members[i].Ack, m.Members[i].Last, m.Members[i].Quiet = Ack{}, nil, 0
	}
}

// Covered says whether a host is as good as fenced.
func (m *Management) Covered(host string) bool {
	at, found := m.member(host)
	return !found || m.covered(&m.Members[at])
}
