//go:build linux

package machines

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"fmt"
	"strings"
	"testing"
)

func zipped(t testing.TB, b []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	if _, err := w.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func TestParseUserData(t *testing.T) {
	config := "#cloud-config\nssh_keys: {ed25519_private: one}\nruncmd: [a, [b, c d]]\n"
	script := "#!/bin/sh\ntrue\n"
	for name, c := range map[string]struct {
		data                     []byte
		scripts, hooks, commands int
		key, warning             string
	}{
		"nothing":      {},
		"config":       {data: []byte(config), key: "one", commands: 2},
		"script":       {data: []byte(script), scripts: 1},
		"boothook":     {data: []byte("#cloud-boothook\n#!/bin/sh\ntrue\n"), hooks: 1},
		"zipped":       {data: zipped(t, []byte(config)), key: "one", commands: 2},
		"zipped parts": {data: zipped(t, multipartOf("text/cloud-config|"+config, "text/x-shellscript|"+script, "text/cloud-boothook|true\n")), key: "one", commands: 2, scripts: 1, hooks: 1},
		"what a part is goes before what it says": {data: multipartOf("text/plain|" + script), scripts: 1},
		"base64 parts": {data: []byte("MIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\nContent-Type: text/cloud-config\r\nContent-Transfer-Encoding: base64\r\n\r\n" +
			base64.StdEncoding.EncodeToString([]byte(config)) + "\r\n--b--\r\n"), key: "one", commands: 2},
		"later parts win": {data: multipartOf("text/cloud-config|"+config, "text/cloud-config|#cloud-config\nruncmd: [x]\n"), key: "one", commands: 1},
		"no YAML":         {data: []byte("#cloud-config\n\tx: ["), warning: "Failed loading yaml"},
		"another kind":    {data: []byte("hello"), warning: "Unhandled non-multipart"},
		"half a zip":      {data: zipped(t, []byte(config))[:20], warning: "unpack"},
		"half a part":     {data: []byte("Content-Type: multipart/mixed; boundary=b\n\n--b\nContent-Type: text/plain\n\nabc"), warning: "read its parts"},
		"no boundary":     {data: []byte("Content-Type: multipart/mixed\n\nx"), warning: "read its parts"},
	} {
		t.Run(name, func(t *testing.T) {
			u := parseUserData(c.data)
			if len(u.scripts) != c.scripts || len(u.boothooks) != c.hooks || len(u.config.Runcmd) != c.commands || u.config.SSHKeys["ed25519_private"] != c.key {
				t.Errorf("got %+v", u)
			}
			if got := strings.Join(u.warnings, "\n"); (c.warning == "") != (got == "") || !strings.Contains(got, c.warning) {
				t.Errorf("warns %q, want %q", got, c.warning)
			}
		})
	}
	if got := string(commandLine([]any{"echo", "a b", 3})); got != "echo 'a b' 3\n" && got != "'echo' 'a b' '3'\n" {
		t.Errorf("a list becomes %q", got)
	}
}

func TestAccounts(t *testing.T) {
	def := account{Name: "admin"}
	for data, want := range map[string]string{
		"":                            "[admin] true",
		"users: [default, {name: a}]": "[admin a] true",
		"users: [{name: a}, b]":       "[a b] false",
		"users: default":              "[admin] true",
		"users: []":                   "[] false",
		"users: [{name: 'no:such'}, 'n:o', default]": "[admin] true",
	} {
		u := parseUserData([]byte("#cloud-config\n" + data + "\n"))
		list, has := u.accounts(def)
		names := []string{}
		for _, a := range list {
			names = append(names, a.Name)
		}
		if got := fmt.Sprint(names, has); got != want {
			t.Errorf("%s: %s, want %s", data, got, want)
		}
	}
}

func FuzzUserData(f *testing.F) {
	f.Add([]byte("#cloud-config\nusers: [default]\nwrite_files: [{path: /x, encoding: gz+b64, content: x}]\n"))
	f.Add(multipartOf("text/cloud-config|x: 1", "text/x-shellscript|#!/bin/sh"))
	f.Add(zipped(f, []byte("#!/bin/sh\n")))
	f.Fuzz(func(t *testing.T, b []byte) {
		u := parseUserData(b)
		u.accounts(account{Name: "x"})
		for _, w := range u.config.WriteFiles {
			_, _ = w.data()
		}
	})
}
