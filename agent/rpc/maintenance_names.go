// SPDX-License-Identifier: Apache-2.0

package rpc

import (
	"context"
	"sync"
	"time"

	"github.com/tenon-storage/tenon/agent/attach"
	tenonv1 "github.com/tenon-storage/tenon/api/tenon/v1"
)

const (
	// namingTime bounds the question for names: where a device stands is told
	// also while the hypervisor is silent.
	namingTime = time.Second
	// namingPause is how long the hypervisor is left alone after it did not know a
	// name, or did not answer.
	namingPause = 15 * time.Second
)

// domainNames knows domains by the names that people call them. Uses are recorded
// under their ids, which outlive a new name.
type domainNames struct {
	disks *attach.Service

	mu    sync.Mutex // guards what follows
	known map[string]string
	asked time.Time // in vain
}

// put replaces ids of domains by their names, where these are known.
func (n *domainNames) put(ctx context.Context, all ...*tenonv1.Maintenance) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.unknown(all) && time.Since(n.asked) > namingPause {
		n.ask(ctx)
		if n.unknown(all) {
			n.asked = time.Now()
		}
	}
	for _, m := range all {
		for _, u := range m.GetUses() {
			if name := n.known[u.GetDomain()]; name != "" {
				u.Domain = name
			}
		}
	}
}

func (n *domainNames) unknown(all []*tenonv1.Maintenance) bool {
	for _, m := range all {
		for _, u := range m.GetUses() {
			if u.GetDomain() != "" && n.known[u.GetDomain()] == "" {
				return true
			}
		}
	}
	return false
}

// ask asks the hypervisor for all names. What it does not tell stays as it was.
func (n *domainNames) ask(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, namingTime)
	defer cancel()
	domains, err := n.disks.Domains(ctx)
	if err != nil {
		return
	}
	if n.known == nil {
		n.known = make(map[string]string, len(domains))
	}
	for _, d := range domains {
		n.known[string(d.ID)] = d.Name
	}
}
