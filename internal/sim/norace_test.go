//go:build !race

package sim

// runs is how many seeds [TestSeeds] tries.
const runs = 1000
