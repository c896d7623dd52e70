// SPDX-License-Identifier: Apache-2.0

package maintenance

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/tenon-storage/tenon/agent/journal"
	"github.com/tenon-storage/tenon/primitives"
	protocol "github.com/tenon-storage/tenon/primitives/maintenance"
)

// auditRecord is one line of the audit as the journal keeps it.
type auditRecord struct {
	At     time.Time
	Device string // its name
	Line   protocol.Audit
}

// audit keeps a line for the end of the turn: it is durable together with what it
// tells of.
func (t *turn) audit(w *ward, a protocol.Audit) {
	if len(a.IDs) > 0 {
		w.rec.Last = a.IDs
	} else if w.away() {
		a.IDs = w.rec.Last // a return belongs to what it ends, though its orders name nothing any more
	}
	w.lines++
	t.lines = append(t.lines, auditRecord{At: t.now.UTC(), Device: w.name, Line: a})
}

// away reports whether the device is, or was when the turn began, not yet back in
// service with everything undone.
func (w *ward) away() bool {
	managed := w.man != nil && (w.phase != protocol.InService || w.man.Device.Phase != protocol.InService)
	return managed || w.gate != protocol.GateOpen || w.rec.Host.Gate != protocol.GateOpen || len(w.rec.Host.Owed) > 0
}

// writeAudit appends the turn's lines and lets old ones go, but none of a
// maintenance that is under way.
func (t *turn) writeAudit() error {
	if len(t.lines) == 0 {
		return nil
	}
	for _, line := range t.lines {
		if err := journal.AppendAudit(t.tx, line); err != nil {
			return err
		}
	}
	var running map[string]bool // asked for only where something is to go
	return journal.TrimAudit(t.tx, t.s.options.KeepAudit, func(l auditRecord) bool {
		if running == nil {
			running = t.running()
		}
		return !slices.ContainsFunc(l.Line.IDs, func(id string) bool { return running[id] })
	})
}

// running returns the ids of the maintenances under way.
func (t *turn) running() map[string]bool {
	ids := make(map[string]bool)
	for _, rec := range journal.Records[record](t.tx, journal.Hosts) {
		for _, id := range rec.Host.Order.IDs {
			ids[id] = true
		}
		if rec.Host.Gate != protocol.GateOpen {
			for _, id := range rec.Last {
				ids[id] = true
			}
		}
	}
	return ids
}

// Audit returns the lines about one maintenance, oldest first, or all of them with
// an empty id. CodeNotFound where there is none of that id.
func (s *Service) Audit(_ context.Context, id string) ([]AuditLine, error) {
	var records []auditRecord
	err := s.journal.View(func(tx *journal.Tx) (err error) {
		records, err = journal.Audit[auditRecord](tx)
		return err
	})
	if err != nil {
		return nil, err
	}
	var lines []AuditLine
	for _, r := range records {
		if id == "" || slices.Contains(r.Line.IDs, id) {
			lines = append(lines, r.show())
		}
	}
	if id != "" && len(lines) == 0 {
		return nil, primitives.Errorf(primitives.CodeNotFound, "the audit knows no maintenance %q", id).
			Trying("see: tenonctl maintenance status, or the whole audit without an id")
	}
	return lines, nil
}

func (r auditRecord) show() AuditLine {
	what := r.Line.What
	if r.Line.Subject != "" && !strings.Contains(what, r.Line.Subject) {
		what += " " + r.Line.Subject
	}
	return AuditLine{
		At: r.At, Device: r.Device, Maintenance: strings.Join(r.Line.IDs, ","), Who: r.Line.Who, What: what,
		Before: r.Line.Before, After: r.Line.After, Evidence: r.Line.Evidence, Override: r.Line.Permission, Stamp: r.Line.Stamp,
	}
}
