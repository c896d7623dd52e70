// SPDX-License-Identifier: Apache-2.0

package nbd

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"iter"
	"net"
	"sync"
	"time"
)

// haggleTime bounds the handshake of one connection.
const haggleTime = 30 * time.Second

// Backend is what an export's bytes are kept in. Its methods are called from
// many goroutines at once, with ranges that lie within Export.Size and are
// multiples of Export.MinBlock; p is the server's again when they return. A
// client sees an error as the errno it wraps, else as EIO, with its text. A
// *Client is a Backend, too.
type Backend interface {
	// ReadAt fills p with the bytes at off, or fails.
	ReadAt(ctx context.Context, p []byte, off int64) error
	// WriteAt writes p at off. flags is 0: the server answers a request for
	// FUA by calling Flush after it.
	WriteAt(ctx context.Context, p []byte, off int64, flags Flags) error
	// WriteZeroes makes a range read as zeroes; flags may have NoHole.
	WriteZeroes(ctx context.Context, off, length int64, flags Flags) error
	// Trim may drop a range; flags is 0. Doing nothing is right, too.
	Trim(ctx context.Context, off, length int64, flags Flags) error
	// Flush makes every write that has returned stable, whichever connection
	// it came by.
	Flush(ctx context.Context) error
}

// Export is one disk that a server offers.
type Export struct {
	// Name is what clients ask for. Those that ask for "" get the export named
	// so, or the only one.
	Name        string
	Description string
	Size        int64 // bytes
	ReadOnly    bool
	Backend     Backend
	// Extents yields the extents of a range as base:allocation defines their
	// Flags; a part it leaves out is taken for data. Nil offers no base:allocation.
	Extents func(ctx context.Context, off, length int64) iter.Seq2[Extent, error]
	// MinBlock, PreferredBlock and MaxPayload are "Size constraints". Zeroes
	// mean 1, 4096 and 32 MiB.
	MinBlock, PreferredBlock, MaxPayload uint32
}

func (e *Export) complete() error {
	if e.MinBlock == 0 {
		e.MinBlock = 1
	}
	if e.PreferredBlock == 0 {
		e.PreferredBlock = max(defaultBlock, e.MinBlock)
	}
	if e.MaxPayload == 0 {
		e.MaxPayload = maxPayload
	}
	isPower := func(n uint32) bool { return n&(n-1) == 0 }
	var errs []error
	refuse := func(wrong bool, why string) {
		if wrong {
			errs = append(errs, fmt.Errorf("nbd: export %q: %s", e.Name, why))
		}
	}
	refuse(len(e.Name) > maxString || len(e.Description) > maxString, "name or description exceeds 4096 bytes")
	refuse(e.Backend == nil, "no backend")
	refuse(e.Size < 0 || e.Size%int64(e.MinBlock) != 0, "size is negative or no multiple of MinBlock")
	refuse(!isPower(e.MinBlock) || e.MinBlock > 65536, "MinBlock is no power of 2 up to 65536")
	refuse(!isPower(e.PreferredBlock) || e.PreferredBlock < max(e.MinBlock, 512), "PreferredBlock is no power of 2 of at least 512 and MinBlock")
	refuse(e.MaxPayload < e.PreferredBlock || e.MaxPayload > maxPayload, "MaxPayload is not from PreferredBlock to 32 MiB")
	return errors.Join(errs...)
}

// flags are the export's "Transmission flags". FLUSH reaches what all
// connections share, hence CAN_MULTI_CONN; a read is answered in one piece,
// hence DF.
func (e *Export) flags(structured bool) uint16 {
	flags := uint16(flagHasFlags | flagSendFlush | flagSendFUA | flagSendTrim | flagSendWriteZeroes | flagCanMultiConn)
	if e.ReadOnly {
		flags |= flagReadOnly
	}
	if structured {
		flags |= flagSendDF
	}
	return flags
}

// Serve serves exports on l until ctx ends, and returns nil then; requests under
// way are answered with ESHUTDOWN, or with what they came to. It closes l, and
// returns when every connection is closed and every call of a backend has
// returned. A client that breaks the protocol is disconnected.
func Serve(ctx context.Context, l net.Listener, exports ...Export) error {
	offered, err := catalogue(exports)
	if err != nil {
		return errors.Join(err, l.Close())
	}
	stop := context.AfterFunc(ctx, func() { l.Close() }) // ends Accept
	defer stop()
	var sessions sync.WaitGroup
	defer sessions.Wait()
	// Without a listener nobody can be served: those who are are sent away.
	serving, cancel := context.WithCancel(ctx)
	defer cancel()
	for {
		conn, err := l.Accept()
		if err != nil && ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return errors.Join(err, l.Close())
		}
		sessions.Go(func() { serve(serving, conn, offered) })
	}
}

// catalogue checks exports.
func catalogue(exports []Export) ([]*Export, error) {
	var offered []*Export
	names := make(map[string]bool)
	var errs []error
	for _, e := range exports {
		errs = append(errs, e.complete())
		if names[e.Name] {
			errs = append(errs, fmt.Errorf("nbd: two exports named %q", e.Name))
		}
		names[e.Name] = true
		offered = append(offered, &e)
	}
	return offered, errors.Join(errs...)
}

// serve serves one connection to its end. What ended it is the client's to
// learn, from the replies or the lack of them.
func serve(ctx context.Context, conn net.Conn, offered []*Export) {
	defer conn.Close()
	defer context.AfterFunc(ctx, func() {
		// No more requests; the replies under way get a moment.
		_ = conn.SetReadDeadline(time.Unix(1, 0))
		_ = conn.SetWriteDeadline(time.Now().Add(patience))
	})()
	// The deadline of the handshake and that of ctx's end must not lift each
	// other, hence a timer that closes instead.
	late := time.AfterFunc(haggleTime, func() { conn.Close() })
	s := &session{conn: conn, r: bufio.NewReaderSize(conn, readBuffer), offered: offered}
	err := s.haggle()
	if late.Stop() && err == nil {
		s.transmit(ctx)
	}
}
