// SPDX-License-Identifier: Apache-2.0

package rpc

import (
	"bytes"
	"context"
	"errors"
	"io"

	"google.golang.org/grpc"

	tenonv1 "github.com/tenon-storage/tenon/api/tenon/v1"
	"github.com/tenon-storage/tenon/primitives"
	"github.com/tenon-storage/tenon/storage"
)

const (
	// chunk is how many bytes are read at once and go into one message.
	chunk = 1 << 20
	// longestZeros bounds a run of zeros, so that a reader sees progress.
	longestZeros = 256 * chunk
)

var zeroChunk = make([]byte, chunk)

// ReadVolume sends the bytes of a volume or snapshot.
func (s *volumes) ReadVolume(r *tenonv1.ReadVolumeRequest, stream grpc.ServerStreamingServer[tenonv1.ReadVolumeResponse]) (err error) {
	u, err := contentFrom("uri", r.GetUri())
	if err != nil {
		return err
	}
	reader, err := s.service.Read(stream.Context(), u)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, reader.Close()) }()
	off, end, err := rangeOf(r, reader.Size())
	if err != nil {
		return err
	}
	out := &sender{stream: stream, size: reader.Size(), at: off}
	buffer := make([]byte, chunk)
	for run := range reader.Runs(stream.Context(), off, end) {
		if run.Zero {
			err = out.skip(run.Len)
		} else {
			err = out.copy(reader, run, buffer)
		}
		if err != nil {
			return err
		}
	}
	return out.flush()
}

// rangeOf returns the range asked for, cut at the end of the object.
func rangeOf(r *tenonv1.ReadVolumeRequest, size int64) (off, end int64, err error) {
	switch {
	case r.GetOffset() < 0 || r.GetOffset() > size:
		return 0, 0, primitives.Invalid("offset", "%d: expected 0 to %d, the size", r.GetOffset(), size)
	case r.GetLength() < 0:
		return 0, 0, primitives.Invalid("length", "%d: expected 0 or more", r.GetLength())
	case r.GetLength() == 0 || r.GetLength() > size-r.GetOffset():
		return r.GetOffset(), size, nil
	}
	return r.GetOffset(), r.GetOffset() + r.GetLength(), nil
}

// copy reads a run and sends it.
func (s *sender) copy(from io.ReaderAt, run storage.Run, buffer []byte) error {
	for off, end := run.Off, run.Off+run.Len; off < end; {
		if err := s.stream.Context().Err(); err != nil {
			return err
		}
		part := buffer[:min(int64(len(buffer)), end-off)]
		if n, err := from.ReadAt(part, off); err != nil && (!errors.Is(err, io.EOF) || n < len(part)) {
			return err
		}
		if err := s.send(part); err != nil {
			return err
		}
		off += int64(len(part))
	}
	return nil
}

// sender sends runs, joining zeros.
type sender struct {
	stream grpc.ServerStreamingServer[tenonv1.ReadVolumeResponse]
	size   int64 // told in the first message
	at     int64 // where the next message begins
	zeros  int64 // seen from at on and not sent yet
}

func (s *sender) send(part []byte) error {
	if bytes.Equal(part, zeroChunk[:len(part)]) {
		return s.skip(int64(len(part)))
	}
	if err := s.flush(); err != nil {
		return err
	}
	return s.message(&tenonv1.ReadVolumeResponse{Data: part}, int64(len(part)))
}

// skip leaves n zeros out.
func (s *sender) skip(n int64) error {
	for n > 0 {
		part := min(n, longestZeros-s.zeros)
		s.zeros += part
		n -= part
		if s.zeros < longestZeros {
			continue
		}
		if err := s.flush(); err != nil {
			return err
		}
	}
	return nil
}

func (s *sender) flush() error {
	if s.zeros == 0 {
		return nil
	}
	n := s.zeros
	s.zeros = 0
	return s.message(&tenonv1.ReadVolumeResponse{ZeroLength: n}, n)
}

func (s *sender) message(m *tenonv1.ReadVolumeResponse, n int64) error {
	m.SizeBytes, m.Offset = s.size, s.at
	s.size = 0
	s.at += n
	return s.stream.Send(m)
}

// errUncommitted ends a stream that its client ended without asking for the commit.
var errUncommitted = primitives.Errorf(primitives.CodeCancelled, "the stream ended before the commit was asked for; the volume is not whole")

// WriteVolume writes bytes into a volume. The volume is untouched until the first
// run is there and known to fit.
func (s *volumes) WriteVolume(stream grpc.ClientStreamingServer[tenonv1.WriteVolumeRequest, tenonv1.WriteVolumeResponse]) error {
	first, err := stream.Recv()
	if err != nil {
		return ended(err)
	}
	u, err := volumeFrom("uri", first.GetUri())
	if err != nil {
		return err
	}
	run := first
	for !run.GetCommit() && len(run.GetData()) == 0 && run.GetZeroLength() == 0 {
		if run, err = stream.Recv(); err != nil {
			return ended(err)
		}
	}
	if err := s.fits(stream.Context(), u, run); err != nil {
		return err
	}
	w, err := s.service.Write(stream.Context(), u, first.GetRequestId())
	if err != nil {
		return err
	}
	o, err := receive(stream, w, run)
	if err != nil {
		return errors.Join(notWhole(err, first.GetRequestId()), w.Abort(context.WithoutCancel(stream.Context())))
	}
	return stream.SendAndClose(&tenonv1.WriteVolumeResponse{Volume: volumeOf(o, facetsOf(s.registry, u.Device))})
}

// fits refuses a first run that is not within the volume.
func (s *volumes) fits(ctx context.Context, u primitives.URI, m *tenonv1.WriteVolumeRequest) error {
	d, err := s.service.Device(ctx, u)
	if err != nil {
		return err
	}
	o, err := d.Stat(ctx, u, primitives.Op{})
	if err != nil {
		return err
	}
	if n := max(int64(len(m.GetData())), m.GetZeroLength()); m.GetOffset() > o.Size-n {
		return primitives.Invalid("offset", "%d bytes at %d are not within the volume's %d bytes", n, m.GetOffset(), o.Size).On(u)
	}
	return nil
}

// notWhole adds to the error of a write that began what to do about the volume.
func notWhole(err error, requestID string) error {
	e, ok := errors.AsType[*primitives.Error](err)
	if !ok || e.Try != "" {
		return err
	}
	if requestID == "" {
		return e.Trying("delink the volume, it is incomplete now")
	}
	return e.Trying("write the volume again with request id %s, it is incomplete now; or delink it", requestID)
}

// receive writes every run and commits when the client says so.
func receive(stream grpc.ClientStreamingServer[tenonv1.WriteVolumeRequest, tenonv1.WriteVolumeResponse], w primitives.Writer, m *tenonv1.WriteVolumeRequest) (primitives.Object, error) {
	for {
		if err := writeRun(w, m); err != nil {
			return primitives.Object{}, err
		}
		if m.GetCommit() {
			return w.Commit(stream.Context())
		}
		next, err := stream.Recv()
		if err != nil {
			return primitives.Object{}, ended(err)
		}
		m = next
	}
}

func writeRun(w primitives.Writer, m *tenonv1.WriteVolumeRequest) error {
	switch {
	case m.GetOffset() < 0:
		return primitives.Invalid("offset", "%d: expected 0 or more", m.GetOffset())
	case m.GetZeroLength() < 0 || m.GetZeroLength() > 0 && len(m.GetData()) > 0:
		return primitives.Invalid("zero_length", "%d: expected 0 or more, and no data beside it", m.GetZeroLength())
	case m.GetZeroLength() > 0:
		return w.ZeroAt(m.GetOffset(), m.GetZeroLength())
	case len(m.GetData()) > 0:
		_, err := w.WriteAt(m.GetData(), m.GetOffset())
		return err
	}
	return nil
}

// ended says what the end of a client's stream means.
func ended(err error) error {
	if errors.Is(err, io.EOF) {
		return errUncommitted
	}
	return err
}
