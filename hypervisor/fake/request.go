// SPDX-License-Identifier: Apache-2.0

package fake

import (
	"fmt"
	"net"
	"path/filepath"
	"slices"
	"unicode/utf8"

	"github.com/tenon-storage/tenon/hypervisor"
	"github.com/tenon-storage/tenon/primitives"
)

// Buses that a disk of tenon's can have.
const (
	busVirtio = "virtio"
	busSCSI   = "scsi"
)

const protocolNBD = "nbd"

func targetPrefix(bus string) string {
	return map[string]string{busVirtio: "vd", busSCSI: "sd"}[bus]
}

func checkAttach(r hypervisor.AttachRequest) error {
	if err := hypervisor.CheckDiskID(r.Disk); err != nil {
		return err
	}
	if targetPrefix(r.Bus) == "" {
		return primitives.Invalid("bus", "%q: expected %q or %q", r.Bus, busVirtio, busSCSI)
	}
	if r.Where > hypervisor.ConfigOnly {
		return primitives.Invalid("where", "%d: expected auto, live or config", r.Where)
	}
	return checkMapping(r.Mapping)
}

// checkMapping reports why a mapping cannot become a disk: CodeInvalid where it
// is malformed, CodeUnsupported where it is of a kind that is not accepted.
func checkMapping(m primitives.Mapping) error {
	var problems []primitives.Problem
	bad := func(wrong bool, field, format string, args ...any) {
		if wrong {
			problems = append(problems, primitives.Problem{Prop: "mapping." + field, Message: fmt.Sprintf(format, args...), Fatal: true})
		}
	}
	noPath := func(p string) bool { return !filepath.IsAbs(p) || !utf8.ValidString(p) }
	bad(m.Access != primitives.ReadOnly && m.Access != primitives.ReadWrite, "access", "expected read-only or read-write")
	switch {
	case m.Form == primitives.FormBlock && m.Block != nil:
		bad(noPath(m.Block.Path), "block.path", "%q: expected an absolute path", m.Block.Path)
	case m.Form == primitives.FormFile && m.File != nil:
		chain := append([]primitives.FileMap{*m.File}, m.File.Backing...)
		for i, f := range chain {
			bad(noPath(f.Path), fmt.Sprintf("file[%d].path", i), "%q: expected an absolute path", f.Path)
			bad(f.Format == "", fmt.Sprintf("file[%d].format", i), "it is empty; a format is never probed")
			bad(f.Format == primitives.FormatRaw && i < len(chain)-1, fmt.Sprintf("file[%d].format", i), "a raw file has no backing file")
		}
	case m.Form == primitives.FormNetwork && m.Network != nil:
		bad(m.Network.Socket != "" && noPath(m.Network.Socket), "network.socket", "%q: expected an absolute path", m.Network.Socket)
		bad(m.Network.Protocol == protocolNBD && m.Network.Socket == "" && len(m.Network.Hosts) != 1, "network.hosts",
			"%d hosts: nbd takes a socket or one host", len(m.Network.Hosts))
		for _, h := range m.Network.Hosts {
			_, _, err := net.SplitHostPort(h)
			bad(err != nil, "network.hosts", "%q: expected HOST:PORT", h)
		}
	default:
		bad(true, "form", "expected block, file or network with the part that belongs to it")
	}
	if len(problems) > 0 {
		return &primitives.Error{Code: primitives.CodeInvalid, Problems: problems}
	}
	if !slices.ContainsFunc(accepts, func(a primitives.Acceptable) bool { return a.Takes(m) }) {
		return primitives.Errorf(primitives.CodeUnsupported, "a %v mapping of this kind is not accepted", m.Form)
	}
	return nil
}

// chooseTarget keeps the name that the disk has in one half, if the other half
// has room for it.
func chooseTarget(v view, bus string, live, config *disk) string {
	switch {
	case live != nil && byTarget(v.config, live.target) == nil:
		return live.target
	case config != nil && byTarget(v.live, config.target) == nil:
		return config.target
	}
	// A disk that is leaving has its name until it is gone.
	for n := 0; ; n++ {
		name := targetName(targetPrefix(bus), n)
		if byTarget(v.live, name) == nil && byTarget(v.config, name) == nil {
			return name
		}
	}
}

// targetName returns the n-th name: vda, …, vdz, vdaa, ….
func targetName(prefix string, n int) string {
	var letters string
	for n++; n > 0; n = (n - 1) / 26 {
		letters = string(rune('a'+(n-1)%26)) + letters
	}
	return prefix + letters
}
