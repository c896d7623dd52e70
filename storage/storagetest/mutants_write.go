// SPDX-License-Identifier: Apache-2.0

package storagetest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"strings"
	"sync"

	"github.com/tenon-storage/tenon/primitives"
)

// renames changes each name that goes in.
func renames(b *bent, rename func(u primitives.URI) primitives.URI) {
	stat, read, write, delink, clone := b.stat, b.read, b.write, b.delink, b.clone
	back := map[primitives.URI]primitives.URI{}
	var mu sync.Mutex
	in := func(u primitives.URI) primitives.URI {
		mu.Lock()
		defer mu.Unlock()
		n := rename(u)
		back[n] = u
		return n
	}
	out := func(o primitives.Object) primitives.Object {
		mu.Lock()
		defer mu.Unlock()
		if u, ok := back[o.URI]; ok {
			o.URI = u
		}
		return o
	}
	everyObject(b, func(o primitives.Object, _ primitives.Op) primitives.Object { return out(o) })
	b.stat = func(ctx context.Context, u primitives.URI, op primitives.Op) (primitives.Object, error) {
		o, err := stat(ctx, in(u), op)
		return out(o), err
	}
	b.read = func(ctx context.Context, u primitives.URI, op primitives.Op) (primitives.Reader, error) {
		return read(ctx, in(u), op)
	}
	b.write = func(ctx context.Context, u primitives.URI, r primitives.WriteRequest) (primitives.Writer, error) {
		w, err := write(ctx, in(u), r)
		if err != nil {
			return nil, err
		}
		return afterCommit(w, func(_ context.Context, o primitives.Object) (primitives.Object, error) { return out(o), nil }), nil
	}
	b.delink = func(ctx context.Context, u primitives.URI, d primitives.DelinkRequest) (primitives.Tombstone, error) {
		t, err := delink(ctx, in(u), d)
		t.Was = u
		return t, err
	}
	b.clone = func(ctx context.Context, src, dst primitives.URI, r primitives.CloneRequest) (primitives.Object, error) {
		o, err := clone(ctx, in(src), in(dst), r)
		return out(o), err
	}
}

// writeMutants create and write wrongly.
var writeMutants = []Mutant{
	bends("names are folded to lower case", func(b *bent) {
		renames(b, func(u primitives.URI) primitives.URI {
			u.Volume = strings.ToLower(u.Volume)
			return u
		})
	}),
	bends("names are decoded like those of a web address", func(b *bent) {
		renames(b, func(u primitives.URI) primitives.URI {
			if plain, err := url.PathUnescape(u.Volume); err == nil {
				u.Volume = plain
			}
			return u
		})
	}),
	bends("a volume is visible before its commit", func(b *bent) {
		everyWriter(b, func(ctx context.Context, w primitives.Writer, u primitives.URI, r primitives.WriteRequest) (primitives.Writer, error) {
			if !r.Create {
				return w, nil
			}
			if _, err := w.Commit(ctx); err != nil {
				return nil, err
			}
			r.Create, r.ID = false, r.ID+"-again"
			return b.in.Write(ctx, u, r)
		})
	}),
	bends("abort keeps what was written", func(b *bent) {
		everyWriter(b, func(_ context.Context, w primitives.Writer, _ primitives.URI, _ primitives.WriteRequest) (primitives.Writer, error) {
			wr := straightWriter(w)
			wr.abort = func(ctx context.Context) error {
				_, err := w.Commit(ctx)
				return err
			}
			return wr, nil
		})
	}),
	bends("abort of an aborted writer is an error", func(b *bent) {
		everyWriter(b, func(_ context.Context, w primitives.Writer, _ primitives.URI, _ primitives.WriteRequest) (primitives.Writer, error) {
			wr, done := straightWriter(w), false
			wr.abort = func(ctx context.Context) error {
				if done {
					return primitives.Errorf(primitives.CodeInvalid, "aborted already")
				}
				done = true
				return w.Abort(ctx)
			}
			return wr, nil
		})
	}),
	bends("a create takes the place of what has the name", func(b *bent) {
		write := b.write
		b.write = func(ctx context.Context, u primitives.URI, r primitives.WriteRequest) (primitives.Writer, error) {
			w, err := write(ctx, u, r)
			if r.Create && primitives.CodeOf(err) == primitives.CodeExists {
				if t, derr := b.in.Delink(ctx, u, primitives.DelinkRequest{}); derr == nil {
					_ = b.in.Destroy(ctx, t, primitives.DestroyRequest{})
					return write(ctx, u, r)
				}
			}
			return w, err
		}
	}),
	bends("a repeated create is another one", func(b *bent) {
		write, calls := b.write, new(counter)
		b.write = func(ctx context.Context, u primitives.URI, r primitives.WriteRequest) (primitives.Writer, error) {
			r.ID = fmt.Sprintf("%s-%d", r.ID, calls.next())
			return write(ctx, u, r)
		}
	}),
	bends("an id is good for any arguments", func(b *bent) {
		write := b.write
		b.write = func(ctx context.Context, u primitives.URI, r primitives.WriteRequest) (primitives.Writer, error) {
			w, err := write(ctx, u, r)
			if primitives.CodeOf(err) != primitives.CodeConflict || !r.Create {
				return w, err
			}
			o, serr := b.in.Stat(ctx, u, r.Op)
			if serr != nil {
				return w, err
			}
			r.Size = o.Size
			return write(ctx, u, r)
		}
	}),
	remembers("an interrupted create is resumed by anybody", func() func(*bent, primitives.OpenRequest) {
		var mu sync.Mutex
		makers := map[string]string{}
		return func(b *bent, _ primitives.OpenRequest) {
			write := b.write
			b.write = func(ctx context.Context, u primitives.URI, r primitives.WriteRequest) (primitives.Writer, error) {
				mu.Lock()
				defer mu.Unlock()
				if maker, ok := makers[u.Volume]; ok && r.Resume {
					r.ID = maker
				}
				w, err := write(ctx, u, r)
				if err == nil {
					makers[u.Volume] = r.ID
				}
				return w, err
			}
		}
	}),
	bends("a write over the end is cut off in silence", func(b *bent) {
		everyWriter(b, func(_ context.Context, w primitives.Writer, _ primitives.URI, _ primitives.WriteRequest) (primitives.Writer, error) {
			wr := straightWriter(w)
			wr.writeAt = func(p []byte, off int64) (int, error) {
				n, err := w.WriteAt(p, off)
				if primitives.CodeOf(err) == primitives.CodeInvalid {
					return len(p), nil
				}
				return n, err
			}
			return wr, nil
		})
	}),
	bends("zeroing does nothing", func(b *bent) {
		everyWriter(b, func(_ context.Context, w primitives.Writer, _ primitives.URI, _ primitives.WriteRequest) (primitives.Writer, error) {
			wr := straightWriter(w)
			wr.zeroAt = func(off, n int64) error {
				if off < 0 || n < 0 || off+n > 1<<40 {
					return w.ZeroAt(off, n)
				}
				if err := w.ZeroAt(off+n, 0); err != nil {
					return err
				}
				return w.ZeroAt(off, 0)
			}
			return wr, nil
		})
	}),
	bends("writes go to the sector's beginning", func(b *bent) {
		everyWriter(b, func(_ context.Context, w primitives.Writer, _ primitives.URI, _ primitives.WriteRequest) (primitives.Writer, error) {
			wr := straightWriter(w)
			wr.writeAt = func(p []byte, off int64) (int, error) {
				if off < 0 {
					return w.WriteAt(p, off)
				}
				return w.WriteAt(p, off&^511)
			}
			return wr, nil
		})
	}),
	bends("the size is what was asked for, not what was made", func(b *bent) {
		everyWriter(b, func(_ context.Context, w primitives.Writer, _ primitives.URI, r primitives.WriteRequest) (primitives.Writer, error) {
			return afterCommit(w, func(_ context.Context, o primitives.Object) (primitives.Object, error) {
				if r.Create {
					o.Size = r.Size
				}
				return o, nil
			}), nil
		})
	}),
	bends("a read over the end is padded with zeros", func(b *bent) {
		read := b.read
		b.read = func(ctx context.Context, u primitives.URI, op primitives.Op) (primitives.Reader, error) {
			r, err := read(ctx, u, op)
			if err != nil {
				return nil, err
			}
			return padded{r}, nil
		}
	}),
	bends("old bytes show in a new volume", func(b *bent) {
		everyWriter(b, func(ctx context.Context, w primitives.Writer, u primitives.URI, r primitives.WriteRequest) (primitives.Writer, error) {
			dead, err := b.in.List(ctx, primitives.ListRequest{Kinds: []primitives.Kind{primitives.KindTombstone}})
			if !r.Create || err != nil || (len(dead.Objects) == 0 && u.Volume != "new") {
				return w, nil
			}
			_, _ = w.WriteAt(pattern(4095, 0, 512), 512)
			return w, nil
		})
	}),
}

// padded is a reader that knows no end.
type padded struct{ primitives.Reader }

func (p padded) ReadAt(b []byte, off int64) (int, error) {
	n, err := p.Reader.ReadAt(b, off)
	if errors.Is(err, io.EOF) && off < p.Size() {
		clear(b[n:])
		return len(b), nil
	}
	return n, err
}
