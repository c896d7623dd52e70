// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"fmt"
	"io"

	"google.golang.org/protobuf/proto"

	"github.com/tenon-storage/tenon/cmd/tenonctl/show"
)

// print writes an answer as the flags want it: as text for people, or the whole
// message for programs.
func (a *app) print(m proto.Message, text func() string) error {
	out, err := a.render(m, text)
	if err != nil {
		return err
	}
	_, err = io.WriteString(a.env.Out, out)
	return err
}

func (a *app) render(m proto.Message, text func() string) (string, error) {
	switch a.output {
	case "json":
		return show.JSON(m)
	case "yaml":
		return show.YAML(m)
	}
	return text(), nil
}

// printList is print for a listing; people are told when there is nothing.
func (a *app) printList(m proto.Message, n int, nothing string, text func() string) error {
	if n == 0 && a.output == "table" {
		_, err := fmt.Fprintln(a.env.Err, nothing)
		return err
	}
	return a.print(m, text)
}
