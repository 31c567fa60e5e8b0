package presence

import "time"

// User is a person in a room.
type User struct {
	// ID tells the user from every other user of every room. Two people who
	// chose the same name have different ids; two tabs of one browser that
	// joined under the same name have the same. It contains no blank.
	ID string

	// Name is what others see. It has passed [CleanName].
	Name string

	// Meta is metadata that others see: a JSON object in compact form, or "" for
	// none.
	Meta string

	// Guest says that the visitor of a page chose the name, and nothing proves who that
	// is. It stays the same while the user is there.
	Guest bool

	// Since is when the user came, in microseconds since the epoch by the clock
	// of Redis, raised so that no two users of a room have the same. It orders
	// the roster, and stays while the user is there, also when Redis loses its
	// data. 0 stands for now.
	Since int64
}

// Connection is one tab or device through which a user is in a room.
type Connection struct {
	// ID identifies the tab across reconnects and replicas.
	ID string

	// Generation tells the sockets apart that served this tab one after
	// another. It has [GenerationSize] characters.
	Generation string

	// User is who is there through this connection.
	User User

	// Address is where the browser is, as the replica's limits tell addresses
	// apart. It is not stored.
	Address string

	// Until is when the right to be there ends: that of a token. The replica that holds
	// the connection lets it last no longer. Zero: never. It is not stored.
	Until time.Time
}

// Lease is how long a lease of the connection lasts that begins now and should last for
// most: no longer than until Until, and 0 after that.
func (c Connection) Lease(most time.Duration) time.Duration {
	if c.Until.IsZero() {
		return most
	}
	return min(most, max(0, time.Until(c.Until).Truncate(time.Millisecond)))
}

// Member is a user who is in a room, with all that others see.
type Member struct {
	User

	// Connections is the number of the user's connections, at least 1.
	Connections int
}

// Occupancy is how many are in a room, at one version of it.
type Occupancy struct {
	// Users is the number of distinct users online.
	Users int

	// Connections is the number of their connections, at least Users.
	Connections int

	// Version rises with every visible change of the room. It is 0 for a room
	// that nobody has been in lately.
	Version int64
}

// RosterSize is how many names of a room are shown: more would cost every
// viewer's browser more than a millisecond for each update and say little.
const RosterSize = 100

// ListSize is how many members of a room are kept in order: all, in a room that has
// no more.
const ListSize = 256
