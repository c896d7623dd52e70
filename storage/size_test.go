// SPDX-License-Identifier: Apache-2.0

package storage_test

import (
	"strconv"
	"testing"

	"github.com/tenon-storage/tenon/storage"
)

func TestParseSizeReadsWhatPeopleType(t *testing.T) {
	for in, want := range map[string]int64{
		"0": 0, "4096": 4096, "1B": 1, "1k": 1 << 10, "1K": 1 << 10, "20G": 20 << 30, "512Mi": 512 << 20,
		"512MiB": 512 << 20, "2 T": 2 << 40, "1.5G": 3 << 29, "0.5K": 512, " 1P ": 1 << 50, "7E": 7 << 60,
		"9223372036854775807": 1<<63 - 1,
	} {
		if got, err := storage.ParseSize(in); got != want || err != nil {
			t.Errorf("ParseSize(%q) = %d, %v, want %d", in, got, err, want)
		}
	}
}

func TestParseSizeRefusesWhatIsAmbiguousOrNone(t *testing.T) {
	for _, in := range []string{"", "G", "-1", "1KB", "1MB", "1gb", "1X", "1KK", "1KiX", "0.1", "1.0001K", "8E", "9223372036854775808", "1e3", "0x10", "1_000", "१"} {
		if got, err := storage.ParseSize(in); err == nil {
			t.Errorf("ParseSize(%q) = %d, want an error", in, got)
		}
	}
}

func FuzzParseSize(f *testing.F) {
	for _, s := range []string{"4096", "20G", "1.5T", "512MiB", "1KB", "-1", ""} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		n, err := storage.ParseSize(s)
		if err != nil {
			return
		}
		if n < 0 {
			t.Fatalf("ParseSize(%q) = %d, want no negative size", s, n)
		}
		if again, err := storage.ParseSize(strconv.FormatInt(n, 10)); again != n || err != nil {
			t.Fatalf("ParseSize of its own result %d = %d, %v", n, again, err)
		}
	})
}
