// SPDX-License-Identifier: Apache-2.0

package nbd

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"time"
)

// readBuffer is how much is read ahead: large enough that a read of a usual
// size comes in few system calls.
const readBuffer = 256 << 10

// Options are the optional parts of Dial.
type Options struct {
	// Export is the export's name; empty is the server's default export.
	Export string
	// MetaContexts are the exact names of the metadata contexts wanted, such as
	// BaseAllocation. Those the server does not know are left out of
	// Info.MetaContexts.
	MetaContexts []string
	// MaxRequest bounds one read or write request in bytes, below what the
	// server allows. Zero means the server's limit, at most 32 MiB.
	MaxRequest int64
	// Timeout bounds each request beside its own context; zero does not.
	Timeout time.Duration
}

func (o Options) validate() error {
	for _, name := range append([]string{o.Export}, o.MetaContexts...) {
		if len(name) > maxString {
			return fmt.Errorf("nbd: name of %d bytes, %d at most", len(name), maxString)
		}
	}
	if o.MaxRequest < 0 {
		return fmt.Errorf("nbd: MaxRequest %d is negative", o.MaxRequest)
	}
	return nil
}

// Dial connects to an export of the server at a "unix" or "tcp" address. ctx
// bounds connecting and the handshake. An export the server does not have is
// fs.ErrNotExist.
func Dial(ctx context.Context, network, address string, o Options) (*Client, error) {
	conn, err := new(net.Dialer).DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	return NewClient(ctx, conn, o)
}

// NewClient is Dial over a connection that exists. It owns conn from now on and
// closes it on failure.
func NewClient(ctx context.Context, conn net.Conn, o Options) (*Client, error) {
	if err := o.validate(); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	r := bufio.NewReaderSize(conn, readBuffer)
	var info Info
	var contexts map[uint32]string
	err := haggle(ctx, conn, r, func(h haggler) (err error) {
		info, contexts, err = h.negotiate(o)
		return err
	})
	if err != nil {
		return nil, err
	}
	c := &Client{
		info: info, options: o, contexts: contexts, conn: conn,
		send:    make(chan struct{}, 1),
		slots:   make(chan struct{}, maxInFlight),
		pending: make(map[uint64]*call),
		dead:    make(chan struct{}),
		read:    make(chan struct{}),
	}
	go c.receive(r)
	return c, nil
}

// Listed is one export that a server offers.
type Listed struct {
	Name, Description string
}

// List returns the exports of a server. One that keeps them to itself fails
// with fs.ErrPermission or errors.ErrUnsupported.
func List(ctx context.Context, network, address string) ([]Listed, error) {
	var exports []Listed
	err := visit(ctx, network, address, func(h haggler) error {
		replies, err := h.ask(optList, "list", nil)
		for _, r := range replies {
			export, err := parseListed(r)
			if err != nil {
				return err
			}
			exports = append(exports, export)
		}
		return err
	})
	return exports, err
}

// ListMetaContexts returns the metadata contexts of an export that match the
// queries, or all of them. "qemu:dirty-bitmap:" asks for every bitmap.
func ListMetaContexts(ctx context.Context, network, address, export string, queries ...string) ([]string, error) {
	var names []string
	err := visit(ctx, network, address, func(h haggler) error {
		if _, err := h.ask(optStructuredReply, "structured replies", nil); err != nil {
			return err
		}
		replies, err := h.ask(optListMetaContext, "list of metadata contexts", metaQuery(export, queries))
		for _, r := range replies {
			_, name, err := parseContext(r)
			if err != nil {
				return err
			}
			names = append(names, name)
		}
		return err
	})
	return names, err
}

// visit connects for a handshake that ends in NBD_OPT_ABORT.
func visit(ctx context.Context, network, address string, ask func(haggler) error) error {
	conn, err := new(net.Dialer).DialContext(ctx, network, address)
	if err != nil {
		return err
	}
	err = haggle(ctx, conn, bufio.NewReader(conn), func(h haggler) error {
		if _, err := h.begin(); err != nil {
			return err
		}
		if err := ask(h); err != nil {
			return err
		}
		return h.send(optAbort, nil)
	})
	if err != nil {
		return err
	}
	return conn.Close()
}

// haggle runs one handshake within ctx and closes conn if it fails.
func haggle(ctx context.Context, conn net.Conn, r *bufio.Reader, talk func(haggler) error) error {
	lift := bound(ctx, conn)
	err := talk(haggler{r: r, w: conn})
	if late := lift(); late != nil {
		err = late
	}
	if err != nil {
		conn.Close() // err says what went wrong; this cannot make it worse
		return fmt.Errorf("nbd handshake with %s: %w", conn.RemoteAddr(), err)
	}
	return nil
}

func parseListed(r optionReply) (Listed, error) {
	if r.kind != repServer || len(r.data) < 4 {
		return Listed{}, violation("reply %d of %d bytes where an export belongs", r.kind, len(r.data))
	}
	n, rest := binary.BigEndian.Uint32(r.data), r.data[4:]
	if n > maxString || int(n) > len(rest) {
		return Listed{}, violation("export name of %d bytes in a reply of %d", n, len(r.data))
	}
	return Listed{Name: string(rest[:n]), Description: printable(rest[n:])}, nil
}
