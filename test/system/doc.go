// Package system tests what people see when things fail, on real parts: server
// processes, Redis, Sentinel, a Cluster, HAProxy. It has only tests.
//
// A test looks at the pages of people who joined and of people who only watch, at all
// that these pages showed, and when. The bounds are those of README.md ("What it
// promises"), computed from the flags of the servers, plus a little for a machine that
// is shared.
//
// The failures of docs/operations.md, and where each is tested:
//
//	closed tab, crashed tab          TestClosedTabLeavesAfterTheGrace
//	vanished network                 TestVanishedNetworkLeavesAfterPingAndGrace
//	refresh                          TestRefreshIsNotSeen
//	two tabs one name                TestTwoTabsOfOneNameAreOneUser
//	two browsers one name            TestTwoBrowsersOfOneNameAreTwoUsers
//	no JavaScript                    TestVisitorWithoutScript
//	killed replica                   TestKilledReplica
//	drained replica                  TestDrainedReplica, TestRollingRestartBehindHAProxy
//	paused replica                   TestPausedReplica, TestFrozenReplicaBehindHAProxy
//	all replicas down and back       TestAllReplicasDown, TestAllReplicasDownUntilTheRoomIsForgotten
//	Redis restarted empty            TestRedisRestartedEmpty
//	Redis flushed                    TestRedisFlushed
//	Redis failed over by Sentinel    TestSentinelFailover, TestSentinelMasterStandsStill
//	a Cluster master lost            TestClusterMasterLost
//	one node of a Cluster in trouble TestClusterNodesAreTrustedEachByItself
//	keys of a room lost or damaged   TestDamagedRoomsAreRepaired
//	the clock of Redis stepped       TestClockOfRedisIsStepped
//	Redis slow                       TestRedisPaused
//	Redis unreachable at start       TestRedisUnreachableAtStart
//	Redis unreachable in flight      TestRedisUnreachableInFlight
//	pub/sub connection killed alone  TestSubscriptionKilledAlone
//	slow reader of a socket          TestSlowReader
//	storm of 10,000 joins            TestStormOfTenThousandJoins
//	thundering reconnect             TestThunderingReconnect
//	malformed and hostile frames     TestHostileFrames
//	full rooms, full replica         TestFullRoom, TestPlaceLostInAFullRoom, TestFullReplica
//	full Redis                       TestFullRedis
//	least rights in Redis            TestLeastRightsInRedisAreEnough
//	event streams by a balancer      TestStreamsBehindHAProxy
//	streams of a killed replica      TestEveryLeaveOfAKilledReplicaIsTold
//	a room of 700, and small again   TestRoomOfManyIsFollowedAndListed
//	streams, GET, changes and pages  TestNobodyDisagrees
//
// TestPromises of test/browser tests all promises again, with real browsers and three
// replicas behind the balancer. Three failures are tested elsewhere:
//
//	hidden tab                       TestHiddenTabStaysAndCatchesUp of test/browser
//	duplicated tab                   TestDuplicatedTabIsAnother of test/browser
//	clock of a replica an hour off   TestWrongClockOfAReplicaDoesNotMatter of internal/replica
package system
