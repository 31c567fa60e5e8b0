package presence

import "errors"

// The errors that callers of the other packages decide on. They are wrapped
// with what was being done; test for them with [errors.Is].
var (
	// ErrInvalidRoom is returned for a room id that [CheckRoom] refuses.
	ErrInvalidRoom = errors.New("invalid room")

	// ErrInvalidID is returned for an id that [CheckID] refuses.
	ErrInvalidID = errors.New("invalid id")

	// ErrRoomFull is returned by a join into a room that has as many users as
	// the server allows. Nothing was changed; the join can be tried again later.
	ErrRoomFull = errors.New("room is full")

	// ErrTooManyRooms is returned by a join that would open one room more than
	// the server allows. Nothing was changed; the join can be tried again later.
	ErrTooManyRooms = errors.New("too many rooms")

	// ErrAddressRooms is returned by a join if people from the address are already in
	// as many rooms through this replica as it allows. Nothing was changed.
	ErrAddressRooms = errors.New("too many rooms from this address")

	// ErrAddressMembers is returned by a join if the address already has as many
	// members through this replica as it allows. Nothing was changed.
	ErrAddressMembers = errors.New("too many members from this address")

	// ErrNotPresent is returned for a change of a user who is not in the room.
	ErrNotPresent = errors.New("user is not in the room")

	// ErrConflict is returned when somebody else has changed the same user meanwhile.
	// Nothing was changed; the caller can read the user and try again at once.
	ErrConflict = errors.New("changed by somebody else meanwhile")

	// ErrSuperseded is returned when a connection was taken over by a newer
	// generation of the same tab, so that the caller no longer speaks for it.
	ErrSuperseded = errors.New("connection was taken over by a newer one")

	// ErrRemoved is returned when a connection is not put back, since its user was removed
	// from the room.
	ErrRemoved = errors.New("user was removed from the room")

	// ErrUnavailable is returned when Redis did not answer in time or answered
	// that it can't serve now. Calling again is safe.
	ErrUnavailable = errors.New("presence store is unavailable")

	// ErrFull is returned by a join when Redis has no memory left for newcomers.
	// Nothing was changed; the join can be tried again later.
	ErrFull = errors.New("presence store is full")

	// ErrDamaged is returned for a room whose data in Redis is not what this
	// server writes. Other rooms work. Trying again does not help until somebody
	// has repaired the room, or its keys have run out.
	ErrDamaged = errors.New("data of the room is damaged")
)

// NameError says why a name was refused, in words for the person who typed it.
type NameError struct {
	// Reason is a whole sentence that says what to do.
	Reason string
}

// Error returns the reason.
func (e *NameError) Error() string { return e.Reason }
