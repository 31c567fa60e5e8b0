// Package forwarded finds out who is really calling when proxies stand between:
// it believes their headers, and nobody else's.
package forwarded

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
)

// client is what is known of the caller of a request.
type client struct {
	ip    string
	https bool
}

type contextKey struct{}

// ParseTrusted reads a comma-separated list of CIDRs or addresses of proxies.
func ParseTrusted(list string) ([]netip.Prefix, error) {
	var trusted []netip.Prefix
	for item := range strings.SplitSeq(list, ",") {
		if item = strings.TrimSpace(item); item == "" {
			continue
		}
		prefix, err := netip.ParsePrefix(item)
		if err != nil {
			addr, addrErr := netip.ParseAddr(item)
			if addrErr != nil {
				return nil, fmt.Errorf("%q is neither an address nor a CIDR such as 10.0.0.0/8", item)
			}
			prefix = netip.PrefixFrom(addr.Unmap(), addr.Unmap().BitLen())
		}
		trusted = append(trusted, prefix.Masked())
	}
	return trusted, nil
}

// Handler notes for each request who sent it. X-Forwarded-For and
// X-Forwarded-Proto count only if the peer is a trusted proxy; the caller is
// then the right-most address that is none.
func Handler(trusted []netip.Prefix, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c := client{ip: peer(r), https: r.TLS != nil}
		if isTrusted(trusted, c.ip) {
			c.ip = rightmost(trusted, r.Header.Values("X-Forwarded-For"), c.ip)
			if proto := r.Header.Get("X-Forwarded-Proto"); proto != "" {
				c.https = strings.EqualFold(proto, "https")
			}
		}
		next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), contextKey{}, c)))
	})
}

// headers are those by which a proxy tells of its client.
func headers() [3]string {
	return [...]string{"X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host"}
}

// Ignored returns the address of r's peer and the first header of a proxy that it
// sent, if that does not count since the peer is not trusted; else "" and "".
func Ignored(trusted []netip.Prefix, r *http.Request) (ip, header string) {
	for _, header := range headers() {
		if ip := peer(r); r.Header[header] != nil && !isTrusted(trusted, ip) {
			return ip, header
		}
	}
	return "", ""
}

// ClientIP is the address of whoever sent r, without a port.
func ClientIP(r *http.Request) string {
	if c, ok := r.Context().Value(contextKey{}).(client); ok {
		return c.ip
	}
	return peer(r)
}

// IsHTTPS reports whether r came over TLS, here or at the proxy.
func IsHTTPS(r *http.Request) bool {
	if c, ok := r.Context().Value(contextKey{}).(client); ok {
		return c.https
	}
	return r.TLS != nil
}

// peer is the address at the other end of the connection.
func peer(r *http.Request) string {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return r.RemoteAddr
	}
	return host
}

// rightmost walks the chain of proxies back to the first address that is not
// trusted. What stands left of it anybody may have written.
func rightmost(trusted []netip.Prefix, headers []string, ip string) string {
	hops := strings.Split(strings.Join(headers, ","), ",")
	for _, hop := range slices.Backward(hops) {
		addr, err := netip.ParseAddr(strings.TrimSpace(hop))
		if err != nil {
			return ip
		}
		ip = addr.Unmap().String()
		if !isTrusted(trusted, ip) {
			return ip
		}
	}
	return ip
}

// isTrusted reports whether ip is that of a proxy whose headers are believed.
func isTrusted(trusted []netip.Prefix, ip string) bool {
	addr, err := netip.ParseAddr(ip)
	if err != nil {
		return false
	}
	addr = addr.Unmap().WithZone("")
	for _, prefix := range trusted {
		if prefix.Contains(addr) {
			return true
		}
	}
	return false
}
