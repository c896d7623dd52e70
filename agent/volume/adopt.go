// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"context"
	"errors"
	"path/filepath"

	"github.com/tenon-storage/tenon/agent/device"
	"github.com/tenon-storage/tenon/agent/journal"
	"github.com/tenon-storage/tenon/agent/operation"
	"github.com/tenon-storage/tenon/primitives"
)

func (s *Service) importKind() operation.Kind[ImportArgs, outcome] {
	type run = operation.Run[ImportArgs, outcome]
	return operation.Kind[ImportArgs, outcome]{
		Name:    KindImport,
		Subject: func(a ImportArgs) string { return a.URI.Short() },
		Check:   s.checkImport,
		Admit: func(tx *journal.Tx, r *run) (err error) {
			claim(r, r.Args.URI, false)
			r.Memory.Uses = nil
			for _, f := range r.Memory.Found {
				u := f.AdoptedUse(r.Args.URI, r.ID)
				r.Memory.Uses = append(r.Memory.Uses, u)
				err = errors.Join(err, device.Admit(tx, u))
			}
			return errors.Join(err, device.Enter(tx, r.Args.URI))
		},
		Steps: []operation.Step[ImportArgs, outcome]{{
			Name: "import",
			Do:   s.importImage,
			Undo: s.takeBackImport,
		}, {
			// The disks have the image open already; the mappings tell the device so.
			Name: "adopt",
			Do: func(ctx context.Context, r *run) error {
				for _, u := range r.Memory.Uses {
					if err := s.disks.Serve(ctx, u, r.Op("map "+u.ID), r.Op("activate "+u.ID)); err != nil {
						return err
					}
				}
				return nil
			},
			Undo: func(ctx context.Context, r *run) (err error) {
				for _, u := range r.Memory.Uses {
					err = errors.Join(err, s.disks.Release(ctx, u))
				}
				return err
			},
		}},
		Result: func(r *run) any {
			result := Imported{Object: r.Memory.Object}
			for _, f := range r.Memory.Found {
				result.Adopted = append(result.Adopted, f.String())
			}
			return result
		},
		End: func(tx *journal.Tx, r *run, state operation.State, left bool) (err error) {
			if state == operation.Succeeded || left {
				return nil
			}
			for _, u := range r.Memory.Uses {
				err = errors.Join(err, tx.DeleteUse(u.ID))
			}
			return err
		},
	}
}

func (s *Service) checkImport(ctx context.Context, r *operation.Run[ImportArgs, outcome]) (err error) {
	a := r.Args
	if !filepath.IsAbs(a.Path) {
		return primitives.Invalid("path", "%q: expected an absolute path on the host of tenond", a.Path)
	}
	if a.Format == "" {
		return primitives.Invalid("format", "it is empty; an image's format is told, never guessed")
	}
	if err := volumeName("uri", a.URI); err != nil {
		return err
	}
	r.Memory.Found, err = s.disks.UsersOf(ctx, a.Path)
	return err
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
