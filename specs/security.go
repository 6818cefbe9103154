package specs

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/zclconf/go-cty/cty"
)

// securityResources are about packet filters, SELinux, auditing, and keys.
func securityResources() []resource {
	mode := func(want string) matcher {
		return ask1(selinuxModes, true, options("with_policy"), func(s selinuxMode, a argument) (bool, string, error) {
			said := "now " + s.now + ", after a boot " + s.later
			if s.now != want || s.later != want {
				return false, said, nil
			}
			if p := a.opt["with_policy"]; p != "" {
				return p == s.policy, said + ", policy " + s.policy, nil
			}
			return true, said, nil
		})
	}
	disabled := mode("disabled")
	disabled.argument = options()
	certificate := func(t valueType, get func(*x509.Certificate) (value, error)) attribute {
		return get1(contents, t, func(s string) (value, error) {
			c, err := parseCertificate(s)
			if err != nil {
				return value{}, err
			}
			return get(c)
		})
	}
	return []resource{
		{name: "iptables", matchers: map[string]matcher{"have_rule": iptablesMatcher("iptables")}},
		{name: "ip6tables", matchers: map[string]matcher{"have_rule": iptablesMatcher("ip6tables")}},
		{
			name: "nftables",
			matchers: map[string]matcher{"have_rule": {
				kind: nftables, presence: true, argument: object("rule", "with_table", "with_chain"),
				test: func(fact any, a argument) (bool, string, error) { return hasRule(fact.([]rule), a) },
			}},
		},
		{
			name: "selinux",
			matchers: map[string]matcher{
				"be_disabled": disabled, "be_enforcing": mode("enforcing"), "be_permissive": mode("permissive"),
			},
		},
		{
			name: "selinux_module", subject: pattern(`^[A-Za-z0-9_.-]+$`),
			matchers: map[string]matcher{
				"be_installed": ask1(selinuxModules, true, options(), func(m selinuxModule, _ argument) (bool, string, error) { return true, m.state(), nil }),
				"be_enabled":   ask1(selinuxModules, true, options(), func(m selinuxModule, _ argument) (bool, string, error) { return bool(m), m.state(), nil }),
			},
		},
		{
			name: "linux_audit_system",
			matchers: map[string]matcher{
				"be_enabled": ask1(audits, true, options(), func(s audit, _ argument) (bool, string, error) {
					return s.enabled == "1" || s.enabled == "2", "enabled " + s.enabled, nil
				}),
				"be_running": ask1(audits, true, options(), func(s audit, _ argument) (bool, string, error) { return s.pid != "0", "auditd's pid is " + s.pid, nil }),
			},
			attributes: map[string]attribute{"rules": get1(auditRules, typeText, asText)},
		},
		{
			name: "x509_certificate", subject: certificatePath, posix: posixPath, windows: windowsCertificatePath,
			matchers: map[string]matcher{
				"be_certificate": ask1(contents, true, options(), func(s string, _ argument) (bool, string, error) {
					c, err := parseCertificate(s)
					var no missing
					if errors.As(err, &no) {
						return false, string(no), nil
					}
					if err != nil {
						return false, "", err
					}
					return true, c.Subject.String(), nil
				}),
				"be_valid": ask1(contents, false, options(), func(s string, _ argument) (bool, string, error) {
					c, err := parseCertificate(s)
					if err != nil {
						return false, "", err
					}
					now := time.Now()
					return !now.Before(c.NotBefore) && !now.After(c.NotAfter), fmt.Sprintf("from %s to %s", c.NotBefore.UTC().Format(time.RFC3339), c.NotAfter.UTC().Format(time.RFC3339)), nil
				}),
				"have_purpose": ask1(contents, false, purposeArgument, func(s string, a argument) (bool, string, error) {
					c, err := parseCertificate(s)
					if err != nil {
						return false, "", err
					}
					var all []string
					for _, p := range purposes() {
						if p.of(c) {
							all = append(all, p.name)
						}
					}
					return slices.Contains(all, a.text), "for " + strings.Join(all, ", "), nil
				}),
			},
			attributes: certificateAttributes(certificate),
		},
		{
			name: "x509_private_key", subject: filePath, posix: posixPath,
			matchers: map[string]matcher{
				"be_encrypted": ask1(privateKeys, false, options(), func(k privateKey, _ argument) (bool, string, error) {
					if !k.encrypted && k.public == nil {
						return false, "", missing(k.why)
					}
					return k.encrypted, map[bool]string{true: "encrypted", false: "not encrypted"}[k.encrypted], nil
				}),
				"be_valid": ask1(privateKeys, false, options(), func(k privateKey, _ argument) (bool, string, error) {
					switch {
					case k.encrypted:
						return false, "", unsupported("the key is encrypted, and cannot be read without its passphrase")
					case k.public == nil:
						return false, k.why, nil
					}
					return true, "a key that openssl reads", nil
				}),
				"have_matching_certificate": {
					kind: keyPairs, argument: func(v cty.Value) (argument, error) {
						a, err := text(v)
						if err == nil {
							err = filePath(a.text)
						}
						return a, err
					},
					about: func(subject string, a argument, _ map[string]string) (*kind, string) {
						return keyPairs, subject + "\x00" + a.text
					},
					test: func(fact any, _ argument) (bool, string, error) {
						p := fact.(keyPair)
						if p.encrypted {
							return false, "", unsupported("the key is encrypted, and cannot be read without its passphrase")
						}
						if p.public == nil {
							return false, p.why, nil
						}
						c, err := parseCertificate(p.certificate)
						if err != nil {
							return false, "", err
						}
						type comparable interface{ Equal(crypto.PublicKey) bool }
						k, ok := c.PublicKey.(comparable)
						if !ok {
							return false, "", errors.New("keys of this type cannot be compared")
						}
						yes := k.Equal(p.public)
						return yes, map[bool]string{true: "the keys are the same", false: "the certificate has another key"}[yes], nil
					},
				},
			},
		},
	}
}

// Packet filters.

// A rule is one rule of a packet filter, in words as the program lists them.
type rule struct {
	table, chain string
	words        []string
}

// shellWords splits at blanks, but for what stands in double quotes.
func shellWords(s string) []string {
	var out []string
	var b strings.Builder
	quoted, any := false, false
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '\\' && quoted && i+1 < len(s):
			i++
			b.WriteByte(s[i])
		case c == '"':
			quoted, any = !quoted, true
		case !quoted && (c == ' ' || c == '\t'):
			if b.Len() > 0 || any {
				out = append(out, b.String())
			}
			b.Reset()
			any = false
		default:
			b.WriteByte(c)
		}
	}
	if b.Len() > 0 || any {
		out = append(out, b.String())
	}
	return out
}

// hasRule looks for a rule that holds the wanted words, one after the other.
func hasRule(all []rule, a argument) (bool, string, error) {
	want := shellWords(a.text)
	looked := 0
	for _, r := range all {
		if t := a.opt["with_table"]; t != "" && t != r.table || a.opt["with_chain"] != "" && a.opt["with_chain"] != r.chain {
			continue
		}
		looked++
		for i := 0; i+len(want) <= len(r.words) && len(want) > 0; i++ {
			if slices.Equal(r.words[i:i+len(want)], want) {
				return true, strings.Join(r.words, " "), nil
			}
		}
	}
	return false, fmt.Sprintf("none of %d rules", looked), nil
}

func iptablesMatcher(program string) matcher {
	k := &kind{
		name: program,
		each: true,
		script: `command -v ` + program + ` >/dev/null || { echo "there is no ` + program + `" >&2; exit 9; }
exec ` + program + ` -t "$1" -S`,
		read: one(func(a answer) (any, error) {
			if a.status != 0 || len(a.out) == 0 {
				return nil, failed(a, program)
			}
			all := []rule{}
			for _, l := range lines(a.out) {
				w := shellWords(l)
				if len(w) < 2 {
					return nil, fmt.Errorf("not a rule: %s", Clean(l))
				}
				all = append(all, rule{chain: w[1], words: w})
			}
			return all, nil
		}),
	}
	return matcher{
		kind: k, presence: true, argument: choose(object("rule", "with_table", "with_chain"), "with_table", "filter", "nat", "mangle", "raw", "security"),
		about: func(_ string, a argument, _ map[string]string) (*kind, string) {
			if t := a.opt["with_table"]; t != "" {
				return k, t
			}
			return k, "filter"
		},
		test: func(fact any, a argument) (bool, string, error) {
			a.opt = map[string]string{"with_chain": a.opt["with_chain"]} // it is of one table
			return hasRule(fact.([]rule), a)
		},
	}
}

// nftables are all rules; a table is called by its family and name, as in "inet filter".
var nftables = &kind{
	name: "nftables",
	script: `command -v nft >/dev/null || { echo "there is no nft" >&2; exit 9; }
exec nft -n list ruleset`,
	read: func(a answer, subjects []string) (facts, error) {
		// "# Warning: table ip nat is managed by iptables-nft" is none of ours.
		complaint := slices.ContainsFunc(lines(a.errOut), func(l string) bool { return strings.TrimSpace(l) != "" && l[0] != '#' })
		if a.status != 0 || complaint {
			return nil, failed(a, "nft")
		}
		all := []rule{}
		var table, chain string
		depth := 0
		for _, l := range lines(a.out) {
			w := shellWords(strings.TrimSpace(l))
			opens := len(w) > 0 && w[len(w)-1] == "{"
			switch {
			case len(w) == 0:
			case depth == 0 && opens && w[0] == "table" && len(w) == 4:
				table = w[1] + " " + w[2]
			case depth == 1 && opens && w[0] == "chain" && len(w) == 3:
				chain = w[1]
			case depth == 1 && opens:
				chain = "" // a set, a map and the like
			case depth == 2 && chain != "" && !slices.Equal(w, []string{"}"}):
				all = append(all, rule{table, chain, w})
			}
			depth += strings.Count(l, "{") - strings.Count(l, "}")
			if depth < 0 {
				return nil, errors.New("nft's list does not hold together")
			}
		}
		if depth != 0 {
			return nil, errors.New("nft's list does not hold together")
		}
		result := facts{}
		for _, s := range subjects {
			result[s] = all
		}
		return result, nil
	},
}

// SELinux.

type selinuxMode struct{ now, later, policy string }

var selinuxModes = &kind{
	name: "selinux",
	script: `if [ -e /sys/fs/selinux/enforce ]; then echo "now=$(cat /sys/fs/selinux/enforce)"
elif command -v getenforce >/dev/null; then echo "now=$(getenforce)"
elif [ -r /proc/filesystems ] && ! grep -qw selinuxfs /proc/filesystems; then echo now=Disabled
fi
[ -e /etc/selinux/config ] || { echo none; exit 0; }
cat /etc/selinux/config || exit`,
	read: func(a answer, subjects []string) (facts, error) {
		m := selinuxMode{}
		for _, l := range lines(a.out) {
			switch k, v, _ := strings.Cut(strings.TrimSpace(l), "="); strings.TrimSpace(k) {
			case "now":
				m.now = map[string]string{"1": "enforcing", "0": "permissive"}[v]
				if m.now == "" {
					m.now = strings.ToLower(v)
				}
			case "none":
				m.later = "disabled"
			case "SELINUX":
				m.later = strings.ToLower(strings.TrimSpace(v))
			case "SELINUXTYPE":
				m.policy = strings.TrimSpace(v)
			}
		}
		known := []string{"enforcing", "permissive", "disabled"}
		if a.status != 0 || !slices.Contains(known, m.now) {
			return nil, failed(a, "the question for SELinux's mode")
		}
		if !slices.Contains(known, m.later) {
			return nil, fmt.Errorf("/etc/selinux/config gives the mode %q", Clean(m.later))
		}
		result := facts{}
		for _, s := range subjects {
			result[s] = m
		}
		return result, nil
	},
}

// A selinuxModule is whether an installed module is enabled.
type selinuxModule bool

func (m selinuxModule) state() string {
	if m {
		return "installed and enabled"
	}
	return "installed, disabled"
}

var selinuxModules = &kind{
	name: "selinux module",
	script: `command -v semodule >/dev/null || { echo "there is no semodule" >&2; exit 9; }
exec semodule -lfull`,
	read: func(a answer, subjects []string) (facts, error) {
		if a.status != 0 {
			return nil, failed(a, "semodule")
		}
		got, none := map[string]selinuxModule{}, false
		for _, l := range lines(a.out) {
			f := strings.Fields(l)
			if strings.TrimSpace(l) == "No modules." {
				none = true
				continue
			}
			if len(f) < 3 || strings.Trim(f[0], "0123456789") != "" {
				return nil, fmt.Errorf("not a line about a module: %s", Clean(l))
			}
			// The highest priority comes first, and is the one that counts.
			if _, again := got[f[1]]; !again {
				got[f[1]] = selinuxModule(f[len(f)-1] != "disabled")
			}
		}
		if len(got) == 0 && !none {
			return nil, failed(a, "semodule")
		}
		result := facts{}
		for _, s := range subjects {
			if m, ok := got[s]; ok {
				result[s] = m
			} else {
				result[s] = missing("no such module")
			}
		}
		return result, nil
	},
}

// Auditing.

type audit struct{ enabled, pid string }

var audits = &kind{
	name: "audit",
	script: `command -v auditctl >/dev/null || { echo "there is no auditctl" >&2; exit 9; }
exec auditctl -s`,
	read: func(a answer, subjects []string) (facts, error) {
		var s audit
		// Old ones print "AUDIT_STATUS: enabled=1 flag=1 pid=…" on one line.
		for _, l := range strings.Split(strings.ReplaceAll(string(a.out), "=", " "), "\n") {
			f := strings.Fields(strings.TrimPrefix(l, "AUDIT_STATUS:"))
			for i := 0; i+1 < len(f); i += 2 {
				switch f[i] {
				case "enabled":
					s.enabled = f[i+1]
				case "pid":
					s.pid = f[i+1]
				}
			}
		}
		if a.status != 0 || s.enabled == "" || s.pid == "" {
			return nil, failed(a, "auditctl")
		}
		result := facts{}
		for _, subject := range subjects {
			result[subject] = s
		}
		return result, nil
	},
}

var auditRules = &kind{
	name: "audit rules",
	script: `command -v auditctl >/dev/null || { echo "there is no auditctl" >&2; exit 9; }
exec auditctl -l`,
	read: func(a answer, subjects []string) (facts, error) {
		text := string(a.out)
		if a.status != 0 || strings.TrimSpace(text) == "" {
			return nil, failed(a, "auditctl")
		}
		if strings.TrimSpace(text) == "No rules" {
			text = ""
		}
		result := facts{}
		for _, s := range subjects {
			result[s] = text
		}
		return result, nil
	},
}

// Certificates are read here, so that the machine needs no openssl for them,
// and held against the clock of this side.

// parseCertificate reads the first certificate of a file, PEM or DER.
func parseCertificate(s string) (*x509.Certificate, error) {
	der, rest := []byte(s), []byte(s)
	isPEM := strings.Contains(s, "-----BEGIN ")
	for isPEM {
		var b *pem.Block
		if b, rest = pem.Decode(rest); b == nil {
			return nil, missing("there is no certificate in it")
		}
		if b.Type == "CERTIFICATE" || b.Type == "TRUSTED CERTIFICATE" || b.Type == "X509 CERTIFICATE" {
			der = b.Bytes
			break
		}
	}
	if !isPEM && (len(der) == 0 || der[0] != 0x30) {
		return nil, missing("it is not a certificate")
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("the certificate cannot be read: %w", err)
	}
	return c, nil
}

func colons(b []byte) string {
	var out []string
	for _, c := range b {
		out = append(out, strings.ToUpper(hex.EncodeToString([]byte{c})))
	}
	return strings.Join(out, ":")
}

func keyLength(key any) (int, error) {
	switch k := key.(type) {
	case *rsa.PublicKey:
		return k.N.BitLen(), nil
	case *ecdsa.PublicKey:
		return k.Curve.Params().BitSize, nil
	case ed25519.PublicKey:
		return 256, nil
	}
	return 0, errors.New("the length of keys of this type is not known")
}

// emails are those of the alternative names and of the subject.
func emails(c *x509.Certificate) []string {
	out := slices.Clone(c.EmailAddresses)
	for _, n := range c.Subject.Names {
		if s, ok := n.Value.(string); ok && n.Type.String() == "1.2.840.113549.1.9.1" && !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	return out
}

// altNames are written as openssl writes them.
func altNames(c *x509.Certificate) []string {
	var out []string
	for _, n := range c.DNSNames {
		out = append(out, "DNS:"+n)
	}
	for _, n := range c.IPAddresses {
		out = append(out, "IP Address:"+n.String())
	}
	for _, n := range c.EmailAddresses {
		out = append(out, "email:"+n)
	}
	for _, n := range c.URIs {
		out = append(out, "URI:"+n.String())
	}
	return out
}

// A purpose is what openssl calls one, decided as openssl does.
type purpose struct {
	name string
	of   func(c *x509.Certificate) bool
}

func purposes() []purpose {
	extended := func(c *x509.Certificate, want ...x509.ExtKeyUsage) bool {
		return len(c.ExtKeyUsage)+len(c.UnknownExtKeyUsage) == 0 || slices.ContainsFunc(want, func(w x509.ExtKeyUsage) bool { return slices.Contains(c.ExtKeyUsage, w) })
	}
	usage := func(c *x509.Certificate, any x509.KeyUsage) bool { return c.KeyUsage == 0 || c.KeyUsage&any != 0 }
	ca := func(c *x509.Certificate) bool {
		return c.BasicConstraintsValid && c.IsCA && usage(c, x509.KeyUsageCertSign)
	}
	server := []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageNetscapeServerGatedCrypto, x509.ExtKeyUsageMicrosoftServerGatedCrypto}
	return []purpose{
		{"SSL client", func(c *x509.Certificate) bool {
			return extended(c, x509.ExtKeyUsageClientAuth) && usage(c, x509.KeyUsageDigitalSignature|x509.KeyUsageKeyAgreement)
		}},
		{"SSL client CA", func(c *x509.Certificate) bool { return extended(c, x509.ExtKeyUsageClientAuth) && ca(c) }},
		{"SSL server", func(c *x509.Certificate) bool {
			return extended(c, server...) && usage(c, x509.KeyUsageDigitalSignature|x509.KeyUsageKeyEncipherment|x509.KeyUsageKeyAgreement)
		}},
		{"SSL server CA", func(c *x509.Certificate) bool { return extended(c, server...) && ca(c) }},
		{"S/MIME signing", func(c *x509.Certificate) bool {
			return extended(c, x509.ExtKeyUsageEmailProtection) && usage(c, x509.KeyUsageDigitalSignature|x509.KeyUsageContentCommitment)
		}},
		{"S/MIME signing CA", func(c *x509.Certificate) bool { return extended(c, x509.ExtKeyUsageEmailProtection) && ca(c) }},
		{"S/MIME encryption", func(c *x509.Certificate) bool {
			return extended(c, x509.ExtKeyUsageEmailProtection) && usage(c, x509.KeyUsageKeyEncipherment)
		}},
		{"S/MIME encryption CA", func(c *x509.Certificate) bool { return extended(c, x509.ExtKeyUsageEmailProtection) && ca(c) }},
		{"CRL signing", func(c *x509.Certificate) bool { return usage(c, x509.KeyUsageCRLSign) }},
		{"CRL signing CA", ca},
	}
}

func purposeArgument(v cty.Value) (argument, error) {
	a, err := text(v)
	if err != nil {
		return a, err
	}
	var known []string
	for _, p := range purposes() {
		known = append(known, p.name)
	}
	if !slices.Contains(known, a.text) {
		err = fmt.Errorf("%q is not a purpose%s; known: %s", a.text, suggest(a.text, known), strings.Join(known, ", "))
	}
	return a, err
}

// A privateKey is what may be known of a key that does not leave its machine.
type privateKey struct {
	encrypted bool
	public    crypto.PublicKey
	why       string // there is no public key
}

type keyPair struct {
	privateKey
	certificate string
}

// keyScript has openssl read the key and say only its public half.
const keyScript = `[ -e "$1" ] || { stat -L -c . -- "$1" >/dev/null; exit 8; }
[ -r "$1" ] || { echo "$1 cannot be read; use sudo" >&2; exit 9; }
if ! grep -q -e '^-----BEGIN .*PRIVATE KEY-----' -- "$1"; then echo "it holds no private key in PEM form" >&2; exit 7; fi
if grep -q -E -e '^-----BEGIN ENCRYPTED PRIVATE KEY-----|^Proc-Type: 4,ENCRYPTED' -- "$1"; then echo encrypted
else
	command -v openssl >/dev/null || { echo "there is no openssl" >&2; exit 9; }
	openssl pkey -in "$1" -passin pass: -pubout || exit 7
fi
`

func readKey(a answer) (privateKey, string, error) {
	out := string(a.out)
	switch {
	case a.status == 8 && gone(string(a.errOut)):
		return privateKey{}, "", missing("no such file")
	case a.status == 7:
		said, _, _ := strings.Cut(strings.TrimSpace(string(a.errOut)), "\n")
		return privateKey{why: "not a key that can be read: " + said}, "", nil
	case a.status != 0:
		return privateKey{}, "", failed(a, "the question for the key")
	}
	if rest, ok := strings.CutPrefix(out, "encrypted\n"); ok {
		return privateKey{encrypted: true}, rest, nil
	}
	b, rest := pem.Decode(a.out)
	if b == nil {
		return privateKey{}, "", errors.New("openssl gave no public key")
	}
	k, err := x509.ParsePKIXPublicKey(b.Bytes)
	if err != nil {
		return privateKey{}, "", fmt.Errorf("openssl gave a public key that cannot be read: %w", err)
	}
	return privateKey{public: k}, string(rest), nil
}

var privateKeys = &kind{
	name: "private key", each: true, script: keyScript,
	read: one(func(a answer) (any, error) {
		k, _, err := readKey(a)
		if err != nil {
			return nil, err
		}
		return k, nil
	}),
}

var keyPairs = &kind{
	name: "key pair", each: true, script: keyScript + fmt.Sprintf(`exec head -c %d -- "$2"`, maxContent),
	read: one(func(a answer) (any, error) {
		if a.status == 1 && gone(string(a.errOut)) {
			return nil, missing("no such certificate file")
		}
		k, rest, err := readKey(a)
		if err != nil {
			return nil, err
		}
		return keyPair{k, rest}, nil
	}),
}

// certificateAttributes are what can be said of a certificate that of finds.
func certificateAttributes(of func(valueType, func(*x509.Certificate) (value, error)) attribute) map[string]attribute {
	return map[string]attribute{
		"subject": of(typeText, func(c *x509.Certificate) (value, error) { return value{text: c.Subject.String()}, nil }),
		"issuer":  of(typeText, func(c *x509.Certificate) (value, error) { return value{text: c.Issuer.String()}, nil }),
		"email":   of(typeList, func(c *x509.Certificate) (value, error) { return value{list: emails(c)}, nil }),
		"fingerprint": of(typeText, func(c *x509.Certificate) (value, error) {
			sum := sha1.Sum(c.Raw)
			return value{text: colons(sum[:])}, nil
		}),
		"sha256_fingerprint": of(typeText, func(c *x509.Certificate) (value, error) {
			sum := sha256.Sum256(c.Raw)
			return value{text: colons(sum[:])}, nil
		}),
		"keylength": of(typeNumber, func(c *x509.Certificate) (value, error) {
			n, err := keyLength(c.PublicKey)
			return value{text: strconv.Itoa(n)}, err
		}),
		"validity_in_days": of(typeNumber, func(c *x509.Certificate) (value, error) {
			return value{text: strconv.Itoa(int(time.Until(c.NotAfter) / (24 * time.Hour)))}, nil
		}),
		"subject_alt_names": of(typeList, func(c *x509.Certificate) (value, error) { return value{list: altNames(c)}, nil }),
	}
}
