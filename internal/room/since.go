package room

import (
	"context"

	"presence/internal/presence"
	"presence/internal/store"
)

// Since returns the changes of a room that follow a version. If the room's log does not
// reach back that far, it returns the whole room.
func (rs *Rooms) Since(ctx context.Context, name string, version int64) (reading store.Reading, err error) {
	err = rs.ask(ctx, name, func() error {
		readings, err := rs.store.Read(ctx, store.Have{Room: name, Version: version})
		if err != nil {
			return err
		}
		if reading = readings[0]; reading.Err == nil && !rs.trust.Current(ctx, reading.Epoch) {
			return presence.ErrUnavailable
		}
		return reading.Err
	})
	if err == nil {
		rs.Heard(name, reading.Version)
	}
	return reading, err
}

// HeardVersion returns the last version of the room that this replica has heard of. The view may
// still be an older one.
func (v *Viewer) HeardVersion() int64 {
	v.rooms.mu.Lock()
	defer v.rooms.mu.Unlock()
	return v.room.heardVersion
}
