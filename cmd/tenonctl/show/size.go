// SPDX-License-Identifier: Apache-2.0

package show

import (
	"fmt"
	"math"
	"math/big"
	"regexp"
	"slices"
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

var sizeForm = regexp.MustCompile(`^([0-9]+(?:\.[0-9]+)?) ?([A-Za-z]*)$`)

// ParseSize reads a number of bytes as people type it: 4096, 20G, 512Mi, 1.5T.
// As with qemu-img and lvm, K, M, G and so on are powers of 1024. KB, MB and so
// on are refused, because half of their readers mean powers of 1000.
func ParseSize(text string) (int64, error) {
	parts := sizeForm.FindStringSubmatch(text)
	if parts == nil {
		return 0, fmt.Errorf("%q is not a size; expected bytes such as 4096, 512Mi or 20G", text)
	}
	power, err := powerOf(parts[2])
	if err != nil {
		return 0, fmt.Errorf("%q: %w", text, err)
	}
	n, ok := new(big.Rat).SetString(parts[1])
	if !ok {
		return 0, fmt.Errorf("%q is not a size", text)
	}
	n.Mul(n, new(big.Rat).SetInt(new(big.Int).Lsh(big.NewInt(1), power)))
	switch {
	case !n.IsInt():
		return 0, fmt.Errorf("%q is not a whole number of bytes", text)
	case !n.Num().IsInt64():
		return 0, fmt.Errorf("%q is too large; expected less than 8E", text)
	}
	return n.Num().Int64(), nil
}

// powerOf returns the power of two that a suffix means.
func powerOf(suffix string) (uint, error) {
	short := strings.ToUpper(suffix)
	if short == "" || short == "B" {
		return 0, nil
	}
	i := strings.IndexByte("KMGTPE", short[0])
	switch {
	case i >= 0 && slices.Contains([]string{"", "I", "IB"}, short[1:]):
		return uint(i+1) * 10, nil
	case i >= 0 && short[1:] == "B":
		return 0, fmt.Errorf("%s may mean powers of 1000 or of 1024; write %ci for powers of 1024", suffix, short[0])
	}
	return 0, fmt.Errorf("%q is not a unit; expected one of K, M, G, T, P, E", suffix)
}
