// SPDX-License-Identifier: Apache-2.0

// Package nbd is a client and a server of the Network Block Device protocol:
// fixed newstyle handshake, structured replies, metadata contexts.
//
// Comments that quote a section mean the protocol document,
// https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md.
//
// Neither side trusts its peer: lengths are checked before memory is allocated
// for them, and a peer that breaks the protocol is disconnected.
package nbd
