// SPDX-License-Identifier: Apache-2.0

package show

import (
	"bytes"
	"encoding/json"
	"fmt"

	"github.com/goccy/go-yaml"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
)

// asJSON is the fixed form of machine output: the names of the protocol buffers,
// every field present, 64-bit numbers as strings, as the JSON mapping of protocol
// buffers wants it.
var asJSON = protojson.MarshalOptions{UseProtoNames: true, EmitDefaultValues: true}

// JSON prints m indented.
func JSON(m proto.Message) (string, error) {
	line, err := JSONLine(m)
	if err != nil {
		return "", err
	}
	var b bytes.Buffer
	if err := json.Indent(&b, []byte(line), "", "  "); err != nil {
		return "", fmt.Errorf("print as JSON: %w", err)
	}
	return b.String(), nil
}

// JSONLine prints m on one line. protojson varies its spaces from build to build
// on purpose; Compact takes that away.
func JSONLine(m proto.Message) (string, error) {
	raw, err := asJSON.Marshal(m)
	if err != nil {
		return "", fmt.Errorf("print as JSON: %w", err)
	}
	var b bytes.Buffer
	if err := json.Compact(&b, raw); err != nil {
		return "", fmt.Errorf("print as JSON: %w", err)
	}
	b.WriteByte('\n')
	return b.String(), nil
}

// YAML prints m as YAML, with the fields of its JSON.
func YAML(m proto.Message) (string, error) {
	raw, err := asJSON.Marshal(m)
	if err != nil {
		return "", fmt.Errorf("print as YAML: %w", err)
	}
	text, err := yaml.JSONToYAML(raw)
	if err != nil {
		return "", fmt.Errorf("print as YAML: %w", err)
	}
	return string(text), nil
}
