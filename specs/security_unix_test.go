//go:build unix

package specs

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestPacketFilters(t *testing.T) {
	need(t, "nft")
	need(t, "iptables")
	const src = `
iptables {
	have_rule = "-A INPUT -p tcp -m tcp --dport 22 -j ACCEPT" # pass
	should_not { have_rule = "--dport 2" } # pass
}
iptables {
	have_rule = { rule = "-j MASQUERADE", with_table = "nat", with_chain = "POSTROUTING" } # pass
	should_not { have_rule = { rule = "-j MASQUERADE", with_table = "nat", with_chain = "OUTPUT" } } # pass
}
iptables {
	have_rule = "-P FORWARD DROP" # pass
	should_not { have_rule = "-j MASQUERADE" } # pass: none of
}
ip6tables {
	have_rule = "-P INPUT ACCEPT" # pass
	should_not { have_rule = "--dport 22" } # pass
}
nftables {
	have_rule = { rule = "tcp dport 443 accept", with_table = "inet web", with_chain = "in" } # pass
	should_not { have_rule = { rule = "tcp dport 44", with_table = "inet web" } } # pass
}
nftables {
	have_rule = "type filter hook input priority 0; policy drop;" # pass
	should_not { have_rule = "10.0.0.1" } # pass
}
nftables {
	have_rule = "ip saddr @friends" # pass
}
`
	const setup = `iptables -A INPUT -p tcp --dport 22 -j ACCEPT && iptables -t nat -A POSTROUTING -j MASQUERADE && iptables -P FORWARD DROP &&
nft add table inet web && nft add set inet web friends '{ type ipv4_addr; elements = { 10.0.0.1 }; }' &&
nft add chain inet web in '{ type filter hook input priority 0; policy drop; }' && nft add rule inet web in tcp dport 443 accept &&
nft add rule inet web in ip saddr @friends accept`
	m := inNetwork(t, &local{}, setup)
	expect(t, src, run(t, m, src))
}

// Certificates and keys of a real openssl, whose view of their purposes is ours.
func TestX509(t *testing.T) {
	openssl := need(t, "openssl")
	dir := t.TempDir()
	ssl := func(args ...string) string {
		t.Helper()
		c := exec.Command(openssl, args...)
		c.Dir = dir
		out, err := c.CombinedOutput()
		if err != nil {
			t.Fatalf("openssl %s: %v: %s", strings.Join(args, " "), err, out)
		}
		return string(out)
	}
	ssl("genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", "ec.key")
	ssl("genrsa", "-out", "rsa.key", "2048")
	ssl("genpkey", "-algorithm", "ED25519", "-out", "ed.key")
	ssl("pkcs8", "-topk8", "-in", "ec.key", "-out", "locked.key", "-passout", "pass:secret")
	ssl("rsa", "-aes128", "-in", "rsa.key", "-out", "old-locked.key", "-passout", "pass:secret", "-traditional")
	certs := map[string][]string{
		"server": {"-key", "rsa.key", "-subj", "/O=Example/CN=www.example.com/emailAddress=a@example.com", "-addext", "subjectAltName=DNS:www.example.com,IP:192.0.2.1", "-addext", "extendedKeyUsage=serverAuth", "-addext", "keyUsage=digitalSignature,keyEncipherment"},
		"ca":     {"-key", "ec.key", "-subj", "/CN=ca", "-addext", "keyUsage=critical,keyCertSign,cRLSign"},
		"client": {"-key", "ed.key", "-subj", "/CN=client", "-addext", "extendedKeyUsage=clientAuth,emailProtection", "-addext", "basicConstraints=critical,CA:FALSE"},
		"plain":  {"-key", "ec.key", "-subj", "/CN=plain", "-addext", "basicConstraints=CA:FALSE"},
	}
	for name, args := range certs {
		ssl(append([]string{"req", "-x509", "-new", "-days", "100", "-out", name + ".pem"}, args...)...)
		var src strings.Builder
		said := ssl("x509", "-in", name+".pem", "-noout", "-purpose")
		n := 0
		for _, p := range purposes() {
			_, v, ok := strings.Cut(said, p.name+" : ")
			if !ok {
				continue
			}
			n++
			want := "fail"
			if strings.HasPrefix(v, "Yes") {
				want = "pass"
			}
			fmt.Fprintf(&src, "x509_certificate %q {\n\thave_purpose = %q # %s\n}\n", filepath.Join(dir, name+".pem"), p.name, want)
		}
		if n < 8 {
			t.Fatalf("openssl names only %d purposes: %s", n, said)
		}
		expect(t, src.String(), run(t, &local{}, src.String()))
	}
	ssl("x509", "-in", "server.pem", "-outform", "DER", "-out", "server.der")
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	old := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Unix(1e9, 0), NotAfter: time.Unix(1e9+86400, 0)}
	der, err := x509.CreateCertificate(rand.Reader, old, old, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "old.pem"), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "bad.pem"), []byte("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, print, _ := strings.Cut(strings.TrimSpace(ssl("x509", "-in", "server.pem", "-noout", "-fingerprint", "-sha256")), "=")
	_, sha1, _ := strings.Cut(strings.TrimSpace(ssl("x509", "-in", "server.pem", "-noout", "-fingerprint", "-sha1")), "=")
	src := strings.NewReplacer("DIR", dir, "SHA256", print, "SHA1", sha1).Replace(`
x509_certificate "DIR/server.pem" {
	be_certificate = true # pass
	be_valid       = true # pass
	its "subject" { match = "CN=www.example.com" } # pass
	its "issuer" { include = "O=Example" } # pass
	its "email" { include = "a@example.com" } # pass
	its "fingerprint" { eq = "SHA1" } # pass
	its "sha256_fingerprint" { eq = "SHA256" } # pass
	its "keylength" { eq = 2048 } # pass
	its "validity_in_days" { be_in = [99, 100] } # pass
	its "validity_in_days" { be_greater_than = 300 } # fail: 
	its "subject_alt_names" { include = "DNS:www.example.com" } # pass
	its "subject_alt_names" { include = "IP Address:192.0.2.1" } # pass
	its "subject_alt_names" { include = "DNS:example.com" } # fail
}
x509_certificate "DIR/server.der" {
	be_valid = true # pass
	its "sha256_fingerprint" { eq = "SHA256" } # pass
}
x509_certificate "DIR/old.pem" {
	be_certificate = true # pass
	be_valid = true # fail: from
	its "validity_in_days" { be_less_than = 1 } # pass
}
x509_certificate "DIR/rsa.key" {
	be_certificate = true # fail: no certificate
	be_valid = true # fail: no certificate
	should_not { be_valid = true } # fail: no certificate
}
x509_certificate "DIR/bad.pem" {
	be_certificate = true # error: cannot be read
	should_not { be_certificate = true } # error: cannot be read
}
x509_certificate "DIR/gone" {
	be_certificate = true # fail: no such file
	should_not { be_valid = true } # fail: no such file
	its "keylength" { be_greater_than = 1 } # fail: no such file
}
x509_private_key "DIR/rsa.key" {
	be_valid = true # pass
	have_matching_certificate = "DIR/server.pem" # pass: the same
	be_encrypted = true # fail: not encrypted
}
x509_private_key "DIR/ec.key" {
	be_valid = true # pass
	have_matching_certificate = "DIR/server.pem" # fail: another key
}
x509_private_key "DIR/ec.key" {
	have_matching_certificate = "DIR/ca.pem" # pass
}
x509_private_key "DIR/ed.key" {
	have_matching_certificate = "DIR/client.pem" # pass
	should_not { have_matching_certificate = "DIR/gone.pem" } # fail: no such certificate
}
x509_private_key "DIR/locked.key" {
	be_encrypted = true # pass
	be_valid = true # error: passphrase
	have_matching_certificate = "DIR/ca.pem" # error: passphrase
}
x509_private_key "DIR/old-locked.key" {
	be_encrypted = true # pass
}
x509_private_key "DIR/server.pem" {
	be_valid = true # fail: no private key
	should_not { be_encrypted = true } # fail: no private key
}
x509_private_key "DIR/gone" {
	be_valid = true # fail: no such file
	should_not { be_encrypted = true } # fail: no such file
}
`)
	for name, m := range shells(t) {
		t.Run(name, func(t *testing.T) { expect(t, src, run(t, m, src)) })
	}
}
