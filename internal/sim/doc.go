// Package sim holds no program, but a simulation of everybody who uses one: whole
// servers, as internal/app makes them, in one synctest bubble over a network and a
// Redis in memory, or a Cluster of two or three masters, with browsers that do what people, their networks and attackers
// do, in an order and with faults that a seed chooses.
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
// Four times a second and after each step: the keys of a room agree with each
// other; nobody is there whom no browser speaks for, nor longer than promised;
// nobody who is there for certain is missing; versions do not fall while the data
// is the same; Join and Leave are answered in time; no replica shows fewer or more
// people than it may; the log of a room leads from one look to the next, and names each
// user who leaves once, with a reason that there was; what a program has put together
// from snapshots and changes is exactly the room of that version. At quiet points, when all faults have ended long enough ago:
// Redis, the API of each replica, its metrics and every open page agree exactly with
// what people did.
//
// Where nothing was the matter for a while with the master that has a room, nor with the
// replicas, the room is not stale and joins are not refused, whatever goes on at other masters.
//
// # To repeat a failure
//
//	PRESENCE_SIM_SEED=4711 go test -run TestSeeds ./internal/sim
//	PRESENCE_SIM_PLAN='4711: 1s open 2 0 1; 0s flush' go test -v -run TestSeeds ./internal/sim
//
// The first runs a seed, and shrinks it if it fails; the second runs steps as a failure
// names them, and tells the story. PRESENCE_SIM_RUNS is how many seeds from there on,
// PRESENCE_SIM_EVERY the step from one to the next (17 from seed 5 on: those on a Cluster),
// PRESENCE_SIM_SHRINK how many tries shrinking has, and PRESENCE_SIM_KNOWN failures to go
// on after, each by some words of it, with commas between. Plans that failed once stand
// in testdata/seeds and run with the tests.
//
// A seed chooses every action, fault and wait. It does not choose the order in which
// goroutines run at one instant, nor the random numbers of the servers, so a failure that
// hangs on those may take several tries.
package sim
