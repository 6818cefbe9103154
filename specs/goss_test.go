package specs

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/hcl/v2/hclparse"
	"github.com/ingotbuild/ingot/specs/goss"
)

// gossVocabulary is goss' own (0.4.10, and what its repository has added until
// August 2026): what is checked, and after a bar how.
const gossVocabulary = `
addr: reachable | address local-address timeout
command: exit-status stdout stderr | exec timeout retry_count retry_delay
dns: resolvable resolveable addrs | resolve server timeout retry_count retry_delay
file: exists mode size owner uid group gid filetype linked-to contents contains md5 sha256 sha512 | path
group: exists gid | groupname
http: status headers body | url method allow-insecure no-follow-redirects timeout request-headers request-body username password ca-file cert-file key-file proxy
interface: exists addrs mtu | name
kernel-param: value | name
matching: matches | content as-reader
mount: exists opts vfs-opts source filesystem usage | mountpoint timeout
package: installed versions | name retry_count retry_delay
port: listening ip | port
process: running | comm
registry: exists value type | name
service: enabled running runlevels | name
user: exists uid gid groups home shell | username
`

const gossMatcherVocabulary = `equal have-prefix have-suffix match-regexp contain-substring have-len have-key have-patterns contain-element contain-elements
consist-of not and or gt ge lt le semver-constraint gjson xml`

// gossNotes say how each resource is asked about, and where goss differs.
func gossNotes() map[string]string {
	return map[string]string{
		"addr":         "By bash or `nc`, from the machine; `local-address` needs `nc`. Times are rounded up to seconds. UDP is an error: silence is an answer too, and goss calls every address reachable.",
		"command":      "By `sh`. What does not end in its time is killed; goss leaves it running.",
		"dns":          "By `getent`; of a `server` by `dig`, else `host`, else (addresses only) `nslookup`. Types: " + strings.Join(gossRecords(), ", ") + ", of a `server`.",
		"file":         "The path itself and not what a link leads to, except for contents and sums. `~` and `~user` are homes on the machine. Contents of up to 1 MiB.",
		"group":        "By `getent`.",
		"http":         "By `curl`, else `wget`, from the machine, where the files of certificates are too. Nothing of a request is on a command line. Bodies of up to 1 MiB. It is sent as `ingot`.",
		"interface":    "From /sys, and by `ip`.",
		"kernel-param": "From /proc/sys.",
		"matching":     "Asks nothing. `have-key` finds keys by their text.",
		"mount":        "From /proc/self/mountinfo. `exists: false` passes where nothing is mounted; in goss it never does.",
		"package":      "By dpkg, rpm (with epoch and release, as goss 0.4 has it), apk or pacman.",
		"port":         "From /proc/net. `tcp:` is IPv4, `tcp6:` IPv6.",
		"process":      "By the name in /proc, of which the kernel keeps 15 characters. Dead processes that nobody has waited for do not run; goss counts them.",
		"registry":     "An error: only Windows has one.",
		"service":      "By systemd, OpenRC or System V. Where no service manager runs, whether an installed service runs is an error; goss says no.",
		"user":         "By `getent`.",
	}
}

// The words of goss files are those of goss.
func TestGossVocabulary(t *testing.T) {
	got := map[string]string{}
	for _, k := range goss.Kinds() {
		var checked, how []string
		for _, a := range k.Attributes {
			checked = append(checked, a.Name)
			if a.Alias != "" {
				checked = append(checked, a.Alias)
			}
		}
		if k.Subject != "" {
			how = append(how, k.Subject)
		}
		for _, o := range k.Options {
			how = append(how, o.Name)
		}
		slices.Sort(checked)
		slices.Sort(how)
		got[k.Key] = strings.Join(checked, " ") + " | " + strings.Join(how, " ")
		if gossNotes()[k.Key] == "" {
			t.Errorf("the table says nothing about %s", k.Key)
		}
	}
	for _, l := range strings.Split(strings.TrimSpace(gossVocabulary), "\n") {
		key, words, _ := strings.Cut(l, ": ")
		checked, how, _ := strings.Cut(words, " | ")
		c, h := strings.Fields(checked), strings.Fields(how)
		slices.Sort(c)
		slices.Sort(h)
		if want := strings.Join(c, " ") + " | " + strings.Join(h, " "); got[key] != want {
			t.Errorf("%s: %q, and not %q", key, got[key], want)
		}
		delete(got, key)
	}
	if len(got) > 0 {
		t.Errorf("goss does not have %v", got)
	}
	want := strings.Fields(gossMatcherVocabulary)
	slices.Sort(want)
	if !slices.Equal(want, goss.Matchers()) {
		t.Errorf("matchers %v, and not %v", goss.Matchers(), want)
	}
}

// gossTables are the tables in the guide.
func gossTables() string {
	code := func(words []string) string {
		if len(words) == 0 {
			return ""
		}
		return "`" + strings.Join(words, "`, `") + "`"
	}
	var b strings.Builder
	b.WriteString("\n| Resource | Checked | How it is asked for | Notes |\n| --- | --- | --- | --- |\n")
	for _, k := range goss.Kinds() {
		var checked, how []string
		for _, a := range k.Attributes {
			checked = append(checked, a.Name)
			if a.Alias != "" {
				checked = append(checked, a.Alias)
			}
		}
		if k.Subject != "" {
			how = append(how, k.Subject)
		}
		for _, o := range k.Options {
			how = append(how, o.Name)
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", k.Key, code(checked), code(how), gossNotes()[k.Key])
	}
	fmt.Fprintf(&b, "| `gossfile` | | `file`, `skip` | Patterns are those of a shell, without `**`. |\n\nOf every resource: %s. Matchers: %s. Formats: %s; their options: %s.\n",
		code(goss.Common()), code(goss.Matchers()), code(goss.Formats()), code(goss.FormatOptions()))
	return b.String() + "\n"
}

// A goss block is one of a spec's, with the spec's sudo, tags and conditions.
func TestGossBlock(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		p := filepath.Join(dir, name)
		if err := os.WriteFile(p, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return p
	}
	file := write("goss.yaml", "matching:\n  a: {content: \"{{ .Vars.a }} {{ .Vars.b }}\", matches: \"{{ .Vars.want }}\"}\nfile:\n  /x: {exists: true, mode: \"0644\", skip: true}\n")
	vars := write("vars.yaml", "a: 1\nb: 2\nwant: 1 3\n")
	s := compile(t, fmt.Sprintf("tags = [\"all\"]\ngoss %q {\n  vars_file = %q\n  vars = { b = 3 }\n  tags = [\"goss\"]\n  when = os.family == \"debian\"\n}\nfile \"/\" { be_directory = true }\n", file, vars))
	if len(s.Checks) != 4 || s.Checks[0].Resource != "file" || s.Checks[0].skip == "" || s.Checks[2].Resource != "matching" || len(s.Checks[2].when) != 1 || len(s.Checks[2].Tags) != 2 {
		t.Errorf("%+v", s.Checks)
	}
	if r := s.Checks[2].Range; r.Filename != file || r.Start.Line != 2 {
		t.Errorf("%v", r)
	}
	for src, want := range map[string]string{
		`goss "` + filepath.Join(dir, "none.yaml") + `" {}`: "cannot be read",
		`goss "` + file + `" {}`:                            "map has no entry for key",
		`goss "` + file + `" { vars = 3 }`:                  "Names with values are expected",
		`goss "` + file + `" { variables = 3 }`:             "Known here: package, skip, tags, vars, vars_file, vars_files, when",
		`goss "` + file + `" { package = "brew" }`:          "none of deb, dpkg, rpm, apk and pacman",
	} {
		f, diags := hclparse.NewParser().ParseHCL([]byte(src), "x.hcl")
		if diags.HasErrors() {
			t.Fatal(diags)
		}
		if _, diags := Compile(f.Body, nil, "x"); !diags.HasErrors() || !strings.Contains(diags.Error(), want) {
			t.Errorf("%s: %v", src, diags)
		}
	}
	for src, want := range map[string]string{
		"addr: {nothing: {reachable: true}}":                                          "an address is tcp://host:port",
		"dns: {\"MX:example.com\": {resolvable: true}}":                               "needs a server",
		"port: {\"tcp:x\": {listening: true}}":                                        "a port is a number",
		"http: {\"ftp://x/\": {status: 200}}":                                         "a URL begins with",
		"user: {\"-x\": {exists: true}}":                                              "not an account's name",
		"http: {\"http://x/\": {status: 200, method: \"GET /x\"}}":                    "http",
		"package: {\"a b\": {installed: true}}":                                       "package",
		"file: {\"/a\\u0001\": {exists: true}}":                                       "control characters",
		"http: {\"http://x/\": {status: 200, request-body: \"a\\u0001b\"}}":           "control characters",
		"service: {a: {enabled: true}}\nmount: {relative: {exists: true}}":            "begins with /",
		"http: {\"http://x/\": {status: 200, username: \"a:b\", password: \"hush\"}}": "no colon",
	} {
		_, diags := CompileGoss(write("bad.yaml", src), GossOptions{})
		if !diags.HasErrors() || !strings.Contains(diags.Error(), want) || !strings.Contains(diags.Error(), "bad.yaml:") || strings.Contains(diags.Error(), "hush") {
			t.Errorf("%s: %v", src, diags)
		}
	}
}

// Answers of name servers and web servers, as the tools print them.
func TestGossAnswers(t *testing.T) {
	dig := `;; Got answer:
;; ->>HEADER<<- opcode: QUERY, status: NOERROR, id: 1
;; ANSWER SECTION:
c.example.	300	IN	CNAME	a.example.
a.example.	300	IN	A	192.0.2.1
a.example.	300	IN	AAAA	2001:DB8:0:0::1
a.example.	300	IN	MX	10 b.example.
a.example.	300	IN	TXT	"one " "two"
a.example.	300	IN	CAA	0 issue "ca.example"
a.example.	300	IN	SSHFP	1 2 abcd ef01
`
	got, err := gossAnswers.read(answer{out: []byte(dig)}, []string{"k"})
	want := []string{"CNAME a.example.", "A 192.0.2.1", "AAAA 2001:db8::1", "MX 10 b.example.", "TXT one two", "CAA 0 issue ca.example", "SSHFP 1 2 ABCDEF01"}
	if all, _ := got["k"].([]string); err != nil || !slices.Equal(all, want) {
		t.Errorf("%q %v", got["k"], err)
	}
	for _, a := range []answer{{}, {out: []byte("nonsense")}, {status: 8, errOut: []byte("install it")}} {
		if got, _ := gossAnswers.read(a, []string{"k"}); got["k"] == nil {
			t.Errorf("%v gives nothing", a)
		} else if _, ok := got["k"].(error); !ok {
			t.Errorf("%v gives %v", a, got["k"])
		}
	}
	r, err := parseResponse("HTTP/1.1 302 Found\r\nLocation: /\r\n\r\nHTTP/1.1 100 Continue\r\n\r\nHTTP/2 200 \r\nx-b: 2\r\nX-A: 1\r\nx-b: 1\r\nTransfer-Encoding: chunked\r\n\r\nHTTP/1.1 is a body")
	if err != nil || r.status != 200 || r.headers != "X-A: 1\nX-B: 2\nX-B: 1" || r.body != "HTTP/1.1 is a body" {
		t.Errorf("%+v %v", r, err)
	}
	for _, bad := range []string{"", "hello", "HTTP/1.1", "HTTP/\r\n\r\n", "HTTP/1.1 x\r\n\r\n"} {
		if r, err := parseResponse(bad); err == nil {
			t.Errorf("%q is %+v", bad, r)
		}
	}
}
