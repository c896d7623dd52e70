// SPDX-License-Identifier: Apache-2.0

package nbd

import "slices"

// maxPieces bounds how scattered the parts of one read may arrive. Servers send
// them in order, which needs one piece.
const maxPieces = 4096

// coverage is which bytes of a read have arrived: pieces sorted, apart from each
// other. A sum of lengths would not do: two parts that overlap beside a gap add
// up too, and the gap would be taken for data.
type coverage struct {
	pieces []piece
}

type piece struct{ from, to int64 }

// add notes that from up to to arrived; to arrive twice is a violation.
func (c *coverage) add(from, to int64) error {
	i, _ := slices.BinarySearchFunc(c.pieces, from, func(p piece, from int64) int {
		if p.to <= from {
			return -1
		}
		return 1
	})
	// pieces[i] is the first that ends after from.
	if i < len(c.pieces) && c.pieces[i].from < to {
		return violation("bytes %d to %d arrived twice", from, to)
	}
	joinsLeft := i > 0 && c.pieces[i-1].to == from
	joinsRight := i < len(c.pieces) && c.pieces[i].from == to
	switch {
	case joinsLeft && joinsRight:
		c.pieces[i-1].to = c.pieces[i].to
		c.pieces = slices.Delete(c.pieces, i, i+1)
	case joinsLeft:
		c.pieces[i-1].to = to
	case joinsRight:
		c.pieces[i].from = from
	case len(c.pieces) == maxPieces:
		return violation("a read in more than %d pieces", maxPieces)
	default:
		c.pieces = slices.Insert(c.pieces, i, piece{from, to})
	}
	return nil
}

// complete reports whether all of 0 up to length arrived.
func (c *coverage) complete(length int64) bool {
	return length == 0 || len(c.pieces) == 1 && c.pieces[0] == piece{0, length}
}
