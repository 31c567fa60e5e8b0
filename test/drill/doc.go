// Package drill shows what the server promises: a replica with some hundred
// visitors is killed while people come and go, with a stopwatch and everybody's
// screen in view. Run it with -v to see it.
package drill
