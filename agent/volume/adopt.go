// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"context"
	"path/filepath"

	"github.com/tenon-storage/tenon/agent/journal"
	"github.com/tenon-storage/tenon/agent/operation"
	"github.com/tenon-storage/tenon/primitives"
)

func (s *Service) importKind() operation.Kind[ImportArgs, outcome] {
	type run = operation.Run[ImportArgs, outcome]
	return operation.Kind[ImportArgs, outcome]{
		Name:    KindImport,
		Subject: func(a ImportArgs) string { return a.URI.Short() },
		Check: func(_ context.Context, r *run) error {
			a := r.Args
			if !filepath.IsAbs(a.Path) {
				return primitives.Invalid("path", "%q: expected an absolute path on the host of tenond", a.Path)
			}
			if a.Format == "" {
				return primitives.Invalid("format", "it is empty; an image's format is told, never guessed")
			}
			return volumeName("uri", a.URI)
		},
		Admit: func(tx *journal.Tx, r *run) error {
			claim(r, r.Args.URI, false)
			return configured(tx, r.Args.URI.Device)
		},
		Steps: []operation.Step[ImportArgs, outcome]{{
			Name: "import",
			Do:   s.importImage,
			Undo: s.takeBackImport,
		}, {
			Name: "adopt",
			Do: func(ctx context.Context, r *run) (err error) {
				if s.options.Adopt != nil {
					r.Memory.Adopted, err = s.options.Adopt(ctx, r.Args.URI, r.Args.Path, r.ID)
				}
				return err
			},
			Undo: func(ctx context.Context, r *run) error {
				if s.options.Abandon == nil {
					return nil
				}
				return s.options.Abandon(ctx, r.Args.URI, r.ID)
			},
		}},
		Result: func(r *run) any { return Imported{Object: r.Memory.Object, Adopted: r.Memory.Adopted} },
	}
}

func (s *Service) importImage(ctx context.Context, r *operation.Run[ImportArgs, outcome]) error {
	d, err := s.Device(ctx, r.Args.URI)
	if err != nil {
		return err
	}
	adopt := d.Facets().Import
	if adopt == nil {
		return unsupported(r.Args.URI, "this device cannot adopt existing images")
	}
	r.Memory.Object, err = adopt.Import(ctx, r.Args.URI, primitives.ImportRequest{Op: r.Op("import"), Path: r.Args.Path, Format: r.Args.Format})
	return err
}

// takeBackImport takes the volume's name away again. The image's own name keeps
// the bytes, so nothing is erased. A handle that is not known, for a crash before
// it was recorded, is found out by repeating the import with its request id.
func (s *Service) takeBackImport(ctx context.Context, r *operation.Run[ImportArgs, outcome]) error {
	if r.Memory.Object.Handle == "" {
		return discardRepeated(s, s.importImage)(ctx, r)
	}
	d, err := s.Device(ctx, r.Args.URI)
	if err != nil {
		return err
	}
	o, err := d.Stat(ctx, r.Args.URI, primitives.Op{})
	if primitives.CodeOf(err) == primitives.CodeNotFound || (err == nil && o.Handle != r.Memory.Object.Handle) {
		return nil
	}
	if err != nil {
		return err
	}
	return s.discard(ctx, o, r.Op("take back"))
}
