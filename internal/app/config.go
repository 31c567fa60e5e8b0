package app

import (
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"os"
	"strings"
	"time"

	"presence/internal/forwarded"
	"presence/internal/presence"
	"presence/internal/replica"
	"presence/internal/room"
	"presence/internal/store"
)

// Config has all settings. [Default] returns the defaults.
type Config struct {
	Listen      string
	AdminListen string
	ReplicaName string

	RedisURL          string
	RedisPrefix       string
	RedisPasswordFile string
	SessionSecretFile string
	APIKeysFile       string
	TokenSecretFile   string
	TokenJWKS         string
	TokenAudience     string
	KeyRate           int
	PublicRooms       string
	Page              bool

	HeartbeatInterval time.Duration
	MemberTTL         time.Duration
	LeaveGrace        time.Duration
	Coalesce          time.Duration

	AllowedOrigins   string
	AllowedEmbedders string
	APIOrigins       string
	TrustedProxies   string

	MaxConnections      int
	MaxConnectionsPerIP int
	MaxRooms            int
	MaxRoomsPerIP       int
	MaxMembersPerRoom   int
	MaxMembersPerIP     int

	ShutdownTimeout time.Duration

	LogLevel  string
	LogFormat string
}

// Default returns the settings of a server that nobody configured.
func Default() Config {
	return Config{
		Listen:              ":8080",
		AdminListen:         "127.0.0.1:9090",
		RedisPrefix:         store.DefaultPrefix,
		PublicRooms:         "*",
		Page:                true,
		HeartbeatInterval:   replica.DefaultHeartbeatInterval,
		MemberTTL:           store.DefaultMemberTTL,
		LeaveGrace:          store.DefaultLeaveGrace,
		Coalesce:            room.DefaultCoalesce,
		MaxConnectionsPerIP: 20_000,
		MaxRooms:            100_000,
		MaxRoomsPerIP:       1000,
		MaxMembersPerRoom:   1_000_000,
		MaxMembersPerIP:     20_000,
		ShutdownTimeout:     20 * time.Second,
		LogLevel:            "info",
	}
}

// EnvPrefix is put before the name of a flag to get its environment variable.
const EnvPrefix = "PRESENCE_"

// EnvName returns the environment variable of a flag: PRESENCE_REDIS_URL for
// redis-url.
func EnvName(name string) string {
	return EnvPrefix + strings.ToUpper(strings.ReplaceAll(name, "-", "_"))
}

// EmptyCounts reports whether an empty environment variable sets the flag of that
// name: for these flags "" is a value that differs from the default. All other empty
// variables count as not set.
func EmptyCounts(name string) bool { return name == "admin-listen" || name == "public-rooms" }

// Flags defines a flag for every setting, with c's values as defaults. The usage
// texts are those of the README's table.
func (c *Config) Flags(fs *flag.FlagSet) {
	fs.StringVar(&c.Listen, "listen", c.Listen, "address of pages and API")
	fs.StringVar(&c.AdminListen, "admin-listen", c.AdminListen, "address of /metrics, /replicas, /livez, /readyz and /debug/pprof/; empty turns it off")
	fs.StringVar(&c.ReplicaName, "replica-name", c.ReplicaName, "name of this replica on pages, in its log and in Redis's list of clients; empty: the host's name and four letters")
	fs.StringVar(&c.RedisURL, "redis-url", c.RedisURL, "redis://, rediss://, redis-sentinel://h1,h2/master or redis-cluster://h1,h2; empty: an embedded store, for one replica")
	fs.StringVar(&c.RedisPrefix, "redis-prefix", c.RedisPrefix, "first part of every key in Redis")
	fs.StringVar(&c.RedisPasswordFile, "redis-password-file", c.RedisPasswordFile, "file with the Redis password, or user:password, instead of the URL's")
	fs.StringVar(&c.SessionSecretFile, "session-secret-file", c.SessionSecretFile, "file with the key of session cookies and ids, the same on all replicas; empty: the replicas make one and share it through Redis")
	fs.StringVar(&c.APIKeysFile, "api-keys-file", c.APIKeysFile, "file with a line for each API key: NAME sha256:HEX rooms=PATTERN,… rights=read,write; empty, without tokens and with the embedded store: the server makes a key for this run and prints it")
	fs.StringVar(&c.TokenSecretFile, "token-secret-file", c.TokenSecretFile, "file with the secret that signs member tokens (HS256), the same on all replicas; empty: no such tokens are accepted")
	fs.StringVar(&c.TokenJWKS, "token-jwks", c.TokenJWKS, "file, or https:// address, of the JSON Web Key Set with the public keys of member tokens (RS256, ES256, EdDSA), read again every 5 minutes and when a token names a new key; empty: no such tokens are accepted")
	fs.StringVar(&c.TokenAudience, "token-audience", c.TokenAudience, "audience that member tokens must name (aud); empty: tokens may name any, or none")
	fs.IntVar(&c.KeyRate, "key-rate", c.KeyRate, "most calls a second of one API key through this replica, with bursts of twice as many; 0: no limit")
	fs.StringVar(&c.PublicRooms, "public-rooms", c.PublicRooms, "comma-separated rooms, or prefixes followed by *, that everybody may see; the page of other rooms needs a token, and reading them a key or token; empty: no room is public")
	fs.BoolVar(&c.Page, "page", c.Page, "serve the pages of rooms, and /rooms; false: only the API")
	fs.DurationVar(&c.HeartbeatInterval, "heartbeat-interval", c.HeartbeatInterval, "time between two renewals of a member")
	fs.DurationVar(&c.MemberTTL, "member-ttl", c.MemberTTL, "how long a member counts without renewal; at least twice the heartbeat interval")
	fs.DurationVar(&c.LeaveGrace, "leave-grace", c.LeaveGrace, "how long a member whose socket is gone still counts")
	fs.DurationVar(&c.Coalesce, "coalesce", c.Coalesce, "shortest time between two pushes of a room to the viewers of one replica")
	fs.StringVar(&c.AllowedOrigins, "allowed-origins", c.AllowedOrigins, "comma-separated origins, such as https://example.org, that may open sockets and post forms; empty: the page's own only")
	fs.StringVar(&c.AllowedEmbedders, "allowed-embedders", c.AllowedEmbedders, "comma-separated origins whose pages may show this server's pages in a frame, which needs HTTPS; empty: none may")
	fs.StringVar(&c.APIOrigins, "api-origins", c.APIOrigins, "comma-separated origins whose pages may call /v1 (CORS), or *; empty: the server's own only")
	fs.StringVar(&c.TrustedProxies, "trusted-proxies", c.TrustedProxies, "comma-separated CIDRs of proxies whose X-Forwarded-For and X-Forwarded-Proto are believed")
	fs.IntVar(&c.MaxConnections, "max-connections", c.MaxConnections, "most sockets of this replica; it closes any more with 1013; 0: no limit")
	fs.IntVar(&c.MaxConnectionsPerIP, "max-connections-per-ip", c.MaxConnectionsPerIP, "most sockets from one address (IPv6: one /64 network); the replica closes any more with 1013; 0: no limit")
	fs.IntVar(&c.MaxRooms, "max-rooms", c.MaxRooms, "most rooms that exist at a time; 0: no limit")
	fs.IntVar(&c.MaxRoomsPerIP, "max-rooms-per-ip", c.MaxRoomsPerIP, "most rooms that people from one address may be in through this replica; 0: no limit")
	fs.IntVar(&c.MaxMembersPerRoom, "max-members-per-room", c.MaxMembersPerRoom, "most users of a room; 0: no limit")
	fs.IntVar(&c.MaxMembersPerIP, "max-members-per-ip", c.MaxMembersPerIP, "most members from one address through this replica, in all rooms; 0: no limit")
	fs.DurationVar(&c.ShutdownTimeout, "shutdown-timeout", c.ShutdownTimeout, "time for a graceful stop: waiting for balancers, closing sockets and finishing requests")
	fs.StringVar(&c.LogLevel, "log-level", c.LogLevel, "debug, info, warn or error")
	fs.StringVar(&c.LogFormat, "log-format", c.LogFormat, "text or json; empty: text on a terminal, else json")
}

// ErrConfig is returned for a setting that can't be used. The text names the
// flag, the value and what is legal.
var ErrConfig = errors.New("bad setting")

// bad describes a setting that can't be used.
func bad(name, value, legal string) error {
	return fmt.Errorf("%w: -%s %q: %s", ErrConfig, name, value, legal)
}

// Validate returns nil for settings that a server can start with, else an error
// that wraps [ErrConfig].
func (c *Config) Validate() error {
	for name, addr := range map[string]string{"listen": c.Listen, "admin-listen": c.AdminListen} {
		if addr == "" && name == "admin-listen" {
			continue
		}
		if _, port, err := net.SplitHostPort(addr); err != nil || port == "" {
			return bad(name, addr, "it must be host:port or :port")
		}
	}
	if c.ReplicaName != "" && presence.CheckRoom(c.ReplicaName) != nil {
		return bad("replica-name", c.ReplicaName, "it must be 1 to 64 characters of A-Z, a-z, 0-9, _ and -")
	}
	if c.RedisURL != "" {
		if _, err := store.ParseURL(c.RedisURL); err != nil {
			return bad("redis-url", scheme(c.RedisURL)+"://…", err.Error())
		}
	} else if c.RedisPasswordFile != "" {
		return bad("redis-password-file", c.RedisPasswordFile, "it needs -redis-url")
	}
	if presence.CheckRoom(c.RedisPrefix) != nil {
		return bad("redis-prefix", c.RedisPrefix, "it must be 1 to 64 characters of A-Z, a-z, 0-9, _ and -")
	}
	for name, d := range map[string]struct{ value, low, high time.Duration }{
		"heartbeat-interval": {c.HeartbeatInterval, 100 * time.Millisecond, time.Hour},
		"member-ttl":         {c.MemberTTL, 200 * time.Millisecond, 24 * time.Hour},
		"leave-grace":        {c.LeaveGrace, 0, 24 * time.Hour},
		"coalesce":           {c.Coalesce, time.Millisecond, time.Minute},
		"shutdown-timeout":   {c.ShutdownTimeout, 0, time.Hour},
	} {
		if d.value < d.low || d.value > d.high {
			return bad(name, d.value.String(), fmt.Sprintf("it must be between %v and %v", d.low, d.high))
		}
	}
	if c.MemberTTL < 2*c.HeartbeatInterval {
		return bad("member-ttl", c.MemberTTL.String(), fmt.Sprintf("it must be at least twice the heartbeat interval, which is %v", c.HeartbeatInterval))
	}
	for name, n := range map[string]int{
		"key-rate": c.KeyRate, "max-connections": c.MaxConnections, "max-connections-per-ip": c.MaxConnectionsPerIP,
		"max-rooms": c.MaxRooms, "max-members-per-room": c.MaxMembersPerRoom,
		"max-rooms-per-ip": c.MaxRoomsPerIP, "max-members-per-ip": c.MaxMembersPerIP,
	} {
		if n < 0 {
			return bad(name, fmt.Sprint(n), "it must be 0 (no limit) or more")
		}
	}
	if c.TokenAudience != "" && c.TokenSecretFile == "" && c.TokenJWKS == "" {
		return bad("token-audience", c.TokenAudience, "it needs -token-secret-file or -token-jwks")
	}
	for _, pattern := range commaList(c.PublicRooms) {
		if _, err := presence.ParsePattern(pattern); err != nil {
			return bad("public-rooms", pattern, err.Error())
		}
	}
	for _, origin := range c.embedders() {
		if !isOrigin(origin) || strings.ContainsAny(origin, "*;'\"") {
			return bad("allowed-embedders", origin, "each origin has to be named: "+originForm(origin))
		}
	}
	for _, origin := range c.origins() {
		if !isOrigin(origin) {
			return bad("allowed-origins", origin, originForm(origin))
		}
	}
	for _, origin := range c.apiOrigins() {
		if origin != anyOrigin && !isOrigin(origin) {
			return bad("api-origins", origin, "it must be *, or origins: "+originForm(origin))
		}
	}
	if _, err := forwarded.ParseTrusted(c.TrustedProxies); err != nil {
		return bad("trusted-proxies", c.TrustedProxies, err.Error())
	}
	if _, err := c.level(); err != nil {
		return err
	}
	switch c.LogFormat {
	case "", "text", "json":
	default:
		return bad("log-format", c.LogFormat, "it must be text or json")
	}
	return nil
}

// scheme is the part of a URL that holds no secret.
func scheme(raw string) string {
	s, _, ok := strings.Cut(raw, "://")
	if !ok {
		return "?"
	}
	return s
}

// origins are the allowed origins besides the page's own.
func (c *Config) origins() []string { return commaList(c.AllowedOrigins) }

// embedders are the origins whose pages may frame ours.
func (c *Config) embedders() []string { return commaList(c.AllowedEmbedders) }

// publicRooms are the patterns of the rooms that everybody may see.
func (c *Config) publicRooms() []string { return append([]string{}, commaList(c.PublicRooms)...) }

// anyOrigin stands for every origin in -api-origins.
const anyOrigin = "*"

// apiOrigins are the origins whose pages may call the API.
func (c *Config) apiOrigins() []string { return commaList(c.APIOrigins) }

// commaList returns the elements of a list with commas between them.
func commaList(text string) []string {
	var list []string
	for element := range strings.SplitSeq(text, ",") {
		if element = strings.TrimSpace(element); element != "" {
			list = append(list, element)
		}
	}
	return list
}

// isOrigin reports whether text is an origin as browsers send it.
func isOrigin(text string) bool {
	u, err := url.Parse(text)
	return err == nil && (u.Scheme == "http" || u.Scheme == "https") && u.Host != "" && u.Scheme+"://"+u.Host == text
}

// originForm says what an origin is, and what to do about text, which is none.
func originForm(text string) string {
	const form = "an origin is http:// or https://, a host and perhaps a port, and nothing else"
	if isOrigin(strings.TrimSuffix(text, "/")) {
		return form + ": remove the slash at the end"
	}
	return form
}

// level is the least level that is logged.
func (c *Config) level() (slog.Level, error) {
	var level slog.Level
	switch c.LogLevel {
	case "debug", "info", "warn", "error":
		return level, level.UnmarshalText([]byte(c.LogLevel))
	default:
		return level, bad("log-level", c.LogLevel, "it must be debug, info, warn or error")
	}
}

// endpoint is where Redis is, with the password of the file if there is one.
func (c *Config) endpoint() (*store.Endpoint, error) {
	e, err := store.ParseURL(c.RedisURL)
	if err != nil {
		return nil, bad("redis-url", scheme(c.RedisURL)+"://…", err.Error())
	}
	if c.RedisPasswordFile != "" {
		secret, err := readSecret("redis-password-file", c.RedisPasswordFile, 1)
		if err != nil {
			return nil, err
		}
		e.SetPassword(secret)
	}
	return e, nil
}

// minSecret is the shortest session secret that is accepted, in bytes.
const minSecret = 16

// readSecret returns what a file of a secret holds, without line ends around it.
func readSecret(name, file string, least int) (string, error) {
	b, err := os.ReadFile(file) //nolint:gosec // the operator names the file
	if err != nil {
		return "", bad(name, file, err.Error())
	}
	secret := strings.Trim(string(b), "\r\n")
	if len(secret) < least {
		return "", bad(name, file, fmt.Sprintf("the file must hold at least %d bytes", least))
	}
	return secret, nil
}
