// SPDX-License-Identifier: Apache-2.0

package storagetest_test

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tenon-storage/tenon/storage/storagetest"
)

func TestPatternTellsItsSeedAndOffset(t *testing.T) {
	for _, seed := range []int{1, 2, 77, 4095, 65535} {
		for _, off := range []int64{0, 8, 4096, 1 << 30, 1 << 50} {
			gotSeed, gotOff := storagetest.Origin(storagetest.Word(seed, off))
			if gotSeed != seed || gotOff != off {
				t.Errorf("Origin(Word(%d, %d)) = %d, %d", seed, off, gotSeed, gotOff)
			}
		}
	}
}

func TestPatternIsTheSameHoweverItIsCut(t *testing.T) {
	whole := storagetest.Pattern(5, 0, 10_000)
	for _, cut := range []int64{1, 7, 8, 4095, 4097} {
		var parts []byte
		for off := int64(0); off < 10_000; off += cut {
			parts = append(parts, storagetest.Pattern(5, off, min(cut, 10_000-off))...)
		}
		if !bytes.Equal(parts, whole) {
			t.Errorf("pattern in parts of %d differs from the whole", cut)
		}
	}
	if bytes.Contains(storagetest.Pattern(6, 0, 1<<20), whole[:8]) {
		t.Error("a word of one pattern is in another")
	}
}

// Only reason.go may leave a check out: it asks for a typed reason.
func TestChecksAreLeftOutForATypedReasonOnly(t *testing.T) {
	files, err := filepath.Glob("*.go")
	if err != nil || len(files) == 0 {
		t.Fatalf("Glob = %v, %v", files, err)
	}
	for _, name := range files {
		if name == "reason.go" || name == "recorder.go" || strings.HasSuffix(name, "_test.go") {
			continue
		}
		src, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, call := range []string{".Skip(", ".Skipf(", ".SkipNow("} {
			if bytes.Contains(src, []byte(call)) {
				t.Errorf("%s calls %s, want c.skip with a Reason", name, call)
			}
		}
	}
}
