// SPDX-License-Identifier: Apache-2.0

package move_test

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tenon-storage/tenon/agent/journal"
	"github.com/tenon-storage/tenon/agent/move"
	"github.com/tenon-storage/tenon/hypervisor"
	"github.com/tenon-storage/tenon/primitives"
)

// sound is a disk that can move, from fast/v to slow/v.
func sound() move.View {
	files := []primitives.Acceptable{{Form: primitives.FormFile, Format: primitives.FormatRaw}, {Form: primitives.FormFile, Format: primitives.FormatQcow2}}
	return move.View{
		Domain: hypervisor.Domain{Name: "web01", State: hypervisor.StateRunning, Caps: hypervisor.Caps{Move: true, Accepts: files}},
		Disk:   hypervisor.Disk{ID: "t1", Target: "vdb", Access: primitives.ReadWrite, Live: true, Config: true},
		Use:    journal.Use{ID: "disk-t1", Kind: journal.UseDisk, URI: primitives.URI{Device: "fast", Volume: "v"}, Disk: "t1", Domain: "d"},
		Source: primitives.Object{State: primitives.Ready, Size: 1 << 20, Used: 1 << 19, Format: primitives.FormatQcow2},
		To:     primitives.URI{Device: "slow", Volume: "v"},
		Device: primitives.Description{
			Granule: 4096, Free: 1 << 30, Total: 1 << 30,
			Caps: primitives.Caps{Manageable: true, Forms: []primitives.Form{primitives.FormFile}, Formats: []primitives.Format{primitives.FormatRaw, primitives.FormatQcow2}},
		},
		Mappable: true,
		Needed:   1 << 19,
	}
}

func TestADiskThatCannotMoveIsRefusedWithTheReason(t *testing.T) {
	if err := move.Refuse(sound()); err != nil {
		t.Fatalf("a sound disk is refused: %v", err)
	}
	for sentence, c := range map[string]struct {
		change func(*move.View)
		code   primitives.Code
		says   string
	}{
		"a paused domain moves too":  {func(v *move.View) { v.Domain.State = hypervisor.StatePaused }, 0, ""},
		"a domain that is off":       {func(v *move.View) { v.Domain.State = hypervisor.StateOff }, primitives.CodeUnsupported, "only the disks of a running one"},
		"a domain that is going off": {func(v *move.View) { v.Domain.State = hypervisor.StateShuttingDown }, primitives.CodeUnsupported, "shutting down"},
		"a domain that cannot":       {func(v *move.View) { v.Domain.Caps.Move = false }, primitives.CodeUnsupported, "cannot move while it runs"},
		"a read-only disk":           {func(v *move.View) { v.Disk.Access = primitives.ReadOnly }, primitives.CodeUnsupported, "read-only"},
		"a disk of a snapshot":       {func(v *move.View) { v.Use.URI.Snapshot = "s" }, primitives.CodeUnsupported, "read-only"},
		"a disk of the definition":   {func(v *move.View) { v.Disk.Live = false }, primitives.CodeUnsupported, "in the definition"},
		"a disk that is leaving":     {func(v *move.View) { v.Disk.Detaching = true }, primitives.CodeConflict, "detach of disk vdb"},
		// Cases: E118
		"a disk with a job":           {func(v *move.View) { v.Disk.Job = "commit" }, primitives.CodeConflict, "a block job (commit) runs"},
		"a volume that is not ready":  {func(v *move.View) { v.Source.State = primitives.Pending }, primitives.CodeConflict, "pending"},
		"the volume itself":           {func(v *move.View) { v.To = v.Use.URI }, primitives.CodeInvalid, "is on fast/v already"},
		"another volume of a device":  {func(v *move.View) { v.To = primitives.URI{Device: "fast", Volume: "w"} }, 0, ""},
		"a name that is taken":        {func(v *move.View) { v.Taken, v.TakenBy = true, primitives.Ready }, primitives.CodeExists, "slow/v"},
		"a name with a broken write":  {func(v *move.View) { v.Taken, v.TakenBy = true, primitives.Incomplete }, primitives.CodeExists, "interrupted write"},
		"a fenced device":             {func(v *move.View) { v.Device.Fenced = true }, primitives.CodeFenced, "slow"},
		"a device that takes nothing": {func(v *move.View) { v.Device.Caps.Manageable = false }, primitives.CodeUnsupported, "no volume can be made"},
		"a device without mappings":   {func(v *move.View) { v.Mappable = false }, primitives.CodeUnsupported, "none of the forms"},
		"a form that is not taken":    {func(v *move.View) { v.Device.Caps.Forms = []primitives.Form{primitives.FormNetwork} }, primitives.CodeUnsupported, "none of the forms"},
		"a format that is not taken":  {func(v *move.View) { v.Device.Caps.Formats = []primitives.Format{"vmdk"} }, primitives.CodeUnsupported, "none of the forms"},
		// Cases: E111
		"a device without the room":  {func(v *move.View) { v.Device.Free = v.Needed - 1 }, primitives.CodeNoSpace, "524287 bytes are free, and 524288"},
		"a device with just enough":  {func(v *move.View) { v.Device.Free = v.Needed }, 0, ""},
		"a device of unknown room":   {func(v *move.View) { v.Device.Free = -1 }, 0, ""},
		"a volume that is too large": {func(v *move.View) { v.Device.MaxVolume = 1 << 19 }, primitives.CodeUnsupported, "524288 at most"},
		// Cases: E110
		"a size that the device rounds": {func(v *move.View) { v.Source.Size += 512 }, primitives.CodeUnsupported, "multiples of 4096 bytes, and the disk has 1049088"},
		"a device without granules":     {func(v *move.View) { v.Device.Granule, v.Source.Size = 0, 1<<20+512 }, 0, ""},
	} {
		t.Run(sentence, func(t *testing.T) {
			v := sound()
			c.change(&v)
			err := move.Refuse(v)
			if primitives.CodeOf(err) != c.code || err != nil && !strings.Contains(err.Error(), c.says) {
				t.Errorf("Refuse = %v, want code %v saying %q", err, c.code, c.says)
			}
			if e, ok := errors.AsType[*primitives.Error](err); ok && e.Code != primitives.CodeInvalid && e.Try == "" {
				t.Errorf("%v does not say what to try", err)
			}
		})
	}
}

func TestATargetHasTheSourcesFormatWhereItCan(t *testing.T) {
	v := sound()
	if got := move.FormatOf(v); got != "qcow2" {
		t.Errorf("format = %q, want the source's", got)
	}
	v.Device.Caps.Formats = []primitives.Format{primitives.FormatRaw}
	if got := move.FormatOf(v); got != "" {
		t.Errorf("format = %q, want the device's default", got)
	}
}

// Cases: E125
func TestASwitchIsJudgedByWhatIsSeen(t *testing.T) {
	no := errors.New("no")
	away := primitives.Errorf(primitives.CodeUnavailable, "no answer")
	gone := primitives.Errorf(primitives.CodeNotFound, "no domain")
	neither := primitives.Errorf(primitives.CodeConflict, "on neither side")
	for sentence, c := range map[string]struct {
		finished error
		phase    hypervisor.MovePhase
		look     error
		attempts int
		begun    int
		failure  string
		want     string
	}{
		"done":                          {phase: hypervisor.MoveDone, want: "arrived"},
		"done, and the answer was lost": {finished: away, phase: hypervisor.MoveDone, want: "arrived"},
		"half done":                     {finished: away, phase: hypervisor.MoveHalf, want: "unclear"},
		"half done for long":            {finished: no, phase: hypervisor.MoveHalf, attempts: 99, want: "unclear"},
		"the job is gone":               {finished: no, phase: hypervisor.MoveNone, want: "remained"},
		"the job is gone, and it is brought back":   {finished: neither, phase: hypervisor.MoveNone, want: "anew"},
		"brought back again and again":              {finished: neither, phase: hypervisor.MoveNone, begun: move.MostBegun, want: "remained"},
		"the job failed":                            {finished: neither, phase: hypervisor.MoveNone, failure: "EIO", want: "remained"},
		"the domain is gone":                        {finished: no, look: gone, want: "remained"},
		"refused once":                              {finished: no, phase: hypervisor.MoveReady, attempts: 1, want: "unclear"},
		"refused often":                             {finished: no, phase: hypervisor.MoveReady, attempts: move.MostAttempts, want: "given up"},
		"not ready any more, often":                 {finished: no, phase: hypervisor.MoveCopying, attempts: move.MostAttempts, want: "given up"},
		"nobody answers, however often":             {finished: away, look: away, attempts: 99, want: "unclear"},
		"on neither side, for people to look at":    {finished: neither, look: neither, attempts: 99, want: "unclear"},
		"it says yes and the job is there, for now": {phase: hypervisor.MoveReady, attempts: 99, want: "unclear"},
	} {
		if got := move.Judge(c.finished, hypervisor.MoveStatus{Phase: c.phase, Failure: c.failure}, c.look, c.attempts, c.begun); got != c.want {
			t.Errorf("%s: Judge = %s, want %s", sentence, got, c.want)
		}
	}
}

// Cases: E114
func TestACopyThatIsOutrunIsMadeToConvergeOnce(t *testing.T) {
	look := func(done, total int64) hypervisor.MoveStatus {
		return hypervisor.MoveStatus{Phase: hypervisor.MoveCopying, Done: done, Total: total}
	}
	var chase, gain, still []hypervisor.MoveStatus
	for i := range int64(40) {
		chase = append(chase, look(i*10, 100+i*10)) // never nearer
		gain = append(gain, look(i*10, 1000+i*9))   // slowly nearer
		still = append(still, look(50, 100))
	}
	steps := move.Pace(chase, time.Second, time.Hour)
	if i := slices.Index(steps, "converge"); i != 10 || slices.Contains(steps[i+1:], "converge") {
		t.Errorf("a copy that is outrun: %v, want to converge once, at the tenth look that brought nothing", steps)
	}
	if steps := move.Pace(gain, time.Second, time.Hour); slices.ContainsFunc(steps, func(s string) bool { return s != "wait" }) {
		t.Errorf("a copy that gets on: %v, want to wait", steps)
	}
	steps = move.Pace(still, time.Second, 20*time.Second)
	want := append(slices.Repeat([]string{"wait"}, 21), slices.Repeat([]string{"stuck"}, 19)...)
	if diff := cmp.Diff(want, steps); diff != "" {
		t.Errorf("a copy that stands still (-want +got):\n%s", diff)
	}
}
