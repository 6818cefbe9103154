package amazon

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"net/mail"
	"net/textproto"
	"os"
	"path/filepath"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// maxUserData is what EC2 takes, before it is encoded.
const maxUserData = 16 << 10

// maxUnpacked bounds what compressed user data may become.
const maxUnpacked = 1 << 20

// extra is what Ingot adds to the user data.
type extra struct {
	// hostKey is the private SSH host key in PEM form, hostPublic its line.
	hostKey, hostPublic string
	// expires is when the instance ends itself.
	expires time.Time
	windows bool
}

// merged is user data with what was added to it.
type merged struct {
	data []byte
	// hostKey says that the host key is in it, expires that the end is.
	hostKey, expires bool
	// why says what could not be added.
	why string
}

// userData is the template's own.
func (o *RunOptions) userData(dir string) ([]byte, error) {
	text := []byte(o.UserData)
	if o.UserDataFile != "" {
		path := o.UserDataFile
		if !filepath.IsAbs(path) {
			path = filepath.Join(dir, path)
		}
		info, err := os.Stat(path)
		if err != nil {
			return nil, err
		}
		if !info.Mode().IsRegular() || info.Size() > maxUnpacked {
			return nil, fmt.Errorf("%s is no regular file of at most %d bytes", path, maxUnpacked)
		}
		if text, err = os.ReadFile(path); err != nil {
			return nil, err
		}
	}
	// It may be encoded already. Plain words decode as well, so that it counts
	// only where something comes of it.
	if b, err := base64.StdEncoding.DecodeString(strings.Join(strings.Fields(string(text)), "")); err == nil && recognised(b) {
		return b, nil
	}
	return text, nil
}

// forms are the first words by which cloud-init knows what a text is.
var forms = []struct{ start, kind string }{
	{"#include-once", "text/x-include-once-url"},
	{"#include", "text/x-include-url"},
	{"#!", "text/x-shellscript"},
	{"#cloud-config-archive", "text/cloud-config-archive"},
	{"#cloud-config-jsonp", "text/cloud-config-jsonp"},
	{"#cloud-config", "text/cloud-config"},
	{"#part-handler", "text/part-handler"},
	{"#cloud-boothook", "text/cloud-boothook"},
	{"## template: jinja", "text/jinja2"},
}

func form(b []byte) string {
	text := strings.ToLower(string(b[:min(len(b), 200)]))
	for _, f := range forms {
		if strings.HasPrefix(strings.TrimLeft(text, " \t\r\n"), f.start) {
			return f.kind
		}
	}
	return ""
}

func isGzip(b []byte) bool { return bytes.HasPrefix(b, []byte{0x1f, 0x8b}) }

func isMIME(b []byte) bool {
	head := strings.ToLower(string(b[:min(len(b), 4096)]))
	head = strings.TrimLeft(head, " \t\r\n")
	return strings.HasPrefix(head, "content-type:") || strings.HasPrefix(head, "mime-version:")
}

func isWindows(b []byte) bool {
	head := strings.ToLower(strings.TrimLeft(string(b[:min(len(b), 200)]), "\ufeff \t\r\n"))
	for _, start := range []string{"<powershell>", "<script>", "<persist>", "version:"} {
		if strings.HasPrefix(head, start) {
			return true
		}
	}
	return false
}

func recognised(b []byte) bool { return isGzip(b) || isMIME(b) || isWindows(b) || form(b) != "" }

// part is one piece of multipart user data.
type part struct {
	header textproto.MIMEHeader
	body   []byte
}

func newPart(kind, name, body string) part {
	return part{textproto.MIMEHeader{
		"Content-Type": {kind + `; charset="utf-8"`}, "Mime-Version": {"1.0"}, "Content-Transfer-Encoding": {"7bit"},
		"Content-Disposition": {`attachment; filename="` + name + `"`},
	}, []byte(body)}
}

// mergeUserData adds to user data of any form. What cannot be added to is left
// as it is, and says why. It is at most what EC2 takes, compressed where it must be.
func mergeUserData(user []byte, add extra) (merged, error) {
	var m merged
	var err error
	if add.windows || isWindows(user) {
		m = mergeWindows(user, add)
	} else if m, err = mergeCloudInit(user, add); err != nil {
		return m, err
	}
	if len(m.data) > maxUserData && !add.windows && !isWindows(user) && !isGzip(m.data) {
		var b bytes.Buffer
		z, _ := gzip.NewWriterLevel(&b, gzip.BestCompression) // the level is valid
		_, e1 := z.Write(m.data)
		if err := errors.Join(e1, z.Close()); err != nil {
			return m, err
		}
		if form(m.data) != "" || isMIME(m.data) {
			m.data = b.Bytes()
		}
	}
	if len(m.data) > maxUserData {
		return m, fmt.Errorf("it has %d bytes, of which %d are the template's, and EC2 takes %d: make the script smaller, or have it fetch the rest", len(m.data), len(user), maxUserData)
	}
	return m, nil
}

// mergeWindows adds a timer. There is nothing to inject a host key with.
func mergeWindows(user []byte, add extra) merged {
	m := merged{data: user, why: "Windows takes no host key from user data"}
	if add.expires.IsZero() || len(bytes.TrimSpace(user)) > 0 {
		return m
	}
	m.data = fmt.Appendf(nil, "<powershell>\r\nshutdown.exe /s /f /t %d\r\n</powershell>\r\n", int(time.Until(add.expires).Seconds()))
	m.expires = true
	return m
}

func mergeCloudInit(user []byte, add extra) (merged, error) {
	m := merged{data: user}
	if add.hostKey == "" && add.expires.IsZero() {
		return m, nil
	}
	plain := user
	if isGzip(user) {
		z, err := gzip.NewReader(bytes.NewReader(user))
		if err != nil {
			return m, fmt.Errorf("it begins as gzip does, and is none: %w", err)
		}
		if plain, err = io.ReadAll(io.LimitReader(z, maxUnpacked+1)); err != nil {
			return m, fmt.Errorf("it cannot be unpacked: %w", err)
		}
		if len(plain) > maxUnpacked {
			return m, fmt.Errorf("unpacked it has more than %d bytes", maxUnpacked)
		}
	}
	var parts []part
	switch {
	case len(bytes.TrimSpace(plain)) == 0:
	case isMIME(plain):
		var err error
		if parts, err = splitMIME(plain); err != nil {
			return m, fmt.Errorf("it begins as a MIME message does, and cannot be read as one: %w", err)
		}
	case form(plain) != "":
		parts = []part{newPart(form(plain), "user-data", string(plain))}
		for _, c := range plain {
			if c >= 0x80 {
				parts[0].header.Set("Content-Transfer-Encoding", "8bit")
				break
			}
		}
	default:
		m.why = "the user data is of no form that cloud-init knows"
		return m, nil
	}
	var own []part
	if !add.expires.IsZero() {
		own = append(own, newPart("text/cloud-boothook", "ingot-expires", boothook(add.expires)))
		m.expires = true
	}
	if add.hostKey != "" {
		if taken := hostKeysIn(parts); taken != "" {
			m.why = taken
		} else {
			config, err := yaml.Marshal(map[string]any{"ssh_keys": map[string]string{"ed25519_private": add.hostKey, "ed25519_public": add.hostPublic}})
			if err != nil {
				return m, err
			}
			own = append(own, newPart("text/cloud-config", "ingot-host-key", "#cloud-config\n"+string(config)))
			m.hostKey = true
		}
	}
	if len(own) == 0 {
		return m, nil
	}
	var err error
	m.data, err = joinMIME(append(own, parts...))
	return m, err
}

// hostKeysIn says why no host key can be added: the parts have keys of their own.
func hostKeysIn(parts []part) string {
	for _, p := range parts {
		kind, _, _ := mime.ParseMediaType(p.header.Get("Content-Type"))
		body := p.body
		if strings.EqualFold(p.header.Get("Content-Transfer-Encoding"), "base64") {
			if b, err := base64.StdEncoding.DecodeString(strings.Join(strings.Fields(string(body)), "")); err == nil {
				body = b
			}
		}
		if f := form(body); kind == "text/plain" || kind == "" || kind == "application/octet-stream" {
			kind = f // as cloud-init looks
		}
		switch kind {
		case "text/cloud-config", "text/jinja2":
			var top map[string]any
			if yaml.Unmarshal(body, &top) != nil {
				continue // cloud-init cannot read it either
			}
			for _, key := range []string{"ssh_keys", "ssh_genkeytypes", "ssh_deletekeys"} {
				if _, ok := top[key]; ok {
					return "the user data has " + key + " of its own"
				}
			}
		case "text/cloud-config-archive", "text/cloud-config-jsonp", "text/x-include-url", "text/x-include-once-url", "text/part-handler":
			if bytes.Contains(body, []byte("ssh_keys")) {
				return "the user data has ssh_keys of its own"
			}
		}
	}
	return ""
}

// splitMIME takes a message apart, without what is around its parts.
func splitMIME(b []byte) ([]part, error) {
	msg, err := mail.ReadMessage(bytes.NewReader(bytes.TrimLeft(b, " \t\r\n")))
	if err != nil {
		return nil, err
	}
	return splitParts(textproto.MIMEHeader(msg.Header), msg.Body, 0)
}

func splitParts(header textproto.MIMEHeader, body io.Reader, depth int) ([]part, error) {
	kind, params, err := mime.ParseMediaType(header.Get("Content-Type"))
	if err != nil {
		return nil, fmt.Errorf("Content-Type: %w", err)
	}
	if !strings.HasPrefix(kind, "multipart/") {
		b, err := io.ReadAll(body)
		return []part{{header, b}}, err
	}
	if depth > 4 {
		return nil, errors.New("it has too many messages in one another")
	}
	if params["boundary"] == "" {
		return nil, errors.New("the multipart message has no boundary")
	}
	var all []part
	for r := multipart.NewReader(body, params["boundary"]); ; {
		p, err := r.NextRawPart()
		if err == io.EOF {
			return all, nil
		}
		if err != nil {
			return nil, err
		}
		if p.Header.Get("Content-Type") == "" {
			p.Header.Set("Content-Type", "text/plain")
		}
		inner, err := splitParts(p.Header, p, depth+1)
		if err != nil {
			return nil, err
		}
		all = append(all, inner...)
	}
}

func joinMIME(parts []part) ([]byte, error) {
	var body bytes.Buffer
	w := multipart.NewWriter(&body)
	for _, p := range parts {
		to, err := w.CreatePart(p.header)
		if err == nil {
			_, err = to.Write(p.body)
		}
		if err != nil {
			return nil, err
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return append(fmt.Appendf(nil, "Content-Type: multipart/mixed; boundary=%q\nMIME-Version: 1.0\n\n", w.Boundary()), body.Bytes()...), nil
}

// boothook is run at every boot of this one instance, and not at those of
// others that are made of its image. It must not wait.
func boothook(at time.Time) string {
	return fmt.Sprintf(`#cloud-boothook
#!/bin/sh
# Ingot: this machine is for one bake, and ends itself if nobody does it before.
left=$(( %d - $(date +%%s) ))
[ "$left" -gt 60 ] || left=60
if command -v systemd-run >/dev/null 2>&1 && systemd-run --unit=ingot-expires --on-active="${left}s" systemctl poweroff >/dev/null 2>&1; then
  exit 0
fi
if command -v setsid >/dev/null 2>&1; then new=setsid; else new=nohup; fi
$new sh -c "sleep $left; shutdown -h now || poweroff" >/dev/null 2>&1 </dev/null &
exit 0
`, at.Unix())
}
