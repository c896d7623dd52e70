// SPDX-License-Identifier: Apache-2.0

package config

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"

	"github.com/tenon-storage/tenon/primitives"
)

// setting writes one value into the configuration, or says what is wrong with it.
type setting func(value ast.Node) error

// settings lists every key of the file by its full name.
func settings(c *Config) map[string]setting {
	return map[string]setting{
		"state_dir":              folder(&c.StateDir),
		"run_dir":                folder(&c.RunDir),
		"socket":                 socket(&c.Socket),
		"socket_group":           group(&c.SocketGroup),
		"hypervisor.kvm.uri":     text(&c.Hypervisor.KVM.URI),
		"maintenance.manager":    manager(&c.Maintenance.Manager),
		"log.level":              level(&c.Log.Level),
		"log.format":             oneOf(&c.Log.Format, "text", "json"),
		"limits.operations":      count(&c.Limits.Operations, 1, 100_000),
		"limits.transfers":       count(&c.Limits.Transfers, 1, 1000),
		"limits.keep_operations": count(&c.Limits.KeepOperations, 1, 1_000_000),
		"limits.keep_for":        duration(&c.Limits.KeepFor, time.Minute, 10*365*24*time.Hour),
		"limits.device_open":     duration(&c.Limits.DeviceOpen, 100*time.Millisecond, time.Hour),
		"limits.detach":          duration(&c.Limits.Detach, 100*time.Millisecond, 24*time.Hour),
		"limits.freeze":          duration(&c.Limits.Freeze, 100*time.Millisecond, 10*time.Minute),
	}
}

// decode walks the syntax tree itself, because the YAML library's strict mode
// stops at the first mistake.
func decode(name string, data []byte, c *Config) error {
	file, err := parser.ParseBytes(data, 0, parser.AllowDuplicateMapKey())
	if err != nil {
		if at, ok := errors.AsType[yaml.Error](err); ok && at.GetToken() != nil {
			return invalid(primitives.Problem{
				Prop:    fmt.Sprintf("%s:%d", name, at.GetToken().Position.Line),
				Message: at.GetMessage(), Fatal: true,
			})
		}
		return invalid(primitives.Problem{Prop: name, Message: err.Error(), Fatal: true})
	}
	w := walk{name: name, settings: settings(c), seen: make(map[string]int)}
	for i, doc := range file.Docs {
		if i > 0 {
			w.complain(doc, "", "a second document; expected one")
			break
		}
		if doc.Body != nil && doc.Body.Type() != ast.NullType && doc.Body.Type() != ast.CommentType {
			w.section("", doc.Body)
		}
	}
	if err := checkSocket(c.withSocket().Socket); c.Socket == "" && err != nil {
		w.problems = append(w.problems, primitives.Problem{
			Prop: fmt.Sprintf("%s:%d: run_dir", name, w.seen["run_dir"]), Message: err.Error(), Fatal: true,
		})
	}
	if len(w.problems) > 0 {
		return invalid(w.problems...)
	}
	return nil
}

func invalid(p ...primitives.Problem) error {
	return &primitives.Error{Code: primitives.CodeInvalid, Op: "read the configuration", Problems: p}
}

// walk collects the problems of one file.
type walk struct {
	name     string
	settings map[string]setting
	seen     map[string]int // full key -> line
	problems []primitives.Problem
}

func (w *walk) complain(n ast.Node, key, format string, args ...any) {
	at := w.name
	if t := n.GetToken(); t != nil && t.Position != nil {
		at = fmt.Sprintf("%s:%d", w.name, t.Position.Line)
	}
	if key != "" {
		at += ": " + key
	}
	w.problems = append(w.problems, primitives.Problem{Prop: at, Message: fmt.Sprintf(format, args...), Fatal: true})
}

// section reads a mapping; prefix is its full name, "" for the whole file.
func (w *walk) section(prefix string, body ast.Node) {
	m, ok := body.(ast.MapNode)
	if !ok {
		w.complain(body, prefix, "expected keys and values, got %s", describe(body))
		return
	}
	for iter := m.MapRange(); iter.Next(); {
		key := iter.Key().GetToken().Value
		if prefix != "" {
			key = prefix + "." + key
		}
		if line, again := w.seen[key]; again {
			w.complain(iter.Key(), key, "is set on line %d already", line)
			continue
		}
		w.seen[key] = iter.Key().GetToken().Position.Line
		w.entry(key, iter.Key(), iter.Value())
	}
}

func (w *walk) entry(key string, at, value ast.Node) {
	if set, ok := w.settings[key]; ok {
		if err := set(value); err != nil {
			w.complain(at, key, "%v", err)
		}
		return
	}
	if known := w.below(key); len(known) > 0 {
		if value.Type() != ast.NullType { // a heading with nothing under it
			w.section(key, value)
		}
		return
	}
	section, _, _ := cutLast(key)
	w.complain(at, key, "is unknown; expected one of %s", strings.Join(w.below(section), ", "))
}

// below lists the keys directly within a section.
func (w *walk) below(section string) []string {
	found := make(map[string]bool)
	for key := range w.settings {
		rest, ok := key, true
		if section != "" {
			rest, ok = strings.CutPrefix(key, section+".")
		}
		if ok {
			first, _, _ := strings.Cut(rest, ".")
			found[first] = true
		}
	}
	return slices.Sorted(maps.Keys(found))
}

func cutLast(key string) (section, last string, found bool) {
	i := strings.LastIndexByte(key, '.')
	if i < 0 {
		return "", key, false
	}
	return key[:i], key[i+1:], true
}

func describe(n ast.Node) string {
	switch n.Type() {
	case ast.MappingType, ast.MappingValueType:
		return "keys and values"
	case ast.SequenceType:
		return "a list"
	case ast.NullType:
		return "nothing"
	}
	return fmt.Sprintf("%q", n.GetToken().Value)
}

func asText(n ast.Node) (string, error) {
	switch v := n.(type) {
	case *ast.StringNode:
		return v.Value, nil
	case *ast.LiteralNode:
		return v.Value.Value, nil
	}
	return "", fmt.Errorf("expected text, got %s", describe(n))
}

func text(to *string) setting {
	return func(n ast.Node) error {
		s, err := asText(n)
		if err != nil {
			return err
		}
		*to = s
		return nil
	}
}

func absolute(to *string) setting {
	return func(n ast.Node) error {
		s, err := asText(n)
		if err != nil {
			return err
		}
		if !filepath.IsAbs(s) {
			return fmt.Errorf("%q is not an absolute path", s)
		}
		*to = filepath.Clean(s)
		return nil
	}
}

// folder takes a path that leads to a folder, or to nothing yet.
func folder(to *string) setting {
	absolute := absolute(to)
	return func(n ast.Node) error {
		if err := absolute(n); err != nil {
			return err
		}
		if info, err := os.Stat(*to); err == nil && !info.IsDir() {
			return fmt.Errorf("%q is a file; expected a folder, which tenond makes where there is none", *to)
		}
		return nil
	}
}

func socket(to *string) setting {
	absolute := absolute(to)
	return func(n ast.Node) error {
		if err := absolute(n); err != nil {
			return err
		}
		return checkSocket(*to)
	}
}

// maxSocket is how long a socket's path may be: 107 bytes (unix(7)), less what is
// appended while it is made, which is a dot and a process's ID.
const maxSocket = 107 - len(".4194304")

func checkSocket(path string) error {
	if len(path) > maxSocket {
		return fmt.Errorf("the socket's path %q has %d bytes; expected at most %d", path, len(path), maxSocket)
	}
	return nil
}

// group takes the name of a group that this host has; an empty one means none. A
// name without a group is a mistake of the file, told with the others.
func group(to *string) setting {
	return func(n ast.Node) error {
		s, err := asText(n)
		if err != nil {
			return err
		}
		if s != "" {
			if _, err := user.LookupGroup(s); err != nil {
				return groupMistake(s, err)
			}
		}
		*to = s
		return nil
	}
}

func groupMistake(name string, err error) error {
	if _, unknown := errors.AsType[user.UnknownGroupError](err); unknown {
		return fmt.Errorf("there is no group %q on this host; make it with: groupadd --system %s", name, name)
	}
	return fmt.Errorf("the group %q cannot be looked up: %w", name, err)
}

// manager takes where a manager listens. Until connections between hosts are
// encrypted it has to be on this host.
func manager(to *string) setting {
	return func(n ast.Node) error {
		s, err := asText(n)
		if err != nil {
			return err
		}
		if path, is := strings.CutPrefix(s, "unix:"); is {
			if !filepath.IsAbs(path) {
				return fmt.Errorf("%q: expected unix: and an absolute path", s)
			}
			*to = s
			return nil
		}
		if s != "" {
			host, _, err := net.SplitHostPort(s)
			if ip := net.ParseIP(host); err != nil || host != "localhost" && (ip == nil || !ip.IsLoopback()) {
				return fmt.Errorf("%q: expected unix:/PATH, or HOST:PORT of this host itself: connections to others are not encrypted yet", s)
			}
		}
		*to = s
		return nil
	}
}

func oneOf(to *string, allowed ...string) setting {
	return func(n ast.Node) error {
		s, err := asText(n)
		if err != nil {
			return err
		}
		if !slices.Contains(allowed, s) {
			return fmt.Errorf("%q: expected one of %s", s, strings.Join(allowed, ", "))
		}
		*to = s
		return nil
	}
}

func level(to *slog.Level) setting {
	var s string
	choose := oneOf(&s, "debug", "info", "warn", "error")
	return func(n ast.Node) error {
		if err := choose(n); err != nil {
			return err
		}
		return to.UnmarshalText([]byte(s))
	}
}

func count(to *int, low, high int64) setting {
	return func(n ast.Node) error {
		number, ok := n.(*ast.IntegerNode)
		if !ok {
			return fmt.Errorf("expected a whole number, got %s", describe(n))
		}
		var v int64
		switch x := number.Value.(type) {
		case int64:
			v = x
		case uint64:
			v = int64(min(x, uint64(high)+1))
		}
		if v < low || v > high {
			return fmt.Errorf("%s: expected %d to %d", number.GetToken().Value, low, high)
		}
		*to = int(v)
		return nil
	}
}

func duration(to *time.Duration, low, high time.Duration) setting {
	return func(n ast.Node) error {
		s, err := asText(n)
		if err != nil {
			return fmt.Errorf("expected a duration such as 30s or 24h, got %s", describe(n))
		}
		d, err := time.ParseDuration(s)
		if err != nil {
			return fmt.Errorf("%q: expected a duration such as 30s or 24h", s)
		}
		if d < low || d > high {
			return fmt.Errorf("%s: expected %s to %s", s, low, high)
		}
		*to = d
		return nil
	}
}
