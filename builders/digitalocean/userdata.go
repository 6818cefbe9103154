package digitalocean

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"net/mail"
	"net/textproto"
	"slices"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
	"golang.org/x/crypto/ssh"
)

// maxUserData is what DigitalOcean takes.
const maxUserData = 64 << 10

// hostKey is one made for this bake, by which the droplet is known.
type hostKey struct {
	private string // PEM
	public  string // as in authorized_keys
}

func newHostKey() (*hostKey, error) {
	pub, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	block, err := ssh.MarshalPrivateKey(key, "")
	if err != nil {
		return nil, err
	}
	public, err := ssh.NewPublicKey(pub)
	if err != nil {
		return nil, err
	}
	return &hostKey{string(pem.EncodeToMemory(block)), strings.TrimSpace(string(ssh.MarshalAuthorizedKey(public)))}, nil
}

// marks are texts that any copy of the private key has, and nothing else.
func (k *hostKey) marks() (marks []string) {
	lines := strings.Split(strings.TrimSpace(k.private), "\n")
	// The first line of the body says what kind of key it is; all such keys have it.
	for _, l := range lines[min(2, len(lines)):max(2, len(lines)-1)] {
		if len(l) > 20 {
			marks = append(marks, l)
		}
	}
	return marks
}

// userData is the user's own, with the host key added to it.
func (o *Options) userData(dir string, key *hostKey) (string, error) {
	given, err := o.givenUserData(dir)
	if err != nil {
		return "", err
	}
	switch {
	case !utf8.ValidString(given) || strings.ContainsRune(given, 0):
		return "", errors.New("the user data is no text, and DigitalOcean takes text only; a gzip must be unpacked")
	case len(given) > maxUserData:
		return "", fmt.Errorf("the user data is larger than the %d KiB that DigitalOcean takes", maxUserData>>10)
	}
	if !o.injectKey() {
		return given, nil
	}
	all, err := addHostKey(given, key)
	if err == nil && len(all) > maxUserData {
		err = fmt.Errorf("the user data is %d bytes too large, with the host key that is added to it: DigitalOcean takes %d KiB", len(all)-maxUserData, maxUserData>>10)
	}
	return all, err
}

// kinds are what cloud-init knows a part by, and as what a part has it.
var kinds = [...]struct{ begin, mime string }{
	{"#!", "text/x-shellscript"},
	{"#cloud-config-archive", "text/cloud-config-archive"},
	{"#cloud-config", "text/cloud-config"},
	{"#cloud-boothook", "text/cloud-boothook"},
	{"#include-once", "text/x-include-once-url"},
	{"#include", "text/x-include-url"},
	{"#part-handler", "text/part-handler"},
	{"#upstart-job", "text/upstart-job"},
	{"## template: jinja", "text/jinja2"},
}

// errHostKeyTaken says that the user's data brings host keys of its own.
var errHostKeyTaken = errors.New("the user data has ssh_keys of its own, so that the host key of this bake cannot be given; set inject_host_key = false and ssh_host_key to the public key")

func addHostKey(given string, key *hostKey) (string, error) {
	var quoted strings.Builder
	for line := range strings.Lines(strings.TrimSpace(key.private) + "\n") {
		quoted.WriteString("    " + line)
	}
	mine := "#cloud-config\nssh_keys:\n  ed25519_private: |\n" + quoted.String() + "  ed25519_public: " + key.public + "\n"
	if strings.TrimSpace(given) == "" {
		return mine, nil
	}
	var parts []part
	if looksLikeMIME(given) {
		var err error
		if parts, err = split(given); err != nil {
			return "", fmt.Errorf("the user data looks like a MIME message, and cannot be read as one: %w", err)
		}
	} else {
		i := slices.IndexFunc(kinds[:], func(k struct{ begin, mime string }) bool { return strings.HasPrefix(given, k.begin) })
		if i < 0 {
			return "", errors.New("the user data is of no kind that cloud-init knows, so that the host key cannot be added to it; begin it with #! or #cloud-config, or set inject_host_key = false and ssh_host_key")
		}
		parts = []part{{header(kinds[i].mime, "user-data"), []byte(given)}}
	}
	for _, p := range parts {
		if p.config() && hasHostKeys(p.body) {
			return "", errHostKeyTaken
		}
	}
	parts = append(parts, part{header("text/cloud-config", "ingot-host-key"), []byte(mine)})

	var body bytes.Buffer
	w := multipart.NewWriter(&body)
	for _, p := range parts {
		pw, err := w.CreatePart(p.header)
		if err != nil {
			return "", err
		}
		_, _ = pw.Write(p.body) // to memory
	}
	if err := w.Close(); err != nil {
		return "", err
	}
	return "Content-Type: multipart/mixed; boundary=\"" + w.Boundary() + "\"\nMIME-Version: 1.0\n\n" + body.String(), nil
}

type part struct {
	header textproto.MIMEHeader
	body   []byte
}

func header(kind, name string) textproto.MIMEHeader {
	return textproto.MIMEHeader{
		"Content-Type":        {kind + `; charset="utf-8"`},
		"Mime-Version":        {"1.0"},
		"Content-Disposition": {`attachment; filename="` + name + `"`},
	}
}

func (p *part) config() bool {
	kind, _, _ := mime.ParseMediaType(p.header.Get("Content-Type"))
	return kind == "text/cloud-config" || bytes.HasPrefix(bytes.TrimSpace(p.body), []byte("#cloud-config\n"))
}

// hasHostKeys says whether a cloud-config sets host keys.
func hasHostKeys(config []byte) bool {
	var c map[string]any
	if yaml.Unmarshal(config, &c) != nil {
		return bytes.Contains(config, []byte("\nssh_keys:"))
	}
	_, has := c["ssh_keys"]
	return has
}

func looksLikeMIME(s string) bool {
	first := strings.ToLower(s[:min(len(s), 64)])
	return strings.HasPrefix(first, "content-type:") || strings.HasPrefix(first, "mime-version:") || strings.HasPrefix(first, "from nobody ")
}

// split takes a MIME message apart. A message of one part is one part.
func split(s string) ([]part, error) {
	if strings.HasPrefix(strings.ToLower(s), "from ") { // as mbox files begin
		_, s, _ = strings.Cut(s, "\n")
	}
	m, err := mail.ReadMessage(strings.NewReader(s))
	if err != nil {
		return nil, err
	}
	return flatten(textproto.MIMEHeader(m.Header), m.Body, 0)
}

func flatten(h textproto.MIMEHeader, body io.Reader, depth int) ([]part, error) {
	kind, params, err := mime.ParseMediaType(h.Get("Content-Type"))
	if err != nil {
		return nil, err
	}
	if !strings.HasPrefix(kind, "multipart/") {
		text, err := io.ReadAll(body)
		keep := textproto.MIMEHeader{}
		for _, k := range []string{"Content-Type", "Mime-Version", "Content-Disposition", "Content-Transfer-Encoding", "Merge-Type", "X-Merge-Type"} {
			if v := h.Values(k); len(v) > 0 {
				keep[k] = v
			}
		}
		return []part{{keep, text}}, err
	}
	if depth > 4 {
		return nil, errors.New("its parts are nested too deep")
	}
	var all []part
	r := multipart.NewReader(body, params["boundary"])
	for {
		p, err := r.NextRawPart()
		if errors.Is(err, io.EOF) {
			return all, nil
		}
		if err != nil {
			return nil, err
		}
		some, err := flatten(p.Header, p, depth+1)
		if err != nil {
			return nil, err
		}
		all = append(all, some...)
	}
}
