// SPDX-License-Identifier: Apache-2.0

package nbd

import (
	"encoding/binary"
	"fmt"
)

// Magic numbers of "Newstyle negotiation", "Fixed newstyle negotiation",
// "Request message", "Simple reply message", "Structured reply chunk message".
const (
	magicInit        = 0x4e42444d41474943 // "NBDMAGIC"
	magicOption      = 0x49484156454f5054 // "IHAVEOPT"
	magicOldstyle    = 0x00420281861253
	magicOptionReply = 0x3e889045565a9
	magicRequest     = 0x25609513
	magicSimple      = 0x67446698
	magicStructured  = 0x668e33ef
)

// "Handshake flags" and "Client flags", which have the same values.
const (
	flagFixedNewstyle = 1 << 0
	flagNoZeroes      = 1 << 1
)

// "Transmission flags".
const (
	flagHasFlags        = 1 << 0
	flagReadOnly        = 1 << 1
	flagSendFlush       = 1 << 2
	flagSendFUA         = 1 << 3
	flagRotational      = 1 << 4
	flagSendTrim        = 1 << 5
	flagSendWriteZeroes = 1 << 6
	flagSendDF          = 1 << 7
	flagCanMultiConn    = 1 << 8
	flagSendFastZero    = 1 << 11
)

// option is one of "Option types".
type option uint32

const (
	optExportName      option = 1
	optAbort           option = 2
	optList            option = 3
	optInfo            option = 6
	optGo              option = 7
	optStructuredReply option = 8
	optListMetaContext option = 9
	optSetMetaContext  option = 10
)

// "Option reply types"; errors have bit 31.
const (
	repAck         = 1
	repServer      = 2
	repInfo        = 3
	repMetaContext = 4

	repError        = 1 << 31
	repErrUnsup     = repError + 1
	repErrPolicy    = repError + 2
	repErrInvalid   = repError + 3
	repErrPlatform  = repError + 4
	repErrTLSReqd   = repError + 5
	repErrUnknown   = repError + 6
	repErrShutdown  = repError + 7
	repErrBlockSize = repError + 8
	repErrTooBig    = repError + 9
)

// Information types of NBD_REP_INFO.
const (
	infoExport      = 0
	infoName        = 1
	infoDescription = 2
	infoBlockSize   = 3
)

// command is one of "Request types".
type command uint16

const (
	cmdRead        command = 0
	cmdWrite       command = 1
	cmdDisc        command = 2
	cmdFlush       command = 3
	cmdTrim        command = 4
	cmdWriteZeroes command = 6
	cmdBlockStatus command = 7
)

func (c command) String() string {
	names := map[command]string{
		cmdRead: "read", cmdWrite: "write", cmdDisc: "disconnect", cmdFlush: "flush",
		cmdTrim: "trim", cmdWriteZeroes: "write zeroes", cmdBlockStatus: "block status",
	}
	if name, ok := names[c]; ok {
		return name
	}
	return fmt.Sprintf("command %d", uint16(c))
}

// Flags are "Command flags".
type Flags uint16

const (
	// FUA: the reply comes once the data is on stable storage.
	FUA Flags = 1 << 0
	// NoHole: zeroes are written to allocated space, so that a later write
	// cannot run out of it.
	NoHole Flags = 1 << 1
	// FastZero: fail with ENOTSUP where zeroing is no faster than writing.
	FastZero Flags = 1 << 4

	flagDF     Flags = 1 << 2
	flagReqOne Flags = 1 << 3
)

// "Structured reply types" and "Structured reply flags".
const (
	replyDone = 1 << 0

	chunkNone        = 0
	chunkData        = 1
	chunkHole        = 2
	chunkBlockStatus = 5
	chunkError       = 1<<15 + 1
	chunkErrorOffset = 1<<15 + 2
	chunkIsError     = 1 << 15
)

// Limits. maxString is the string limit of "Conventions"; maxPayload is what
// "Size constraints" lets every client and server count on; maxDescriptors
// is the limit of NBD_REPLY_TYPE_BLOCK_STATUS. maxOptionReply is ours: the
// largest reply defined is a name and a description.
const (
	maxString      = 4096
	maxPayload     = 32 << 20
	maxDescriptors = 1 << 20
	maxOptionReply = 2*maxString + 64
	defaultBlock   = 4096

	// maxEffect bounds the length of commands that carry no payload: below 2³²
	// and a multiple of every permitted minimum block size (up to 65,536).
	maxEffect = 1 << 30
)

// BaseAllocation is the metadata context that tells holes and zeroes from data.
const BaseAllocation = "base:allocation"

// Flags of an Extent in base:allocation (`base:allocation` metadata context),
// and in QEMU's contexts.
const (
	// StateHole: not allocated; a write may find no space.
	StateHole = 1 << 0
	// StateZero: reads as zeroes.
	StateZero = 1 << 1
	// StateDirty: changed since the bitmap began, in qemu:dirty-bitmap:NAME.
	StateDirty = 1 << 0
)

// Extent is a range with one status in one metadata context.
type Extent struct {
	Offset, Length int64  // bytes
	Flags          uint32 // as the context defines them
}

// End is the offset of the first byte after the extent.
func (e Extent) End() int64 { return e.Offset + e.Length }

// request is the header of "Request message".
type request struct {
	flags  Flags
	cmd    command
	cookie uint64
	offset uint64
	length uint32
}

const requestSize = 28

func (r request) append(b []byte) []byte {
	b = binary.BigEndian.AppendUint32(b, magicRequest)
	b = binary.BigEndian.AppendUint16(b, uint16(r.flags))
	b = binary.BigEndian.AppendUint16(b, uint16(r.cmd))
	b = binary.BigEndian.AppendUint64(b, r.cookie)
	b = binary.BigEndian.AppendUint64(b, r.offset)
	return binary.BigEndian.AppendUint32(b, r.length)
}

// parseRequest reads what append wrote; b is requestSize long.
func parseRequest(b []byte) (request, error) {
	if magic := binary.BigEndian.Uint32(b); magic != magicRequest {
		return request{}, violation("request with magic %#x", magic)
	}
	return request{
		flags:  Flags(binary.BigEndian.Uint16(b[4:])),
		cmd:    command(binary.BigEndian.Uint16(b[6:])),
		cookie: binary.BigEndian.Uint64(b[8:]),
		offset: binary.BigEndian.Uint64(b[16:]),
		length: binary.BigEndian.Uint32(b[24:]),
	}, nil
}
