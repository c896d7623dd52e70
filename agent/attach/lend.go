// SPDX-License-Identifier: Apache-2.0

package attach

import (
	"context"

	"github.com/tenon-storage/tenon/agent/journal"
	"github.com/tenon-storage/tenon/hypervisor"
)

// Identify finds the disk that a name means, and the use that is recorded of it;
// the use is zero where none is. CodeNotFound; CodeUnsupported for a disk that
// tenon did not attach.
func (s *Service) Identify(ctx context.Context, domain hypervisor.Domain, name DiskName) (hypervisor.DiskID, journal.Use, error) {
	return s.identify(ctx, domain, name)
}
