// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"context"
	"crypto/rand"
	"errors"
	"iter"

	"github.com/tenon-storage/tenon/agent/device"
	"github.com/tenon-storage/tenon/agent/journal"
	"github.com/tenon-storage/tenon/primitives"
	"github.com/tenon-storage/tenon/storage"
)

// Reader reads a volume for a caller; Close ends the recorded use.
type Reader struct {
	primitives.Reader
	device *storage.Device
	uri    primitives.URI
	end    func() error
}

// worthAsking is how long a range is before its holes are asked for: that costs
// a device about as much as reading so many bytes.
const worthAsking = 8 << 20

// Runs divides a range within the size into bytes to be read and zeros, in order
// and without gaps.
func (r *Reader) Runs(ctx context.Context, from, to int64) iter.Seq[storage.Run] {
	if n := to - from; n > 0 && n < worthAsking {
		return func(yield func(storage.Run) bool) { yield(storage.Run{Off: from, Len: n}) }
	}
	return r.device.Runs(ctx, r.uri, from, to)
}

// Close gives the volume back.
func (r *Reader) Close() error { return errors.Join(r.Reader.Close(), r.end()) }

// Writer writes a volume for a caller; Commit or Abort ends the recorded use.
type Writer struct {
	primitives.Writer
	end func() error
}

// Commit makes what was written durable.
func (w *Writer) Commit(ctx context.Context) (primitives.Object, error) {
	o, err := w.Writer.Commit(ctx)
	if err != nil {
		return o, err
	}
	return o, w.end()
}

// Abort gives up; after Commit it does nothing.
func (w *Writer) Abort(ctx context.Context) error { return errors.Join(w.Writer.Abort(ctx), w.end()) }

// Read opens a volume or snapshot for a caller that reads it through the agent.
func (s *Service) Read(ctx context.Context, u primitives.URI) (*Reader, error) {
	if err := objectName("uri", u); err != nil {
		return nil, err
	}
	end, err := s.admitStream(u, primitives.ReadOnly)
	if err != nil {
		return nil, err
	}
	d, err := s.Device(ctx, u)
	if err != nil {
		return nil, errors.Join(err, end())
	}
	r, err := d.Read(ctx, u, primitives.Op{})
	if err != nil {
		return nil, errors.Join(err, end())
	}
	return &Reader{Reader: r, device: d, uri: u, end: end}, nil
}

// Write opens an existing volume for a caller that writes it through the agent.
// What was written stands once Commit returned; without it the volume is
// Incomplete. requestID makes an interrupted write resumable; it may be empty.
func (s *Service) Write(ctx context.Context, u primitives.URI, requestID string) (*Writer, error) {
	if err := volumeName("uri", u); err != nil {
		return nil, err
	}
	end, err := s.admitStream(u, primitives.ReadWrite)
	if err != nil {
		return nil, err
	}
	d, err := s.Device(ctx, u)
	if err != nil {
		return nil, errors.Join(err, end())
	}
	w, err := d.Write(ctx, u, primitives.WriteRequest{Op: primitives.Op{ID: requestID}, Resume: requestID != ""})
	if err != nil {
		return nil, errors.Join(err, end())
	}
	return &Writer{Writer: w, end: end}, nil
}

// admitStream records the use, and returns what ends it.
func (s *Service) admitStream(u primitives.URI, access primitives.Access) (end func() error, err error) {
	id := "stream-" + rand.Text()
	err = s.journal.Update(func(tx *journal.Tx) error {
		return device.Admit(tx, journal.Use{ID: id, Kind: journal.UseStream, URI: u, Access: access})
	})
	return func() error {
		return s.journal.Update(func(tx *journal.Tx) error { return tx.DeleteUse(id) })
	}, err
}

// DropStreams forgets the streams of an earlier tenond: their callers are gone.
func (s *Service) DropStreams() error {
	return s.journal.Update(func(tx *journal.Tx) error {
		uses, err := tx.Uses()
		for _, u := range uses {
			if u.Kind == journal.UseStream {
				err = errors.Join(err, tx.DeleteUse(u.ID))
			}
		}
		return err
	})
}
