// Package chaos makes random trouble for three replicas, and checks again and again
// that people see the truth. `make chaos` runs it for ten minutes.
//
// A seed chooses rounds of trouble, and what a crowd does meanwhile (plan). At the end
// of each round all trouble ends, and nobody does anything more. Then, within the
// promised time, all pages, the API of each replica, its metrics and the keys of Redis
// have to agree with who is there (quiet). The screens during the trouble are checked
// against the promises, too (screens).
//
//	PRESENCE_CHAOS=10m        for how long; a round that has begun is finished
//	PRESENCE_CHAOS_SEED=7     the same troubles and acts as in the run that printed it
//	PRESENCE_CHAOS_CLUSTER=1  on a Redis Cluster of three masters with a replica each
//
// Files: plan_test.go, world_test.go (the servers and their troubles),
// people_test.go (who does what, and what they know of it), quiet_test.go,
// screens_test.go, chaos_test.go (the rounds, one after another).
package chaos
