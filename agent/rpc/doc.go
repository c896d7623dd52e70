// SPDX-License-Identifier: Apache-2.0

// Package rpc serves tenon.v1 over the agent's rooms. It only translates:
// requests to arguments, results to messages, errors to statuses. It is the one
// place that knows status codes.
package rpc
