// SPDX-License-Identifier: Apache-2.0

package storagetest

import (
	"context"
	"fmt"
	"maps"
	"os"
	"sync/atomic"
	"time"

	"github.com/tenon-storage/tenon/primitives"
)

// device is the name under which checks open their store.
const device = "device"

// counter hands out numbers to concurrent callers.
type counter struct{ n atomic.Int64 }

func (c *counter) next() int64 { return c.n.Add(1) }

// opened is a backend that the check has to close in the end.
type opened struct {
	b    primitives.Backend
	gone bool // closed, or lost in a crash
}

// use makes s the store of this check and takes care of what is left of it in the end.
func (c *C) use(s Store) {
	c.store = s
	s.Props = s.Props.Clone()
	if s.Props == nil {
		s.Props = primitives.Props{}
	}
	maps.Copy(s.Props, c.v.DeviceProps)
	c.store = s
	c.Cleanup(c.leave)
}

// leave unmaps and closes whatever the check left.
func (c *C) leave() {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(c.ctx), time.Minute)
	defer cancel()
	for _, o := range c.opened {
		if o.gone {
			continue
		}
		if m := o.b.Facets().Map; m != nil {
			all, _ := m.Mappings(ctx)
			for _, one := range all {
				_ = m.Unmap(ctx, one.ID, primitives.UnmapRequest{Force: true})
			}
		}
		_ = o.b.Close()
	}
	c.opened = nil
}

// open opens the store on the first host.
func (c *C) open() primitives.Backend { return c.openOn("a") }

// openOn opens the store on the host of that name. The same name always has the
// same boot id and run folder.
func (c *C) openOn(host string) primitives.Backend {
	c.Helper()
	b, err := c.tryOpen(c.ctx, c.openRequest(host))
	c.must(err, "open")
	return b
}

func (c *C) openRequest(host string) primitives.OpenRequest {
	return primitives.OpenRequest{Name: device, Props: c.store.Props.Clone(), Secrets: c.store.Secrets, Host: c.host(host)}
}

func (c *C) tryOpen(ctx context.Context, o primitives.OpenRequest) (primitives.Backend, error) {
	open := c.store.Open
	if open == nil {
		open = c.store.Driver.Open
	}
	b, err := open(ctx, o)
	if err == nil {
		c.opened = append(c.opened, opened{b: b})
	}
	return b, err
}

func (c *C) host(name string) primitives.HostInfo {
	if _, known := c.hosts[name]; !known {
		// Not TempDir: it holds the test's name, and a socket's path has 108 bytes.
		dir, err := os.MkdirTemp("", "tenon")
		c.must(err, "make a run folder")
		c.Cleanup(func() { _ = os.RemoveAll(dir) })
		c.hosts[name] = primitives.HostInfo{ID: "host-" + name, BootID: "boot-1", RunDir: dir}
	}
	return c.hosts[name]
}

// reboot gives the host a new boot id. The run folder keeps its content, which
// is the harder case: a driver must not take it for the present boot's.
func (c *C) reboot(host string) {
	h := c.host(host)
	h.BootID = fmt.Sprintf("boot-%d", c.sequence.next()+1)
	c.hosts[host] = h
}

func (c *C) close(b primitives.Backend) {
	c.Helper()
	c.must(b.Close(), "close")
	c.forget(b)
}

func (c *C) forget(b primitives.Backend) {
	for i := range c.opened {
		if c.opened[i].b == b {
			c.opened[i].gone = true
		}
	}
}

// crash ends every backend without closing it.
func (c *C) crash() {
	for i := range c.opened {
		c.opened[i].gone = true
	}
	if c.store.Crash != nil {
		c.store.Crash()
	}
}

// crashAndReopen returns what the agent sees after a kill -9.
func (c *C) crashAndReopen() primitives.Backend {
	c.Helper()
	c.crash()
	return c.open()
}

// u returns the URI of the volume of that name.
func (c *C) u(volume string) primitives.URI {
	return primitives.URI{Device: device, Volume: volume}
}

// op returns an operation with an id of its own.
func (c *C) op() primitives.Op {
	return primitives.Op{ID: fmt.Sprintf("suite-%d", c.sequence.next()), Props: c.opProps(), Secrets: c.store.Secrets}
}

// opProps returns what travels with every call: to a bare driver the effective
// properties, to a caller's side only what the caller gives for this call.
func (c *C) opProps() primitives.Props {
	if c.store.Open != nil {
		return c.v.VolumeProps.Clone()
	}
	props := c.store.Props.Clone()
	for _, spec := range c.store.Driver.Info().Schema.Props {
		if _, given := props[spec.Name]; !given && spec.Default != "" && !spec.Secret {
			props[spec.Name] = spec.Default
		}
	}
	maps.Copy(props, c.v.VolumeProps)
	return props
}
