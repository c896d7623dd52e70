// SPDX-License-Identifier: Apache-2.0

package kvm

import (
	"sync"

	"libvirt.org/go/libvirtxml"

	"github.com/tenon-storage/tenon/hypervisor/kvm/internal/virt"
)

// maxReadings bounds what readings remembers.
const maxReadings = 64

// readings remembers how domains' XML reads, because one change of a domain reads
// the same text several times and reading it takes longer than fetching it. What
// it returns is shared: nobody may change it. Its zero value is ready.
type readings struct {
	mu   sync.Mutex // guards read
	read map[readingKey]reading
}

type readingKey struct {
	domain string
	half   virt.Half
}

type reading struct {
	text string
	is   *libvirtxml.Domain
}

// get returns what text was read as before; nil: it was not.
func (t *readings) get(domain string, half virt.Half, text string) *libvirtxml.Domain {
	t.mu.Lock()
	defer t.mu.Unlock()
	if r := t.read[readingKey{domain, half}]; r.text == text {
		return r.is
	}
	return nil
}

func (t *readings) put(domain string, half virt.Half, text string, is *libvirtxml.Domain) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.read == nil || len(t.read) >= maxReadings {
		t.read = map[readingKey]reading{}
	}
	t.read[readingKey{domain, half}] = reading{text, is}
}
