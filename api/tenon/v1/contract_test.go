// SPDX-License-Identifier: Apache-2.0

package tenonv1_test

import (
	"regexp"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	tenonv1 "github.com/tenon-storage/tenon/api/tenon/v1"
)

// reading begins the names of calls that change nothing. Whatever begins
// otherwise changes something.
var reading = regexp.MustCompile(`^(Get|List|Wait|Watch|Read|Validate|Check|Plan)[A-Z]`)

// repeats are the calls that change something and need no id, each with its reason.
var repeats = map[protoreflect.Name]string{
	"Subscribe": "the client's own id names the subscription, and each answer is a full state",
	"Session":   "every report and order is a full state under a seq or stamp of its own",
}

// wishes is the service whose calls want a state of a device. They answer where
// it stands, since there is no end of work to wait for.
const wishes = "tenon.v1.MaintenanceService"

// methods calls each for every call of the API.
func methods(each func(protoreflect.MethodDescriptor)) {
	protoregistry.GlobalFiles.RangeFilesByPackage("tenon.v1", func(f protoreflect.FileDescriptor) bool {
		for i := range f.Services().Len() {
			for j := range f.Services().Get(i).Methods().Len() {
				each(f.Services().Get(i).Methods().Get(j))
			}
		}
		return true
	})
}

// messages calls each for every message of the API.
func messages(each func(protoreflect.MessageDescriptor)) {
	protoregistry.GlobalFiles.RangeFilesByPackage("tenon.v1", func(f protoreflect.FileDescriptor) bool {
		for i := range f.Messages().Len() {
			each(f.Messages().Get(i))
		}
		return true
	})
}

func TestEveryChangeHasARequestIDAndAnswersAnOperation(t *testing.T) {
	seen := 0
	methods(func(m protoreflect.MethodDescriptor) {
		seen++
		id := m.Input().Fields().ByName("request_id")
		if reading.MatchString(string(m.Name())) {
			if id != nil {
				t.Errorf("%s only reads, yet has a request_id", m.FullName())
			}
			return
		}
		if repeats[m.Name()] != "" {
			return
		}
		if id == nil || id.Number() != 1 || id.Kind() != protoreflect.StringKind {
			t.Errorf("%s changes something, but its request has no string request_id = 1", m.FullName())
		}
		if m.IsStreamingClient() || m.Parent().FullName() == wishes {
			return // a stream is itself the work, and ends with it
		}
		answer := m.Output().Fields().ByName("operation")
		if answer == nil || answer.Message().FullName() != "tenon.v1.Operation" {
			t.Errorf("%s changes something, but does not answer an Operation", m.FullName())
		}
	})
	if seen < 40 {
		t.Errorf("saw %d calls, want the whole API", seen)
	}
}

func TestEveryListingIsPaged(t *testing.T) {
	methods(func(m protoreflect.MethodDescriptor) {
		if !strings.HasPrefix(string(m.Name()), "List") {
			return
		}
		for _, name := range []protoreflect.Name{"page_size", "page_token"} {
			if m.Input().Fields().ByName(name) == nil {
				t.Errorf("%s has no %s", m.FullName(), name)
			}
		}
		if m.Output().Fields().ByName("next_page_token") == nil {
			t.Errorf("%s answers no next_page_token", m.FullName())
		}
	})
}

func TestWhatIsCalledSecretIsMarkedAndNothingAnswersOne(t *testing.T) {
	marked := 0
	messages(func(m protoreflect.MessageDescriptor) {
		for i := range m.Fields().Len() {
			f := m.Fields().Get(i)
			secret, _ := proto.GetExtension(f.Options(), tenonv1.E_Secret).(bool)
			if f.Name() == "secrets" && !secret {
				t.Errorf("%s is not marked as secret", f.FullName())
			}
			if secret {
				marked++
				if !strings.HasSuffix(string(m.Name()), "Request") {
					t.Errorf("%s carries a secret out of tenond", f.FullName())
				}
			}
		}
	})
	if marked == 0 {
		t.Error("no field is marked as secret; the option is not seen")
	}
}

func TestSizesSayTheirUnit(t *testing.T) {
	ranges := []string{"offset", "length", "zero_length", "done", "total", "min", "max"}
	messages(func(m protoreflect.MessageDescriptor) {
		for i := range m.Fields().Len() {
			f := m.Fields().Get(i)
			if f.Kind() == protoreflect.Int64Kind && !strings.HasSuffix(string(f.Name()), "_bytes") && !slices.Contains(ranges, string(f.Name())) {
				t.Errorf("%s is a 64-bit number without a unit in its name", f.FullName())
			}
		}
	})
}
