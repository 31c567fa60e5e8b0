// Package sim simulates whole servers and everybody who uses them. The servers are those
// of internal/app, in one synctest bubble, over a network and a Redis in memory, or a
// Cluster of two or three masters. Browsers do what people, their networks and attackers
// do. A seed chooses the order, and the faults.
//
//	plan_test.go    what happens: the steps of a seed, as text, and how to shrink them
//	world_test.go   the replicas, the network, and the faults
//	visitor_test.go browsers with the page script, and browsers without JavaScript
//	program_test.go programs: event streams that watch or join, and PUTs
//	log_test.go     the log of each room, and what programs were told, against the room
//	model_test.go   who must and who may be there, and the comparison with who is
//	sim_test.go     the seeds that run
//
// # What is checked
//
// Four times a second and after each step:
//
//   - The keys of a room agree with each other.
//   - A user is in a room only while a browser or a program keeps the user there, or for the
//     promised time after that. A user who must be there is not missing.
//   - Versions do not fall as long as Redis keeps its data.
//   - Join and Leave are answered in time.
//   - No replica shows fewer or more people than it may.
//   - The log of a room leads from one look to the next. It names each user who leaves once,
//     with a true reason.
//   - The room that a program has put together from snapshots and changes is exactly the room
//     of that version.
//   - If the master that has a room, and the replicas, had no faults for a while, the room is
//     not stale and joins are not refused, whatever happens at other masters.
//
// At quiet points, when all faults have ended long enough ago, Redis, the API of each
// replica, its metrics and every open page agree exactly with what people did.
//
// # To repeat a failure
//
//	PRESENCE_SIM_SEED=4711 go test -run TestSeeds ./internal/sim
//	PRESENCE_SIM_PLAN='4711: 1s open 2 0 1; 0s flush' go test -v -run TestSeeds ./internal/sim
//
// The first command runs a seed, and shrinks it if it fails. The second runs the steps that a
// failure prints, and tells the story. PRESENCE_SIM_RUNS is the number of seeds from the given
// one on, and PRESENCE_SIM_EVERY the distance between them (17 from seed 5 on: those on a
// Cluster). PRESENCE_SIM_SHRINK is how many tries shrinking has. PRESENCE_SIM_KNOWN lists
// failures after which to continue, each by some of its words, with commas between. Plans that
// failed once are in testdata/seeds, and run with the tests.
//
// A seed chooses every action, fault and wait. It does not choose the order in which
// goroutines run at one instant, nor the random numbers of the servers, so a failure that
// hangs on those may take several tries.
package sim
