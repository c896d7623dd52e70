// SPDX-License-Identifier: Apache-2.0

package nbd

import (
	"bufio"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
)

const (
	// maxOption bounds the data of an option that is understood.
	maxOption = 64 << 10
	// contextID is the id of base:allocation, the only metadata context.
	contextID = 1
)

// errFarewell ends a handshake in which the client took its leave.
var errFarewell = errors.New("client aborted the handshake")

// session is one connection to the server.
type session struct {
	conn    net.Conn
	r       *bufio.Reader
	offered []*Export

	noZeroes   bool
	structured bool
	allocation *Export // the export whose base:allocation was selected last
	export     *Export // chosen: the handshake is over

	replies sync.Mutex // held while a reply is written
}

// optionRequest is one option that the client sent.
type optionRequest struct {
	option
	data []byte
}

// haggle is the server's side of "Fixed newstyle negotiation". It returns nil
// when the client has chosen an export.
func (s *session) haggle() error {
	hello := binary.BigEndian.AppendUint64(nil, magicInit)
	hello = binary.BigEndian.AppendUint64(hello, magicOption)
	hello = binary.BigEndian.AppendUint16(hello, flagFixedNewstyle|flagNoZeroes)
	if _, err := s.conn.Write(hello); err != nil {
		return err
	}
	var flags [4]byte
	if _, err := io.ReadFull(s.r, flags[:]); err != nil {
		return err
	}
	chosen := binary.BigEndian.Uint32(flags[:])
	if chosen&^(flagFixedNewstyle|flagNoZeroes) != 0 {
		return violation("client flags %#x", chosen)
	}
	s.noZeroes = chosen&flagNoZeroes != 0
	for s.export == nil {
		o, err := s.nextOption()
		if err != nil {
			return err
		}
		if err := s.answer(o); err != nil {
			return err
		}
	}
	return nil
}

func (s *session) nextOption() (optionRequest, error) {
	var head [16]byte
	if _, err := io.ReadFull(s.r, head[:]); err != nil {
		return optionRequest{}, err
	}
	magic, length := binary.BigEndian.Uint64(head[:]), binary.BigEndian.Uint32(head[12:])
	if magic != magicOption || length > maxOption {
		return optionRequest{}, violation("option with magic %#x of %d bytes", magic, length)
	}
	o := optionRequest{option: option(binary.BigEndian.Uint32(head[8:])), data: make([]byte, length)}
	_, err := io.ReadFull(s.r, o.data)
	return o, err
}

func (s *session) answer(o optionRequest) error {
	switch o.option {
	case optExportName:
		return s.answerExportName(o)
	case optAbort:
		return errors.Join(errFarewell, s.reply(o, repAck, nil))
	case optList:
		return s.answerList(o)
	case optInfo, optGo:
		return s.answerInfo(o)
	case optStructuredReply:
		if len(o.data) > 0 {
			return s.reply(o, repErrInvalid, []byte("this option has no data"))
		}
		s.structured = true
		return s.reply(o, repAck, nil)
	case optListMetaContext, optSetMetaContext:
		return s.answerMetaContext(o)
	}
	return s.reply(o, repErrUnsup, nil)
}

func (s *session) reply(o optionRequest, kind uint32, data []byte) error {
	b := binary.BigEndian.AppendUint64(nil, magicOptionReply)
	b = binary.BigEndian.AppendUint32(b, uint32(o.option))
	b = binary.BigEndian.AppendUint32(b, kind)
	b = binary.BigEndian.AppendUint32(b, uint32(len(data)))
	_, err := s.conn.Write(append(b, data...))
	return err
}

// find returns the export that clients mean by name, or nil.
func (s *session) find(name string) *Export {
	for _, e := range s.offered {
		if e.Name == name || name == "" && len(s.offered) == 1 {
			return e
		}
	}
	return nil
}

// answerExportName serves clients that know no NBD_OPT_GO. "If the chosen export
// does not exist […] the server MUST terminate the session."
func (s *session) answerExportName(o optionRequest) error {
	e := s.find(string(o.data))
	if e == nil {
		return violation("export %q does not exist", printable(o.data))
	}
	b := binary.BigEndian.AppendUint64(nil, uint64(e.Size))
	b = binary.BigEndian.AppendUint16(b, e.flags(s.structured))
	if !s.noZeroes {
		b = append(b, make([]byte, 124)...)
	}
	s.export = e
	_, err := s.conn.Write(b)
	return err
}

func (s *session) answerList(o optionRequest) error {
	if len(o.data) > 0 {
		return s.reply(o, repErrInvalid, []byte("this option has no data"))
	}
	for _, e := range s.offered {
		if err := s.reply(o, repServer, append(appendString(nil, e.Name), e.Description...)); err != nil {
			return err
		}
	}
	return s.reply(o, repAck, nil)
}

// answerInfo answers NBD_OPT_INFO and NBD_OPT_GO.
func (s *session) answerInfo(o optionRequest) error {
	name, rest, ok := cutString(o.data)
	if !ok || len(rest) < 2 || len(rest) != 2+2*int(binary.BigEndian.Uint16(rest)) {
		return s.reply(o, repErrInvalid, []byte("lengths do not add up"))
	}
	e := s.find(name)
	if e == nil {
		return s.reply(o, repErrUnknown, []byte("no such export"))
	}
	for _, data := range s.information(e, rest[2:]) {
		if err := s.reply(o, repInfo, data); err != nil {
			return err
		}
	}
	if o.option == optGo {
		s.export = e
	}
	return s.reply(o, repAck, nil)
}

// information is the size and what of the rest was asked for.
func (s *session) information(e *Export, asked []byte) (replies [][]byte) {
	b := binary.BigEndian.AppendUint16(nil, infoExport)
	b = binary.BigEndian.AppendUint64(b, uint64(e.Size))
	replies = append(replies, binary.BigEndian.AppendUint16(b, e.flags(s.structured)))
	for kind := range slices.Chunk(asked, 2) {
		kind := binary.BigEndian.Uint16(kind)
		b := binary.BigEndian.AppendUint16(nil, kind)
		switch kind {
		case infoName:
			replies = append(replies, append(b, e.Name...))
		case infoDescription:
			replies = append(replies, append(b, e.Description...))
		case infoBlockSize:
			b = binary.BigEndian.AppendUint32(b, e.MinBlock)
			b = binary.BigEndian.AppendUint32(b, e.PreferredBlock)
			replies = append(replies, binary.BigEndian.AppendUint32(b, e.MaxPayload))
		}
	}
	return replies
}

// answerMetaContext answers NBD_OPT_LIST_META_CONTEXT and NBD_OPT_SET_META_CONTEXT.
func (s *session) answerMetaContext(o optionRequest) error {
	set := o.option == optSetMetaContext
	if set {
		s.allocation = nil // "including when this command fails"
	}
	name, queries, ok := parseMetaQuery(o.data)
	if !ok || !s.structured {
		return s.reply(o, repErrInvalid, []byte("lengths do not add up, or no structured replies"))
	}
	e := s.find(name)
	if e == nil {
		return s.reply(o, repErrUnknown, []byte("no such export"))
	}
	matches := slices.Contains(queries, BaseAllocation)
	if !set && (len(queries) == 0 || slices.Contains(queries, "base:")) {
		matches = true
	}
	if e.Extents == nil || !matches {
		return s.reply(o, repAck, nil)
	}
	id := uint32(0) // "reserved and SHOULD be set to zero" in a list
	if set {
		s.allocation, id = e, contextID
	}
	if err := s.reply(o, repMetaContext, append(binary.BigEndian.AppendUint32(nil, id), BaseAllocation...)); err != nil {
		return err
	}
	return s.reply(o, repAck, nil)
}

// parseMetaQuery reads what metaQuery writes.
func parseMetaQuery(data []byte) (export string, queries []string, ok bool) {
	export, data, ok = cutString(data)
	if !ok || len(data) < 4 {
		return "", nil, false
	}
	count := binary.BigEndian.Uint32(data)
	data = data[4:]
	for range count {
		var query string
		if query, data, ok = cutString(data); !ok {
			return "", nil, false
		}
		queries = append(queries, query)
	}
	return export, queries, len(data) == 0
}

// cutString reads what appendString writes.
func cutString(data []byte) (s string, rest []byte, ok bool) {
	if len(data) < 4 {
		return "", nil, false
	}
	n := binary.BigEndian.Uint32(data)
	if n > maxString || int(n) > len(data)-4 {
		return "", nil, false
	}
	return strings.ToValidUTF8(string(data[4:4+n]), "\uFFFD"), data[4+n:], true
}
