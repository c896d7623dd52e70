// SPDX-License-Identifier: Apache-2.0

package storage

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/tenon-storage/tenon/primitives"
)

// normalise returns the one spelling in which a driver gets a value, or says
// what is wrong with it and what was expected.
func normalise(spec primitives.PropSpec, value string) (string, error) {
	switch spec.Type {
	case primitives.PropInt:
		n, err := strconv.ParseInt(strings.TrimSpace(value), 10, 64)
		if err != nil {
			return "", fmt.Errorf("%q is not a whole number", value)
		}
		return strconv.FormatInt(n, 10), within(spec, n, plain)
	case primitives.PropBytes:
		n, err := ParseSize(value)
		if err != nil {
			return "", err
		}
		return strconv.FormatInt(n, 10), within(spec, n, plain)
	case primitives.PropDuration:
		d, err := time.ParseDuration(strings.TrimSpace(value))
		if err != nil {
			return "", fmt.Errorf("%q is not a duration; expected one such as 30s or 1h15m", value)
		}
		return d.String(), within(spec, int64(d), func(n int64) string { return time.Duration(n).String() })
	case primitives.PropBool:
		return normaliseBool(value)
	case primitives.PropEnum:
		return value, oneOf(spec.Enum, value)
	case primitives.PropList:
		return normaliseList(spec, value)
	case primitives.PropString:
		if !utf8.ValidString(value) {
			return "", fmt.Errorf("the value is not valid UTF-8")
		}
		if err := within(spec, int64(utf8.RuneCountInString(value)), characters); err != nil {
			return "", err
		}
		return value, matches(spec, value)
	}
	return "", fmt.Errorf("the schema gives it an unknown type, %d", spec.Type)
}

func plain(n int64) string { return strconv.FormatInt(n, 10) }

func characters(n int64) string { return fmt.Sprintf("%d characters", n) }

func members(n int64) string { return fmt.Sprintf("%d members", n) }

// within compares with the spec's limits, printed as a reader would write them.
func within(spec primitives.PropSpec, n int64, print func(int64) string) error {
	switch {
	case spec.Min != nil && n < *spec.Min:
		return fmt.Errorf("%s is too little; expected at least %s", print(n), print(*spec.Min))
	case spec.Max != nil && n > *spec.Max:
		return fmt.Errorf("%s is too much; expected at most %s", print(n), print(*spec.Max))
	}
	return nil
}

func normaliseBool(value string) (string, error) {
	switch strings.ToLower(strings.TrimSpace(value)) {
	case "true", "yes", "on":
		return "true", nil
	case "false", "no", "off":
		return "false", nil
	}
	return "", fmt.Errorf("%q is neither true nor false", value)
}

func normaliseList(spec primitives.PropSpec, value string) (string, error) {
	list := strings.Split(value, ",")
	for i, m := range list {
		m = strings.TrimSpace(m)
		if m == "" {
			return "", fmt.Errorf("%q has an empty member; expected names between commas", value)
		}
		if len(spec.Enum) > 0 {
			if err := oneOf(spec.Enum, m); err != nil {
				return "", err
			}
		}
		if err := matches(spec, m); err != nil {
			return "", err
		}
		list[i] = m
	}
	return strings.Join(list, ","), within(spec, int64(len(list)), members)
}

func oneOf(allowed []string, value string) error {
	if slices.Contains(allowed, value) {
		return nil
	}
	return fmt.Errorf("%q is not one of %s%s", value, strings.Join(allowed, ", "), didYouMean(value, allowed))
}

func matches(spec primitives.PropSpec, value string) error {
	if spec.Pattern == "" {
		return nil
	}
	re, err := wholePattern(spec.Pattern)
	if err != nil {
		return err
	}
	if re.MatchString(value) {
		return nil
	}
	if spec.Example != "" {
		return fmt.Errorf("%q does not have the form %s; expected something like %q", value, spec.Pattern, spec.Example)
	}
	return fmt.Errorf("%q does not have the form %s", value, spec.Pattern)
}

// wholePattern compiles a pattern that matches the whole value.
func wholePattern(p string) (*regexp.Regexp, error) { return regexp.Compile(`^(?:` + p + `)$`) }
