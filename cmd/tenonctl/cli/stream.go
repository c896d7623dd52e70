// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"

	tenonv1 "github.com/tenon-storage/tenon/api/tenon/v1"
	"github.com/tenon-storage/tenon/cmd/tenonctl/show"
)

// chunk is how many bytes go into one message.
const chunk = 1 << 20

func (a *app) volumeRead() *cobra.Command {
	var offset, length size
	var output string
	cmd := &cobra.Command{
		Use:   "read URI [--output FILE] [--offset SIZE] [--length SIZE]",
		Short: "Write a volume's or snapshot's bytes to standard output or a file",
		Long: "Write the bytes of a volume or snapshot to standard output or a file, as a guest would see them,\n" +
			"whatever their format on the device. A file that is made stays sparse where the volume is.",
		Example: "  tenonctl volume read fast/vm1@before-upgrade --output vm1.img\n" +
			"  tenonctl volume read fast/vm1 --length 1M | file -",
		Args: needs("URI"), ValidArgsFunction: a.complete(a.objectURIs),
	}
	cmd.RunE = run(func(ctx context.Context, args []string) error {
		return a.read(ctx, &tenonv1.ReadVolumeRequest{Uri: args[0], Offset: int64(offset), Length: int64(length)}, output)
	})
	// Here -o names a file: raw bytes have no table and no JSON.
	cmd.Flags().StringVarP(&output, "output", "o", "", "the `FILE` to write; empty or -: standard output")
	must(cmd.MarkFlagFilename("output"))
	cmd.Flags().Var(&offset, "offset", "the first byte")
	cmd.Flags().Var(&length, "length", "how many bytes; not given: to the end")
	return cmd
}

// read streams bytes to a file or to standard output.
func (a *app) read(ctx context.Context, request *tenonv1.ReadVolumeRequest, output string) (err error) {
	toStdout := output == "" || output == "-"
	if toStdout && a.env.OutIsTerminal {
		return usagef("raw bytes are not written to a terminal; give --output FILE, or a pipe")
	}
	client, err := a.volumes()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := client.ReadVolume(ctx, request)
	if err != nil {
		return err
	}
	// The first message comes before the file is touched: a volume that cannot
	// be read leaves a file that was there before as it is.
	first, err := stream.Recv()
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	var sink runWriter = &flatWriter{out: a.env.Out}
	if !toStdout {
		file, err := createFile(output)
		if err != nil {
			return failf(tenonv1.ErrorCode_ERROR_CODE_INVALID, "", "%v", err)
		}
		sink = file
	}
	if err == nil {
		err = a.receive(stream, first, request, sink)
	} else {
		err = nil // an empty range
	}
	if closeErr := sink.finish(err == nil); err == nil && closeErr != nil {
		err = failf(tenonv1.ErrorCode_ERROR_CODE_INTERNAL, "", "write %s: %v", or(output, "standard output"), closeErr)
	}
	if ctx.Err() != nil && err != nil {
		return failf(tenonv1.ErrorCode_ERROR_CODE_CANCELLED, "", "%s; what was written so far is not the whole", ended(ctx))
	}
	return err
}

func (a *app) receive(stream grpc.ServerStreamingClient[tenonv1.ReadVolumeResponse], m *tenonv1.ReadVolumeResponse, request *tenonv1.ReadVolumeRequest, sink runWriter) error {
	total := m.GetSizeBytes() - request.GetOffset()
	if request.GetLength() > 0 {
		total = min(total, request.GetLength())
	}
	meter := a.meter()
	defer meter.close()
	done := int64(0)
	for {
		if m.GetOffset() != request.GetOffset()+done {
			return failf(tenonv1.ErrorCode_ERROR_CODE_INTERNAL, "", "tenond sent bytes at %d where %d was next", m.GetOffset(), request.GetOffset()+done)
		}
		if err := sink.run(m.GetData(), m.GetZeroLength()); err != nil {
			return failf(tenonv1.ErrorCode_ERROR_CODE_INTERNAL, "", "write: %v", err)
		}
		done += int64(len(m.GetData())) + m.GetZeroLength()
		meter.bytes("read "+show.Short(request.GetUri()), done, total)
		next, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		m = next
	}
}

// runWriter takes runs of bytes or zeros one after the other.
type runWriter interface {
	run(data []byte, zeros int64) error
	finish(whole bool) error
}

// flatWriter writes zeros out, for a pipe.
type flatWriter struct{ out io.Writer }

var zeroChunk = make([]byte, chunk)

func (f *flatWriter) run(data []byte, zeros int64) error {
	if _, err := f.out.Write(data); err != nil {
		return err
	}
	for zeros > 0 {
		n := min(zeros, chunk)
		if _, err := f.out.Write(zeroChunk[:n]); err != nil {
			return err
		}
		zeros -= n
	}
	return nil
}

func (f *flatWriter) finish(bool) error { return nil }

// sparseFile leaves holes where there are zeros.
type sparseFile struct {
	*os.File
	made    bool // by us: a failure takes it away again
	regular bool // else zeros are written out
	at      int64
}

func createFile(path string) (*sparseFile, error) {
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	made := err == nil
	if errors.Is(err, os.ErrExist) {
		file, err = os.OpenFile(path, os.O_WRONLY|os.O_TRUNC, 0)
	}
	if err != nil {
		return nil, err
	}
	info, err := file.Stat()
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return &sparseFile{File: file, made: made, regular: info.Mode().IsRegular()}, nil
}

func (s *sparseFile) run(data []byte, zeros int64) error {
	if _, err := s.Write(data); err != nil {
		return err
	}
	s.at += int64(len(data)) + zeros
	if !s.regular {
		return (&flatWriter{out: s.File}).run(nil, zeros)
	}
	_, err := s.Seek(s.at, io.SeekStart)
	return err
}

func (s *sparseFile) finish(whole bool) error {
	var err error
	if whole && s.regular {
		err = errors.Join(s.Truncate(s.at), s.Sync())
	}
	err = errors.Join(err, s.Close())
	if !whole && s.made {
		err = errors.Join(err, os.Remove(s.Name()))
	}
	return err
}

func (a *app) volumeWrite() *cobra.Command {
	var offset size
	var input string
	cmd := &cobra.Command{
		Use:   "write URI [--input FILE] [--offset SIZE]",
		Short: "Write bytes from standard input or a file into a volume",
		Long: "Write bytes from standard input or a file into a volume that nothing uses. Runs of zeros cost\n" +
			"nothing. If the writing does not come to its end the volume is incomplete, and says so. Input that\n" +
			"turns out to be longer than the volume is refused: what fits is written, up to the volume's end,\n" +
			"and the command fails. A file that is too long is refused before anything is written.",
		Example: "  tenonctl volume write fast/vm1 --input debian-12.raw\n" +
			"  zstdcat vm1.img.zst | tenonctl volume write fast/vm1",
		Args: needs("URI"), ValidArgsFunction: a.complete(a.volumeURIs),
	}
	cmd.RunE = run(func(ctx context.Context, args []string) error {
		return a.write(ctx, args[0], int64(offset), input)
	})
	cmd.Flags().StringVar(&input, "input", "", "the `FILE` to read; empty or -: standard input")
	must(cmd.MarkFlagFilename("input"))
	cmd.Flags().Var(&offset, "offset", "where the first byte goes")
	return cmd
}

func (a *app) write(ctx context.Context, uri string, offset int64, input string) (err error) {
	source, total := a.env.In, int64(0)
	if input != "" && input != "-" {
		file, err := os.Open(input)
		if err != nil {
			return failf(tenonv1.ErrorCode_ERROR_CODE_INVALID, "", "%v", err)
		}
		defer func() { _ = file.Close() }() // only read
		if info, err := file.Stat(); err == nil && info.Mode().IsRegular() {
			total = info.Size()
		}
		source = file
	}
	client, err := a.volumes()
	if err != nil {
		return err
	}
	room, err := fits(ctx, client, uri, offset, total)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // a stream that is not committed is given up
	stream, err := client.WriteVolume(ctx)
	if err != nil {
		return err
	}
	if err := stream.Send(&tenonv1.WriteVolumeRequest{RequestId: a.requestID, Uri: uri, Offset: offset}); err != nil {
		return answer(stream, err)
	}
	upload := &upload{stream: stream, meter: a.meter(), what: "write " + show.Short(uri), total: total, at: offset, room: room}
	err = upload.sendUntil(ctx, source)
	tooLong := errors.Is(err, errTooLong)
	if err != nil && !tooLong {
		return a.cutShort(ctx, uri, err)
	}
	resp, err := stream.CloseAndRecv()
	if err != nil {
		return a.cutShort(ctx, uri, err)
	}
	if tooLong {
		return failf(tenonv1.ErrorCode_ERROR_CODE_INVALID,
			"make the volume larger with tenonctl volume resize "+uri+", and write the input again or its rest with --offset",
			"%v: %s of it are written, up to the end of volume %s; the rest is not", errTooLong, show.ExactSize(upload.done), show.Short(uri))
	}
	return a.print(resp.GetVolume(), func() string {
		return fmt.Sprintf("volume %s written: %s\n", show.Short(resp.GetVolume().GetUri()), show.ExactSize(upload.done))
	})
}

// cutShort says what becomes of a volume whose writing was interrupted.
func (a *app) cutShort(ctx context.Context, uri string, err error) error {
	if ctx.Err() == nil {
		return err
	}
	return failf(tenonv1.ErrorCode_ERROR_CODE_CANCELLED,
		fmt.Sprintf("repeat the command with --request-id %s, or delink the volume", a.requestID),
		"%s; what was written is not the whole, and volume %s is incomplete if anything was", ended(ctx), show.Short(uri))
}

// fits refuses a file that is too large before a byte of the volume changes, and
// returns how many bytes there is room for.
func fits(ctx context.Context, client tenonv1.VolumeServiceClient, uri string, offset, total int64) (room int64, err error) {
	resp, err := client.GetVolume(ctx, &tenonv1.GetVolumeRequest{Uri: uri})
	if err != nil {
		return 0, err
	}
	room = resp.GetVolume().GetSizeBytes() - offset
	if total > room {
		return 0, failf(tenonv1.ErrorCode_ERROR_CODE_INVALID, "make the volume larger with tenonctl volume resize "+uri,
			"%s at offset %d do not fit into volume %s of %s", show.ExactSize(total), offset, show.Short(uri), show.ExactSize(resp.GetVolume().GetSizeBytes()))
	}
	return room, nil
}

// errTooLong says that there were more bytes than the volume has room for. Those
// that it has room for are sent and their commit is asked for: an interrupted
// write would leave the volume incomplete, and bring none of its old bytes back.
var errTooLong = errors.New("the input is longer than the volume")

// upload sends bytes into a volume.
type upload struct {
	stream grpc.ClientStreamingClient[tenonv1.WriteVolumeRequest, tenonv1.WriteVolumeResponse]
	meter  meter
	what   string
	total  int64 // 0: not known
	at     int64 // where the next byte goes
	room   int64 // how many more there is room for
	done   int64
}

// sendUntil is send that ctx ends. A read of a pipe or a terminal cannot be
// ended, so it is left behind.
func (u *upload) sendUntil(ctx context.Context, source io.Reader) error {
	sent := make(chan error, 1)
	go func() { sent <- u.send(source) }()
	select {
	case err := <-sent:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// send streams the source and, at its end or the volume's, asks for the commit.
func (u *upload) send(source io.Reader) error {
	defer u.meter.close()
	buffer := make([]byte, chunk)
	var tooLong error
	for tooLong == nil {
		n, err := io.ReadFull(source, buffer)
		part := buffer[:n]
		if u.done > 0 && int64(n) > u.room { // in the first run tenond refuses it, and nothing is changed
			part, tooLong = buffer[:max(u.room, 0)], errTooLong
		}
		if err := u.run(part); err != nil {
			return err
		}
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			break
		}
		if err != nil {
			return failf(tenonv1.ErrorCode_ERROR_CODE_INVALID, "", "read the input: %v", err)
		}
	}
	if err := u.stream.Send(&tenonv1.WriteVolumeRequest{Offset: u.at, Commit: true}); err != nil {
		return answer(u.stream, err)
	}
	return tooLong
}

func (u *upload) run(part []byte) error {
	if len(part) == 0 {
		return nil
	}
	if err := u.stream.Send(asRun(u.at, part)); err != nil {
		return answer(u.stream, err)
	}
	n := int64(len(part))
	u.at, u.done, u.room = u.at+n, u.done+n, u.room-n
	u.meter.bytes(u.what, u.done, u.total)
	return nil
}

// asRun makes a message of bytes; zeros travel as a number.
func asRun(at int64, data []byte) *tenonv1.WriteVolumeRequest {
	if bytes.Equal(data, zeroChunk[:len(data)]) {
		return &tenonv1.WriteVolumeRequest{Offset: at, ZeroLength: int64(len(data))}
	}
	return &tenonv1.WriteVolumeRequest{Offset: at, Data: data}
}

// answer returns why the server ended the stream: Send itself says only io.EOF.
func answer(stream grpc.ClientStreamingClient[tenonv1.WriteVolumeRequest, tenonv1.WriteVolumeResponse], err error) error {
	if !errors.Is(err, io.EOF) {
		return err
	}
	if _, err := stream.CloseAndRecv(); err != nil {
		return err
	}
	return fmt.Errorf("tenond ended the stream early")
}

func or(text, otherwise string) string {
	if text == "" {
		return otherwise
	}
	return text
}
