// SPDX-License-Identifier: Apache-2.0

package rpc

import (
	"fmt"
	"log/slog"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	tenonv1 "github.com/tenon-storage/tenon/api/tenon/v1"
)

const redacted = "[secret]"

// loggable is a message that logs itself without the fields that the API marks
// as secret. The work is done only when a handler wants the value.
type loggable struct{ proto.Message }

// LogValue renders the message with every secret replaced.
func (l loggable) LogValue() slog.Value {
	clean := proto.Clone(l.Message)
	redact(clean.ProtoReflect())
	text, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(clean)
	if err != nil {
		return slog.StringValue(fmt.Sprintf("unprintable %s", clean.ProtoReflect().Descriptor().FullName()))
	}
	return slog.StringValue(string(text))
}

// redact replaces every secret in m; names of secrets stay.
func redact(m protoreflect.Message) {
	m.Range(func(fd protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch secret := isSecret(fd); {
		case secret && fd.IsMap():
			v.Map().Range(func(k protoreflect.MapKey, _ protoreflect.Value) bool {
				v.Map().Set(k, placeholder(fd.MapValue()))
				return true
			})
		case secret && !fd.IsList() && (fd.Kind() == protoreflect.StringKind || fd.Kind() == protoreflect.BytesKind):
			m.Set(fd, placeholder(fd))
		case secret:
			m.Clear(fd)
		case fd.IsMap() && fd.MapValue().Message() != nil:
			v.Map().Range(func(_ protoreflect.MapKey, v protoreflect.Value) bool {
				redact(v.Message())
				return true
			})
		case fd.IsList() && fd.Message() != nil:
			for i := range v.List().Len() {
				redact(v.List().Get(i).Message())
			}
		case !fd.IsMap() && fd.Message() != nil:
			redact(v.Message())
		}
		return true
	})
}

func isSecret(fd protoreflect.FieldDescriptor) bool {
	secret, ok := proto.GetExtension(fd.Options(), tenonv1.E_Secret).(bool)
	return ok && secret
}

// placeholder is what stands for a secret. A secret that is neither text nor
// bytes becomes its zero value.
func placeholder(fd protoreflect.FieldDescriptor) protoreflect.Value {
	switch fd.Kind() {
	case protoreflect.StringKind:
		return protoreflect.ValueOfString(redacted)
	case protoreflect.BytesKind:
		return protoreflect.ValueOfBytes([]byte(redacted))
	}
	return fd.Default()
}
