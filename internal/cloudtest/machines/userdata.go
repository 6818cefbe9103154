//go:build linux

package machines

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"mime/quotedprintable"
	"net/mail"
	"strings"

	"go.yaml.in/yaml/v3"
)

// userData is what a cloud was told for an instance, as far as this package acts on it.
type userData struct {
	config    cloudConfig
	scripts   [][]byte // shell scripts and other programs with a #! line, in order
	boothooks [][]byte // the same, at every boot
	warnings  []string // what cloud-init would say on the console
}

// cloudConfig is #cloud-config. A later part of the user data replaces what an
// earlier one says.
type cloudConfig struct {
	SSHKeys           map[string]string `yaml:"ssh_keys"`
	SSHDeleteKeys     *bool             `yaml:"ssh_deletekeys"`
	SSHGenKeyTypes    *[]string         `yaml:"ssh_genkeytypes"`
	SSHAuthorizedKeys []string          `yaml:"ssh_authorized_keys"`
	SSHPasswords      any               `yaml:"ssh_pwauth"`
	DisableRoot       *bool             `yaml:"disable_root"`
	Password          string            `yaml:"password"`
	Chpasswd          struct {
		List  any `yaml:"list"`
		Users []struct {
			Name     string `yaml:"name"`
			Password string `yaml:"password"`
			Type     string `yaml:"type"`
		} `yaml:"users"`
	} `yaml:"chpasswd"`
	Users      any         `yaml:"users"`
	WriteFiles []writeFile `yaml:"write_files"`
	Bootcmd    []any       `yaml:"bootcmd"`
	Runcmd     []any       `yaml:"runcmd"`
}

type writeFile struct {
	Path        string `yaml:"path"`
	Content     string `yaml:"content"`
	Encoding    string `yaml:"encoding"`
	Owner       string `yaml:"owner"`
	Permissions any    `yaml:"permissions"`
	Append      bool   `yaml:"append"`
	Defer       bool   `yaml:"defer"`
}

// account is a user to be made.
type account struct {
	Name          string   `yaml:"name"`
	Gecos         string   `yaml:"gecos"`
	PrimaryGroup  string   `yaml:"primary_group"`
	Groups        any      `yaml:"groups"`
	Sudo          any      `yaml:"sudo"`
	Shell         string   `yaml:"shell"`
	Home          string   `yaml:"homedir"`
	UID           any      `yaml:"uid"`
	NoHome        bool     `yaml:"no_create_home"`
	System        bool     `yaml:"system"`
	Keys          []string `yaml:"ssh_authorized_keys"`
	Hash          string   `yaml:"passwd"`
	Hashed        string   `yaml:"hashed_passwd"`
	PlainPassword string   `yaml:"plain_text_passwd"`
}

const (
	maxUserData = 16 << 20 // unpacked
	maxParts    = 1000
)

// parseUserData reads user data. Like cloud-init it goes on after what it cannot
// read, with a warning.
func parseUserData(b []byte) *userData {
	u := &userData{}
	u.add(b, "", 0)
	return u
}

func (u *userData) warn(format string, args ...any) {
	u.warnings = append(u.warnings, fmt.Sprintf(format, args...))
}

// add takes one part of a kind (a MIME type); what it is itself goes first.
func (u *userData) add(b []byte, kind string, depth int) {
	if depth > 4 || len(u.warnings) > maxParts {
		u.warn("user data is nested too deeply")
		return
	}
	if bytes.HasPrefix(b, []byte{0x1f, 0x8b}) {
		z, err := gzip.NewReader(bytes.NewReader(b))
		if err == nil {
			b, err = io.ReadAll(io.LimitReader(z, maxUserData))
		}
		if err != nil {
			u.warn("user data: unpack: %v", err)
			return
		}
		u.add(b, kind, depth+1)
		return
	}
	first, _, _ := bytes.Cut(b, []byte("\n"))
	line := strings.TrimSpace(string(first))
	lower := strings.ToLower(line)
	switch {
	case len(bytes.TrimSpace(b)) == 0:
	case strings.HasPrefix(lower, "content-type:"), strings.HasPrefix(lower, "mime-version:"):
		if err := u.multipart(b, depth); err != nil {
			u.warn("user data: read its parts: %v", err)
		}
	case strings.HasPrefix(line, "#cloud-config") || kind == "text/cloud-config":
		if err := yaml.Unmarshal(b, &u.config); err != nil {
			u.warn("Failed loading yaml blob. %v", err)
		}
	case strings.HasPrefix(line, "#cloud-boothook") || kind == "text/cloud-boothook":
		if strings.HasPrefix(line, "#cloud-boothook") {
			b = b[len(first):]
		}
		u.boothooks = append(u.boothooks, bytes.TrimLeft(b, "\n"))
	case strings.HasPrefix(line, "#!") || kind == "text/x-shellscript":
		u.scripts = append(u.scripts, b)
	default:
		u.warn("Unhandled non-multipart (%s) userdata: '%.24s...'", orText(kind, "text/x-not-multipart"), line)
	}
}

func errorText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

func orText(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}

func (u *userData) multipart(b []byte, depth int) error {
	m, err := mail.ReadMessage(bytes.NewReader(b))
	if err != nil {
		return err
	}
	kind, params, err := mime.ParseMediaType(m.Header.Get("Content-Type"))
	if err != nil {
		return err
	}
	if !strings.HasPrefix(kind, "multipart/") {
		part, err := decodePart(m.Body, m.Header.Get("Content-Transfer-Encoding"))
		if err != nil {
			return err
		}
		u.add(part, kind, depth+1)
		return nil
	}
	r := multipart.NewReader(m.Body, params["boundary"])
	for range maxParts {
		p, err := r.NextRawPart()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		kind, _, err := mime.ParseMediaType(p.Header.Get("Content-Type"))
		if err != nil {
			kind = ""
		}
		part, err := decodePart(p, p.Header.Get("Content-Transfer-Encoding"))
		if err != nil {
			return err
		}
		u.add(part, kind, depth+1)
	}
	return fmt.Errorf("there are more than %d", maxParts)
}

func decodePart(r io.Reader, encoding string) ([]byte, error) {
	switch strings.ToLower(encoding) {
	case "base64":
		r = base64.NewDecoder(base64.StdEncoding, r)
	case "quoted-printable":
		r = quotedprintable.NewReader(r)
	}
	return io.ReadAll(io.LimitReader(r, maxUserData))
}

// accounts are the users to be made; def is the image's default one. hasDefault
// says whether that is among them.
func (u *userData) accounts(def account) (list []account, hasDefault bool) {
	if u.config.Users == nil {
		return []account{def}, true
	}
	items, ok := u.config.Users.([]any)
	if !ok {
		for _, name := range words(u.config.Users) {
			items = append(items, name)
		}
	}
	for _, it := range items {
		var a account
		var err error
		if name, ok := it.(string); ok {
			a.Name = name
		} else {
			var b []byte
			if b, err = yaml.Marshal(it); err == nil {
				err = yaml.Unmarshal(b, &a)
			}
		}
		if err != nil || !validName.MatchString(a.Name) {
			u.warn("user data: users: cannot make %q: %v", a.Name, orText(errorText(err), "this is no name of a user"))
			continue
		}
		if a.Name == "default" {
			list, hasDefault = append(list, def), true
			continue
		}
		list = append(list, a)
	}
	return list, hasDefault
}

// words are the elements of a YAML list, or of a text with commas between them.
func words(v any) (out []string) {
	switch v := v.(type) {
	case string:
		for _, w := range strings.Split(v, ",") {
			if w = strings.TrimSpace(w); w != "" {
				out = append(out, w)
			}
		}
	case []any:
		for _, w := range v {
			out = append(out, fmt.Sprint(w))
		}
	}
	return out
}

// truth is a YAML value that means yes or no; ok is false for another one.
func truth(v any) (yes, ok bool) {
	switch v := v.(type) {
	case bool:
		return v, true
	case string:
		switch strings.ToLower(v) {
		case "true", "yes", "on", "1":
			return true, true
		case "false", "no", "off", "0":
			return false, true
		}
	case int:
		return v != 0, true
	}
	return false, false
}

func (f writeFile) data() ([]byte, error) {
	b := []byte(f.Content)
	zip := false
	switch strings.ToLower(f.Encoding) {
	case "", "text/plain":
	case "b64", "base64":
		var err error
		if b, err = base64.StdEncoding.DecodeString(strings.TrimSpace(f.Content)); err != nil {
			return nil, err
		}
	case "gz", "gzip":
		zip = true
	case "gz+b64", "gz+base64", "gzip+b64", "gzip+base64":
		zip = true
		var err error
		if b, err = base64.StdEncoding.DecodeString(strings.TrimSpace(f.Content)); err != nil {
			return nil, err
		}
	default:
		return nil, fmt.Errorf("unknown encoding %q", f.Encoding)
	}
	if zip {
		z, err := gzip.NewReader(bytes.NewReader(b))
		if err != nil {
			return nil, err
		}
		return io.ReadAll(io.LimitReader(z, maxUserData))
	}
	return b, nil
}
