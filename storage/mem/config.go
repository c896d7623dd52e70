// SPDX-License-Identifier: Apache-2.0

package mem

import (
	"fmt"
	"math/bits"
	"slices"
	"strconv"
	"strings"

	"github.com/tenon-storage/tenon/primitives"
)

// maxVolume bounds a volume's size, so that offsets never overflow.
const maxVolume = 16 << 40

// config is one device's properties, parsed.
type config struct {
	store     string
	capacity  int64 // 0: no limit
	granule   int64
	live      primitives.LiveSnapshot
	dependent bool // clones need their source
	takeSnaps bool // delink of a volume takes its snapshots along
	offload   bool
	facets    []string
}

var facetNames = []string{"snapshots", "resize", "delta", "map", "fence"}

func schema() primitives.Schema {
	device := primitives.ScopeDevice
	limits := func(low, high int64) (*int64, *int64) { return &low, &high }
	oneChunk, most := limits(chunkSize, 1<<50)
	sector, chunk := limits(512, chunkSize)
	none, long := limits(0, 256)
	return primitives.Schema{Version: 1, Props: []primitives.PropSpec{
		{
			Name: "store", Scope: device, Required: true, Pattern: "[a-z0-9][a-z0-9-]{0,62}", Example: "fast",
			Help: "name of the store in this process; devices with the same store see the same volumes",
		},
		{
			Name: "capacity", Scope: device, Type: primitives.PropBytes, Min: oneChunk, Max: most, Example: "1G", Mutable: primitives.MutableOffline,
			Help: "bytes that all volumes together may take; without it there is no limit",
		},
		{
			Name: "granule", Scope: device, Type: primitives.PropBytes, Min: sector, Max: chunk, Default: "4096",
			Help: "volume sizes are multiples of it, and so are the extents of a delta; a power of two",
		},
		{
			Name: "snapshots", Scope: device, Type: primitives.PropEnum, Enum: []string{"none", "transparent", "remap"}, Default: "transparent", Mutable: primitives.MutableOffline,
			Help: "what a snapshot of a mapped volume is: refused, unnoticed, or a new mapping to switch to",
		},
		{
			Name: "clones", Scope: device, Type: primitives.PropEnum, Enum: []string{"independent", "dependent"}, Default: "independent", Mutable: primitives.MutableOffline,
			Help: "whether a source can be destroyed before its clones",
		},
		{
			Name: "delete-with-snapshots", Scope: device, Type: primitives.PropEnum, Enum: []string{"taken", "refused"}, Default: "taken", Mutable: primitives.MutableOffline,
			Help: "what delink of a volume does with its snapshots",
		},
		{
			Name: "facets", Scope: device, Type: primitives.PropList, Default: strings.Join(facetNames, ","), Mutable: primitives.MutableOffline,
			Help: "the optional parts to offer, out of " + strings.Join(facetNames, ", ") + `; "none" offers none`,
		},
		{
			Name: "offload", Scope: device, Type: primitives.PropBool, Default: "false", Mutable: primitives.MutableOffline,
			Help: "copy to other stores of this process without streaming",
		},
		{
			Name: "note", Scope: device | primitives.ScopeVolume, Min: none, Max: long, Inherit: true, Mutable: primitives.MutableOnline,
			Help: "free text; a device's is the default for its volumes",
		},
		{
			Name: "token", Scope: device, Secret: true, Mutable: primitives.MutableOnline,
			Help: "the first device that opens a store with a token closes it to everybody without that token",
		},
	}}
}

// parseConfig reads properties that keep the schema; absent ones have their
// defaults, because a Backend opened without storage.Device has no help.
func parseConfig(p primitives.Props) (config, []primitives.Problem) {
	var problems []primitives.Problem
	bad := func(prop, format string, args ...any) {
		problems = append(problems, primitives.Problem{Prop: prop, Message: fmt.Sprintf(format, args...), Fatal: true})
	}
	get := func(name, fallback string) string {
		if v := p[name]; v != "" {
			return v
		}
		return fallback
	}
	size := func(name, fallback string) int64 {
		n, err := strconv.ParseInt(get(name, fallback), 10, 64)
		if err != nil || n < 0 {
			bad(name, "%q is not a number of bytes", p[name])
		}
		return n
	}
	c := config{
		store:     p["store"],
		capacity:  size("capacity", "0"),
		granule:   size("granule", "4096"),
		dependent: p["clones"] == "dependent",
		takeSnaps: p["delete-with-snapshots"] != "refused",
		offload:   p["offload"] == "true",
	}
	if c.store == "" {
		bad("store", "the name of a store is expected")
	}
	if c.granule < 1 || c.granule > chunkSize || bits.OnesCount64(uint64(c.granule)) != 1 {
		bad("granule", "%d is not a power of two up to %d", c.granule, chunkSize)
	}
	switch get("snapshots", "transparent") {
	case "none":
		c.live = primitives.LiveNone
	case "transparent":
		c.live = primitives.LiveTransparent
	case "remap":
		c.live = primitives.LiveRemap
	default:
		bad("snapshots", "%q is not one of none, transparent, remap", p["snapshots"])
	}
	if list := get("facets", strings.Join(facetNames, ",")); list != "none" {
		c.facets = strings.Split(list, ",")
	}
	for _, f := range c.facets {
		if !slices.Contains(facetNames, f) {
			bad("facets", "%q is not one of %s", f, strings.Join(facetNames, ", "))
		}
	}
	return c, problems
}

func (c config) has(facet string) bool { return slices.Contains(c.facets, facet) }

// roundUp returns the size that the store gives to somebody who asks for size.
func (c config) roundUp(size int64) (int64, error) {
	if size <= 0 {
		return 0, primitives.Invalid("size", "%d is not a size; expected at least 1 byte", size)
	}
	if size > maxVolume {
		return 0, primitives.Invalid("size", "%d is more than the largest volume, %d bytes", size, int64(maxVolume))
	}
	return (size + c.granule - 1) &^ (c.granule - 1), nil
}

func (c config) caps() primitives.Caps {
	caps := primitives.Caps{
		Manageable: true, RandomWrite: true, SharedAcrossHosts: true, ExclusiveActivate: true,
		ZeroOnCreate: true, ThinProvisioned: true, DelinkFreesName: true,
		DeleteWithSnaps: primitives.DeleteRefusedWithSnapshots,
		Formats:         []primitives.Format{primitives.FormatRaw},
		Erase:           []primitives.Erase{primitives.EraseNone, primitives.EraseDiscard, primitives.EraseZero},
	}
	if c.takeSnaps {
		caps.DeleteWithSnaps = primitives.DeleteTakesSnapshots
	}
	if c.has("snapshots") {
		caps.Snapshot, caps.SnapshotGroup = true, true
		caps.SnapshotLive = c.live
		caps.Revert = primitives.RevertKeepsLater
	}
	if c.has("resize") {
		caps.ResizeOnline, caps.Shrink = true, true
	}
	if c.has("map") {
		caps.Forms = []primitives.Form{primitives.FormNetwork}
	}
	if c.offload {
		caps.CopyPeers = []string{Name}
	}
	return caps
}
