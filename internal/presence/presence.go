package presence

// User is a person in a room.
type User struct {
	// ID tells the user from every other user of every room. Two people who
	// chose the same name have different ids; two tabs of one browser that
	// joined under the same name have the same.
	ID string

	// Name is what others see. It has passed [CleanName].
	Name string
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

// Snapshot is a room at one version: the numbers, and the first names.
type Snapshot struct {
	Occupancy

	// Roster lists users in the order in which they joined, RosterSize of them
	// at most. Names keep their order relative to each other for as long as
	// they are listed.
	Roster []User
}

// RosterSize is how many names of a room are shown: more would cost every
// viewer's browser more than a millisecond for each update and say little.
const RosterSize = 100
