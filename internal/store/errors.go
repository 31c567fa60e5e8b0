package store

import (
	"errors"
	"fmt"
	"strings"

	"github.com/redis/go-redis/v9"

	"presence/internal/presence"
)

// classify marks an error of a call by whose trouble it is: that of Redis, or of
// the way to it ([presence.ErrUnavailable]), of those who want more memory
// ([presence.ErrFull]), or of the one room ([presence.ErrDamaged]).
func classify(err error) error {
	for _, known := range []error{presence.ErrUnavailable, presence.ErrFull, presence.ErrDamaged} {
		if err == nil || errors.Is(err, known) {
			return err
		}
	}
	reply, ok := errors.AsType[redis.Error](err)
	if !ok {
		return unavailable(err)
	}
	text := reply.Error()
	if strings.Contains(text, "OOM ") {
		return fmt.Errorf("%w: %w", presence.ErrFull, err)
	}
	// What a script stumbles over is in the keys it was given: Redis itself serves.
	if !servesNobody(text) && (strings.Contains(text, "WRONGTYPE ") || strings.Contains(text, "script")) {
		return damaged(err)
	}
	return unavailable(err)
}

// servesNobody reports whether an answer of Redis says that it can't serve anybody
// now, or not us, whatever was asked. If a script was told so, it may say it anywhere.
func servesNobody(text string) bool {
	for _, s := range []string{
		"LOADING ", "MASTERDOWN ", "CLUSTERDOWN ", "READONLY ", "MISCONF ", "NOREPLICAS ",
		"TRYAGAIN ", "MOVED ", "ASK ", "BUSY ", "UNKILLABLE ",
		"NOAUTH ", "WRONGPASS ", "NOPERM ", "DENIED ", "ACL failure", "max number of clients", "nknown Redis command",
	} {
		if strings.Contains(text, s) {
			return true
		}
	}
	return false
}

// unavailable marks an error of Redis, or of the way to it, as one after which
// nothing is known of what was asked for.
func unavailable(err error) error {
	if err == nil || errors.Is(err, presence.ErrUnavailable) {
		return err
	}
	return fmt.Errorf("%w: %w", presence.ErrUnavailable, err)
}

// damaged marks an error as one of a single room's data.
func damaged(err error) error { return fmt.Errorf("%w: %w", presence.ErrDamaged, err) }

// errReply says that a script answered in a shape that this version does not know.
var errReply = errors.New("unexpected reply of a script")
