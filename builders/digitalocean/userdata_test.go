package digitalocean

import (
	"io"
	"mime"
	"mime/multipart"
	"net/mail"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
	"golang.org/x/crypto/ssh"
)

// read takes merged user data apart as cloud-init does: kinds and bodies.
func read(t *testing.T, data string) (kinds, bodies []string) {
	t.Helper()
	if strings.HasPrefix(data, "#cloud-config\n") {
		return []string{"text/cloud-config"}, []string{data}
	}
	m, err := mail.ReadMessage(strings.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	_, params, err := mime.ParseMediaType(m.Header.Get("Content-Type"))
	if err != nil {
		t.Fatal(err)
	}
	r := multipart.NewReader(m.Body, params["boundary"])
	for {
		p, err := r.NextPart()
		if err == io.EOF {
			return kinds, bodies
		}
		if err != nil {
			t.Fatal(err)
		}
		kind, _, err := mime.ParseMediaType(p.Header.Get("Content-Type"))
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(p)
		if err != nil {
			t.Fatal(err)
		}
		kinds, bodies = append(kinds, kind), append(bodies, string(b))
	}
}

func TestAddHostKey(t *testing.T) {
	key, err := newHostKey()
	if err != nil {
		t.Fatal(err)
	}
	const script, config = "#!/bin/sh\r\necho 'a  b'\n\n", "#cloud-config\npackages: [jq]\n"
	multi := "MIME-Version: 1.0\nContent-Type: multipart/mixed; boundary=\"xx\"\n\n--xx\nContent-Type: text/x-shellscript\n\n" + strings.ReplaceAll(script, "\r", "") + "\n--xx\n" +
		"Content-Type: multipart/mixed; boundary=yy\n\n--yy\nContent-Type: text/cloud-config\nX-Merge-Type: list(append)\n\n" + config + "\n--yy--\n--xx--\n"
	for name, test := range map[string]struct {
		given string
		kinds string
		first string
	}{
		"nothing":   {"", "text/cloud-config", ""},
		"blank":     {"\n \n", "text/cloud-config", ""},
		"script":    {script, "text/x-shellscript text/cloud-config", script},
		"config":    {config, "text/cloud-config text/cloud-config", config},
		"include":   {"#include\nhttps://example.com/x\n", "text/x-include-url text/cloud-config", "#include\nhttps://example.com/x\n"},
		"boothook":  {"#cloud-boothook\nx\n", "text/cloud-boothook text/cloud-config", "#cloud-boothook\nx\n"},
		"archive":   {"#cloud-config-archive\n- x\n", "text/cloud-config-archive text/cloud-config", "#cloud-config-archive\n- x\n"},
		"jinja":     {"## template: jinja\n#cloud-config\n{}\n", "text/jinja2 text/cloud-config", "## template: jinja\n#cloud-config\n{}\n"},
		"multipart": {multi, "text/x-shellscript text/cloud-config text/cloud-config", strings.ReplaceAll(script, "\r", "")},
		"one part":  {"Content-Type: text/x-shellscript\n\n#!/bin/sh\nx\n", "text/x-shellscript text/cloud-config", "#!/bin/sh\nx\n"},
	} {
		t.Run(name, func(t *testing.T) {
			merged, err := addHostKey(test.given, key)
			if err != nil {
				t.Fatal(err)
			}
			kinds, bodies := read(t, merged)
			if got := strings.Join(kinds, " "); got != test.kinds {
				t.Fatalf("%s, want %s:\n%s", got, test.kinds, merged)
			}
			if test.first != "" && bodies[0] != test.first {
				t.Errorf("%q, want %q", bodies[0], test.first)
			}
			var c struct {
				Keys map[string]string `yaml:"ssh_keys"`
			}
			if err := yaml.Unmarshal([]byte(bodies[len(bodies)-1]), &c); err != nil {
				t.Fatal(err)
			}
			s, err := ssh.ParsePrivateKey([]byte(c.Keys["ed25519_private"]))
			if err != nil {
				t.Fatalf("%v: %q", err, c.Keys)
			}
			if pub := strings.TrimSpace(string(ssh.MarshalAuthorizedKey(s.PublicKey()))); pub != key.public || c.Keys["ed25519_public"] != pub {
				t.Errorf("%q and %q, want %q", pub, c.Keys["ed25519_public"], key.public)
			}
			for _, m := range key.marks() {
				if !strings.Contains(merged, m) {
					t.Errorf("what is looked for in the image, %q, is not in the user data", m)
				}
			}
			// What comes out can go in again.
			if _, err := addHostKey(merged, key); err != errHostKeyTaken {
				t.Errorf("added twice: %v", err)
			}
		})
	}
	for name, given := range map[string]string{
		"text": "hello", "ignition": `{"ignition":{}}`, "no boundary": "Content-Type: multipart/mixed\n\nx", "own keys": config + "ssh_keys: {}\n",
		"cut short": multi[:len(multi)-40], "own keys in a part": "Content-Type: text/cloud-config\n\nssh_keys:\n  rsa_private: x\n",
	} {
		if got, err := addHostKey(given, key); err == nil {
			t.Errorf("%s: %q", name, got)
		}
	}
	if len(key.marks()) < 2 {
		t.Errorf("%q", key.marks())
	}
	other, err := newHostKey()
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range other.marks() {
		if strings.Contains(key.private, m) {
			t.Errorf("%q is in another key too", m)
		}
	}
}

func TestUserDataLimits(t *testing.T) {
	key, err := newHostKey()
	if err != nil {
		t.Fatal(err)
	}
	b := New(nil)
	dir := t.TempDir()
	text := "#!/bin/sh\n#" + strings.Repeat("x", maxUserData-12) + "\n"
	for name, test := range map[string]struct {
		data   string
		inject bool
		says   string
	}{
		"just fits":          {text, false, ""},
		"not with the key":   {text, true, "64 KiB"},
		"too large":          {text + "x", false, "64 KiB"},
		"gzip":               {"\x1f\x8b\x08\x00\xff\xfe", false, "gzip"},
		"zero":               {"#!/bin/sh\x00", true, "text"},
		"fits with the key":  {text[:maxUserData-3000], true, ""},
		"anything untouched": {"hello", false, ""},
	} {
		if err := os.WriteFile(filepath.Join(dir, "f"), []byte(test.data), 0o600); err != nil {
			t.Fatal(err)
		}
		b.o.InjectHostKey, b.o.UserDataFile = &test.inject, "f"
		got, err := b.o.userData(dir, key)
		if test.says == "" && (err != nil || !test.inject && got != test.data) || test.says != "" && (err == nil || !strings.Contains(err.Error(), test.says)) {
			t.Errorf("%s: %.60q, %v", name, got, err)
		}
	}
	b.o.UserDataFile = "."
	if _, err := b.o.userData(dir, key); err == nil {
		t.Error("a directory is taken for user data")
	}
}

func FuzzAddHostKey(f *testing.F) {
	for _, s := range []string{"", "#!/bin/sh\n", "#cloud-config\nx: y\n", "Content-Type: multipart/mixed; boundary=b\n\n--b\n\nx\n--b--\n", "MIME-Version: 1.0\n"} {
		f.Add(s)
	}
	key, err := newHostKey()
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, given string) {
		merged, err := addHostKey(given, key)
		if err == nil && !strings.Contains(merged, key.marks()[0]) {
			t.Errorf("%q: the key is not in it: %q", given, merged)
		}
	})
}
