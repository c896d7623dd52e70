// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"time"

	"github.com/tenon-storage/tenon/test/host"
)

// What the demo reads of a maintenance.
type (
	maintenance struct {
		Phase   string `json:"phase"`
		Intents []struct {
			ID string `json:"id"`
		} `json:"intents"`
		Blockers []struct {
			Name string `json:"name"`
		} `json:"blockers"`
		Fence struct {
			Method   string `json:"method"`
			Evidence string `json:"evidence"`
		} `json:"fence"`
	}
	plan struct {
		Digest string `json:"digest"`
		Uses   []struct {
			ID     string `json:"id"`
			Action string `json:"action"`
			Target string `json:"target"`
		} `json:"uses"`
	}
	// written is what the guest's writer tells.
	written struct {
		Writes   uint64 `json:"writes"`
		Verified uint64 `json:"verified"`
		Errors   uint64 `json:"errors"`
		First    string `json:"first"`
		Sum      string `json:"sum"`
	}
)

// serviced is the device that goes into maintenance, refuge the one that takes its disks.
const serviced, refuge = "fast", "vault"

// maintain puts a device into maintenance while a guest uses it: one disk moves
// away under the guest's writes, the other's owner objects first.
func (d *demo) maintain(ctx context.Context) {
	d.chapter("A device goes into maintenance, and comes back")
	var app, log disk
	var logID string
	d.step(ctx, "two disks on fast; the guest verifies what it writes", func(ctx context.Context) (string, error) {
		for name, into := range map[string]*disk{"app01": &app, "log01": &log} {
			if _, err := d.do(ctx, "volume", "create", serviced+"/"+name, "--size", "64M", "--format", "raw"); err != nil {
				return "", err
			}
			op, err := d.do(ctx, "disk", "attach", serviced+"/"+name, domainName)
			if err != nil {
				return "", err
			}
			*into = op.Disk
		}
		logID = "disk-" + log.ID
		if _, err := d.ctl(ctx, "maintenance", "policy", logID, "ask"); err != nil {
			return "", err
		}
		_, err := d.inGuest(ctx, "writer start $(disk %s)", app.ID)
		return "log01 is not to be touched without being asked", err
	})
	var p plan
	d.step(ctx, "maintenance plan fast", func(ctx context.Context) (string, error) {
		if err := d.tenond.RunJSON(ctx, &p, "maintenance", "plan", serviced, "--return"); err != nil {
			return "", err
		}
		var said []string
		for _, u := range p.Uses {
			said = append(said, strings.TrimSpace(fmt.Sprintf("%s: %s %s", u.ID, strings.ToLower(strings.TrimPrefix(u.Action, "POLICY_ACTION_")), u.Target)))
		}
		if len(p.Uses) != 2 || p.Digest == "" {
			return "", fmt.Errorf("the plan is %+v", p)
		}
		return strings.Join(said, "; "), nil
	})
	d.step(ctx, "log01's owner objects; prepare is blocked, naming it", func(ctx context.Context) (string, error) {
		if _, err := d.ctl(ctx, "maintenance", "prepare", serviced, "--reason", "new controller", "--expected", "30m", "--return", "--plan-digest", p.Digest); err != nil {
			return "", err
		}
		if _, err := d.ctl(ctx, "maintenance", "object", logID, "--code", "backup-running", "--text", "its backup ends in an hour"); err != nil {
			return "", err
		}
		m, err := d.until(ctx, "MAINTENANCE_PHASE_BLOCKED", func(m maintenance) bool { return len(m.Blockers) == 1 })
		if err != nil {
			return "", err
		}
		if !strings.Contains(m.Blockers[0].Name, logID) {
			return "", fmt.Errorf("it is blocked by %+v", m.Blockers)
		}
		return "blocked by " + m.Blockers[0].Name, nil
	})
	d.step(ctx, "app01 has moved to vault under the guest's writes", func(ctx context.Context) (string, error) {
		if err := d.lies(ctx, app.ID, refuge); err != nil {
			return "", err
		}
		w, err := d.writer(ctx, "status")
		return fmt.Sprintf("%d writes, %d blocks verified, no error", w.Writes, w.Verified), err
	})
	d.step(ctx, "a new attach is refused, naming the maintenance", func(ctx context.Context) (string, error) {
		m, err := d.maintenance(ctx)
		if err != nil || len(m.Intents) != 1 {
			return "", errors.Join(err, fmt.Errorf("it has %d intents", len(m.Intents)))
		}
		_, err = d.ctl(ctx, "disk", "attach", serviced+"/clone", domainName)
		return refused(err, 1, m.Intents[0].ID)
	})
	d.step(ctx, "withdraw, detach log01: drained, fenced", func(ctx context.Context) (string, error) {
		if _, err := d.ctl(ctx, "maintenance", "withdraw", logID); err != nil {
			return "", err
		}
		if _, err := d.do(ctx, "disk", "detach", domainName, log.ID); err != nil {
			return "", err
		}
		m, err := d.until(ctx, "MAINTENANCE_PHASE_IN_MAINTENANCE", func(maintenance) bool { return true })
		if err != nil {
			return "", err
		}
		if _, err := os.Stat(log.Source.Path); !errors.Is(err, fs.ErrNotExist) {
			return "", fmt.Errorf("the bytes of log01 can still be reached: %w", err)
		}
		return m.Fence.Method + ": " + m.Fence.Evidence, nil
	})
	d.step(ctx, "maintenance end fast: verified, open, app01 comes home", func(ctx context.Context) (string, error) {
		if _, err := d.ctl(ctx, "maintenance", "end", serviced, "--wait"); err != nil {
			return "", err
		}
		if err := d.awaitHome(ctx, app.ID); err != nil {
			return "", err
		}
		w, err := d.writer(ctx, "stop")
		if err != nil {
			return "", err
		}
		if _, err := d.do(ctx, "disk", "detach", domainName, app.ID); err != nil {
			return "", err
		}
		sum, _, err := d.checksum(ctx, serviced+"/app01", 0)
		if err != nil {
			return "", err
		}
		_, err = same("the guest and the volume", w.Sum, sum)
		return fmt.Sprintf("%d writes, %d blocks verified, no error; guest and volume have the same checksum", w.Writes, w.Verified), err
	})
}

func (d *demo) maintenance(ctx context.Context) (maintenance, error) {
	var m maintenance
	err := d.tenond.RunJSON(ctx, &m, "maintenance", "status", serviced)
	return m, err
}

// until waits for a phase and for what is to hold in it.
func (d *demo) until(ctx context.Context, phase string, holds func(maintenance) bool) (maintenance, error) {
	var m maintenance
	err := poll(ctx, "phase "+phase, func() (_ bool, err error) {
		m, err = d.maintenance(ctx)
		return m.Phase == phase && holds(m), err
	})
	if err != nil {
		err = fmt.Errorf("%w; it is %+v", err, m)
	}
	return m, err
}

// lies checks on which device a disk's volume lies.
func (d *demo) lies(ctx context.Context, id, device string) error {
	var l disks
	if err := d.tenond.RunJSON(ctx, &l, "disk", "list", domainName); err != nil {
		return err
	}
	for _, k := range l.Disks {
		if k.ID == id && strings.HasPrefix(k.URI, "tenon://"+device+"/") {
			return nil
		}
	}
	return fmt.Errorf("disk list shows %+v", l.Disks)
}

// awaitHome waits until a disk is back on the device that was serviced.
func (d *demo) awaitHome(ctx context.Context, id string) error {
	var last error
	err := poll(ctx, "the disk comes home", func() (bool, error) {
		last = d.lies(ctx, id, serviced)
		return last == nil, nil
	})
	if err != nil {
		return errors.Join(err, last)
	}
	return nil
}

// poll asks again and again, for half a minute.
func poll(ctx context.Context, what string, done func() (bool, error)) error {
	ctx, cancel := context.WithTimeoutCause(ctx, 30*time.Second, errors.New("half a minute was not enough"))
	defer cancel()
	return host.Await(ctx, what, done)
}

// writer puts a question to the guest's writer and fails on any error that it met.
func (d *demo) writer(ctx context.Context, question string) (written, error) {
	var w written
	out, err := d.inGuest(ctx, "writer %s", question)
	if err == nil {
		err = json.Unmarshal([]byte(out), &w)
	}
	if err == nil && (w.Errors > 0 || w.Writes == 0) {
		err = fmt.Errorf("the guest's writer met errors: %+v", w)
	}
	return w, err
}
