// SPDX-License-Identifier: Apache-2.0

package show

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

var units = []string{"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"}

// Size shows a number of bytes in the largest unit that leaves at least one,
// with one decimal where it is not whole: "20 GiB", "1.5 KiB". Negative numbers
// mean that the size is unknown.
func Size(n int64) string {
	if n < 0 {
		return absent
	}
	value, unit := float64(n), 0
	for value >= 1024 && unit < len(units)-1 {
		value /= 1024
		unit++
	}
	// 1023.99 KiB reads better as 1 MiB than as 1024 KiB.
	if math.Round(value*10)/10 >= 1024 && unit < len(units)-1 {
		value, unit = value/1024, unit+1
	}
	text := strings.TrimSuffix(strconv.FormatFloat(value, 'f', 1, 64), ".0")
	return text + " " + units[unit]
}

// ExactSize shows a number of bytes in people's units and, where those are not
// the whole truth, in bytes as well.
func ExactSize(n int64) string {
	if n < 1024 {
		return Size(n)
	}
	return fmt.Sprintf("%s (%d bytes)", Size(n), n)
}

// factors of the suffixes that people type. Storage people mean powers of 1024
// by K, M and G, as qemu-img, lvcreate and dd do; decimal ones end in B.
var factors = map[string]int64{
	"": 1, "b": 1,
	"k": 1 << 10, "ki": 1 << 10, "kib": 1 << 10, "kb": 1e3,
	"m": 1 << 20, "mi": 1 << 20, "mib": 1 << 20, "mb": 1e6,
	"g": 1 << 30, "gi": 1 << 30, "gib": 1 << 30, "gb": 1e9,
	"t": 1 << 40, "ti": 1 << 40, "tib": 1 << 40, "tb": 1e12,
	"p": 1 << 50, "pi": 1 << 50, "pib": 1 << 50, "pb": 1e15,
	"e": 1 << 60, "ei": 1 << 60, "eib": 1 << 60, "eb": 1e18,
}

// ParseSize reads a number of bytes as people type it: 4096, 20G, 512Mi, 1.5T.
func ParseSize(text string) (int64, error) {
	const want = "expected a number of bytes such as 4096, 512Mi or 20G"
	cut := strings.IndexFunc(text, func(r rune) bool { return (r < '0' || r > '9') && r != '.' })
	number, suffix := text, ""
	if cut >= 0 {
		number, suffix = text[:cut], strings.ToLower(strings.TrimSpace(text[cut:]))
	}
	factor, known := factors[suffix]
	if !known || number == "" {
		return 0, fmt.Errorf("%q: %s", text, want)
	}
	if n, err := strconv.ParseInt(number, 10, 64); err == nil {
		if n > math.MaxInt64/factor {
			return 0, fmt.Errorf("%q: more than %s is not possible", text, Size(math.MaxInt64))
		}
		return n * factor, nil
	}
	f, err := strconv.ParseFloat(number, 64)
	if err != nil || f*float64(factor) >= math.MaxInt64 {
		return 0, fmt.Errorf("%q: %s", text, want)
	}
	bytes := f * float64(factor)
	if bytes != math.Trunc(bytes) {
		return 0, fmt.Errorf("%q is not a whole number of bytes", text)
	}
	return int64(bytes), nil
}
