// SPDX-License-Identifier: Apache-2.0

package dir_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/tenon-storage/tenon/storage/dir"
)

// TestWhatTheKernelPrintsIsReadAsItMeansIt has the lines that are easily misread.
func TestWhatTheKernelPrintsIsReadAsItMeansIt(t *testing.T) {
	stat := func(line string) string {
		state, parent := dir.ParseStatus(line)
		return fmt.Sprint(state, " ", parent)
	}
	maps := func(line string) string { area, ino := dir.ParseMap(line); return fmt.Sprint(area, " ", ino) }
	mount := func(line string) string {
		device, root, at, ok := dir.ParseMount(line)
		return fmt.Sprintf("%s %q %q %t", device, root, at, ok)
	}
	cases := map[string]struct{ got, want string }{
		"a process":                          {stat("812 (qemu-system-x86) S 1 812 0 0 -1"), "S 1"},
		"a process with brackets and spaces": {stat("7 (a) D 99 (b) R 42 7 7 0"), "R 42"},
		"a process that is gone":             {stat(""), " 0"},
		"a mapped file":                      {maps("7f00-7f01 r--s 00000000 08:01 1234                /srv/a b"), "7f00-7f01 1234"},
		"memory of no file":                  {maps("7f00-7f01 rw-p 00000000 00:00 0"), "7f00-7f01 0"},
		"no line of maps":                    {maps("7f00-7f01"), " 0"},
		"a mount":                            {mount("36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw"), `98:0 "/mnt1" "/mnt2" true`},
		"a mount with a space":               {mount(`36 35 0:42 /a\040b /c\134d\011 rw - tmpfs tmpfs rw`), `0:42 "/a b" "/c\\d\t" true`},
		"a mount with what is no escape":     {mount(`36 35 0:42 /a\9 /b\04 rw - tmpfs tmpfs rw`), `0:42 "/a\\9" "/b\\04" true`},
		"no line of mountinfo":               {mount("36 35"), ` "" "" false`},
	}
	for name, c := range cases {
		if c.got != c.want {
			t.Errorf("%s = %s, want %s", name, c.got, c.want)
		}
	}
}

// FuzzLinesOfProc wants no panic, and an answer that is made of the line.
func FuzzLinesOfProc(f *testing.F) {
	f.Add("812 (x) S 1 ")
	f.Add("7f00-7f01 r--s 00000000 08:01 1234 /srv/a")
	f.Add(`36 35 98:0 /mnt1\040 /mnt2\ rw`)
	f.Fuzz(func(t *testing.T, line string) {
		if state, _ := dir.ParseStatus(line); !strings.Contains(line, state) {
			t.Errorf("state %q is not in %q", state, line)
		}
		if area, _ := dir.ParseMap(line); !strings.Contains(line, area) {
			t.Errorf("area %q is not in %q", area, line)
		}
		if device, root, at, _ := dir.ParseMount(line); !strings.Contains(line, device) || len(root)+len(at) > len(line) {
			t.Errorf("mount %q, %q, %q is not in %q", device, root, at, line)
		}
	})
}
