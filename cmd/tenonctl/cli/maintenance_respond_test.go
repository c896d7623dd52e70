// SPDX-License-Identifier: Apache-2.0

package cli_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	tenonv1 "github.com/tenon-storage/tenon/api/tenon/v1"
	"github.com/tenon-storage/tenon/cmd/tenonctl/cli"
)

func notice(epoch uint64) *tenonv1.SubscribeResponse {
	return &tenonv1.SubscribeResponse{Message: &tenonv1.SubscribeResponse_Notice{Notice: &tenonv1.MaintenanceNotice{
		Device: "fast", UseId: "sub-1", Stamp: &tenonv1.Stamp{Term: 1, Epoch: epoch}, Phase: tenonv1.MaintenancePhase_MAINTENANCE_PHASE_PREPARING,
	}}}
}

func noticeWithoutUse(epoch uint64) *tenonv1.SubscribeResponse {
	m := notice(epoch)
	m.GetNotice().UseId = ""
	return m
}

func cancellation(epoch uint64) *tenonv1.SubscribeResponse {
	return &tenonv1.SubscribeResponse{Message: &tenonv1.SubscribeResponse_Cancellation{Cancellation: &tenonv1.MaintenanceCancellation{
		Device: "fast", UseId: "sub-1", Stamp: &tenonv1.Stamp{Term: 1, Epoch: epoch}, Phase: tenonv1.MaintenancePhase_MAINTENANCE_PHASE_RETURNING,
	}}}
}

func refused(retry tenonv1.Retry) *tenonv1.SubscribeResponse {
	return &tenonv1.SubscribeResponse{Message: &tenonv1.SubscribeResponse_Refused_{Refused: &tenonv1.SubscribeResponse_Refused{
		Failure: &tenonv1.Failure{Retry: retry},
	}}}
}

// told prints a deed in a few words.
func told(d cli.Deed) string {
	var words []string
	if d.Stop {
		words = append(words, "stop")
	}
	for _, m := range d.Send {
		switch m := m.GetMessage().(type) {
		case *tenonv1.SubscribeRequest_Accept_:
			words = append(words, "accept")
		case *tenonv1.SubscribeRequest_Progress_:
			words = append(words, "progress")
		case *tenonv1.SubscribeRequest_Ready_:
			words = append(words, "ready")
		case *tenonv1.SubscribeRequest_Withdraw_:
			words = append(words, "withdraw")
		case *tenonv1.SubscribeRequest_Object_:
			words = append(words, fmt.Sprintf("object %s (%s) retryable %v", m.Object.GetReason().GetCode(), m.Object.GetReason().GetText(), m.Object.GetReason().GetRetryable()))
		}
	}
	if d.Start != "" {
		words = append(words, "run for "+d.Start)
	}
	if d.Retry {
		words = append(words, "retry later")
	}
	return strings.Join(words, ", ")
}

// event is one thing that happens to a subscriber, and what it does then.
type event struct {
	name string
	do   func(*cli.Responder) cli.Deed
	want string
}

func hears(m *tenonv1.SubscribeResponse, want string) event {
	return event{m.String(), func(r *cli.Responder) cli.Deed { return r.Hear(m) }, want}
}

func ends(code int, text, want string) event {
	return event{fmt.Sprintf("exit %d", code), func(r *cli.Responder) cli.Deed { return r.Ended(code, text) }, want}
}

func beats(want string) event { return event{"heartbeat", (*cli.Responder).Beat, want} }
func again(want string) event { return event{"retry time", (*cli.Responder).Again, want} }

func TestASubscriberAnswersForItsProgram(t *testing.T) {
	for name, c := range map[string]struct {
		program string
		events  []event
	}{
		"exit 0 is ready": {"prog", []event{
			hears(notice(3), "accept, run for notice 3"), beats("progress"), ends(0, "", "ready"), beats(""),
		}},
		// Cases: E2
		"a notice that is repeated runs nothing, and is answered the same": {"prog", []event{
			hears(notice(3), "accept, run for notice 3"), hears(notice(3), "accept"), ends(0, "", "ready"), hears(notice(3), "ready"), hears(notice(3), "ready"),
		}},
		"exit 75 refuses for now, and is tried again": {"prog", []event{
			hears(notice(3), "accept, run for notice 3"), ends(75, "tape runs", "object temporary (tape runs) retryable true, retry later"),
			beats(""), hears(notice(3), "object temporary (tape runs) retryable true"), again("run for notice 3"), beats(""), hears(notice(3), ""),
			ends(75, "tape runs", "object temporary (tape runs) retryable true, retry later"), again("run for notice 3"), ends(0, "", "withdraw, ready"),
		}},
		"another exit refuses": {"prog", []event{
			hears(notice(3), "accept, run for notice 3"), ends(3, "no way", "object exit-3 (no way) retryable false"),
		}},
		"a program that says nothing is named": {"prog", []event{
			hears(notice(3), "accept, run for notice 3"), ends(3, "", "object exit-3 (prog exited with 3) retryable false"),
		}},
		"a program that cannot run refuses": {"prog", []event{
			hears(notice(3), "accept, run for notice 3"), ends(-1, "not found", "object not-run (not found) retryable false"),
		}},
		// Cases: E50
		"a new epoch makes what runs obsolete": {"prog", []event{
			hears(notice(3), "accept, run for notice 3"), hears(notice(4), "stop"), beats(""), hears(notice(4), "accept"),
			ends(-1, "signal: terminated", "accept, run for notice 4"), ends(0, "", "ready"),
		}},
		"a cancellation undoes": {"prog", []event{
			hears(notice(3), "accept, run for notice 3"), ends(0, "", "ready"), hears(cancellation(4), "run for cancellation 4"), beats(""), ends(1, "", ""), hears(cancellation(4), ""),
		}},
		"a cancellation stops what runs first": {"prog", []event{
			hears(notice(3), "accept, run for notice 3"), hears(cancellation(4), "stop"), hears(cancellation(4), ""),
			ends(-1, "", "run for cancellation 4"), ends(0, "", ""),
		}},
		// Cases: E84
		"what undoes is not stopped by the next notice": {"prog", []event{
			hears(notice(3), "accept, run for notice 3"), ends(0, "", "ready"), hears(cancellation(4), "run for cancellation 4"),
			hears(notice(5), ""), ends(0, "", "accept, run for notice 5"), ends(0, "", "ready"),
		}},
		"a cancellation of nothing runs nothing": {"prog", []event{
			hears(cancellation(1), ""), hears(cancellation(2), ""),
		}},
		"an objection does not outlive its epoch": {"prog", []event{
			hears(notice(3), "accept, run for notice 3"), ends(75, "x", "object temporary (x) retryable true, retry later"),
			hears(notice(4), "accept, run for notice 4"), beats("progress"), again(""), ends(0, "", "ready"), again(""),
		}},
		// Cases: E53
		"ready that is not believed is said again": {"prog", []event{
			hears(notice(3), "accept, run for notice 3"), ends(0, "", "ready"), hears(refused(tenonv1.Retry_RETRY_AFTER_CHANGE), ""), beats("ready"), beats(""),
			hears(refused(tenonv1.Retry_RETRY_NEVER), ""), beats(""),
		}},
		"who does not block answers nothing": {"prog", []event{
			hears(noticeWithoutUse(3), "run for notice 3"), beats(""), ends(75, "x", "retry later"), again("run for notice 3"), ends(1, "x", ""), hears(noticeWithoutUse(3), ""),
		}},
		"without a program nothing is answered": {"", []event{
			hears(notice(3), ""), beats(""), hears(cancellation(4), ""),
		}},
	} {
		t.Run(name, func(t *testing.T) {
			r := cli.NewResponder(c.program)
			for i, e := range c.events {
				if got := told(e.do(r)); got != e.want {
					t.Fatalf("event %d, %s: got %q, want %q", i, e.name, got, e.want)
				}
			}
		})
	}
}

func TestTheHookReadsADefinition(t *testing.T) {
	for name, c := range map[string]struct {
		text string
		want cli.Definition
	}{
		"disks, chains and the network": {
			`<domain type='kvm'><name>web01</name><uuid>6f2c</uuid>
			<metadata><x:disk xmlns:x='y'><source file='/not/this'/></x:disk></metadata>
			<devices>
			  <disk type='file'><source file='/srv/a.qcow2'/><backingStore><source file='/srv/base'/><backingStore/></backingStore><alias name='virtio-disk0'/></disk>
			  <disk type='block'><source dev='/dev/vg/b'/><alias name='ua-tenon-d-1_x'/></disk>
			  <disk type='network'><source protocol='rbd' name='pool/img'><host name='mon1'/></source></disk>
			  <disk type='volume'><source pool='p' volume='v'/></disk>
			  <disk type='file'><source file='/srv/a.qcow2'/></disk>
			  <disk type='file' device='cdrom'/>
			  <interface><source bridge='br0' dev='eth0'/></interface>
			</devices></domain>`,
			cli.Definition{ID: "6f2c", Name: "web01", Sources: []string{"/srv/a.qcow2", "/srv/base", "/dev/vg/b", "pool/img", "v"}, Tenon: true},
		},
		"an alias of something else is not a disk's": {
			`<domain><name>x</name><devices><interface><alias name='ua-tenon-1'/></interface></devices></domain>`,
			cli.Definition{Name: "x"},
		},
		"paths in all their glory": {
			`<domain><name>a&amp;b</name><devices><disk><source file='/srv/Ä, b&apos;c &quot;d&quot;'/></disk></devices></domain>`,
			cli.Definition{Name: "a&b", Sources: []string{`/srv/Ä, b'c "d"`}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(c.want, cli.ReadDefinition([]byte(c.text))); diff != "" {
				t.Errorf("definition (-want +got):\n%s", diff)
			}
		})
	}
}

func TestADefinitionThatCannotBeReadIsTakenForTenonsIfItMayBe(t *testing.T) {
	for text, tenon := range map[string]bool{
		"":                              false,
		"<domain><name>x":               false,
		"<domain><devices><disk><alias": false,
		"<domain></domain2> ua-tenon-1": true,
		"<domain><devices><disk><alias name='ua-tenon-1'/></disk>": true,
	} {
		d := cli.ReadDefinition([]byte(text))
		if d.Err == nil || d.Tenon != tenon {
			t.Errorf("definition of %q = tenon %v, error %v, want tenon %v and an error", text, d.Tenon, d.Err, tenon)
		}
	}
}
