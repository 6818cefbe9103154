package amazon

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/base64"
	"io"
	"mime"
	"mime/multipart"
	"net/mail"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"
)

// readParts reads user data as cloud-init does: unpacked, and part by part.
func readParts(t *testing.T, b []byte) (kinds []string, bodies []string) {
	t.Helper()
	if isGzip(b) {
		z, err := gzip.NewReader(bytes.NewReader(b))
		if err != nil {
			t.Fatal(err)
		}
		if b, err = io.ReadAll(z); err != nil {
			t.Fatal(err)
		}
	}
	msg, err := mail.ReadMessage(bytes.NewReader(b))
	if err != nil {
		t.Fatalf("no message: %v\n%s", err, b)
	}
	kind, params, err := mime.ParseMediaType(msg.Header.Get("Content-Type"))
	if err != nil || kind != "multipart/mixed" {
		t.Fatalf("%s, %v", kind, err)
	}
	for r := multipart.NewReader(msg.Body, params["boundary"]); ; {
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
		body, err := io.ReadAll(p)
		if err != nil {
			t.Fatal(err)
		}
		kinds, bodies = append(kinds, kind), append(bodies, string(body))
	}
}

func packed(t *testing.T, s string) string {
	t.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	if _, err := z.Write([]byte(s)); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

const userMessage = "MIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=\"B\"\r\n\r\n--B\r\nContent-Type: text/x-shellscript\r\n\r\n#!/bin/sh\necho inner\r\n" +
	"--B\r\nContent-Type: multipart/mixed; boundary=\"C\"\r\n\r\n--C\r\nContent-Type: text/cloud-config\r\n\r\n#cloud-config\npackages: [jq]\r\n--C--\r\n--B--\r\n"

func TestMergeUserData(t *testing.T) {
	private, public, err := newHostKey()
	if err != nil {
		t.Fatal(err)
	}
	add := extra{hostKey: private, hostPublic: public, expires: time.Now().Add(time.Hour)}
	for name, tc := range map[string]struct {
		user  string
		kinds []string // of the template's parts
		last  string   // what the last part has
	}{
		"none":         {"", nil, "ssh_keys"},
		"blank":        {"\n \n", nil, "ssh_keys"},
		"script":       {"#!/bin/bash\necho hi\n", []string{"text/x-shellscript"}, "echo hi"},
		"cloud-config": {"#cloud-config\nusers: []\n", []string{"text/cloud-config"}, "users: []"},
		"jinja":        {"## template: jinja\n#cloud-config\nhostname: {{ v1.x }}\n", []string{"text/jinja2"}, "hostname"},
		"include":      {"#include\nhttps://example.com/x\n", []string{"text/x-include-url"}, "example.com"},
		"boothook":     {"#cloud-boothook\n#!/bin/sh\ntrue\n", []string{"text/cloud-boothook"}, "true"},
		"archive":      {"#cloud-config-archive\n- type: text/cloud-config\n  content: x\n", []string{"text/cloud-config-archive"}, "content: x"},
		"not ASCII":    {"#!/bin/sh\necho grün\n", []string{"text/x-shellscript"}, "grün"},
		"message":      {userMessage, []string{"text/x-shellscript", "text/cloud-config"}, "packages: [jq]"},
		"gzip":         {packed(t, "#!/bin/sh\necho packed\n"), []string{"text/x-shellscript"}, "echo packed"},
		"gzip message": {packed(t, userMessage), []string{"text/x-shellscript", "text/cloud-config"}, "packages: [jq]"},
	} {
		t.Run(name, func(t *testing.T) {
			m, err := mergeUserData([]byte(tc.user), add)
			if err != nil || !m.hostKey || !m.expires || m.why != "" {
				t.Fatalf("%+v, %v", m, err)
			}
			kinds, bodies := readParts(t, m.data)
			want := append([]string{"text/cloud-boothook", "text/cloud-config"}, tc.kinds...)
			if strings.Join(kinds, " ") != strings.Join(want, " ") || !strings.Contains(bodies[len(bodies)-1], tc.last) {
				t.Errorf("parts %q, the last is %q", kinds, bodies[len(bodies)-1])
			}
			var config struct {
				Keys map[string]string `yaml:"ssh_keys"`
			}
			if err := yaml.Unmarshal([]byte(bodies[1]), &config); err != nil || config.Keys["ed25519_private"] != private || config.Keys["ed25519_public"] != public || !strings.HasPrefix(bodies[1], "#cloud-config\n") {
				t.Errorf("the host key's part is %q, %v", bodies[1], err)
			}
		})
	}
}

// What has host keys of its own, or is of no known form, stays as it is there.
func TestMergeUserDataLeavesAlone(t *testing.T) {
	private, public, _ := newHostKey()
	add := extra{hostKey: private, hostPublic: public, expires: time.Now().Add(time.Hour)}
	for name, tc := range map[string]struct {
		user    string
		expires bool
		why     string
	}{
		"own keys":        {"#cloud-config\nssh_keys: {rsa_private: x}\n", true, "ssh_keys of its own"},
		"own types":       {"#cloud-config\nssh_genkeytypes: [rsa]\n", true, "ssh_genkeytypes of its own"},
		"keeps its keys":  {"#cloud-config\nssh_deletekeys: false\n", true, "ssh_deletekeys of its own"},
		"in a message":    {"Content-Type: multipart/mixed; boundary=B\n\n--B\nContent-Type: text/cloud-config\nContent-Transfer-Encoding: base64\n\n" + base64.StdEncoding.EncodeToString([]byte("#cloud-config\nssh_keys: {}\n")) + "\n--B--\n", true, "ssh_keys of its own"},
		"untyped part":    {"Content-Type: multipart/mixed; boundary=B\n\n--B\nContent-Type: text/plain\n\n#cloud-config\nssh_keys: {}\n--B--\n", true, "ssh_keys of its own"},
		"unknown":         {"hello", false, "no form that cloud-init knows"},
		"Windows":         {"<powershell>\nGet-Date\n</powershell>", false, "Windows"},
		"Windows, nested": {"\ufeff<script>\ndir\n</script>", false, "Windows"},
	} {
		t.Run(name, func(t *testing.T) {
			m, err := mergeUserData([]byte(tc.user), add)
			if err != nil || m.hostKey || m.expires != tc.expires || !strings.Contains(m.why, tc.why) || bytes.Contains(m.data, []byte("OPENSSH")) {
				t.Errorf("%+v, %v", m, err)
			}
			if !tc.expires && string(m.data) != tc.user {
				t.Errorf("it was changed: %q", m.data)
			}
		})
	}
	m, err := mergeUserData(nil, extra{windows: true, expires: time.Now().Add(time.Hour)})
	if err != nil || !m.expires || !strings.Contains(string(m.data), "shutdown.exe /s") {
		t.Errorf("Windows without user data: %+v, %v", m, err)
	}
}

func TestUserDataSize(t *testing.T) {
	private, public, _ := newHostKey()
	add := extra{hostKey: private, hostPublic: public, expires: time.Now().Add(time.Hour)}
	m, err := mergeUserData([]byte("#!/bin/sh\n"+strings.Repeat("echo again\n", 1450)), add)
	if err != nil || len(m.data) > maxUserData || !isGzip(m.data) {
		t.Errorf("what fits when packed: %d bytes, %v", len(m.data), err)
	} else if kinds, _ := readParts(t, m.data); len(kinds) != 3 {
		t.Errorf("parts %q", kinds)
	}
	noise := make([]byte, 24<<10)
	x := uint32(1)
	for i := range noise {
		x = x*1664525 + 1013904223
		noise[i] = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ+/"[x>>26]
	}
	if _, err := mergeUserData([]byte("#!/bin/sh\n# "+string(noise)), add); err == nil || !strings.Contains(err.Error(), "EC2 takes 16384") {
		t.Errorf("what is too big: %v", err)
	}
	bomb := packed(t, "#!/bin/sh\n"+strings.Repeat(" ", maxUnpacked))
	if _, err := mergeUserData([]byte(bomb), add); err == nil || !strings.Contains(err.Error(), "unpacked it has more than") {
		t.Errorf("a bomb: %v", err)
	}
	for _, broken := range []string{"\x1f\x8bnothing", "Content-Type: multipart/mixed\n\nx", "Content-Type: multipart/mixed; boundary=B\n\n--B\nno header"} {
		if _, err := mergeUserData([]byte(broken), add); err == nil {
			t.Errorf("%q is taken", broken)
		}
	}
}

// Plain words that happen to be base64 stay plain.
func TestUserDataIsBase64(t *testing.T) {
	script := "#!/bin/sh\necho hi\n"
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "f"), []byte(script), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		o    RunOptions
		want string
	}{
		"plain":   {RunOptions{UserData: script}, script},
		"encoded": {RunOptions{UserData: base64.StdEncoding.EncodeToString([]byte(script))}, script},
		"a word":  {RunOptions{UserData: "abcd"}, "abcd"},
		"a file":  {RunOptions{UserDataFile: "f"}, script},
	} {
		if got, err := tc.o.userData(dir); err != nil || string(got) != tc.want {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	if _, err := (&RunOptions{UserDataFile: "none"}).userData(dir); err == nil {
		t.Error("a missing file is taken")
	}
	if _, err := (&RunOptions{UserDataFile: "/dev/zero"}).userData(dir); err == nil {
		t.Error("a device is taken")
	}
}

// The boot hook returns at once, and ends the machine when its time has come.
func TestBoothook(t *testing.T) {
	sh, err := exec.LookPath("sh")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.Symlink(sh, filepath.Join(dir, "sh")); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"sleep":    "#!" + sh + "\necho \"sleep $1\" >>" + dir + "/said\n",
		"shutdown": "#!" + sh + "\necho \"shutdown $*\" >>" + dir + "/said\n",
		"date":     "#!" + sh + "\necho 1000\n",
		"setsid":   "#!" + sh + "\n\"$@\"\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for at, want := range map[int64]string{4600: "sleep 3600\nshutdown -h now\n", 10: "sleep 60\nshutdown -h now\n"} {
		said := filepath.Join(dir, "said")
		_ = os.Remove(said)
		fifo := filepath.Join(t.TempDir(), "done")
		if out, err := exec.Command("mkfifo", fifo).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		// The background part tells through the pipe that it is over.
		script := strings.Replace(boothook(time.Unix(at, 0)), "|| poweroff", "|| poweroff; echo over >"+fifo, 1)
		_, script, _ = strings.Cut(script, "\n")
		c := exec.Command(sh, "-c", script)
		c.Env = []string{"PATH=" + dir}
		if out, err := c.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		out, err := exec.CommandContext(ctx, "cat", fifo).Output()
		cancel()
		if err != nil || string(out) != "over\n" {
			t.Fatalf("the timer did not end: %v", err)
		}
		if got, err := os.ReadFile(said); err != nil || string(got) != want {
			t.Errorf("at %d it did %q, want %q; %v", at, got, want, err)
		}
	}
}
