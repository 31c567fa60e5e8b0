package store

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
)

// ErrURL is returned for a Redis URL that can't be used. Its text says what is wrong, and
// never contains a password.
var ErrURL = errors.New("bad Redis URL")

// Endpoint says where Redis is and how to get there.
type Endpoint struct {
	kind     string // standalone, sentinel or cluster
	addrs    []string
	master   string
	db       int
	user     string
	password string
	tls      *tls.Config

	sentinelUser     string
	sentinelPassword string
}

// ParseURL reads
//
//	redis://[user:password@]host[:port][/db]
//	redis-sentinel://[user:password@]host[:port],host[:port].../master[/db]
//	redis-cluster://[user:password@]host[:port],host[:port]...
//
// and the same with rediss instead of redis for TLS. Query parameters: ca (a
// file of PEM certificates to trust instead of the system's), sentinel-user and
// sentinel-password (where the sentinels have their own). The error wraps
// [ErrURL].
func ParseURL(raw string) (*Endpoint, error) {
	fail := func(format string, args ...any) (*Endpoint, error) {
		return nil, fmt.Errorf("%w: %s", ErrURL, fmt.Sprintf(format, args...))
	}
	scheme, rest, ok := strings.Cut(raw, "://")
	if !ok {
		return fail("it must begin with redis://, rediss://, redis-sentinel:// or redis-cluster://")
	}
	e := &Endpoint{kind: "standalone"}
	base, kind, _ := strings.Cut(scheme, "-")
	port := "6379"
	switch kind {
	case "":
	case "sentinel":
		e.kind, port = kind, "26379"
	case "cluster":
		e.kind = kind
	default:
		return fail("unknown scheme %q", scheme)
	}
	switch base {
	case "redis":
	case "rediss":
		e.tls = &tls.Config{MinVersion: tls.VersionTLS12}
	default:
		return fail("unknown scheme %q", scheme)
	}

	// A list of hosts is not a valid host of a URL once it has two ports, so cut it out.
	authority, tail := rest, ""
	if i := strings.IndexAny(rest, "/?#"); i >= 0 {
		authority, tail = rest[:i], rest[i:]
	}
	hosts := authority
	credentials := ""
	if i := strings.LastIndexByte(authority, '@'); i >= 0 {
		credentials, hosts = authority[:i+1], authority[i+1:]
	}
	u, err := url.Parse("redis://" + credentials + "host" + tail)
	if err != nil {
		return fail("the user, password, path or query is not properly escaped")
	}
	if u.User != nil {
		e.user = u.User.Username()
		e.password, _ = u.User.Password()
	}
	for host := range strings.SplitSeq(hosts, ",") {
		addr, err := withPort(host, port)
		if err != nil {
			return fail("%q is no host or host:port", host)
		}
		e.addrs = append(e.addrs, addr)
	}
	if e.kind == "standalone" && len(e.addrs) > 1 {
		return fail("several hosts need redis-sentinel:// or redis-cluster://")
	}

	path := strings.Trim(u.Path, "/")
	switch e.kind {
	case "sentinel":
		e.master, path, _ = strings.Cut(path, "/")
		if e.master == "" {
			return fail("the name of the master is missing: redis-sentinel://host1,host2/NAME")
		}
	case "cluster":
		if path != "" && path != "0" {
			return fail("a cluster has no database numbers")
		}
		path = ""
	}
	if path != "" {
		if e.db, err = strconv.Atoi(path); err != nil || e.db < 0 {
			return fail("%q is no database number", path)
		}
	}

	for key, values := range u.Query() {
		switch key {
		case "ca":
			if e.tls == nil {
				return fail("ca is for rediss:// only")
			}
			pem, err := os.ReadFile(values[0])
			if err != nil {
				return nil, fmt.Errorf("%w: ca: %w", ErrURL, err)
			}
			e.tls.RootCAs = x509.NewCertPool()
			if !e.tls.RootCAs.AppendCertsFromPEM(pem) {
				return fail("ca: %s holds no PEM certificate", values[0])
			}
		case "sentinel-user":
			e.sentinelUser = values[0]
		case "sentinel-password":
			e.sentinelPassword = values[0]
		default:
			return fail("unknown parameter %q; there are ca, sentinel-user and sentinel-password", key)
		}
	}
	return e, nil
}

// withPort returns host with port unless it has one.
func withPort(host, port string) (string, error) {
	h, p, err := net.SplitHostPort(host)
	if err != nil {
		h, p = strings.Trim(host, "[]"), port
		if strings.Contains(h, ":") && net.ParseIP(h) == nil {
			return "", err
		}
	}
	if n, err := strconv.Atoi(p); err != nil || n < 1 || n > 65535 || h == "" || strings.ContainsAny(h, " \t") {
		return "", ErrURL
	}
	return net.JoinHostPort(h, p), nil
}

// SetPassword replaces the password; secret may be "user:password" or a
// password alone.
func (e *Endpoint) SetPassword(secret string) {
	if user, password, ok := strings.Cut(secret, ":"); ok {
		e.user, e.password = user, password
		return
	}
	e.password = secret
}

// String names the endpoint without any secret, such as "Redis Cluster at a:6379".
func (e *Endpoint) String() string {
	at := strings.Join(e.addrs, ", ")
	switch e.kind {
	case "sentinel":
		return "Redis " + e.master + " by Sentinel at " + at
	case "cluster":
		return "Redis Cluster at " + at
	default:
		return "Redis at " + at
	}
}

// Name returns the name of a single node: its address, or the name by which Sentinel
// knows the master.
func (e *Endpoint) Name() string {
	if e.kind == "sentinel" {
		return e.master
	}
	return e.addrs[0]
}

// Sharded reports whether changes have to be published by SPUBLISH.
func (e *Endpoint) Sharded() bool { return e.kind == "cluster" }

// dialTimeout is the longest time for connecting, TLS included.
const dialTimeout = time.Second

// dial connects. It does not return a failure: the first use of the connection reports
// it. The pools of the client count failed dials. After as many failures as a pool has
// places, which happens soon in an outage, the pool tries only once a second. But all
// replicas have to notice at about the same time that Redis is back.
func (e *Endpoint) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	conn, err := (&net.Dialer{KeepAlive: time.Minute}).DialContext(ctx, network, addr)
	if err == nil && e.tls != nil {
		conn, err = e.handshake(ctx, conn, addr)
	} else if tcp, ok := conn.(*net.TCPConn); ok {
		conn = &plain{TCPConn: tcp}
	}
	if err != nil {
		nowhere, _ := net.Pipe()
		return failed{nowhere, err}, nil
	}
	return conn, nil
}

var (
	errNoTLS   = errors.New("no TLS there: it takes rediss:// to a port of Redis that speaks TLS, and redis:// to one that does not")
	errOnlyTLS = errors.New("the connection was closed before the first answer: a port that speaks TLS does so, and takes rediss:// in the URL")
)

// handshake returns an encrypted connection to addr over conn. A Redis without TLS does
// not answer a handshake: it waits for the end of the line.
func (e *Endpoint) handshake(ctx context.Context, conn net.Conn, addr string) (net.Conn, error) {
	config := e.tls.Clone()
	if config.ServerName == "" {
		config.ServerName, _, _ = net.SplitHostPort(addr)
	}
	encrypted := tls.Client(conn, config)
	err := encrypted.HandshakeContext(ctx)
	if err == nil {
		return encrypted, nil
	}
	_ = conn.Close() // the error of the handshake is the one to report
	if errors.Is(err, context.DeadlineExceeded) || errors.As(err, new(tls.RecordHeaderError)) {
		return nil, fmt.Errorf("%s: %w: %w", addr, errNoTLS, err)
	}
	return nil, err
}

// plain is a connection without TLS.
type plain struct {
	*net.TCPConn

	heard bool // the peer has answered, so it speaks plain Redis
}

// Read explains an early end of the connection: the peer may expect TLS.
func (p *plain) Read(b []byte) (int, error) {
	n, err := p.TCPConn.Read(b)
	if n > 0 {
		p.heard = true
	} else if errors.Is(err, io.EOF) && !p.heard {
		return 0, fmt.Errorf("%s: %w: %w", p.RemoteAddr(), errOnlyTLS, err)
	}
	return n, err
}

// failed stands for a connection that could not be made. Reads and writes return err. The
// rest is a pipe that carries nothing.
type failed struct {
	net.Conn

	err error
}

// Read returns why the connection was not made.
func (f failed) Read([]byte) (int, error) { return 0, f.err }

// Write returns why the connection was not made.
func (f failed) Write([]byte) (int, error) { return 0, f.err }

// Open returns a client, which connects when it is first used. With these settings an
// outage lasts no longer for us than for Redis. With the library's defaults, the client
// would dial a dead master of a Cluster for a minute, and repeat a failed dial five
// times.
func (e *Endpoint) Open(name string) redis.UniversalClient {
	o := &redis.UniversalOptions{
		Addrs:                 e.addrs,
		DB:                    e.db,
		MasterName:            e.master,
		IsClusterMode:         e.kind == "cluster",
		Username:              e.user,
		Password:              e.password,
		SentinelUsername:      e.sentinelUser,
		SentinelPassword:      e.sentinelPassword,
		TLSConfig:             e.tls,
		ClientName:            name,
		DisableIdentity:       true, // CLIENT SETINFO would need another right
		Protocol:              3,
		ContextTimeoutEnabled: true,
		Dialer:                e.dial,
		DialTimeout:           dialTimeout,
		DialerRetries:         1,
		ReadTimeout:           time.Second,
		WriteTimeout:          time.Second,
		MaxRetries:            2,
		MinRetryBackoff:       20 * time.Millisecond,
		MaxRetryBackoff:       250 * time.Millisecond,
		PoolTimeout:           1500 * time.Millisecond,
		ConnMaxIdleTime:       5 * time.Minute,
		MaintNotificationsConfig: &maintnotifications.Config{
			Mode: maintnotifications.ModeDisabled,
		},
	}
	if e.kind == "cluster" {
		co := o.Cluster()
		co.ClusterStateReloadInterval = time.Second
		return redis.NewClusterClient(co)
	}
	return redis.NewUniversalClient(o)
}

// LogTo sends the log lines of the Redis client to log at debug level, for the whole
// process. The store reports the same failures as errors of its calls.
func LogTo(log *slog.Logger) { redis.SetLogger(clientLog{log}) }

// clientLog is the logger of the Redis client.
type clientLog struct{ log *slog.Logger }

// Printf logs one line.
func (l clientLog) Printf(ctx context.Context, format string, args ...any) {
	l.log.DebugContext(ctx, "redis client", "says", fmt.Sprintf(format, args...))
}
