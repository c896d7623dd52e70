// SPDX-License-Identifier: Apache-2.0

package show

import (
	"fmt"
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
			fmt.Sprint(len(m.GetUses())), or(strings.Join(firstFew(obstacles(m)), "; ")))
	}
	return t.String()
}

// firstFew keeps a note short.
func firstFew(notes []string) []string {
	if len(notes) <= 1 {
		return notes
	}
	return []string{notes[0], fmt.Sprintf("%d more", len(notes)-1)}
}

// Maintenance shows where one device stands: first what it waits for, then what
// is wanted of it, then its uses.
func (s Style) Maintenance(m *tenonv1.Maintenance, now time.Time) string {
	var sh sheet
	sh.add("device", m.GetDevice())
	sh.add("phase", word(m.GetPhase())+hereBeside(m))
	sh.add("gate", word(m.GetGate()))
	sh.addList("waits for", obstacles(m))
	sh.addIf("failure", oneLine(m.GetFailure()))
	sh.add("since", s.moment(m.GetSinceTime(), now, "ago"))
	if m.GetDeadlineTime() != nil {
		sh.add("deadline", s.deadline(m.GetDeadlineTime(), now))
	}
	for _, in := range m.GetIntents() {
		sh.add("maintenance", in.GetId())
		sh.addIf("", oneLine(in.GetReason()))
		sh.add("", intent(in))
		sh.addIf("", "asked by "+or(in.GetRequester()))
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
	return " (this host: " + word(m.GetHostPhase()) + ")"
}

// obstacles says what keeps a device from its next phase, with the reasons that
// are known.
func obstacles(m *tenonv1.Maintenance) []string {
	reasons := make(map[string]string)
	for _, u := range m.GetUses() {
		who := whose(u.GetDomain(), u.GetDisk())
		reasons[u.GetId()] = strings.TrimSuffix(who+word(u.GetState())+": "+why(u), ": ")
	}
	var all []string
	for _, b := range m.GetBlockers() {
		text := oneLine(blocker(b))
		if r := reasons[b.GetName()]; r != "" {
			text += ": " + r
		}
		all = append(all, text)
	}
	return all
}

func whose(domain, disk string) string {
	if domain == "" {
		return ""
	}
	return strings.TrimSpace(domain+" "+disk) + " "
}

// uses is the table of a device's uses.
func uses(m *tenonv1.Maintenance) *table {
	t := &table{header: []string{"USE", "OF", "BY", "STATE", ">DONE", ">ETA", "NOTE"}}
	for _, u := range m.GetUses() {
		t.add(u.GetId(), or(Short(u.GetSubject())), or(strings.TrimSpace(whose(u.GetDomain(), u.GetDisk()))), word(u.GetState()),
			done(u), span(u.GetEta()), or(note(u)))
	}
	return t
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

// note says what is being done about a use, or why not.
func note(u *tenonv1.MaintenanceUse) string {
	if text := why(u); text != "" {
		return text
	}
	if u.GetState() == tenonv1.UseState_USE_STATE_READY && u.GetHow() != tenonv1.ReadyHow_READY_HOW_UNSPECIFIED {
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
		text += " (again in " + Duration(r.GetRetryIn().AsDuration()) + ")"
	}
	return text
}

// intent says in one line what is wanted.
func intent(in *tenonv1.MaintenanceIntent) string {
	parts := []string{word(in.GetImpact())}
	if in.GetExpectedDuration() != nil {
		parts = append(parts, "for about "+Duration(in.GetExpectedDuration().AsDuration()))
	}
	if in.GetRespondWithin() != nil {
		parts = append(parts, "answers within "+Duration(in.GetRespondWithin().AsDuration())+then(in.GetOnRespond()))
	}
	if in.GetDrainWithin() != nil {
		parts = append(parts, "ready within "+Duration(in.GetDrainWithin().AsDuration())+then(in.GetOnDrain()))
	}
	if len(in.GetPolicy()) > 0 {
		parts = append(parts, "policy "+Policy(in.GetPolicy()))
	}
	if in.GetPermission() != "" {
		parts = append(parts, "force allowed by "+oneLine(in.GetPermission()))
	}
	if in.GetReturnHome() {
		parts = append(parts, "disks come home")
	}
	return strings.Join(parts, ", ")
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
	return Duration(d.AsDuration().Round(time.Second))
}

// since is for how long something is so.
func since(t *timestamppb.Timestamp, now time.Time) string {
	if t == nil {
		return absent
	}
	return Duration(max(0, now.Sub(t.AsTime())).Round(time.Second))
}

// left is how long it is until a deadline; a passed one is over.
func left(t *timestamppb.Timestamp, now time.Time) string {
	switch {
	case t == nil:
		return absent
	case !t.AsTime().After(now):
		return "over"
	}
	return Duration(t.AsTime().Sub(now).Round(time.Second))
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
	t := table{header: []string{"USE", "OF", "BY", "ACTION", ">SIZE", ">TIME", "NOTE"}}
	for _, u := range p.GetUses() {
		bytes := absent
		if u.GetSizeBytes() > 0 {
			bytes = Size(u.GetSizeBytes())
		}
		action := u.GetAction()
		if u.GetTarget() != "" {
			action += " to " + u.GetTarget()
		}
		var notes []string
		for _, b := range u.GetBlockers() {
			notes = append(notes, "blocked by "+oneLine(blocker(b)))
		}
		for _, n := range u.GetNotes() {
			notes = append(notes, oneLine(n))
		}
		t.add(u.GetId(), or(Short(u.GetSubject())), or(strings.TrimSpace(whose(u.GetDomain(), u.GetDisk()))), or(action), bytes,
			span(u.GetDuration()), or(strings.Join(notes, "; ")))
	}
	text := "no uses\n"
	if len(t.rows) > 0 {
		text = t.String()
	}
	return text + "digest: " + p.GetDigest() + "\n"
}

// AuditLines shows the record of a maintenance.
func (s Style) AuditLines(lines []*tenonv1.MaintenanceAuditLine) string {
	t := table{header: []string{"TIME", "DEVICE", "EPOCH", "WHO", "WHAT", "CHANGE", "EVIDENCE"}}
	for _, l := range lines {
		change := absent
		if l.GetBefore() != "" || l.GetAfter() != "" {
			change = or(l.GetBefore()) + " to " + or(l.GetAfter())
		}
		evidence := oneLine(l.GetEvidence())
		if l.GetOverride() != "" {
			evidence = strings.TrimSuffix("override "+oneLine(l.GetOverride())+": "+evidence, ": ")
		}
		t.add(s.time(l.GetTime()), or(l.GetDevice()), fmt.Sprint(l.GetStamp().GetEpoch()), or(oneLine(l.GetWho())), or(oneLine(l.GetWhat())), change, or(evidence))
	}
	return t.String()
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
