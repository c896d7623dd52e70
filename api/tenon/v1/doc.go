// SPDX-License-Identifier: Apache-2.0

// Package tenonv1 is the API of tenond, version 1: what protoc-gen-go and
// protoc-gen-go-grpc made from the protocol buffers beside it.
package tenonv1
