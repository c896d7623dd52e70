// SPDX-License-Identifier: Apache-2.0

package show

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	tenonv1 "github.com/tenon-storage/tenon/api/tenon/v1"
)

// Maintenances lists where devices stand. now is what times count to.
func (s Style) Maintenances(all []*tenonv1.Maintenance, now time.Time) string {
	t := table{header: []string{"DEVICE", "PHASE", "GATE", ">FOR", ">LEFT", ">USES", "NOTE"}}
	for _, m := range all {
		t.add(m.GetDevice(), word(m.GetPhase()), word(m.GetGate()), since(m.GetSinceTime(), now), left(m.GetDeadlineTime(), now),
			fmt.Sprint(len(m.GetUses())), or(firstOf(m)))
	}
	return t.String()
}

// longestNote is what a line of a listing has room for.
const longestNote = 40

// firstOf names one blocker and counts the others.
func firstOf(m *tenonv1.Maintenance) string {
	all := m.GetBlockers()
	if len(all) == 0 || m.GetPhase() == inService {
		return ""
	}
	text := oneLine(blocker(all[0]))
	if u := useOf(m, all[0]); u != nil {
		text = "use " + u.GetId()
	}
	text = cut(text, longestNote)
	if len(all) > 1 {
		text += fmt.Sprintf("; %d more", len(all)-1)
	}
	return text
}

const inService = tenonv1.MaintenancePhase_MAINTENANCE_PHASE_IN_SERVICE

// Maintenance shows where one device stands: first what it waits for, then what
// is wanted of it, then its uses.
func (s Style) Maintenance(m *tenonv1.Maintenance, now time.Time) string {
	var sh sheet
	sh.add("device", m.GetDevice())
	sh.add("phase", word(m.GetPhase())+hereBeside(m))
	sh.add("gate", word(m.GetGate()))
	sh.addList("waits for", obstacles(m))
	sh.addList("found open", strangers(m))
	sh.addIf("failure", oneLine(m.GetFailure()))
	sh.add("since", s.moment(m.GetSinceTime(), now, "ago"))
	if m.GetDeadlineTime() != nil {
		sh.add("deadline", s.deadline(m.GetDeadlineTime(), now))
	}
	for _, in := range m.GetIntents() {
		sh.add("maintenance", in.GetId())
		for _, line := range intent(in) {
			sh.add("", line)
		}
	}
	sh.addIf("fence", fence(m.GetFence()))
	sh.add("managed by", or(m.GetManagedBy()))
	sh.add("in force", stamp(m.GetStamp()))
	if len(m.GetUses()) == 0 {
		return sh.String() + "\nno uses\n"
	}
	return sh.String() + "\n" + uses(m).String()
}

// hereBeside adds where the device stands on this host, where that says more.
func hereBeside(m *tenonv1.Maintenance) string {
	switch m.GetHostPhase() {
	case tenonv1.HostPhase_HOST_PHASE_UNSPECIFIED, tenonv1.HostPhase_HOST_PHASE_OPEN:
		return ""
	}
	if here := word(m.GetHostPhase()); here != word(m.GetPhase()) {
		return " (this host: " + here + ")"
	}
	return ""
}

// obstacles says what keeps a device from its next phase, each with the reason on
// a line of its own where one is known.
func obstacles(m *tenonv1.Maintenance) []string {
	if m.GetPhase() == inService {
		return nil // there is no next one
	}
	var all []string
	for _, b := range m.GetBlockers() {
		u := useOf(m, b)
		if u == nil {
			all = append(all, oneLine(blocker(b)))
			continue
		}
		text := "use " + u.GetId() + " of " + used(u)
		if by := user(u); by != "" {
			text += " by " + by
		}
		all = append(all, text+": "+word(u.GetState()))
		if reason := why(u); reason != "" {
			all = append(all, "  "+reason)
		}
	}
	return all
}

// useOf returns the use that a blocker is. Its name begins with the use's id.
func useOf(m *tenonv1.Maintenance, b *tenonv1.Blocker) *tenonv1.MaintenanceUse {
	id, _, _ := strings.Cut(b.GetName(), " ")
	id = strings.TrimSuffix(id, ":")
	i := slices.IndexFunc(m.GetUses(), func(u *tenonv1.MaintenanceUse) bool { return b.GetKind() == "use" && u.GetId() == id })
	if i < 0 {
		return nil
	}
	return m.GetUses()[i]
}

// strangers says what users that nobody registered have open.
func strangers(m *tenonv1.Maintenance) []string {
	var all []string
	for _, f := range m.GetForeignUses() {
		all = append(all, oneLine(f.GetPath())+" by "+oneLine(f.GetName()))
	}
	return all
}

// use is a use as it is planned or under way.
type use interface {
	GetId() string
	GetKind() string
	GetSubject() string
	GetDomain() string
	GetDisk() string
}

// used is what a use uses. Of an operation it is the kind: its own list tells the
// rest.
func used(u use) string {
	if u.GetKind() == "operation" {
		kind, _, _ := strings.Cut(u.GetSubject(), " ")
		return or(kind)
	}
	return or(oneLine(Short(u.GetSubject())))
}

// user is who uses, with the disk where the use's id does not say it.
func user(u use) string {
	if strings.Contains(u.GetId(), u.GetDisk()) {
		return u.GetDomain()
	}
	return strings.TrimSpace(u.GetDomain() + " " + u.GetDisk())
}

// uses is the table of a device's uses.
func uses(m *tenonv1.Maintenance) *table {
	t := &table{header: []string{"USE", "OF", "BY", "STATE", ">DONE", ">ETA", "NOTE"}}
	for _, u := range m.GetUses() {
		t.add(u.GetId(), used(u), or(user(u)), answer(m, u),
			done(u), span(u.GetEta()), or(note(u)))
	}
	return t
}

// answer is what a use has answered; while nothing is wanted there is none.
func answer(m *tenonv1.Maintenance, u *tenonv1.MaintenanceUse) string {
	if m.GetPhase() == inService && u.GetState() == tenonv1.UseState_USE_STATE_NOTIFIED {
		return absent
	}
	return word(u.GetState())
}

func done(u *tenonv1.MaintenanceUse) string {
	if u.GetState() == tenonv1.UseState_USE_STATE_READY {
		return "100%"
	}
	if u.GetPercent() <= 0 {
		return absent
	}
	return fmt.Sprintf("%d%%", int(u.GetPercent()))
}

// note says in a word or two what is being done about a use, or why not.
func note(u *tenonv1.MaintenanceUse) string {
	switch {
	case u.GetReason() != nil:
		return oneLine(u.GetReason().GetCode())
	case u.GetState() == tenonv1.UseState_USE_STATE_READY && u.GetHow() != tenonv1.ReadyHow_READY_HOW_UNSPECIFIED:
		return word(u.GetHow())
	}
	return oneLine(u.GetAction())
}

// why is a use's reason, "" where it has none.
func why(u *tenonv1.MaintenanceUse) string {
	r := u.GetReason()
	if r == nil {
		return ""
	}
	text := strings.TrimSuffix(strings.TrimPrefix(r.GetCode()+": "+oneLine(r.GetText()), ": "), ": ")
	if r.GetRetryIn() != nil {
		text += " (again in " + span(r.GetRetryIn()) + ")"
	}
	return text
}

// intent says what is wanted, a line for each question.
func intent(in *tenonv1.MaintenanceIntent) []string {
	what := word(in.GetImpact())
	if in.GetExpectedDuration() != nil {
		what += ", for about " + span(in.GetExpectedDuration())
	}
	if in.GetReturnHome() {
		what += ", disks come home"
	}
	var limits []string
	if in.GetRespondWithin() != nil {
		limits = append(limits, "answers within "+span(in.GetRespondWithin())+then(in.GetOnRespond()))
	}
	if in.GetDrainWithin() != nil {
		limits = append(limits, "ready within "+span(in.GetDrainWithin())+then(in.GetOnDrain()))
	}
	lines := []string{oneLine(in.GetReason()), what, strings.Join(limits, ", ")}
	if len(in.GetPolicy()) > 0 {
		lines = append(lines, "policy "+Policy(in.GetPolicy()))
	}
	if in.GetPermission() != "" {
		lines = append(lines, "force allowed by "+oneLine(in.GetPermission()))
	}
	lines = append(lines, "asked by "+or(in.GetRequester()))
	return slices.DeleteFunc(lines, func(l string) bool { return l == "" })
}

func then(d tenonv1.OnDeadline) string {
	if d == tenonv1.OnDeadline_ON_DEADLINE_UNSPECIFIED {
		return ""
	}
	return " or " + word(d)
}

func fence(f *tenonv1.FenceState) string {
	switch {
	case !f.GetIntended():
		return ""
	case !f.GetVerified():
		return "intended, not verified"
	}
	return strings.TrimPrefix(strings.Join([]string{f.GetMethod(), oneLine(f.GetEvidence())}, "; "), "; ")
}

func stamp(s *tenonv1.Stamp) string {
	if s == nil {
		return absent
	}
	return fmt.Sprintf("term %d, epoch %d, rank %d", s.GetTerm(), s.GetEpoch(), s.GetRank())
}

// span shows a duration that may be absent.
func span(d *durationpb.Duration) string {
	if d == nil {
		return absent
	}
	return brief(d.AsDuration())
}

// brief shows a duration to the second without parts that are zero, such as "2h".
func brief(d time.Duration) string {
	text := d.Round(time.Second).String()
	if strings.HasSuffix(text, "m0s") {
		text = strings.TrimSuffix(text, "0s")
	}
	if strings.HasSuffix(text, "h0m") {
		text = strings.TrimSuffix(text, "0m")
	}
	return text
}

// since is for how long something is so.
func since(t *timestamppb.Timestamp, now time.Time) string {
	if t == nil {
		return absent
	}
	return brief(max(0, now.Sub(t.AsTime())))
}

// left is how long it is until a deadline; a passed one is over.
func left(t *timestamppb.Timestamp, now time.Time) string {
	switch {
	case t == nil:
		return absent
	case !t.AsTime().After(now):
		return "over"
	}
	return brief(t.AsTime().Sub(now))
}

// moment shows a time and how far it is from now.
func (s Style) moment(t *timestamppb.Timestamp, now time.Time, word string) string {
	if t == nil {
		return absent
	}
	return fmt.Sprintf("%s (%s %s)", s.time(t), since(t, now), word)
}

func (s Style) deadline(t *timestamppb.Timestamp, now time.Time) string {
	if l := left(t, now); l != "over" {
		return fmt.Sprintf("%s (in %s)", s.time(t), l)
	}
	return s.time(t) + " (over)"
}

// Plan shows what a maintenance would do.
func Plan(p *tenonv1.MaintenancePlan) string {
	t := table{header: []string{"USE", "OF", "BY", "ACTION", ">SIZE", ">TIME"}}
	var notes strings.Builder
	for _, u := range p.GetUses() {
		bytes := absent
		if u.GetSizeBytes() > 0 {
			bytes = Size(u.GetSizeBytes())
		}
		action := u.GetAction()
		if u.GetTarget() != "" {
			action += " to " + u.GetTarget()
		}
		t.add(u.GetId(), used(u), or(user(u)), or(action), bytes, span(u.GetDuration()))
		for _, b := range u.GetBlockers() {
			fmt.Fprintf(&notes, "%s: blocked by %s\n", u.GetId(), oneLine(blocker(b)))
		}
		for _, n := range u.GetNotes() {
			fmt.Fprintf(&notes, "%s: %s\n", u.GetId(), oneLine(n))
		}
	}
	text := "no uses\n"
	if len(t.rows) > 0 {
		text = t.String()
	}
	return text + notes.String() + "digest: " + p.GetDigest() + "\n"
}

// AuditLines shows the record of a maintenance: who did what, and below it what
// came of it.
func (s Style) AuditLines(lines []*tenonv1.MaintenanceAuditLine) string {
	var b strings.Builder
	for _, l := range lines {
		fmt.Fprintf(&b, "%s  epoch %d  %s  %s\n", s.time(l.GetTime()), l.GetStamp().GetEpoch(), or(oneLine(l.GetWho())), or(oneLine(l.GetWhat())))
		if l.GetBefore() != "" || l.GetAfter() != "" {
			fmt.Fprintf(&b, "    %s to %s\n", or(oneLine(l.GetBefore())), or(oneLine(l.GetAfter())))
		}
		if l.GetEvidence() != "" {
			fmt.Fprintf(&b, "    %s\n", oneLine(l.GetEvidence()))
		}
		if l.GetOverride() != "" {
			fmt.Fprintf(&b, "    override: %s\n", oneLine(l.GetOverride()))
		}
	}
	return b.String()
}

// Notice is one message to a subscriber, on one line.
func Notice(n *tenonv1.MaintenanceNotice) string {
	parts := []string{n.GetDevice(), word(n.GetPhase()), word(n.GetImpact())}
	if n.GetNotBeforeIn() != nil {
		parts = append(parts, "begins in "+span(n.GetNotBeforeIn()))
	}
	if n.GetExpectedDuration() != nil {
		parts = append(parts, "for about "+span(n.GetExpectedDuration()))
	}
	if n.GetDrainWithin() != nil {
		parts = append(parts, "ready within "+span(n.GetDrainWithin()))
	}
	if n.GetReason() != "" {
		parts = append(parts, oneLine(n.GetReason()))
	}
	if n.GetUseId() != "" {
		parts = append(parts, "answer as "+n.GetUseId())
	}
	return strings.Join(parts, gap) + "\n"
}

// Cancellation is the message that nothing is wanted any more, on one line.
func Cancellation(c *tenonv1.MaintenanceCancellation) string {
	return c.GetDevice() + gap + word(c.GetPhase()) + "\n"
}
