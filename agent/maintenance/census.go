// SPDX-License-Identifier: Apache-2.0

package maintenance

import (
	"slices"
	"strings"

	"github.com/tenon-storage/tenon/agent/journal"
	"github.com/tenon-storage/tenon/agent/operation"
	"github.com/tenon-storage/tenon/agent/snapshot"
	"github.com/tenon-storage/tenon/primitives"
	protocol "github.com/tenon-storage/tenon/primitives/maintenance"
)

// The kinds of use, beside those of the journal.
const (
	kindDisk       = string(journal.UseDisk)
	kindTransfer   = string(journal.UseTransfer)
	kindStream     = string(journal.UseStream)
	kindSnapshot   = "snapshot"
	kindOperation  = "operation"
	kindSubscriber = "subscriber"
)

// user is one use of a device, with what the agent knows of it besides.
type user struct {
	protocol.Use
	URI       primitives.URI
	Operation string // of a transfer, snapshot or other operation: its id
	record    journal.Use
}

// census is every use of every device, from one pass over the journal: recorded
// uses, operations that hold a device, and subscribers that block.
type census struct {
	policies policies
	uses     map[string][]journal.Use // recorded, by device
	others   map[string][]user        // the rest, by device
	shown    map[string][]user        // what of was asked for already
}

// census returns the census of the turn's transaction.
func (t *turn) census() (*census, error) {
	if t.seen == nil {
		c, err := count(t.tx)
		if err != nil {
			return nil, err
		}
		t.seen = c
	}
	return t.seen, nil
}

// of returns the uses of a device.
func (c *census) of(device string) []user {
	list, known := c.shown[device]
	if !known {
		list = make([]user, 0, len(c.uses[device])+len(c.others[device]))
		for _, u := range c.uses[device] {
			list = append(list, recorded(u, c.policies))
		}
		list = append(list, c.others[device]...)
		c.shown[device] = list
	}
	return list
}

// uses returns the uses of a device as the protocol knows them.
func (t *turn) uses(name string) ([]protocol.Use, error) {
	c, err := t.census()
	if err != nil {
		return nil, err
	}
	users := c.of(name)
	uses := make([]protocol.Use, 0, len(users))
	for _, u := range users {
		uses = append(uses, u.Use)
	}
	return append(uses, t.ending(name, c)...), nil
}

// ending returns the uses that are recorded no more while the step that released
// them still runs: a disk that shows its new volume already, and whose old one is
// being let go. They are gone when the step says so.
func (t *turn) ending(name string, c *census) (uses []protocol.Use) {
	w := t.wards[name]
	if w == nil || len(w.rec.Acts) == 0 {
		return nil
	}
	for _, o := range w.rec.Host.Outcomes {
		if _, acted := w.rec.Acts[o.ID]; !acted || !o.Acting {
			continue
		}
		if _, there := c.find(name, o.ID); !there {
			uses = append(uses, protocol.Use{ID: o.ID, Kind: o.Kind, Subject: o.Subject, Domain: o.Domain, Disk: o.Disk, Owner: o.Owner, Policy: o.Policy, Writer: true})
		}
	}
	return uses
}

// count goes through the journal once. What is dormant holds nothing.
func count(tx *journal.Tx) (*census, error) {
	c := &census{
		policies: policiesOf(tx), uses: make(map[string][]journal.Use),
		others: make(map[string][]user), shown: make(map[string][]user),
	}
	admitted := make(map[string]bool) // device and operation that has a use of its own there
	for u := range tx.EachUse() {
		if u.Dormant {
			continue
		}
		if u.Operation != "" {
			admitted[u.URI.Device+"\x00"+u.Operation] = true
		}
		c.uses[u.URI.Device] = append(c.uses[u.URI.Device], u)
	}
	for o := range tx.EachOperation() {
		for _, name := range holds(o) {
			if !admitted[name+"\x00"+o.ID] {
				c.add(name, working(name, o))
			}
		}
	}
	return c, c.addSubscribers(tx)
}

func (c *census) add(device string, u user) { c.others[device] = append(c.others[device], u) }

// recorded shows a recorded use.
func recorded(u journal.Use, policies policies) user {
	x := user{URI: u.URI, record: u, Use: protocol.Use{
		ID: u.ID, Kind: string(u.Kind), Subject: u.URI.Short(), Domain: u.Domain, Disk: u.Disk,
		Writer: u.Access == primitives.ReadWrite, Admitted: u.Stamp, Grant: u.Grant,
	}}
	switch u.Kind {
	case journal.UseDisk:
		x.Policy = policies.of(u.URI.Device, u.ID)
		if x.Disk == "" {
			x.Disk = u.Target // an adopted disk has no identity of tenon's
		}
	case journal.UseTransfer:
		x.Operation = u.Operation
	}
	return x
}

// holds returns the devices that an operation holds: one that runs, or that left
// something to be taken back.
func holds(o journal.Operation) []string {
	if operation.State(o.State).Finished() && o.Left == "" {
		return nil
	}
	var names []string
	for _, claim := range o.Claims {
		name, on := strings.CutPrefix(claim.Name, operation.OnDevice(""))
		if on && !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return names
}

// working shows an operation that runs.
func working(device string, o journal.Operation) user {
	kind := kindOperation
	if o.Kind == snapshot.KindCreate {
		kind = kindSnapshot
	}
	return user{URI: primitives.URI{Device: device}, Operation: o.ID, Use: protocol.Use{
		ID: "operation-" + o.ID, Kind: kind, Subject: o.Kind + " " + o.Subject, Writer: true,
	}}
}

// addSubscribers adds those who block, to each device that they asked about.
func (c *census) addSubscribers(tx *journal.Tx) error {
	var names []string
	for id, sub := range journal.Records[subscriber](tx, journal.Subscribers) {
		if !sub.Blocking {
			continue
		}
		about := []string{sub.Device}
		if sub.Device == "" {
			if names == nil {
				devices, err := tx.Devices()
				if err != nil {
					return err
				}
				for _, d := range devices {
					names = append(names, d.Name)
				}
			}
			about = names
		}
		for _, name := range about {
			c.add(name, user{URI: primitives.URI{Device: name}, Use: protocol.Use{
				ID: subscriberUse(id, name), Kind: kindSubscriber, Subject: sub.Name, Owner: ownerOf(id), Admitted: sub.Stamps[name],
			}})
		}
	}
	return nil
}

// find returns a use of a device by its id.
func (c *census) find(device, use string) (user, bool) {
	if _, shown := c.shown[device]; !shown {
		i := slices.IndexFunc(c.uses[device], func(u journal.Use) bool { return u.ID == use })
		if i >= 0 {
			return recorded(c.uses[device][i], c.policies), true
		}
	}
	all := c.of(device)
	i := slices.IndexFunc(all, func(u user) bool { return u.ID == use })
	if i < 0 {
		return user{}, false
	}
	return all[i], true
}

// where returns the device of a use.
func (c *census) where(use string) (string, bool) {
	for name, uses := range c.uses {
		if slices.ContainsFunc(uses, func(u journal.Use) bool { return u.ID == use }) {
			return name, true
		}
	}
	for name, users := range c.others {
		if slices.ContainsFunc(users, func(u user) bool { return u.ID == use }) {
			return name, true
		}
	}
	return "", false
}

// subscribers returns the uses of those who block, by device.
func (c *census) subscribers() map[string][]user {
	found := make(map[string][]user)
	for name, users := range c.others {
		for _, u := range users {
			if u.Kind == kindSubscriber {
				found[name] = append(found[name], u)
			}
		}
	}
	return found
}
