// SPDX-License-Identifier: Apache-2.0

package mem

// exportName is the one export of every socket.
const exportName = "volume"

// server answers on one mapping's socket.
type server struct {
	s        *store
	pick     func() *content // what is shown; guarded by the store's lock
	readOnly bool
}

// serve begins to answer on socket with the content that pick chooses anew for
// each request. The store's lock is held.
func serve(s *store, socket string, pick func() *content, readOnly bool) (*server, error) {
	return &server{s: s, pick: pick, readOnly: readOnly}, nil
}

// show changes what the socket leads to, without its clients noticing.
func (sv *server) show(pick func() *content) { sv.pick = pick }

func (sv *server) connections() int { return 0 }

func (sv *server) stop() {}
