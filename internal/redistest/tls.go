package redistest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// Certificate is a certificate for servers on the loopback interface. It is its own
// authority.
type Certificate struct {
	// File and Key are paths of PEM files.
	File, Key string

	roots *x509.CertPool
}

// NewCertificate makes a certificate that lasts as long as the test.
func NewCertificate(t testing.TB) *Certificate {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatalf("make a certificate: %v", err)
		}
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(err)
	template := &x509.Certificate{
		SerialNumber:          big.NewInt(1),
		Subject:               pkix.Name{CommonName: "a Redis of a test"},
		NotBefore:             time.Now().Add(-time.Hour),
		NotAfter:              time.Now().Add(24 * time.Hour),
		KeyUsage:              x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		BasicConstraintsValid: true,
		IsCA:                  true,
		IPAddresses:           []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	must(err)
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	must(err)

	dir := t.TempDir()
	c := &Certificate{File: filepath.Join(dir, "cert.pem"), Key: filepath.Join(dir, "key.pem"), roots: x509.NewCertPool()}
	public := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	must(os.WriteFile(c.File, public, 0o600))
	must(os.WriteFile(c.Key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret}), 0o600))
	c.roots.AppendCertsFromPEM(public)
	return c
}

// settings are the settings of a server that uses the certificate, for clients and
// between servers of its kind.
func (c *Certificate) settings() []string {
	return []string{
		"tls-cert-file " + c.File, "tls-key-file " + c.Key, "tls-ca-cert-file " + c.File,
		"tls-auth-clients no", "tls-replication yes", "tls-cluster yes",
	}
}

// SentinelSettings are the lines of a sentinel's configuration that make it
// listen at port: over TLS, unless c is nil.
func (c *Certificate) SentinelSettings(port string) []string {
	if c == nil {
		return []string{"port " + port}
	}
	return append([]string{"port 0", "tls-port " + port}, c.settings()...)
}

// Query is the part of a URL that makes clients trust the certificate.
func (c *Certificate) Query() string {
	if c == nil {
		return ""
	}
	return "?ca=" + url.QueryEscape(c.File)
}

func (c *Certificate) config() *tls.Config {
	if c == nil {
		return nil
	}
	return &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: c.roots}
}
