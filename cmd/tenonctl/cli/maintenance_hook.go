// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/tenon-storage/tenon/api/failure"
	tenonv1 "github.com/tenon-storage/tenon/api/tenon/v1"
)

const (
	// hookTime bounds a hook: libvirt holds the domain's lock meanwhile.
	hookTime = 5 * time.Second
	// maxDefinition is the largest definition of a domain that is read.
	maxDefinition = 16 << 20
	// tenonAlias begins the aliases of tenon's disks in a domain's definition.
	tenonAlias = "ua-tenon-"
)

const hookLong = `Answer libvirt, which runs /etc/libvirt/hooks/qemu before it starts a domain or lets one come by
migration: the exit code is 0 when the domain may, and 1 when a device of it is in maintenance.

tenond is asked and nobody else, for five seconds at most. When it does not answer, a domain that has
one of tenon's disks may not start, and any other one may.`

func (a *app) hook() *cobra.Command {
	cmd := noun("hook", "Questions of others", a.hookQemu())
	cmd.Hidden = true
	return cmd
}

func (a *app) hookQemu() *cobra.Command {
	cmd := &cobra.Command{
		Use: "qemu [--] DOMAIN OPERATION SUB-OPERATION EXTRA", Short: "Answer libvirt's hook of domains",
		Long:    hookLong,
		Example: "  exec tenonctl hook qemu -- \"$@\"",
		Args:    cobra.MinimumNArgs(2), ValidArgsFunction: cobra.NoFileCompletions,
	}
	cmd.Flags().SetInterspersed(false) // libvirt's arguments are nobody's flags
	cmd.RunE = run(func(ctx context.Context, args []string) error {
		incoming, asked := hookAsks(args)
		if !asked {
			return nil
		}
		ctx, cancel := context.WithTimeout(ctx, hookTime)
		defer cancel()
		return a.admit(ctx, args[0], incoming)
	})
	return cmd
}

// hookAsks tells the operations that can be refused. The others tell of what has
// happened, and a failure would harm: libvirt kills a domain whose "reconnect"
// fails (hooks.html of libvirt).
func hookAsks(args []string) (incoming, asked bool) {
	switch args[1] {
	case "prepare":
		return false, true
	case "migrate":
		return true, true
	}
	return false, false
}

// admit asks tenond about the domain whose definition is on standard input. What
// libvirt shows of a refusal is standard error.
func (a *app) admit(ctx context.Context, name string, incoming bool) error {
	text, err := readWithin(ctx, a.env.In)
	if err != nil {
		return failf(tenonv1.ErrorCode_ERROR_CODE_UNAVAILABLE, "", "tenon cannot read the definition of domain %s: %v", name, err)
	}
	d := readDefinition(text)
	if d.Name == "" {
		d.Name = name
	}
	client, err := a.maintenances()
	if err != nil {
		return a.unsure(ctx, d, err)
	}
	resp, err := client.CheckDomain(ctx, &tenonv1.CheckDomainRequest{
		DomainId: d.ID, Name: d.Name, Sources: d.Sources, Incoming: incoming,
	})
	switch {
	case err != nil:
		return a.unsure(ctx, d, err)
	case d.Err != nil:
		return a.unsure(ctx, d, d.Err)
	case resp.GetAllowed():
		return nil
	}
	return &failure.Error{Failure: resp.GetRefusal()}
}

// unsure answers where tenond did not: closed for a domain that has one of
// tenon's disks.
func (a *app) unsure(ctx context.Context, d definition, err error) error {
	why := a.explain(failure.Of(err)).GetMessage()
	if ctx.Err() != nil {
		why = "tenond did not answer in time"
	}
	if !d.Tenon {
		fmt.Fprintf(a.env.Err, "warning: domain %s was not checked for maintenance: %s\n", d.Name, why)
		return nil
	}
	return failf(tenonv1.ErrorCode_ERROR_CODE_UNAVAILABLE, "start tenond, or look why it does not answer with systemctl status tenond",
		"domain %s has disks of tenon, and whether their devices are in maintenance is not known: %s", d.Name, why)
}

// readWithin reads the definition. A writer that keeps its end open holds nothing
// up: the reading is left behind when ctx ends, and ends with the process.
func readWithin(ctx context.Context, from io.Reader) ([]byte, error) {
	type result struct {
		text []byte
		err  error
	}
	read := make(chan result, 1)
	go func() {
		text, err := io.ReadAll(io.LimitReader(from, maxDefinition+1))
		read <- result{text, err}
	}()
	select {
	case r := <-read:
		if r.err == nil && len(r.text) > maxDefinition {
			r.err = errors.New("it is too large")
		}
		return r.text, r.err
	case <-ctx.Done():
		return nil, errors.New("it does not end")
	}
}

// definition is what matters of a domain's definition.
type definition struct {
	ID, Name string
	Sources  []string // paths and volumes of its disks and of what they build upon
	Tenon    bool     // one of its disks is tenon's
	Err      error    // it could not be read to its end; what is above is not all
}

// readDefinition reads a definition as far as it can be read.
func readDefinition(text []byte) definition {
	var d definition
	var at []string // the elements around
	in := xml.NewDecoder(strings.NewReader(string(text)))
	for {
		token, err := in.Token()
		if err != nil {
			if !errors.Is(err, io.EOF) || len(text) == 0 {
				d.Err = fmt.Errorf("its definition cannot be read: %w", err)
				d.Tenon = d.Tenon || strings.Contains(string(text), tenonAlias)
			}
			return d
		}
		switch token := token.(type) {
		case xml.StartElement:
			at = append(at, token.Name.Local)
			d.element(at, token.Attr)
		case xml.EndElement:
			at = at[:len(at)-1]
		case xml.CharData:
			d.words(at, strings.TrimSpace(string(token)))
		}
	}
}

func (d *definition) words(at []string, text string) {
	switch strings.Join(at, "/") {
	case "domain/uuid":
		d.ID += text
	case "domain/name":
		d.Name += text
	}
}

// element takes what says where a disk's bytes are. A chain of images nests
// backingStore elements, each with its source.
func (d *definition) element(at []string, attributes []xml.Attr) {
	if len(at) < 4 || !slices.Equal(at[:3], []string{"domain", "devices", "disk"}) {
		return
	}
	for _, attribute := range attributes {
		value := attribute.Value
		switch at[len(at)-1] + " " + attribute.Name.Local {
		case "alias name":
			d.Tenon = d.Tenon || len(at) == 4 && strings.HasPrefix(value, tenonAlias)
		case "source file", "source dev", "source dir", "source name", "source volume":
			if value != "" && !slices.Contains(d.Sources, value) {
				d.Sources = append(d.Sources, value)
			}
		}
	}
}
