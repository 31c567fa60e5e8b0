package store

import (
	"errors"
	"fmt"
	"strings"

	"github.com/redis/go-redis/v9"

	"presence/internal/presence"
)

// classify marks an error of a call by its cause: Redis or the network
// ([presence.ErrUnavailable]), a lack of memory ([presence.ErrFull]), or the data of one
// room ([presence.ErrDamaged]).
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
	// An error inside a script comes from its keys: Redis itself works.
	if !servesNobody(text) && (strings.Contains(text, "WRONGTYPE ") || strings.Contains(text, "script")) {
		return damaged(err)
	}
	return unavailable(err)
}

// servesNobody reports whether an answer of Redis says that it can't serve anybody now,
// or not us, whatever the command. If a script got such an answer, the words may be
// anywhere in the text.
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

// unavailable marks an error of Redis, or of the network, after which the outcome of the
// call is not known.
func unavailable(err error) error {
	if err == nil || errors.Is(err, presence.ErrUnavailable) {
		return err
	}
	return fmt.Errorf("%w: %w", presence.ErrUnavailable, err)
}

// damaged marks an error of the data of a single room.
func damaged(err error) error { return fmt.Errorf("%w: %w", presence.ErrDamaged, err) }

// errReply says that a script's reply has a form that this version does not know.
var errReply = errors.New("unexpected reply of a script")
