// SPDX-License-Identifier: Apache-2.0

package storage

import (
	"fmt"
	"math/big"
	"regexp"
	"strings"
)

var sizeForm = regexp.MustCompile(`^([0-9]+(?:\.[0-9]+)?) ?([A-Za-z]*)$`)

// ParseSize reads a number of bytes as people type it: 4096, 20G, 1.5T, 512Mi,
// 512MiB. As with qemu-img and lvm, K, M, G, T, P and E are powers of 1024 in
// any case. KB, MB and so on are refused, because half of their readers mean
// powers of 1000.
func ParseSize(s string) (int64, error) {
	parts := sizeForm.FindStringSubmatch(strings.TrimSpace(s))
	if parts == nil {
		return 0, fmt.Errorf("%q is not a size; expected bytes such as 4096, 512M or 20G", s)
	}
	power, err := sizeSuffix(parts[2])
	if err != nil {
		return 0, err
	}
	n, ok := new(big.Rat).SetString(parts[1])
	if !ok {
		return 0, fmt.Errorf("%q is not a number", parts[1])
	}
	n.Mul(n, new(big.Rat).SetInt(new(big.Int).Lsh(big.NewInt(1), power)))
	if !n.IsInt() {
		return 0, fmt.Errorf("%q is not a whole number of bytes", s)
	}
	if !n.Num().IsInt64() {
		return 0, fmt.Errorf("%q is more than 8E", s)
	}
	return n.Num().Int64(), nil
}

// sizeSuffix returns the power of two that a suffix means.
func sizeSuffix(suffix string) (uint, error) {
	short := strings.ToUpper(suffix)
	if short == "" || short == "B" {
		return 0, nil
	}
	i := strings.IndexByte("KMGTPE", short[0])
	if i < 0 {
		return 0, fmt.Errorf("%q is not a unit; expected one of K, M, G, T, P, E", suffix)
	}
	switch short[1:] {
	case "", "I", "IB":
		return uint(i+1) * 10, nil
	case "B":
		return 0, fmt.Errorf("%q may mean powers of 1000 or of 1024; write %[2]c or %[2]ciB for powers of 1024", suffix, short[0])
	}
	return 0, fmt.Errorf("%q is not a unit; expected one of K, M, G, T, P, E", suffix)
}
