package specs

import (
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/netip"
	"net/textproto"
	"net/url"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/ingotbuild/ingot/specs/goss"
)

// nothing is what needs no fact.
var nothing = &kind{
	name:   "nothing",
	script: `exit 0`,
	read:   func(answer, []string) (facts, error) { return facts{"": true}, nil },
}

// Files.

// home goes before a script about the path $1, in which ~ and ~user stand for homes.
const home = `case $1 in "~"*)
	u=${1%%/*}; u=${u#"~"}; r=${1#"~$u"}; u=${u:-$(id -un)}
	h=$(if command -v getent >/dev/null; then getent passwd "$u"; else grep "^$u:" /etc/passwd; fi | cut -d: -f6)
	[ -n "$h" ] || { echo "there is no user $u" >&2; exit 9; }
	set -- "$h$r";;
esac
`

// inHome makes the kind for paths that begin with ~.
func inHome(k *kind) *kind {
	h := *k
	h.name, h.script, h.each = k.name+" below a home", home+k.script, true
	if k == files {
		h.read = func(a answer, subjects []string) (facts, error) {
			if a.status != 0 {
				return nil, failed(a, "the question for "+subjects[0])
			}
			for _, l := range lines(a.out) { // the path itself is known to the machine alone
				n := 7
				if strings.HasPrefix(l, "m:") {
					n = 2
				}
				if w := strings.SplitN(l, ":", n+1); len(w) == n+1 {
					got, err := readFiles(a, []string{w[n]})
					return facts{subjects[0]: got[w[n]]}, err
				}
			}
			return nil, failed(a, "the question for "+subjects[0])
		}
	}
	return &h
}

var sha512sums = checksum("sha512sum")

var gossTypes = map[string]string{"character device": "character-device", "block device": "block-device"}

func gossFile(s string) (func(string) gossQuestion, error) {
	if s == "" {
		return nil, errors.New("a file has a path")
	}
	of := func(k *kind) *kind {
		if strings.HasPrefix(s, "~") {
			return inHome(k)
		}
		return k
	}
	text := func(k *kind) gossQuestion {
		return gossOf(of(k), s, func(v string) (any, error) { return v, nil })
	}
	return func(attribute string) gossQuestion {
		switch attribute {
		case "linked-to":
			return text(linkTargets)
		case "contents", "contains":
			return gossOf(of(contents), s, func(v string) (any, error) { return goss.Reader(v), nil })
		case "md5":
			return text(md5sums)
		case "sha256":
			return text(sha256sums)
		case "sha512":
			return text(sha512sums)
		case "exists":
			return gossOf(of(files), s, func(f file) (any, error) { return f.self != nil, nil })
		}
		return gossOf(of(files), s, func(f file) (any, error) {
			if f.self == nil {
				return nil, errors.New(string(f.why))
			}
			switch attribute {
			case "mode":
				return fmt.Sprintf("%04o", f.self.mode&0o7777), nil
			case "owner":
				return gossName(f.self.owner, f.self.uid), nil
			case "group":
				return gossName(f.self.group, f.self.gid), nil
			case "uid":
				return gossNumber(f.self.uid)
			case "gid":
				return gossNumber(f.self.gid)
			case "size":
				return gossNumber(f.self.size)
			}
			typ := f.self.typ()
			if f.link {
				typ = "symlink"
			}
			if t, ok := gossTypes[typ]; ok {
				typ = t
			}
			return typ, nil
		})
	}, nil
}

// gossName is an account's name, or its id where it has none.
func gossName(name, id string) string {
	if name == "UNKNOWN" || name == "" {
		return id
	}
	return name
}

// gossParameters are kernel parameters as they are, with their tabs.
var gossParameters = func() *kind {
	k := *parameters
	k.name = "kernel parameter with tabs"
	k.read = one(func(a answer) (any, error) {
		switch {
		case a.status == 8:
			return nil, missing("no such kernel parameter")
		case a.status != 0:
			return nil, failed(a, "the question for the parameter")
		}
		return strings.TrimSpace(string(a.out)), nil
	})
	return &k
}()

// Mounts.

type gossMount struct {
	options, vfs       []string
	source, filesystem string
	usage              string // in percent; empty where it could not be found out
}

func (m gossMount) attribute(name string) (any, error) {
	switch name {
	case "opts":
		return m.options, nil
	case "vfs-opts":
		return m.vfs, nil
	case "source":
		return m.source, nil
	case "filesystem":
		return m.filesystem, nil
	}
	if m.usage == "" {
		return nil, errors.New("how full it is could not be found out")
	}
	return gossNumber(m.usage)
}

var gossMounts = &kind{
	name: "mount with its use",
	script: `cat /proc/self/mountinfo || exit
for p; do
	u=$(stat -f -c '%b %f' -- "$p" 2>/dev/null) && echo "usage $u $p"
done
exit 0`,
	read: func(a answer, subjects []string) (facts, error) {
		if a.status != 0 || len(a.out) == 0 {
			return nil, failed(a, "the question for mounts")
		}
		got := map[string]gossMount{}
		for _, l := range lines(a.out) {
			if rest, ok := strings.CutPrefix(l, "usage "); ok {
				w := strings.SplitN(rest, " ", 3)
				if len(w) != 3 {
					return nil, fmt.Errorf("not a line about a file system: %s", Clean(l))
				}
				m, mounted := got[w[2]]
				blocks, err1 := strconv.ParseUint(w[0], 10, 64)
				free, err2 := strconv.ParseUint(w[1], 10, 64)
				if mounted && err1 == nil && err2 == nil && free <= blocks {
					m.usage = "0"
					if blocks > 0 {
						m.usage = strconv.Itoa(int(100 * float64(blocks-free) / float64(blocks)))
					}
					got[w[2]] = m
				}
				continue
			}
			// 36 35 98:0 /root /mount/point rw,noatime … - ext3 /dev/root rw
			head, tail, ok := strings.Cut(l, " - ")
			h, t := strings.Fields(head), strings.Fields(tail)
			if !ok || len(h) < 6 || len(t) < 2 {
				return nil, fmt.Errorf("not a line about a mount: %s", Clean(l))
			}
			m := gossMount{options: strings.Split(h[5], ","), filesystem: t[0], source: unescape(t[1]), vfs: []string{}}
			if len(t) > 2 {
				m.vfs = strings.Split(t[2], ",")
			}
			got[unescape(h[4])] = m // the last mount is the one that is seen
		}
		result := facts{}
		for _, s := range subjects {
			if m, ok := got[path.Clean(s)]; ok {
				result[s] = m
			} else {
				result[s] = missing("nothing is mounted there")
			}
		}
		return result, nil
	},
}

// gossConnects is connects from an address of the machine's own.
var gossConnects = &kind{
	name: "connect from an address",
	each: true,
	script: `command -v nc >/dev/null || { echo "a connection from an address of one's own needs nc; install netcat-openbsd, nmap-ncat or the like" >&2; exit 9; }
command -v timeout >/dev/null || { echo "there is no timeout program" >&2; exit 9; }
timeout "$3" nc -z -s "$4" "$1" "$2"; r=$?
[ $r = 1 ] && echo "nc: refused or unreachable" >&2
case $r in 124|143) echo "timed out" >&2; exit 1; esac
exit $r`,
	read: connects.read,
}

// DNS.

// gossRecords are the types of records that a name may begin with.
func gossRecords() []string {
	return []string{"A", "AAAA", "CAA", "CNAME", "MX", "NS", "PTR", "SRV", "SSHFP", "TXT"}
}

func gossDNS(r *goss.Resource) (func(string) gossQuestion, error) {
	name, typ := r.Subject, ""
	if t, rest, ok := strings.Cut(name, ":"); ok && slices.Contains(gossRecords(), t) {
		typ, name = t, rest
	}
	if err := pattern(`^[A-Za-z0-9_*:][A-Za-z0-9_.:*/-]*$`)(name); err != nil {
		return nil, err
	}
	server := r.Text("server")
	if server == "" {
		if typ != "" {
			return nil, errors.New("a type of records needs a server to ask")
		}
		return func(attribute string) gossQuestion {
			if attribute == "resolvable" {
				return gossThere(resolvers, name)
			}
			return gossOf(resolvers, name, func(all []string) (any, error) { return slices.Sorted(slices.Values(all)), nil })
		}, nil
	}
	host, port, ok := strings.Cut(server, ":")
	if strings.Count(server, ":") > 1 { // IPv6
		host, port, ok = server, "", false
		if rest, isBracketed := strings.CutPrefix(server, "["); isBracketed {
			host, port, ok = strings.Cut(rest, "]:")
			host = strings.TrimSuffix(host, "]")
		}
	}
	if !ok {
		port = "53"
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err := pattern(`^[A-Za-z0-9:][A-Za-z0-9_.:%-]*$`)(host); err != nil {
		return nil, err
	}
	if err != nil || n == 0 {
		return nil, fmt.Errorf("%q is no port", port)
	}
	if _, err := netip.ParseAddr(name); typ == "PTR" && err == nil {
		typ = "-x"
	}
	key := strings.Join([]string{typ, name, host, port, strconv.Itoa(seconds(gossTimeout(r)))}, "\x00")
	of := map[string][]string{"": {"A", "AAAA"}, "-x": {"PTR"}}[typ]
	if of == nil {
		of = []string{typ}
	}
	return func(attribute string) gossQuestion {
		return gossOf(gossAnswers, key, func(all []string) (any, error) {
			out := []string{}
			for _, a := range all {
				if t, data, _ := strings.Cut(a, " "); slices.Contains(of, t) && !slices.Contains(out, data) {
					out = append(out, data)
				}
			}
			if attribute == "resolvable" {
				return len(out) > 0, nil
			}
			slices.Sort(out)
			return out, nil
		})
	}, nil
}

// gossAnswers are the records that a server has: type, name, server, port,
// seconds. dig and host -v answer in the same form.
var gossAnswers = &kind{
	name: "records",
	each: true,
	script: `t=$1 n=$2 s=$3 p=$4 w=$5
if command -v dig >/dev/null; then
	o="+noall +comments +answer +time=$w +tries=1 +nosearch"
	case $t in
	'') dig @"$s" -p "$p" $o "$n" A "$n" AAAA;;
	-x) dig @"$s" -p "$p" $o -x "$n";;
	*) dig @"$s" -p "$p" $o "$n" "$t";;
	esac
elif command -v host >/dev/null && { [ "$p" = 53 ] || host -p 53 2>&1 | grep -q -- -p; }; then
	[ "$p" = 53 ] || set -- -p "$p"; [ "$p" = 53 ] && set --
	case $t in
	'') host -v -W "$w" -R 1 -t A "$@" "$n." "$s"; r=$?; host -v -W "$w" -R 1 -t AAAA "$@" "$n." "$s" || r=$?; exit $r;;
	-x) host -v -W "$w" -R 1 "$@" "$n" "$s";;
	*) host -v -W "$w" -R 1 -t "$t" "$@" "$n." "$s";;
	esac
elif [ -z "$t" ] && [ "$p" = 53 ] && command -v nslookup >/dev/null; then
	echo nslookup
	timeout "$w" nslookup "$n" "$s"
else
	echo "a name server can be asked with dig; install bind9-dnsutils, bind-utils or bind-tools" >&2
	exit 8
fi`,
	read: one(func(a answer) (any, error) {
		said := string(a.out) + string(a.errOut)
		out := []string{}
		if strings.HasPrefix(said, "nslookup\n") {
			server := true // its first address is the name server's
			for _, l := range lines(a.out) {
				f := strings.Fields(l)
				if len(f) > 0 && strings.HasPrefix(f[0], "Name") {
					server = false
				}
				if len(f) > 1 && !server && strings.HasPrefix(f[0], "Address") {
					for _, w := range f[1:] {
						if p, err := netip.ParseAddr(w); err == nil {
							out = append(out, "A "+p.String())
						}
					}
				}
			}
			return out, nil
		}
		if a.status == 8 {
			return nil, failed(a, "the question for the name")
		}
		for _, l := range lines(a.out) {
			if l == "" || strings.HasPrefix(l, ";") {
				continue
			}
			f := strings.Fields(l)
			if len(f) < 5 || f[2] != "IN" || !slices.Contains(gossRecords(), f[3]) {
				continue
			}
			out = append(out, f[3]+" "+gossRecord(f[3], l, f[4:]))
		}
		answered := strings.Contains(said, "status: ")
		if !answered && !strings.Contains(said, "no servers could be reached") && !strings.Contains(said, "timed out") && !strings.Contains(said, "refused") {
			return nil, failed(a, "the question for the name")
		}
		return out, nil
	}),
}

// gossRecord writes the data of a record as goss does.
func gossRecord(typ, line string, data []string) string {
	switch typ {
	case "A", "AAAA":
		if p, err := netip.ParseAddr(data[0]); err == nil {
			return p.String()
		}
	case "TXT":
		if i := strings.IndexByte(line, '"'); i >= 0 {
			return strings.ReplaceAll(unquoteDNS(line[i:]), `"`, "")
		}
	case "CAA":
		return strings.ReplaceAll(strings.Join(data, " "), `"`, "")
	case "SSHFP":
		if len(data) > 2 {
			return strings.Join(data[:2], " ") + " " + strings.ToUpper(strings.Join(data[2:], ""))
		}
	}
	return strings.Join(data, " ")
}

// unquoteDNS joins the parts of a text: "a" "b" is ab.
func unquoteDNS(s string) string { return strings.ReplaceAll(s, `" "`, "") }

// HTTP.

type gossResponse struct {
	status        int
	headers, body string
}

func gossHTTP(r *goss.Resource) (func(string) gossQuestion, error) {
	u, err := url.Parse(r.Subject)
	if err != nil {
		return nil, errors.New("it is no URL")
	}
	if u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return nil, errors.New("a URL begins with http:// or https:// and a host")
	}
	method := r.Text("method")
	if method == "" {
		method = "GET"
	}
	if err := pattern(`^[A-Za-z]+$`)(method); err != nil {
		return nil, err
	}
	var curl, wget strings.Builder
	set := func(b *strings.Builder, name, value string) {
		fmt.Fprintf(b, "%s = \"%s\"\n", name, strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`, "\r", `\r`, "\t", `\t`).Replace(value))
	}
	plain := method == "GET" // what any wget can do
	wait := gossTimeout(r)
	curl.WriteString("silent\nshow-error\ninclude\ngloboff\nsuppress-connect-headers\n")
	set(&curl, "url", r.Subject)
	set(&curl, "max-time", strconv.FormatFloat(wait.Seconds(), 'f', 3, 64))
	set(&curl, "user-agent", "ingot")
	rc := func(name, value string) {
		if strings.ContainsAny(value, "\r\n") {
			wget.WriteString("no") // it has no way to say it, and refuses this
			return
		}
		fmt.Fprintf(&wget, "%s = %s\n", name, value)
	}
	rc("content_on_error", "on")
	rc("tries", "1")
	rc("timeout", strconv.Itoa(seconds(wait)))
	rc("user_agent", "ingot")
	rc("method", method)
	if method == "HEAD" {
		curl.WriteString("head\n")
	} else {
		set(&curl, "request", method)
	}
	if r.Bool("no-follow-redirects") {
		rc("max_redirect", "0")
		plain = false
	} else {
		curl.WriteString("location\nmax-redirs = 10\n")
		rc("max_redirect", "10")
	}
	given := map[string]bool{}
	for _, h := range r.Headers {
		name, value, _ := strings.Cut(h, ":")
		name = textproto.CanonicalMIMEHeaderKey(strings.TrimSpace(name))
		if name == "Host" && given[name] {
			continue // the first is the one that counts
		}
		given[name] = true
		line := name + ": " + strings.TrimSpace(value)
		if strings.TrimSpace(value) == "" {
			line = name + ";"
		}
		set(&curl, "header", line)
		rc("header", line)
		plain = false
	}
	for _, name := range []string{"Content-Type", "Expect", "Accept"} {
		if !given[name] {
			set(&curl, "header", name+":") // curl's own are left out
		}
	}
	if b := r.Text("request-body"); b != "" {
		set(&curl, "data-raw", b)
		rc("body_data", b)
		plain = false
	}
	if r.Text("username") != "" || r.Text("password") != "" {
		if strings.Contains(r.Text("username"), ":") {
			return nil, errors.New("a user name for basic authentication has no colon")
		}
		set(&curl, "user", r.Text("username")+":"+r.Text("password"))
		curl.WriteString("basic\n")
		rc("http_user", r.Text("username"))
		rc("http_password", r.Text("password"))
		rc("auth_no_challenge", "on")
		plain = false
	}
	if r.Bool("allow-insecure") {
		curl.WriteString("insecure\n")
		rc("check_certificate", "off")
		plain = false
	}
	for _, o := range [][3]string{{"ca-file", "cacert", "ca_certificate"}, {"cert-file", "cert", "certificate"}, {"key-file", "key", "private_key"}} {
		if v := r.Text(o[0]); v != "" {
			set(&curl, o[1], v)
			rc(o[2], v)
			plain = false
		}
	}
	if v := r.Text("proxy"); v != "" {
		set(&curl, "proxy", v)
		rc("http_proxy", v)
		rc("https_proxy", v)
		plain = false
	}
	yes := "no"
	if plain {
		yes = "yes"
	}
	key := strings.Join([]string{curl.String(), wget.String(), r.Subject, yes, strconv.Itoa(seconds(wait))}, "\x01")
	if strings.ContainsRune(key, 0) || strings.Count(key, "\x01") != 4 {
		return nil, errors.New("it holds control characters")
	}
	return func(attribute string) gossQuestion {
		return gossOf(gossResponses, key, func(x gossResponse) (any, error) {
			switch attribute {
			case "headers":
				return goss.Reader(x.headers), nil
			case "body":
				return goss.Reader(x.body), nil
			}
			return x.status, nil
		})
	}, nil
}

// gossResponses ask web servers. The request may hold a password, and so it is
// on no command line.
var gossResponses = &kind{
	name:   "http",
	each:   true,
	hidden: true,
	script: fmt.Sprintf(`s=$(printf '\001'); r=$I; unset I
c=${r%%%%"$s"*}; r=${r#*"$s"}; w=${r%%%%"$s"*}; r=${r#*"$s"}; u=${r%%%%"$s"*}; r=${r#*"$s"}; p=${r%%%%"$s"*}; t=${r#*"$s"}
if command -v curl >/dev/null; then
	echo curl
	{ printf '%%s' "$c" | curl -q -K -; echo "status $?" >&2; } | head -c %[1]d
elif wget --version 2>/dev/null | grep -q 'GNU Wget'; then
	echo wget
	# It takes its settings from nothing but a file.
	f=$(umask 077; mktemp) || exit
	trap 'rm -f "$f"' EXIT
	printf '%%s' "$w" >"$f"
	command -v timeout >/dev/null && l="timeout $t"
	{ $l wget --config="$f" -nv -S -O - -i /dev/fd/3 3<<E
$u
E
	echo "status $?" >&2; } | head -c %[1]d
elif [ "$p" = yes ] && command -v wget >/dev/null; then
	echo busybox
	{ wget -S -T "$t" -O - "$u"; echo "status $?" >&2; } | head -c %[1]d
else
	echo "this needs curl; install it" >&2
	exit 8
fi`, maxContent+maxHead),
	read: one(func(a answer) (any, error) {
		if a.status != 0 {
			return nil, failed(a, "the request")
		}
		tool, out, _ := strings.Cut(string(a.out), "\n")
		said := strings.TrimSpace(string(a.errOut))
		status := said[strings.LastIndex(said, "\n")+1:]
		said = strings.TrimSpace(strings.TrimSuffix(said, status))
		if len(out) >= maxContent {
			return nil, fmt.Errorf("the answer is longer than the %d bytes that a spec reads", maxContent)
		}
		if tool == "curl" {
			if status != "status 0" {
				return nil, fmt.Errorf("curl: %s", Clean(strings.TrimPrefix(said, "curl: ")))
			}
			return parseResponse(out)
		}
		// wget shows the heads between its messages, with blanks before them.
		var head []string
		for _, l := range strings.Split(string(a.errOut), "\n") {
			switch {
			case strings.HasPrefix(l, "  HTTP/"):
				head = []string{l}
			case strings.HasPrefix(l, "  ") && len(head) > 0:
				head = append(head, l)
			}
		}
		if len(head) == 0 || status == "status 4" || status == "status 124" {
			first, _, _ := strings.Cut(said, "\n")
			return nil, fmt.Errorf("wget: %s", Clean(first))
		}
		r, err := parseHead(head)
		if err == nil && tool == "busybox" && r.status >= 300 {
			return nil, fmt.Errorf("the answer has status %d, of which this wget shows no more; install curl", r.status)
		}
		r.body = out
		return r, err
	}),
}

// maxHead is room for the heads before the body.
const maxHead = 64 << 10

// parseResponse takes curl's output apart: the heads of redirections, the last
// head, the body.
func parseResponse(out string) (gossResponse, error) {
	for {
		head, body, ok := strings.Cut(out, "\r\n\r\n")
		if !ok || !strings.HasPrefix(head, "HTTP/") {
			return gossResponse{}, fmt.Errorf("the answer is not one of HTTP: %s", Clean(head))
		}
		r, err := parseHead(strings.Split(head, "\r\n"))
		if err != nil {
			return r, err
		}
		if (r.status < 200 || r.status >= 300 && r.status < 400) && strings.HasPrefix(body, "HTTP/") {
			out = body
			continue
		}
		r.body = body
		return r, nil
	}
}

// parseHead reads a status line and headers, and gives these sorted, with their
// names as Go writes them.
func parseHead(l []string) (gossResponse, error) {
	var r gossResponse
	f := strings.Fields(l[0])
	if len(f) < 2 {
		return r, fmt.Errorf("not a status line: %s", Clean(l[0]))
	}
	var err error
	if r.status, err = strconv.Atoi(f[1]); err != nil {
		return r, fmt.Errorf("not a status line: %s", Clean(l[0]))
	}
	h := http.Header{}
	for _, line := range l[1:] {
		if name, value, ok := strings.Cut(line, ":"); ok {
			h.Add(strings.TrimSpace(name), strings.TrimSpace(value))
		}
	}
	h.Del("Transfer-Encoding") // it is of the connection
	var all []string
	for _, name := range slices.Sorted(maps.Keys(h)) {
		for _, v := range h[name] {
			all = append(all, name+": "+v)
		}
	}
	r.headers = strings.Join(all, "\n")
	return r, nil
}
