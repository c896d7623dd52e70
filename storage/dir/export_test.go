// SPDX-License-Identifier: Apache-2.0

package dir

import "github.com/tenon-storage/tenon/primitives"

// Stepping returns a driver that tells f of each step that changes the disk.
func Stepping(f func(step string)) Driver { return Driver{step: f} }

// Abandon ends a backend as the death of its process would.
func Abandon(b primitives.Backend) { _ = b.Close() }

// ParseQcow2 is parseQcow2.
var ParseQcow2 = parseQcow2

// What the pass over the host parses.
func ParseStatus(line string) (state string, parent int) {
	s := parseStatus(line)
	return s.state, s.parent
}

func ParseMap(line string) (area string, ino uint64) { return parseMap(line) }

func ParseMount(line string) (device, root, at string, ok bool) {
	m, ok := parseMount(line)
	return m.device, m.root, m.at, ok
}
