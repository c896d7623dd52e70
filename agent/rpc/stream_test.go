// SPDX-License-Identifier: Apache-2.0

package rpc_test

import (
	"bytes"
	"errors"
	"io"
	"testing"

	tenonv1 "github.com/tenon-storage/tenon/api/tenon/v1"
)

// pieces counts the messages of a read, and the bytes that they carry.
func (w *world) pieces(r *tenonv1.ReadVolumeRequest) (messages int, carried, zeros int64) {
	w.Helper()
	stream, err := tenonv1.NewVolumeServiceClient(w.conn).ReadVolume(w.Context(), r)
	if err != nil {
		w.Fatal(err)
	}
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return messages, carried, zeros
		}
		if err != nil {
			w.Fatal(err)
		}
		messages, carried, zeros = messages+1, carried+int64(len(m.GetData())), zeros+m.GetZeroLength()
	}
}

// A device may be terabytes of holes.
func TestHolesAreNeitherReadNorSent(t *testing.T) {
	w := newWorld(t)
	w.device("fast")
	const size = 8 << 30
	w.volume("fast/v", size)
	data := bytes.Repeat([]byte("tenon"), 1<<18)
	w.write("fast/v", size/2+12345, data)
	messages, carried, zeros := w.pieces(&tenonv1.ReadVolumeRequest{Uri: "fast/v"})
	if carried+zeros != size || carried > int64(len(data))+2<<20 || messages > 1000 {
		t.Errorf("%d messages with %d bytes and %d zeros; want few, and the whole size", messages, carried, zeros)
	}
	if got := w.read(&tenonv1.ReadVolumeRequest{Uri: "fast/v", Offset: size/2 + 12345, Length: int64(len(data))}); !bytes.Equal(got, data) {
		t.Error("the bytes between the holes are others than were written")
	}
	around := w.read(&tenonv1.ReadVolumeRequest{Uri: "fast/v", Offset: size/2 - 16<<20, Length: 40 << 20})
	want := make([]byte, 40<<20)
	copy(want[16<<20+12345:], data)
	if !bytes.Equal(around, want) {
		t.Error("a range with holes around the bytes reads otherwise than what was written")
	}
}
