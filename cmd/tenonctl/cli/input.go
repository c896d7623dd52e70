// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/durationpb"

	tenonv1 "github.com/tenon-storage/tenon/api/tenon/v1"
	"github.com/tenon-storage/tenon/cmd/tenonctl/show"
)

// maxSecret is the largest secret that is read, in bytes.
const maxSecret = 1 << 20

// size is a flag whose value is a number of bytes.
type size int64

// String prints the value for the help.
func (s *size) String() string {
	if *s == 0 {
		return ""
	}
	return show.Size(int64(*s))
}

// Set reads what was typed.
func (s *size) Set(text string) error {
	n, err := show.ParseSize(text)
	if err != nil {
		return err
	}
	*s = size(n)
	return nil
}

// Type is the placeholder in the help.
func (s *size) Type() string { return "SIZE" }

// properties reads what was given with -p.
func properties(given []string) (map[string]string, error) {
	props := make(map[string]string, len(given))
	for _, each := range given {
		key, value, ok := strings.Cut(each, "=")
		if !ok || key == "" {
			return nil, usagef("-p %q: expected key=value", each)
		}
		if _, twice := props[key]; twice {
			return nil, usagef("-p %s is given twice", key)
		}
		props[key] = value
	}
	return props, nil
}

// secrets reads what was given with --secret. A value on the command line would
// be seen by everybody on the host, so it is refused.
func secrets(given []string, stdin io.Reader) (map[string][]byte, error) {
	all := make(map[string][]byte, len(given))
	fromStdin := ""
	for _, each := range given {
		key, source, ok := strings.Cut(each, "=")
		path, fromFile := strings.CutPrefix(source, "@")
		switch {
		case !ok || key == "" || fromFile && path == "":
			return nil, usagef("--secret: expected key=@FILE, or key=@- for standard input")
		case !fromFile:
			return nil, usagef("--secret %s: a secret on the command line is visible to every user of this host; put it in a file and write --secret %s=@FILE, or pipe it in and write --secret %s=@-", key, key, key)
		case all[key] != nil:
			return nil, usagef("--secret %s is given twice", key)
		case path == "-" && fromStdin != "":
			return nil, usagef("--secret: standard input is read for %s already", fromStdin)
		}
		value, err := readSecret(path, stdin)
		if err != nil {
			return nil, failf(tenonv1.ErrorCode_ERROR_CODE_INVALID, "", "secret %s: %v", key, err)
		}
		if path == "-" {
			fromStdin = key
		}
		all[key] = value
	}
	return all, nil
}

// readSecret returns a source's bytes as they are; no newline is taken away.
func readSecret(path string, stdin io.Reader) (value []byte, err error) {
	source := stdin
	if path != "-" {
		file, err := os.Open(path)
		if err != nil {
			return nil, err
		}
		defer func() { err = errors.Join(err, file.Close()) }()
		source = file
	}
	value, err = io.ReadAll(io.LimitReader(source, maxSecret+1))
	switch {
	case err != nil:
		return nil, err
	case len(value) == 0:
		return nil, fmt.Errorf("%s is empty", path)
	case len(value) > maxSecret:
		return nil, fmt.Errorf("%s holds more than %s", path, show.Size(maxSecret))
	}
	return value, nil
}

// duration turns an unset flag into an absent field.
func duration(d time.Duration) *durationpb.Duration {
	if d == 0 {
		return nil
	}
	return durationpb.New(d)
}

// deviceOf returns the device's name in a URI as people or tenond write it.
func deviceOf(uri string) string {
	name, _, _ := strings.Cut(show.Short(uri), "/")
	return name
}

// propertyFlags adds -p and, for a device, --secret.
func propertyFlags(cmd *cobra.Command, props, secretValues *[]string) {
	cmd.Flags().StringArrayVarP(props, "property", "p", nil, "a property as `key=value`; may be repeated")
	if secretValues != nil {
		cmd.Flags().StringArrayVar(secretValues, "secret", nil, "a secret as `key=@FILE`, or key=@- for standard input; may be repeated")
	}
}

// needs takes exactly the arguments named.
func needs(names ...string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		switch {
		case len(args) == len(names):
			return nil
		case len(args) > len(names):
			return usagef("%s takes no %q", cmd.CommandPath(), strings.Join(args[len(names):], " "))
		}
		return usagef("%s needs %s", cmd.CommandPath(), strings.Join(names[len(args):], " and "))
	}
}

// atMost takes the argument named or none.
func atMost(name string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) <= 1 {
			return nil
		}
		return needs(name)(cmd, args)
	}
}

// oneOf takes one argument in one form, or two in another.
func oneOf(one, two string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) == 1 || len(args) == 2 {
			return nil
		}
		return usagef("%s needs %s, or %s", cmd.CommandPath(), one, two)
	}
}
