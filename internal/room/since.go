package room

import (
	"context"

	"presence/internal/presence"
	"presence/internal/store"
)

// Since returns the changes of a room that follow a version, if its log reaches back that
// far; else the whole room.
func (rs *Rooms) Since(ctx context.Context, name string, version int64) (store.Reading, error) {
	if err := rs.trust.Await(ctx, name); err != nil {
		return store.Reading{}, err
	}
	readings, epoch, err := rs.store.Read(ctx, store.Have{Room: name, Version: version})
	if err == nil {
		err = readings[0].Err
	}
	switch {
	case err != nil:
		rs.trust.Failed(ctx, name, err)
		return store.Reading{}, err
	case !rs.trust.Current(ctx, epoch):
		return store.Reading{}, presence.ErrUnavailable
	}
	return readings[0], nil
}
