// Package forwarded finds out who sent a request that came through proxies. It believes
// the headers of trusted proxies, and of nobody else.
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

// client is what we know about the sender of a request.
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
// X-Forwarded-Proto count only if the peer is a trusted proxy. Then the sender is
// the right-most address that is not a trusted proxy's.
func Handler(trusted []netip.Prefix, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c := client{ip: peer(r), https: r.TLS != nil}
		if isTrusted(trusted, c.ip) {
			hops := list(r.Header.Values("X-Forwarded-For"))
			ip, passed := rightmost(trusted, hops, c.ip)
			c.ip = ip
			if proto := protoOf(list(r.Header.Values("X-Forwarded-Proto")), len(hops), passed); proto != "" {
				c.https = proto == "https" || proto == "wss"
			}
		}
		next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), contextKey{}, c)))
	})
}

// headers are the headers in which proxies say who their client is.
func headers() [3]string {
	return [...]string{"X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host"}
}

// Ignored returns the address of r's peer and the first proxy header of r, if the
// header is ignored since the peer is not trusted; else "" and "".
func Ignored(trusted []netip.Prefix, r *http.Request) (ip, header string) {
	for _, header := range headers() {
		if ip := peer(r); r.Header[header] != nil && !isTrusted(trusted, ip) {
			return ip, header
		}
	}
	return "", ""
}

// ClientIP is the address of the sender of r, without a port.
func ClientIP(r *http.Request) string {
	if c, ok := r.Context().Value(contextKey{}).(client); ok {
		return c.ip
	}
	return peer(r)
}

// ClientKey is the sender of r as limits tell senders apart: the address or, with
// IPv6, the network of 64 bits (RFC 4291, section 2.5.1), since a customer has at
// least one whole network. An IPv4 address counts as IPv4 in every notation.
func ClientKey(r *http.Request) string {
	ip := ClientIP(r)
	addr, err := netip.ParseAddr(ip)
	if err != nil {
		return ip
	}
	if addr = addr.Unmap().WithZone(""); addr.Is4() {
		return addr.String()
	}
	network, _ := addr.Prefix(64) // IPv6 has that many bits
	return network.String()
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

// list returns the elements of a header that is a list, in order. Empty ones do not
// count (RFC 9110, 5.6.1).
func list(values []string) []string {
	var elements []string
	for element := range strings.SplitSeq(strings.Join(values, ","), ",") {
		if element = strings.TrimSpace(element); element != "" {
			elements = append(elements, element)
		}
	}
	return elements
}

// rightmost walks the chain of proxies back to the first address that is not
// trusted, and returns it and how many proxies it passed after the peer. Anybody
// may have written the text left of it. It stops before text that is no address.
func rightmost(trusted []netip.Prefix, hops []string, peer string) (ip string, passed int) {
	ip = peer
	for i, hop := range slices.Backward(hops) {
		addr, ok := address(hop)
		if !ok {
			break
		}
		ip, passed = addr.String(), len(hops)-1-i
		if !isTrusted(trusted, ip) {
			break
		}
	}
	return ip, passed
}

// address returns the address of a hop. Proxies write it with or without a port,
// IPv6 with or without brackets, and perhaps in quotes, as in RFC 7239.
func address(hop string) (netip.Addr, bool) {
	hop = strings.TrimSpace(strings.Trim(hop, `"`))
	addr, err := netip.ParseAddr(hop)
	if err != nil {
		if host, ok := strings.CutPrefix(hop, "["); ok && strings.HasSuffix(host, "]") {
			addr, err = netip.ParseAddr(strings.TrimSuffix(host, "]"))
		} else {
			var withPort netip.AddrPort
			withPort, err = netip.ParseAddrPort(hop)
			addr = withPort.Addr()
		}
	}
	return addr.Unmap().WithZone(""), err == nil
}

// protoOf returns the protocol, in lower case, that the client spoke to the first
// trusted proxy, or "" if the header does not say it. If the list has an element
// for each hop, it is the one of the client's hop. Otherwise proxies do not agree
// on how to write the list, and the first element is about the client.
func protoOf(protos []string, hops, passed int) string {
	switch {
	case len(protos) == 0:
		return ""
	case len(protos) == hops:
		return strings.ToLower(protos[hops-1-passed])
	default:
		return strings.ToLower(protos[0])
	}
}

// isTrusted reports whether ip is the address of a trusted proxy.
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
