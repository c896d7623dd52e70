// SPDX-License-Identifier: Apache-2.0

package nbd

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"slices"
	"time"
)

// maxReplies bounds the replies to one option in bytes, a fixed cost for each
// included: exports listed, contexts granted.
const maxReplies = 8 << 20

// Info is what the server said about the export.
type Info struct {
	Name        string // the server's own name of it, if it told one
	Description string
	Size        int64 // bytes
	ReadOnly    bool
	CanFlush    bool // Flush
	CanFUA      bool // FUA is one request, not a write and a flush
	CanTrim     bool
	CanZero     bool // zeroes need not be sent
	CanFastZero bool
	MultiConn   bool // several connections see each other's flushed writes
	Rotational  bool

	// MinBlock divides the offset and length of every request. PreferredBlock
	// is the least that is efficient. MaxPayload bounds one read or write; the
	// client splits longer ones.
	MinBlock, PreferredBlock, MaxPayload int64

	Structured   bool     // reads may come in parts, with holes
	MetaContexts []string // those of Options.MetaContexts that the server granted
}

// haggler is the client's side of "Handshake" on a fresh connection.
type haggler struct {
	r io.Reader
	w io.Writer
}

// optionReply is one reply to an option.
type optionReply struct {
	kind uint32
	data []byte
}

// begin exchanges flags ("Newstyle negotiation").
func (h haggler) begin() (zeroes bool, err error) {
	var hello [16]byte
	if _, err := io.ReadFull(h.r, hello[:]); err != nil {
		return false, err
	}
	if magic := binary.BigEndian.Uint64(hello[:]); magic != magicInit {
		return false, violation("server begins with %#x: is it an NBD server?", magic)
	}
	switch magic := binary.BigEndian.Uint64(hello[8:]); magic {
	case magicOption:
	case magicOldstyle:
		return false, fmt.Errorf("oldstyle NBD server: %w", errors.ErrUnsupported)
	default:
		return false, violation("server goes on with %#x", magic)
	}
	var flags [2]byte
	if _, err := io.ReadFull(h.r, flags[:]); err != nil {
		return false, err
	}
	offered := binary.BigEndian.Uint16(flags[:])
	if offered&flagFixedNewstyle == 0 {
		return false, fmt.Errorf("NBD server without fixed newstyle: %w", errors.ErrUnsupported)
	}
	answer := uint32(offered & (flagFixedNewstyle | flagNoZeroes))
	_, err = h.w.Write(binary.BigEndian.AppendUint32(nil, answer))
	return offered&flagNoZeroes == 0, err
}

func (h haggler) send(opt option, data []byte) error {
	b := binary.BigEndian.AppendUint64(nil, magicOption)
	b = binary.BigEndian.AppendUint32(b, uint32(opt))
	b = binary.BigEndian.AppendUint32(b, uint32(len(data)))
	_, err := h.w.Write(append(b, data...))
	return err
}

// ask sends an option and returns the replies before the final ACK. A refusal
// is an *OptionError, after which the haggling may go on.
func (h haggler) ask(opt option, name string, data []byte) ([]optionReply, error) {
	if err := h.send(opt, data); err != nil {
		return nil, err
	}
	var replies []optionReply
	size := 0
	for {
		r, err := h.reply(opt)
		size += len(r.data) + 64
		switch {
		case err != nil:
			return nil, err
		case r.kind == repAck:
			return replies, nil
		case r.kind&repError != 0:
			return nil, &OptionError{Option: name, Code: r.kind, Message: printable(r.data)}
		case size > maxReplies:
			return nil, violation("more than %d bytes of replies to %s", maxReplies, name)
		}
		replies = append(replies, r)
	}
}

func (h haggler) reply(opt option) (optionReply, error) {
	var head [20]byte
	if _, err := io.ReadFull(h.r, head[:]); err != nil {
		return optionReply{}, err
	}
	magic, about := binary.BigEndian.Uint64(head[:]), binary.BigEndian.Uint32(head[8:])
	length := binary.BigEndian.Uint32(head[16:])
	if magic != magicOptionReply || about != uint32(opt) || length > maxOptionReply {
		return optionReply{}, violation("reply to option %d has magic %#x, option %d, %d bytes", opt, magic, about, length)
	}
	r := optionReply{kind: binary.BigEndian.Uint32(head[12:]), data: make([]byte, length)}
	_, err := io.ReadFull(h.r, r.data)
	return r, err
}

// negotiate brings the connection into the transmission phase.
func (h haggler) negotiate(o Options) (Info, map[uint32]string, error) {
	zeroes, err := h.begin()
	if err != nil {
		return Info{}, nil, err
	}
	_, err = h.ask(optStructuredReply, "structured replies", nil)
	if !refusedOr(err) {
		return Info{}, nil, err
	}
	structured := err == nil
	var contexts map[uint32]string
	if structured && len(o.MetaContexts) > 0 {
		if contexts, err = h.setContexts(o); err != nil {
			return Info{}, nil, err
		}
	}
	info, err := h.goTo(o.Export, zeroes)
	info.Structured = structured
	for _, name := range contexts {
		info.MetaContexts = append(info.MetaContexts, name)
	}
	slices.Sort(info.MetaContexts)
	return info, contexts, err
}

// refusedOr reports whether err is nil or a mere refusal.
func refusedOr(err error) bool {
	_, refused := errors.AsType[*OptionError](err)
	return err == nil || refused
}

// setContexts selects metadata contexts; one that is unknown, or a server that
// knows none, is no error (NBD_OPT_SET_META_CONTEXT).
func (h haggler) setContexts(o Options) (map[uint32]string, error) {
	replies, err := h.ask(optSetMetaContext, "metadata contexts", metaQuery(o.Export, o.MetaContexts))
	if !refusedOr(err) {
		return nil, err
	}
	contexts := make(map[uint32]string)
	for _, r := range replies {
		id, name, err := parseContext(r)
		if err != nil {
			return nil, err
		}
		if _, twice := contexts[id]; twice || !slices.Contains(o.MetaContexts, name) {
			return nil, violation("metadata context %q (%d) granted twice or unasked", name, id)
		}
		contexts[id] = name
	}
	return contexts, nil
}

func metaQuery(export string, queries []string) []byte {
	b := appendString(nil, export)
	b = binary.BigEndian.AppendUint32(b, uint32(len(queries)))
	for _, q := range queries {
		b = appendString(b, q)
	}
	return b
}

func appendString(b []byte, s string) []byte {
	return append(binary.BigEndian.AppendUint32(b, uint32(len(s))), s...)
}

func parseContext(r optionReply) (id uint32, name string, err error) {
	if r.kind != repMetaContext || len(r.data) <= 4 || len(r.data) > 4+maxString {
		return 0, "", violation("metadata context as reply %d of %d bytes", r.kind, len(r.data))
	}
	return binary.BigEndian.Uint32(r.data), string(r.data[4:]), nil
}

// goTo ends the handshake with NBD_OPT_GO, or NBD_OPT_EXPORT_NAME where the
// server is too old for it.
func (h haggler) goTo(export string, zeroes bool) (Info, error) {
	data := appendString(nil, export)
	for _, n := range []uint16{3, infoName, infoDescription, infoBlockSize} {
		data = binary.BigEndian.AppendUint16(data, n)
	}
	replies, err := h.ask(optGo, fmt.Sprintf("export %q", export), data)
	if errors.Is(err, errors.ErrUnsupported) {
		if e, ok := errors.AsType[*OptionError](err); ok && e.Code == repErrUnsup {
			return h.exportName(export, zeroes)
		}
	}
	if err != nil {
		return Info{}, err
	}
	return parseInfo(replies)
}

func (h haggler) exportName(export string, zeroes bool) (Info, error) {
	if err := h.send(optExportName, []byte(export)); err != nil {
		return Info{}, err
	}
	tail := make([]byte, 10, 134)
	if zeroes {
		tail = tail[:134]
	}
	if _, err := io.ReadFull(h.r, tail); err != nil {
		return Info{}, err // the only way of this option to say no
	}
	return parseInfo([]optionReply{{kind: repInfo, data: append([]byte{0, infoExport}, tail[:10]...)}})
}

// parseInfo reads the NBD_REP_INFO replies; types it does not know are ignored.
func parseInfo(replies []optionReply) (Info, error) {
	info := Info{Size: -1, MinBlock: 1, PreferredBlock: defaultBlock, MaxPayload: maxPayload}
	for _, r := range replies {
		if r.kind != repInfo || len(r.data) < 2 {
			return Info{}, violation("reply %d of %d bytes where information belongs", r.kind, len(r.data))
		}
		kind, data := binary.BigEndian.Uint16(r.data), r.data[2:]
		switch {
		case kind == infoExport && len(data) == 10:
			if err := info.setExport(data); err != nil {
				return Info{}, err
			}
		case kind == infoBlockSize && len(data) == 12:
			if err := info.setBlockSize(data); err != nil {
				return Info{}, err
			}
		case kind == infoExport || kind == infoBlockSize:
			return Info{}, violation("information %d of %d bytes", kind, len(data))
		case kind == infoName:
			info.Name = printable(data)
		case kind == infoDescription:
			info.Description = printable(data)
		}
	}
	if info.Size < 0 {
		return Info{}, violation("server told no size")
	}
	return info, nil
}

func (info *Info) setExport(data []byte) error {
	size, flags := binary.BigEndian.Uint64(data), binary.BigEndian.Uint16(data[8:])
	if size > math.MaxInt64 {
		return violation("export of %d bytes", size)
	}
	info.Size = int64(size)
	info.ReadOnly = flags&flagReadOnly != 0
	info.CanFlush = flags&flagSendFlush != 0
	info.CanFUA = flags&flagSendFUA != 0
	info.CanTrim = flags&flagSendTrim != 0
	info.CanZero = flags&flagSendWriteZeroes != 0
	info.CanFastZero = flags&flagSendFastZero != 0 && info.CanZero
	info.MultiConn = flags&flagCanMultiConn != 0
	info.Rotational = flags&flagRotational != 0
	return nil
}

// setBlockSize reads and checks what "Size constraints" demands of a server.
func (info *Info) setBlockSize(data []byte) error {
	least := binary.BigEndian.Uint32(data)
	preferred := binary.BigEndian.Uint32(data[4:])
	most := binary.BigEndian.Uint32(data[8:])
	isPower := func(n uint32) bool { return n != 0 && n&(n-1) == 0 }
	if !isPower(least) || least > 65536 || !isPower(preferred) || preferred < least || most < least {
		return violation("block sizes %d, %d, %d", least, preferred, most)
	}
	info.MinBlock, info.PreferredBlock = int64(least), int64(preferred)
	// A server without a limit sends 2³²-1; a part must stay aligned.
	info.MaxPayload = min(int64(most), maxPayload) / info.MinBlock * info.MinBlock
	return nil
}

// printable makes a peer's words fit to be shown: bounded and valid.
func printable(data []byte) string {
	return string(bytes.ToValidUTF8(data[:min(len(data), maxString)], []byte("\uFFFD")))
}

// bound makes conn's reads and writes fail once ctx has ended. The function it
// returns lifts that and reports ctx's error, if it came to that.
func bound(ctx context.Context, conn net.Conn) (lift func() error) {
	ran := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(ran)
		_ = conn.SetDeadline(time.Unix(1, 0)) // fails only on a closed connection
	})
	return func() error {
		if stop() {
			return nil
		}
		<-ran
		return context.Cause(ctx)
	}
}
