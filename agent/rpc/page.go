// SPDX-License-Identifier: Apache-2.0

package rpc

import (
	"github.com/tenon-storage/tenon/primitives"
)

// Sizes of a page of a listing.
const (
	defaultPage = 500
	largestPage = 2000
)

// pageSize reads a request's page size.
func pageSize(asked int32) (int, error) {
	switch {
	case asked < 0:
		return 0, primitives.Invalid("page_size", "%d: expected 0 or more", asked)
	case asked == 0:
		return defaultPage, nil
	}
	return min(int(asked), largestPage), nil
}

// pageOf cuts a page out of all items, which are in order. key names an item
// uniquely and before says which of two keys comes first. The token is the key
// of the last item of the page before, so that items that come and go meanwhile
// shift nothing.
func pageOf[T any](all []T, key func(T) string, before func(a, b string) bool, token string, asked int32) (page []T, next string, err error) {
	size, err := pageSize(asked)
	if err != nil {
		return nil, "", err
	}
	for len(all) > 0 && token != "" && !before(token, key(all[0])) {
		all = all[1:]
	}
	if len(all) > size {
		return all[:size], key(all[size-1]), nil
	}
	return all, "", nil
}

func ascending(a, b string) bool  { return a < b }
func descending(a, b string) bool { return a > b }
