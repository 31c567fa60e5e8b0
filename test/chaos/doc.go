// Package chaos lets random trouble loose on three replicas and asks again and
// again whether what people see is true. `make chaos` runs it for ten minutes.
//
// One seed makes rounds of trouble, and what a crowd does meanwhile (plan). At
// the end of each round all trouble ends, nobody does anything more, and within
// what is promised all pages, the API of each replica, its metrics and the keys
// of Redis have to agree with who is there (quiet). What was on the screens
// during the trouble is held to the promises too (screens).
//
//	PRESENCE_CHAOS=10m        for how long; a round that has begun is finished
//	PRESENCE_CHAOS_SEED=7     the same troubles and acts as in the run that printed it
//	PRESENCE_CHAOS_CLUSTER=1  on a Redis Cluster of three masters with a replica each
//
// Files: plan_test.go, world_test.go (the servers and their troubles),
// people_test.go (who does what, and what they know of it), quiet_test.go,
// screens_test.go, chaos_test.go (the rounds, one after another).
package chaos
