// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"log/slog"

	"github.com/tenon-storage/tenon/agent/config"
	"github.com/tenon-storage/tenon/hypervisor"
	"github.com/tenon-storage/tenon/hypervisor/kvm"
)

// Adapter returns the hypervisor adapter that the configuration names; nil where
// it names none, for a host without domains. A new adapter is one case here.
func Adapter(c config.Hypervisor, log *slog.Logger) (hypervisor.Adapter, error) {
	switch {
	case c.KVM.URI != "":
		return kvm.New(kvm.Options{URI: c.KVM.URI, Log: log.With("adapter", kvm.Name)})
	}
	return nil, nil
}
