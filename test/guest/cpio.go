// SPDX-License-Identifier: Apache-2.0

package guest

import (
	"fmt"
	"io"
)

// File types of an archive entry, as stat(2) has them.
const (
	typeDir     = 0o040000
	typeFile    = 0o100000
	typeSymlink = 0o120000
	typeChar    = 0o020000
)

// An entry is one file of the initramfs.
type entry struct {
	Path         string // without a leading slash
	Mode         uint32 // type and permissions
	Data         []byte // content of a file, target of a symlink
	Major, Minor uint32 // of a character device
}

// writeCPIO writes entries in the "newc" format, which is what the kernel unpacks. Entries must come after their folders.
func writeCPIO(w io.Writer, entries []entry) error {
	trailer := entry{Path: "TRAILER!!!"}
	for i, e := range append(entries, trailer) {
		if err := writeEntry(w, uint32(i+1), e); err != nil {
			return fmt.Errorf("write %s to the initramfs: %w", e.Path, err)
		}
	}
	return nil
}

func writeEntry(w io.Writer, inode uint32, e entry) error {
	const (
		headerSize = 110
		noTime     = 0 // the same input gives the same bytes
		links      = 1
	)
	name := e.Path + "\x00"
	header := fmt.Sprintf("070701%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X",
		inode, e.Mode, 0, 0, links, noTime, len(e.Data), 0, 0, e.Major, e.Minor, len(name), 0)
	for _, part := range []string{header + name, padding(headerSize + len(name)), string(e.Data), padding(len(e.Data))} {
		if _, err := io.WriteString(w, part); err != nil {
			return err
		}
	}
	return nil
}

// padding fills n bytes up to a multiple of four.
func padding(n int) string {
	return "\x00\x00\x00"[:(4-n%4)%4]
}
