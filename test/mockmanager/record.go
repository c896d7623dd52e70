// SPDX-License-Identifier: Apache-2.0

package mockmanager

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"sync"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	tenonv1 "github.com/tenon-storage/tenon/api/tenon/v1"
)

// Who said a message of a record.
const (
	fromAgent   = "agent"
	fromManager = "manager"
)

// Line is one line of a record: a message, or something that happened.
type Line struct {
	At      time.Duration   `json:"at"` // since the start, in nanoseconds
	From    string          `json:"from"`
	Host    string          `json:"host,omitempty"`
	Fault   string          `json:"fault,omitempty"` // what befell the message
	Event   string          `json:"event,omitempty"` // instead of a message: what happened
	Message json.RawMessage `json:"message,omitempty"`
}

// recorder writes lines.
type recorder struct {
	mu    sync.Mutex // guards out and err
	out   io.Writer
	err   error
	start time.Time
}

func (r *recorder) message(from, host, fault string, m proto.Message) {
	if r.out == nil {
		return
	}
	raw, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(m)
	if err != nil {
		r.write(Line{From: from, Host: host, Event: "a message that is no JSON: " + err.Error()})
		return
	}
	var compact bytes.Buffer // protojson varies its spaces on purpose
	if json.Compact(&compact, raw) == nil {
		raw = compact.Bytes()
	}
	r.write(Line{From: from, Host: host, Fault: fault, Message: raw})
}

func (r *recorder) event(host, format string, args ...any) {
	r.write(Line{From: fromManager, Host: host, Event: fmt.Sprintf(format, args...)})
}

func (r *recorder) write(l Line) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.out == nil || r.err != nil {
		return
	}
	l.At = time.Since(r.start)
	raw, err := json.Marshal(l)
	if err == nil {
		_, err = r.out.Write(append(raw, '\n'))
	}
	r.err = err
}

// ReadRecord reads what a manager said in a record, in order.
func ReadRecord(in io.Reader) ([]Said, error) {
	var all []Said
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, 64<<20)
	for n := 1; lines.Scan(); n++ {
		var l Line
		if err := json.Unmarshal(lines.Bytes(), &l); err != nil {
			return nil, fmt.Errorf("line %d of the record: %w", n, err)
		}
		if l.From != fromManager || len(l.Message) == 0 || l.Fault == "lose" {
			continue
		}
		m := new(tenonv1.SessionResponse)
		if err := protojson.Unmarshal(l.Message, m); err != nil {
			return nil, fmt.Errorf("line %d of the record: %w", n, err)
		}
		all = append(all, Said{At: l.At, Message: m})
	}
	return all, lines.Err()
}

// Said is a message that a manager sent, and when.
type Said struct {
	At      time.Duration
	Message *tenonv1.SessionResponse
}
