// Package drill shows that the server keeps its promises: it kills a replica with some
// hundred visitors while people come and go, and measures what everybody's screen
// shows. Run it with -v to see the measurements.
package drill
