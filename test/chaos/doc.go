// Package chaos lets random trouble loose on three replicas and asks again and
// again whether what people see is true. `make chaos` runs it for ten minutes.
//
// One seed makes rounds of trouble, and what a crowd of visitors does meanwhile
// (plan_test.go). Visitors note what they did and what their pages said of
// themselves (people_test.go). After each round all trouble ends, nobody does
// anything any more, and within what is promised all pages, the API of each
// replica, the metrics and the keys of Redis have to agree with who is there
// (quiet_test.go). What was on the screens during the trouble is held to the
// promises too (screens_test.go).
//
//	PRESENCE_CHAOS=10m      for how long; rounds that have begun are finished
//	PRESENCE_CHAOS_SEED=7   the same troubles and acts as in the run that printed it
package chaos
