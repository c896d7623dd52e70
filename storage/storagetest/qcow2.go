// SPDX-License-Identifier: Apache-2.0

package storagetest

import "encoding/binary"

// qcow2Image returns a small, well-formed, empty qcow2 image of that virtual
// size, which refers to a backing file where one is named and to an external data
// file where asked. Tests import it, or let a guest write it into a raw volume.
func qcow2Image(size uint64, backing string, dataFile bool) []byte {
	const (
		bits    = 16
		cluster = 1 << bits

		header, refTable, refBlock, l1 = 0 * cluster, 1 * cluster, 2 * cluster, 3 * cluster

		externalData = 1 << 2 // of the incompatible features
		nameOffset   = 512
	)
	// One L2 table maps 8192 clusters; one cluster of L1 is enough for 4 TiB.
	l1Entries := (size + cluster*cluster/8 - 1) / (cluster * cluster / 8)
	p := make([]byte, 4*cluster)
	be := binary.BigEndian
	copy(p[header:], "QFI\xfb")
	be.PutUint32(p[4:], 3)
	if backing != "" {
		be.PutUint64(p[8:], nameOffset)
		be.PutUint32(p[16:], uint32(len(backing)))
		copy(p[nameOffset:], backing)
	}
	be.PutUint32(p[20:], bits)
	be.PutUint64(p[24:], size)
	be.PutUint32(p[36:], uint32(l1Entries))
	be.PutUint64(p[40:], l1)
	be.PutUint64(p[48:], refTable)
	be.PutUint32(p[56:], 1) // clusters of the refcount table
	if dataFile {
		be.PutUint64(p[72:], externalData)
	}
	be.PutUint32(p[96:], 4)    // 16-bit refcounts
	be.PutUint32(p[100:], 104) // length of the header
	at := 104
	if dataFile {
		const name = "data.raw"
		be.PutUint32(p[at:], 0x44415441)
		be.PutUint32(p[at+4:], uint32(len(name)))
		copy(p[at+8:], name)
		at += 16
	}
	if backing != "" {
		const format = "raw"
		be.PutUint32(p[at:], 0xe2792aca)
		be.PutUint32(p[at+4:], uint32(len(format)))
		copy(p[at+8:], format)
	}
	be.PutUint64(p[refTable:], refBlock)
	for i := range 4 {
		be.PutUint16(p[refBlock+2*i:], 1)
	}
	return p
}
