package access

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"presence/internal/terse"
)

const (
	// readKeys is the time between two reads of a set of keys. A withdrawn key is refused
	// after this time at the latest. An issuer that publishes a key this long before using
	// it causes no extra read.
	readKeys = 5 * time.Minute

	// retryKeys is the time from a failed read to the next one.
	retryKeys = 15 * time.Second

	// askKeys is the least time between two reads for tokens with unknown keys, since
	// anybody can send such tokens.
	askKeys = 5 * time.Second

	// keysTimeout bounds a read. A token with an unknown key waits for it.
	keysTimeout = 3 * time.Second

	// maxKeySet is the largest set of keys that is read, in bytes.
	maxKeySet = 1 << 20

	// maxRedirects is the most redirects that a read follows.
	maxRedirects = 3
)

// Why a token can't be checked.
var (
	errUnread     = errors.New("no keys have been read")
	errUnknownKey = errors.New("the key is not known")
)

// A KeySet is a JSON Web Key Set (RFC 7517), in a file or at an address, with the public
// keys of member tokens. It is read again every few minutes, and when a token names a key
// that is not in it. If a read fails, the keys of the last good read stay in force. It is
// safe for concurrent use.
type KeySet struct {
	name string // of the source, without secrets
	read func(context.Context) ([]byte, error)
	log  *slog.Logger

	state terse.State
	reads *prometheus.CounterVec
	keys  atomic.Pointer[publicKeys] // nil: none were read yet

	reading chan struct{} // holds one while the set is read; guards:
	began   time.Time     // the last read
	text    []byte        // what it read
}

// OpenKeySet returns the set of keys of a source. A file is read now. An address begins
// with https://, or with http:// if it is on this machine; it is read by [KeySet.Run], or
// when the first token arrives. The error says what is wrong with the source, without its
// content. log may be nil.
func OpenKeySet(ctx context.Context, source string, log *slog.Logger) (*KeySet, error) {
	quiet := slog.New(slog.DiscardHandler)
	if log == nil {
		log = quiet
	}
	s := &KeySet{name: source, log: log, reads: newReads(nil), reading: make(chan struct{}, 1)}
	if IsAddress(source) {
		u, err := url.Parse(source)
		if err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" {
			return nil, errors.New("it must be a file, or an address that begins with https://")
		}
		if u.Scheme == "http" && !isLoopback(u.Hostname()) {
			return nil, errors.New("others on the network could replace the keys: use https://, since http:// is only for addresses of this machine, such as http://127.0.0.1:8000/keys")
		}
		s.name, s.read = u.Scheme+"://"+u.Host, fetcher(source, &http.Transport{
			Proxy: http.ProxyFromEnvironment, DisableKeepAlives: true, MaxResponseHeaderBytes: maxToken,
		})
		return s, nil
	}
	s.read = func(context.Context) ([]byte, error) { return readFile(source) }
	s.log = quiet // the caller is told
	err := s.Refresh(ctx)
	s.log = log
	return s, err
}

// isLoopback reports whether a host is this machine.
func isLoopback(host string) bool {
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.Unmap().IsLoopback() || strings.EqualFold(host, "localhost")
}

// newReads returns the counter of reads of a set. Each result exists from the start.
func newReads(reg prometheus.Registerer) *prometheus.CounterVec {
	total := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "presence_token_keys_reads_total",
		Help: "Reads of the key set of -token-jwks, by result.",
	}, []string{"result"})
	if reg != nil {
		reg.MustRegister(total)
	}
	for _, result := range []string{"ok", "error"} {
		total.WithLabelValues(result)
	}
	return total
}

// IsAddress reports whether the source of a [KeySet] is no file.
func IsAddress(source string) bool { return strings.Contains(source, "://") }

// readFile returns what a file holds.
func readFile(name string) ([]byte, error) {
	f, err := os.Open(name) //nolint:gosec // the operator names the file
	if err != nil {
		return nil, err //nolint:wrapcheck // names the file
	}
	defer func() { _ = f.Close() }() // nothing was written
	return limited(f)
}

// limited reads all of r, up to the size of the largest set of keys.
func limited(r io.Reader) ([]byte, error) {
	text, err := io.ReadAll(io.LimitReader(r, maxKeySet+1))
	if err != nil {
		return nil, err //nolint:wrapcheck // says what failed
	}
	if len(text) > maxKeySet {
		return nil, errors.New("it has more than 1 MiB")
	}
	return text, nil
}

// fetcher returns a function that gets the set at an address. Its errors do not contain the
// address, which may hold a password.
func fetcher(address string, transport http.RoundTripper) func(context.Context) ([]byte, error) {
	client := &http.Client{Transport: transport, CheckRedirect: func(to *http.Request, via []*http.Request) error {
		leaves := to.URL.Scheme != "https" && (via[0].URL.Scheme == "https" || !isLoopback(to.URL.Hostname()))
		if leaves || len(via) > maxRedirects {
			return errors.New("it leads elsewhere too often, or away from https")
		}
		return nil
	}}
	return func(ctx context.Context) ([]byte, error) {
		r, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
		if err != nil {
			return nil, errors.New("it is no address")
		}
		r.Header.Set("Accept", "application/jwk-set+json, application/json")
		resp, err := client.Do(r)
		if named := (*url.Error)(nil); errors.As(err, &named) {
			return nil, named.Err //nolint:wrapcheck // without the address
		} else if err != nil {
			return nil, err //nolint:wrapcheck // likewise
		}
		defer func() { _ = resp.Body.Close() }() // nothing was written
		if resp.StatusCode != http.StatusOK {
			return nil, fmt.Errorf("it answers with status %d", resp.StatusCode)
		}
		return limited(resp.Body)
	}
}

// Run reads the set again and again until ctx ends.
func (s *KeySet) Run(ctx context.Context) error {
	wait := time.Duration(0)
	if s.keys.Load() != nil {
		wait = jittered(readKeys)
	}
	for {
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return nil
		}
		wait = retryKeys
		if s.Refresh(ctx) == nil { // or else it has been logged
			wait = jittered(readKeys)
		}
	}
}

// jittered is a time of about d, so that replicas do not ask all at once.
func jittered(d time.Duration) time.Duration {
	return d - rand.N(d/5)
}

// Refresh reads the set now. After an error the keys of the last good read stay in force.
func (s *KeySet) Refresh(ctx context.Context) error {
	s.reading <- struct{}{}
	defer func() { <-s.reading }()
	return s.refreshOnce(ctx)
}

// refreshOnce reads the set. Only one goroutine may call it at a time.
func (s *KeySet) refreshOnce(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, keysTimeout)
	defer cancel()
	s.began = time.Now()
	text, err := s.read(ctx)
	var keys *publicKeys
	if err == nil {
		keys, err = parseKeySet(text)
	}
	if err != nil {
		s.reads.WithLabelValues("error").Inc()
		if leftOut, due := s.state.Fails(); due {
			s.log.WarnContext(ctx, "key set of tokens not read: the keys read before stay in force", "source", s.name, "err", err, "left_out", leftOut)
		}
		return err
	}
	s.reads.WithLabelValues("ok").Inc()
	s.keys.Store(keys)
	if _, due := s.state.Works(); due || !bytes.Equal(text, s.text) {
		s.log.InfoContext(ctx, "key set of tokens read", "source", s.name, "keys", keys.count)
	}
	s.text = text
	return nil
}

// find returns the key that a token was signed with, or errUnread or errUnknownKey. For an
// unknown key it reads the set again, unless that was done a moment ago.
func (s *KeySet) find(alg, kid string) (any, error) {
	key, err := s.known(alg, kid)
	if err != nil {
		s.ask()
		return s.known(alg, kid)
	}
	return key, nil
}

// known returns the key that a token was signed with, if the last read found it.
func (s *KeySet) known(alg, kid string) (any, error) {
	keys := s.keys.Load()
	if keys == nil {
		return nil, errUnread
	}
	if key := keys.find(alg, kid); key != nil {
		return key, nil
	}
	return nil, errUnknownKey
}

// ask reads the set, unless that was done or tried a moment ago. If a read is under way, it
// waits for that. Many callers may wait for one read, so no caller's context ends it.
func (s *KeySet) ask() {
	s.reading <- struct{}{}
	defer func() { <-s.reading }()
	if s.began.IsZero() || time.Since(s.began) >= askKeys {
		_ = s.refreshOnce(context.Background()) // logged
	}
}
