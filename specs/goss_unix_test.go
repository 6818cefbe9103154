//go:build unix

package specs

import (
	"crypto/md5"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// gossLies says of a check of testdata/goss why goss' verdict is another one.
// It has to be, then.
var gossLies = map[string]string{
	"Matching: m054: matches":                    gossXML,
	"Matching: m058: matches":                    gossXML,
	"Matching: m059: matches":                    gossXML,
	"Matching: m060: matches":                    gossXML,
	"Matching: m062: matches":                    gossXML,
	"Matching: xml_not: matches":                 gossXML,
	"Matching: list_in_list: matches":            "it takes no list for a matcher of elements",
	"Mount: /no/such/mount: exists":              gossNoMount,
	"Mount: none: /no/such/mount: exists":        gossNoMount,
	"Mount: /proc: usage":                        "it divides by the blocks of a file system that has none",
	"Port: equal: tcp:PORT: ip":                  "its equal tells lists of the machine from lists of the file, though they hold the same",
	"Addr: silent: udp://127.0.0.1:1: reachable": "it calls every address of UDP reachable, for it only sends",
}

const (
	gossXML     = "it calls it an error when XPath gives something else, and so it passes in no not"
	gossNoMount = "it calls it an error when nothing is mounted, so that exists: false never passes"
)

// A goss file has here the verdicts that it has in goss. Goss is in no
// distribution: where INGOT_GOSS or the PATH has it, it is asked; otherwise its
// verdicts are those of testdata/goss/verdicts.json, which
//
//	INGOT_GOSS=… go test ./specs -run TestGossDifferential -args -update
//
// has written with goss of its repository's commit 489ebb1 (August 2026, 28
// commits after 0.4.10), as root on Debian 12.
func TestGossDifferential(t *testing.T) {
	if os.Getuid() != 0 {
		t.Log("the verdicts were recorded as root")
	}
	dir := t.TempDir()
	put := func(name, text string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o640); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(filepath.Join(dir, name), 0o640); err != nil {
			t.Fatal(err)
		}
	}
	put("plain", "one\ntwo\nfour")
	put("empty", "")
	for link, to := range map[string]string{"link": "plain", "dangling": "nowhere"} {
		if err := os.Symlink(to, filepath.Join(dir, link)); err != nil {
			t.Fatal(err)
		}
	}
	if err := syscall.Mkfifo(filepath.Join(dir, "pipe"), 0o600); err != nil {
		t.Fatal(err)
	}
	server := gossServer(t)
	port := server.URL[strings.LastIndex(server.URL, ":")+1:]
	vars := map[string]string{"dir": dir, "http": server.URL, "port": port, "md5": fmt.Sprintf("%x", md5.Sum([]byte("one\ntwo\nfour")))}
	inline, err := json.Marshal(vars)
	if err != nil {
		t.Fatal(err)
	}
	stable := strings.NewReplacer(server.URL, "HTTP", dir, "DIR", port, "PORT")
	program := os.Getenv("INGOT_GOSS")
	if program == "" {
		program, _ = exec.LookPath("goss")
	}
	record := filepath.Join("testdata", "goss", "verdicts.json")
	recorded := map[string]map[string]string{}
	if data, err := os.ReadFile(record); err == nil {
		if err := json.Unmarshal(data, &recorded); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"matchers.yaml", "machine.yaml"} {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join("testdata", "goss", name)
			ours, theirs := map[string]string{}, recorded[name]
			if program != "" {
				theirs = askGoss(t, program, file, string(inline), stable)
				recorded[name] = theirs
				_ = os.Remove(filepath.Join(dir, "tries"))
			}
			spec, diags := CompileGoss(file, GossOptions{Inline: string(inline)})
			if diags.HasErrors() {
				t.Fatal(diags)
			}
			patient(spec)
			report, err := spec.Run(t.Context(), &local{}, RunOptions{})
			if err != nil {
				t.Fatal(err)
			}
			if want := 1; name == "matchers.yaml" && report.RoundTrips != want {
				t.Errorf("%d round trips", report.RoundTrips)
			}
			for _, r := range report.GossRows() {
				ours[stable.Replace(gossKey(r.Type, r.ID, r.Property))] = gossVerdict(int(r.Result), r.Outcome.Err != nil)
			}
			if len(theirs) == 0 {
				t.Fatalf("there are no verdicts of goss on %s", name)
			}
			keys := slices.Collect(maps.Keys(ours))
			keys = append(keys, slices.Collect(maps.Keys(theirs))...)
			slices.Sort(keys)
			same := 0
			for _, k := range slices.Compact(keys) {
				why, lies := gossLies[k]
				switch ours, theirs := ours[k], theirs[k]; {
				case (ours == theirs) == !lies:
					same++
				case lies:
					t.Errorf("%s is %s in goss too, which should lie: %s", k, ours, why)
				default:
					t.Errorf("%s: goss says %s, we say %s", k, theirs, ours)
				}
			}
			t.Logf("%d of %d verdicts are as expected", same, len(ours))
		})
	}
	if *update && program != "" {
		data, err := json.MarshalIndent(recorded, "", "\t")
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(record, append(data, '\n'), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func gossKey(typ, id, property string) string { return typ + ": " + id + ": " + property }

func gossVerdict(result int, broken bool) string {
	if broken {
		return "error"
	}
	return []string{"pass", "fail", "skip"}[result]
}

func askGoss(t *testing.T, program, file, inline string, stable *strings.Replacer) map[string]string {
	t.Helper()
	out, err := exec.Command(program, "-g", file, "--vars-inline", inline, "validate", "--format", "json").Output()
	var doc struct {
		Results []struct {
			Type     string  `json:"resource-type"`
			ID       string  `json:"resource-id"`
			Property string  `json:"property"`
			Result   int     `json:"result"`
			Err      *string `json:"err"`
		} `json:"results"`
	}
	if jsonErr := json.Unmarshal(out, &doc); jsonErr != nil {
		t.Fatalf("goss: %v, %v: %s", err, jsonErr, out)
	}
	verdicts := map[string]string{}
	for _, r := range doc.Results {
		verdicts[stable.Replace(gossKey(r.Type, r.ID, r.Property))] = gossVerdict(r.Result, r.Err != nil)
	}
	return verdicts
}

// gossServer says what it was asked.
func gossServer(t *testing.T) *httptest.Server {
	t.Helper()
	done := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/moved":
			http.Redirect(w, r, "/", http.StatusFound)
			return
		case "/slow":
			select {
			case <-done:
			case <-r.Context().Done():
			case <-time.After(10 * time.Second):
			}
			return
		}
		w.Header()["X-Two"] = []string{"a", "b"}
		w.Header().Set("Content-Type", "text/plain")
		if r.URL.Path == "/missing" {
			w.WriteHeader(http.StatusNotFound)
		}
		body, _ := io.ReadAll(r.Body)
		user, password, _ := r.BasicAuth()
		fmt.Fprintf(w, "hello\n%s %s\n%s\n%s %s\nhost %s\ngiven %s\ntype %s\n", r.Method, r.URL.Path, body, user, password, r.Host, r.Header.Get("X-Given"), r.Header.Get("Content-Type"))
	}))
	t.Cleanup(server.Close)
	t.Cleanup(func() { close(done) })
	return server
}

// nameServer answers on a port of 127.0.0.1.
func nameServer(t *testing.T) string {
	t.Helper()
	c, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	name := dnsmessage.MustNewName
	zone := map[string][]dnsmessage.ResourceBody{
		"a.example.":              {&dnsmessage.AResource{A: [4]byte{192, 0, 2, 2}}, &dnsmessage.AResource{A: [4]byte{192, 0, 2, 1}}, &dnsmessage.AAAAResource{AAAA: [16]byte{0x20, 1, 0xd, 0xb8, 15: 1}}},
		"c.example.":              {&dnsmessage.CNAMEResource{CNAME: name("a.example.")}},
		"example.":                {&dnsmessage.MXResource{Pref: 10, MX: name("b.example.")}, &dnsmessage.NSResource{NS: name("ns.example.")}, &dnsmessage.TXTResource{TXT: []string{"Hello DNS"}}, &dnsmessage.UnknownResource{Type: 257, Data: []byte("\x00\x05issueca.example")}, &dnsmessage.UnknownResource{Type: 44, Data: []byte("\x01\x01\xab\xcd567890123456789012")}},
		"_x._tcp.example.":        {&dnsmessage.SRVResource{Priority: 5, Weight: 6, Port: 443, Target: name("a.example.")}},
		"1.2.0.192.in-addr.arpa.": {&dnsmessage.PTRResource{PTR: name("a.example.")}},
	}
	typ := func(b dnsmessage.ResourceBody) dnsmessage.Type {
		switch b := b.(type) {
		case *dnsmessage.AResource:
			return dnsmessage.TypeA
		case *dnsmessage.AAAAResource:
			return dnsmessage.TypeAAAA
		case *dnsmessage.CNAMEResource:
			return dnsmessage.TypeCNAME
		case *dnsmessage.MXResource:
			return dnsmessage.TypeMX
		case *dnsmessage.NSResource:
			return dnsmessage.TypeNS
		case *dnsmessage.TXTResource:
			return dnsmessage.TypeTXT
		case *dnsmessage.SRVResource:
			return dnsmessage.TypeSRV
		case *dnsmessage.PTRResource:
			return dnsmessage.TypePTR
		case *dnsmessage.UnknownResource:
			return b.Type
		}
		return 0
	}
	go func() {
		buf := make([]byte, 1500)
		for {
			n, from, err := c.ReadFrom(buf)
			if err != nil {
				return
			}
			var m dnsmessage.Message
			if m.Unpack(buf[:n]) != nil || len(m.Questions) != 1 {
				continue
			}
			q := m.Questions[0]
			answer := dnsmessage.Message{Header: dnsmessage.Header{ID: m.ID, Response: true, RecursionAvailable: true}, Questions: m.Questions}
			if zone[q.Name.String()] == nil {
				answer.RCode = dnsmessage.RCodeNameError
			}
			for next := q.Name.String(); next != ""; {
				follow := ""
				for _, b := range zone[next] {
					alias, isAlias := b.(*dnsmessage.CNAMEResource)
					if typ(b) == q.Type || isAlias {
						answer.Answers = append(answer.Answers, dnsmessage.Resource{Header: dnsmessage.ResourceHeader{Name: name(next), Type: typ(b), Class: dnsmessage.ClassINET, TTL: 60}, Body: b})
					}
					if isAlias && q.Type != dnsmessage.TypeCNAME {
						follow = alias.CNAME.String()
					}
				}
				next = follow
			}
			if out, err := answer.Pack(); err == nil {
				_, _ = c.WriteTo(out, from)
			}
		}
	}()
	return c.LocalAddr().String()
}

// Records are those that goss finds at the same server.
func TestGossDNS(t *testing.T) {
	need(t, "dig")
	server := nameServer(t)
	file := filepath.Join(t.TempDir(), "goss.yaml")
	var src strings.Builder
	src.WriteString("dns:\n")
	for _, c := range [][2]string{
		{"a.example", "[192.0.2.1, 192.0.2.2, '2001:db8::1']"}, {"A:a.example", "[192.0.2.1, 192.0.2.2]"}, {"AAAA:a.example", "['2001:db8::1']"},
		{"c.example", "[192.0.2.1, 192.0.2.2, '2001:db8::1']"}, {"CNAME:c.example", "[a.example.]"}, {"MX:example", "['10 b.example.']"}, {"NS:example", "[ns.example.]"},
		{"TXT:example", "[Hello DNS]"}, {"CAA:example", "[0 issue ca.example]"}, {"SSHFP:example", "[1 1 ABCD353637383930313233343536373839303132]"}, {"SRV:_x._tcp.example", "['5 6 443 a.example.']"},
		{"PTR:192.0.2.1", "[a.example.]"},
	} {
		fmt.Fprintf(&src, "  %q: {resolvable: true, addrs: {consist-of: %s}, server: %q, timeout: 60000}\n", c[0], c[1], server)
	}
	fmt.Fprintf(&src, "  no.example: {resolvable: false, addrs: [x], server: %q, timeout: 60000}\n", server)
	fmt.Fprintf(&src, "  MX:a.example: {resolvable: false, server: %q, timeout: 60000}\n", server)
	if err := os.WriteFile(file, []byte(src.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	spec, diags := CompileGoss(file, GossOptions{})
	if diags.HasErrors() {
		t.Fatal(diags)
	}
	report, err := spec.Run(t.Context(), &local{}, RunOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range report.Results {
		if r.Status != Pass && (r.Status != Skip || r.Subject != "no.example") {
			t.Errorf("%s %s: %s %s %s", r.Subject, r.Property, r.Status, r.Actual, r.Message)
		}
	}
	program := os.Getenv("INGOT_GOSS")
	if program == "" {
		return
	}
	for k, v := range askGoss(t, program, file, "{}", strings.NewReplacer()) {
		if v != "pass" && v != "skip" {
			t.Errorf("goss: %s: %s", k, v)
		}
	}
}

// Where curl is missing, wget does what it can, and what it cannot is an error
// that says what to install.
func TestGossHTTPByWget(t *testing.T) {
	need(t, "wget")
	server := gossServer(t)
	file := filepath.Join(t.TempDir(), "goss.yaml")
	src := fmt.Sprintf(`http:
  %[1]s/: {timeout: 60000, status: 200, headers: ["X-Two: b"], body: [hello, "GET /"]}
  %[1]s/missing: {timeout: 60000, status: 404, body: [hello]}
  moved: {timeout: 60000, url: %[1]s/moved, status: 200, body: ["GET /"]}
  put: {timeout: 60000, url: %[1]s/, status: 200, method: PUT, request-body: some body, body: ["PUT /", some body]}
  login: {timeout: 60000, url: %[1]s/, status: 200, username: jim, password: s"ecret, request-headers: ["X-Given: 1"], body: [jim s"ecret, given 1]}
  stay: {timeout: 60000, url: %[1]s/moved, status: 302, no-follow-redirects: true, headers: ["Location: /"]}
  refused: {url: "http://127.0.0.1:1/", status: 200}
`, server.URL)
	if err := os.WriteFile(file, []byte(src), 0o600); err != nil {
		t.Fatal(err)
	}
	spec, diags := CompileGoss(file, GossOptions{})
	if diags.HasErrors() {
		t.Fatal(diags)
	}
	for i := range spec.Checks { // a machine without curl
		k := *spec.Checks[i].kind
		k.script = strings.Replace(k.script, "command -v curl", "command -v no-such-curl", 1)
		spec.Checks[i].kind = &k
	}
	report, err := spec.Run(t.Context(), &local{}, RunOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range report.Results {
		want := Pass
		if r.Subject == "http://127.0.0.1:1/" {
			want = Error
		}
		if r.Status != want {
			t.Errorf("%s %s: %s %s %s", r.Subject, r.Property, r.Status, r.Actual, r.Message)
		}
	}
	for i := range spec.Checks {
		k := *spec.Checks[i].kind
		k.script = strings.ReplaceAll(strings.ReplaceAll(k.script, "command -v wget", "command -v no-such-wget"), "wget --version", "false")
		spec.Checks[i].kind = &k
	}
	report, err = spec.Run(t.Context(), &local{}, RunOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if r := report.Results[0]; r.Status != Error || !strings.Contains(r.Message, "this needs curl; install it") {
		t.Errorf("%+v", r)
	}
}

// A password of a request is on no command line, neither the script's nor curl's.
func TestGossPasswordsAreHidden(t *testing.T) {
	need(t, "curl")
	const secret = "hush-hush-hush"
	looked := make(chan struct{}) // at its command line: until then there is no answer, and then there is none
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-looked:
		case <-r.Context().Done():
		}
		panic(http.ErrAbortHandler)
	}))
	t.Cleanup(server.Close)
	dir := t.TempDir()
	file := filepath.Join(dir, "goss.yaml")
	src := fmt.Sprintf("http: {%s/: {status: 200, username: jim, password: {{ .Vars.pw }}, timeout: 60000}}\n", server.URL)
	if err := os.WriteFile(file, []byte(src), 0o600); err != nil {
		t.Fatal(err)
	}
	spec, diags := CompileGoss(file, GossOptions{values: map[string]any{"pw": secret}, sensitive: true})
	if diags.HasErrors() {
		t.Fatal(diags)
	}
	done := make(chan *Report, 1)
	go func() {
		report, _ := spec.Run(t.Context(), &local{}, RunOptions{})
		done <- report
	}()
	curls, over := 0, false
	for {
		select {
		case report := <-done:
			if curls == 0 {
				t.Error("no curl was seen")
			}
			if r := report.Results[0]; r.Actual != hidden || strings.Contains(fmt.Sprint(r), secret) || r.Goss.Outcome.Actual != hidden {
				t.Errorf("%+v", r)
			}
			return
		default:
		}
		lines, _ := filepath.Glob("/proc/[0-9]*/cmdline")
		for _, l := range lines {
			b, _ := os.ReadFile(l)
			if strings.Contains(string(b), secret) {
				t.Fatalf("%q", b)
			}
			if strings.HasPrefix(string(b), "curl\x00-q") {
				curls++
			}
		}
		if curls > 0 && !over {
			over = true
			close(looked)
		}
	}
}
