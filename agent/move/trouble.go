// SPDX-License-Identifier: Apache-2.0

package move

import (
	"context"
	"errors"
	"strings"

	"github.com/tenon-storage/tenon/hypervisor"
	"github.com/tenon-storage/tenon/primitives"
)

// ended makes an error of a copy that is gone although nobody ended it, and says
// which side is at fault where that can be told; so is what it says about a domain
// that ended.
func (s *Service) ended(ctx context.Context, d *disk, failure, so string) error {
	domain, err := s.disks.Domain(ctx, d.Use.Domain)
	if errors.Is(err, primitives.CodeNotFound) || err == nil && domain.State != hypervisor.StateRunning && domain.State != hypervisor.StatePaused {
		return primitives.Errorf(primitives.CodeConflict, "the domain ended while its disk was on its way to %s; %s", d.To.Short(), so).
			On(d.Use.URI).Trying("start the domain and repeat the request with a new request id")
	}
	if failure == "" {
		failure = "the hypervisor does not say why"
	}
	return s.naming(ctx, d, primitives.Errorf(primitives.CodeUnavailable, "the copy to %s ended before it was whole: %s", d.To.Short(), failure))
}

// full is how hypervisors print ENOSPC and EDQUOT.
var full = []string{"no space left", "quota exceeded"}

// naming adds to an error of a copy whose fault it is. A full device is the
// target's, because nothing but the target is written to for a copy's sake. For
// an I/O error both sides are asked how they are.
func (s *Service) naming(ctx context.Context, d *disk, err error) error {
	text := strings.ToLower(err.Error())
	for _, words := range full {
		if strings.Contains(text, words) {
			return primitives.Errorf(primitives.CodeNoSpace, "%w", err).On(d.To).Trying("free space on %s, or name another device", d.To.Device)
		}
	}
	if !strings.Contains(text, "input/output error") && primitives.CodeOf(err) != primitives.CodeUnavailable {
		return err
	}
	var unwell []primitives.Blocker
	for _, u := range []primitives.URI{d.Use.URI, d.To} {
		if note := s.unwell(ctx, u); note != "" {
			unwell = append(unwell, primitives.Blocker{Kind: "device", Name: u.Device + " (" + note + ")"})
		}
	}
	e := primitives.Errorf(primitives.CodeOf(err), "%w", err).On(d.Use.URI).By(unwell...)
	if len(unwell) == 1 && strings.HasPrefix(unwell[0].Name, d.To.Device+" ") {
		e = e.On(d.To)
	}
	return e.Trying("look at both devices: tenonctl device check %s, tenonctl device check %s", d.Use.URI.Device, d.To.Device)
}

// unwell says what is wrong with a device; "" is nothing that it knows of.
func (s *Service) unwell(ctx context.Context, u primitives.URI) string {
	dev, err := s.devices.Await(ctx, u.Device)
	if err != nil {
		return err.Error()
	}
	desc, err := dev.Describe(ctx)
	switch {
	case err != nil:
		return err.Error()
	case desc.Health != primitives.Healthy:
		return strings.TrimSpace(desc.Health.String() + " " + desc.HealthNote)
	}
	return ""
}
