// SPDX-License-Identifier: Apache-2.0

// Package show turns what tenond answers into text. Tables are for people and
// may change; JSON and YAML are for programs and keep their shape.
//
// Everything here is pure: messages in, text out.
package show

import (
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// Style is what people's output depends on besides the message.
type Style struct {
	Zone *time.Location // of the times shown; nil: UTC
}

// absent stands for what is unknown or does not apply.
const absent = "-"

// Short drops the scheme of a URI, as people type it.
func Short(uri string) string { return strings.TrimPrefix(uri, "tenon://") }

// time shows a moment to the second.
func (s Style) time(t *timestamppb.Timestamp) string {
	if t == nil || t.AsTime().IsZero() {
		return absent
	}
	zone := s.Zone
	if zone == nil {
		zone = time.UTC
	}
	return t.AsTime().In(zone).Format(time.DateTime)
}

// enum is implemented by every generated enum.
type enum interface {
	Descriptor() protoreflect.EnumDescriptor
	Number() protoreflect.EnumNumber
}

// word returns an enum's value in words: OBJECT_STATE_READY is "ready",
// DOMAIN_STATE_SHUTTING_DOWN is "shutting down". The first word that all values
// share is the enum's name and goes away.
func word(e enum) string {
	v := e.Descriptor().Values().ByNumber(e.Number())
	if v == nil {
		return strconv.Itoa(int(e.Number()))
	}
	if v.Number() == 0 {
		return absent
	}
	prefix := strings.TrimSuffix(string(e.Descriptor().Values().Get(0).Name()), "UNSPECIFIED")
	return strings.ToLower(strings.ReplaceAll(strings.TrimPrefix(string(v.Name()), prefix), "_", " "))
}

func yes(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

// or returns text, or the sign for nothing.
func or(text string) string {
	if text == "" {
		return absent
	}
	return text
}

// Duration shows d with three digits that matter, such as "1.25s".
func Duration(d time.Duration) string {
	switch {
	case d >= time.Minute:
		return d.Round(time.Second).String()
	case d >= time.Second:
		return d.Round(10 * time.Millisecond).String()
	case d >= time.Millisecond:
		return d.Round(10 * time.Microsecond).String()
	}
	return d.String()
}
