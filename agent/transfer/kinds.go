// SPDX-License-Identifier: Apache-2.0

package transfer

import "github.com/tenon-storage/tenon/primitives"

// KindCopy is the kind of operation of this package.
const KindCopy = "transfer.copy"

// CopyArgs are the arguments of transfer.copy; its result is a primitives.Object.
type CopyArgs struct {
	From   primitives.URI    // a volume or snapshot
	To     primitives.URI    // a volume that does not exist
	Format primitives.Format // empty: the target device's default
}
