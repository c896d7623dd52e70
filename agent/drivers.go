// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"github.com/tenon-storage/tenon/storage"
	"github.com/tenon-storage/tenon/storage/dir"
	"github.com/tenon-storage/tenon/storage/mem"
)

// Drivers is the table of storage drivers. A new driver is one line here. A
// duplicate or a wrong schema stops the start.
func Drivers() (storage.Table, error) {
	return storage.NewTable(
		dir.Driver{},
		mem.New(),
	)
}
