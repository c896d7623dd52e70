// SPDX-License-Identifier: Apache-2.0

package device

import (
	"errors"
	"time"

	"github.com/tenon-storage/tenon/agent/journal"
	"github.com/tenon-storage/tenon/primitives"
)

// Admit records a use of a device, in the transaction that records the
// operation which needs it and before the device is touched. It is the one
// place where new uses come in, so it is where a device's maintenance gate will
// be asked. CodeNotFound for a device that is not configured.
func Admit(tx *journal.Tx, u journal.Use) error {
	if _, err := tx.Device(u.URI.Device); err != nil {
		if errors.Is(err, primitives.CodeNotFound) {
			return unknown(u.URI.Device)
		}
		return err
	}
	if u.Admitted.IsZero() {
		u.Admitted = time.Now().UTC()
	}
	return tx.PutUse(u)
}
