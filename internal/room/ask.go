package room

import (
	"context"
	"errors"
	"time"

	"presence/internal/presence"
	"presence/internal/store"
)

// reachPatience bounds how long a page waits for a version that its visitor has seen.
const reachPatience = time.Second

// Peek returns the numbers of a room without becoming a viewer. The view lists members
// only if the room has viewers here. If Redis is away and nothing is known, it returns an
// error and a stale view.
func (rs *Rooms) Peek(ctx context.Context, name string) (View, error) {
	return rs.read(ctx, store.Have{Room: name, Numbers: true})
}

// Look returns the whole room in the same way.
func (rs *Rooms) Look(ctx context.Context, name string) (View, error) {
	return rs.read(ctx, store.Have{Room: name})
}

// Heard notes that a room has reached a version. After that this replica answers no
// question with an older one.
func (rs *Rooms) Heard(name string, version int64) {
	rs.changed(store.Event{Room: name, Occupancy: presence.Occupancy{Version: version}})
}

// Reach reads again a room that has viewers here, if its view is older than version,
// which the caller has seen. It waits for that only a moment.
func (rs *Rooms) Reach(ctx context.Context, name string, version int64) {
	ctx, cancel := context.WithTimeout(ctx, reachPatience)
	defer cancel()
	rs.freshen(ctx, version, name)
}

// view returns the view of a room that has viewers here; otherwise a view that was never
// read.
func (rs *Rooms) view(name string) View {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	if rm := rs.byName[name]; rm != nil {
		return *rm.view.Load()
	}
	return View{Stale: true}
}

// freshen reads those of the rooms that have viewers here and whose views are older than
// version, or than the last version that was heard of. So answers are up to date at once,
// while viewers see changes at their own pace. A room that can't be read stays as it is.
func (rs *Rooms) freshen(ctx context.Context, version int64, names ...string) {
	for {
		var batch []*room
		var wait chan struct{}
		rs.mu.Lock()
		for _, name := range names {
			rm := rs.byName[name]
			switch {
			case rm == nil || !rm.behindLocked(version):
			case rm.busy:
				wait = rm.tried
			case rs.trust.Trusted(name) == nil:
				rm.takeLocked()
				batch = append(batch, rm)
			}
		}
		rs.mu.Unlock()
		if len(batch) > 0 {
			rs.readTaken(ctx, batch)
			return
		}
		if wait == nil {
			return
		}
		select {
		case <-wait: // look again: that read may have begun before the change
		case <-ctx.Done():
			return
		}
	}
}

// behindLocked reports whether the view is older than version, or the last version heard of.
func (rm *room) behindLocked(version int64) bool {
	view := rm.view.Load()
	return !view.AsOf.IsZero() && !view.Stale && view.Version < max(version, rm.heardVersion)
}

// read reads one room for a question of the API. If the room has viewers here, it returns
// their view.
func (rs *Rooms) read(ctx context.Context, have store.Have) (view View, err error) {
	rs.freshen(ctx, 0, have.Room)
	if view = rs.view(have.Room); !view.AsOf.IsZero() {
		return view, nil
	}
	err = rs.ask(ctx, have.Room, func() error {
		readings, err := rs.store.Read(ctx, have)
		switch {
		case err != nil:
			return err
		case readings[0].Err == nil && !rs.trust.Current(ctx, readings[0].Epoch):
			return presence.ErrUnavailable
		}
		view = View{Snapshot: readings[0].Snapshot, Stale: rs.trust.Doubtful(have.Room), AsOf: time.Now()}
		return readings[0].Err
	})
	if err != nil {
		return View{Stale: true}, err
	}
	return view, nil
}

// ask makes a call to the store about a room, once the room's data may be shown. name is
// "" for all rooms.
func (rs *Rooms) ask(ctx context.Context, name string, call func() error) error {
	if err := rs.trust.Await(ctx, name); err != nil {
		return err
	}
	err := call()
	if err != nil {
		rs.trust.Failed(ctx, name, err)
	}
	return err
}

// current returns an error if rooms were read from data that Redis has lost since, or is
// just losing. "" stands for the list of rooms.
func (rs *Rooms) current(ctx context.Context, rooms ...string) error {
	epochs, err := rs.store.Epochs(ctx, rooms...)
	if err == nil && !rs.trust.Current(ctx, epochs...) {
		err = presence.ErrUnavailable
	}
	return err
}

// List lists rooms with users in them, as [store.Store.List] does.
func (rs *Rooms) List(ctx context.Context, among presence.Patterns, after string, limit int) (rooms []store.RoomCount, next string, err error) {
	err = rs.ask(ctx, "", func() (err error) {
		if rooms, next, err = rs.store.List(ctx, among, after, limit); err == nil {
			err = rs.current(ctx, "")
		}
		return err
	})
	return rooms, next, err
}

// Changes returns what changed in a room, as [store.Store.Changes] does.
func (rs *Rooms) Changes(ctx context.Context, name string, after int64, limit int) (changes []presence.Change, o presence.Occupancy, told bool, err error) {
	err = rs.ask(ctx, name, func() (err error) {
		if changes, o, told, err = rs.store.Changes(ctx, name, after, limit); err == nil {
			err = rs.current(ctx, name)
		}
		return err
	})
	if err == nil {
		rs.Heard(name, o.Version)
	}
	return changes, o, told, err
}

// Scan returns a part of a room's members, as [store.Store.Scan] does. The view has the
// room's numbers and those members.
func (rs *Rooms) Scan(ctx context.Context, name string, from store.Cursor, count int) (view View, next store.Cursor, err error) {
	err = rs.ask(ctx, name, func() error {
		part, err := rs.store.Scan(ctx, name, from, count)
		if err != nil {
			return err
		}
		next = part.Next
		view = View{Snapshot: presence.Snapshot{Occupancy: part.Occupancy, Members: part.Members}, Stale: rs.trust.Doubtful(name), AsOf: time.Now()}
		return rs.current(ctx, name)
	})
	if err == nil {
		rs.Heard(name, view.Version)
	}
	return view, next, err
}

// Pick returns the numbers of rooms, in order. The members of each view are those of
// users who are in the room. While Redis is away the views are the last known ones, and
// stale. It returns an error if a room, or some of its members, are not known.
func (rs *Rooms) Pick(ctx context.Context, users []string, rooms ...string) ([]View, error) {
	rs.freshen(ctx, 0, rooms...)
	views := make([]View, len(rooms))
	var asked []string
	for i, name := range rooms {
		views[i] = rs.view(name)
		if views[i].AsOf.IsZero() || len(users) > 0 && !views[i].Complete() {
			asked = append(asked, name)
		}
	}
	picked, err := rs.pick(ctx, users, asked)
	for i, name := range rooms {
		if view, ok := picked[name]; ok {
			views[i] = view
			continue
		}
		if views[i].AsOf.IsZero() || len(users) > 0 && !views[i].Complete() {
			return nil, err
		}
		views[i].Members = among(views[i].Members, users)
	}
	return views, nil
}

// pick reads rooms for Pick.
func (rs *Rooms) pick(ctx context.Context, users, rooms []string) (map[string]View, error) {
	if len(rooms) == 0 {
		return nil, nil
	}
	views := make(map[string]View, len(rooms))
	var failed error
	silent := map[string]bool{} // nodes that did not answer
	for _, name := range rooms {
		if err := rs.trust.Await(ctx, name); err != nil {
			return nil, err
		}
	}
	for i, p := range rs.store.Pick(ctx, users, rooms...) {
		if p.Err != nil {
			failed = p.Err
			if node := rs.store.NodeOf(rooms[i]); !errors.Is(p.Err, presence.ErrUnavailable) || !silent[node] {
				silent[node] = rs.trust.Failed(ctx, rooms[i], p.Err) || silent[node]
			}
			continue
		}
		views[rooms[i]] = View{
			Snapshot: presence.Snapshot{Occupancy: p.Occupancy, Birth: p.Birth, Members: p.Members},
			Stale:    rs.trust.Doubtful(rooms[i]), AsOf: time.Now(),
		}
	}
	if err := rs.current(ctx, rooms...); err != nil {
		return nil, err
	}
	for name, view := range views {
		rs.Heard(name, view.Version)
	}
	return views, failed
}

// among returns the members whose ids are in users, in the order of users.
func among(members []presence.Member, users []string) []presence.Member {
	if len(users) == 0 {
		return nil
	}
	byID := make(map[string]presence.Member, len(members))
	for _, m := range members {
		byID[m.ID] = m
	}
	var found []presence.Member
	for _, id := range users {
		if m, ok := byID[id]; ok {
			found = append(found, m)
		}
	}
	return found
}
