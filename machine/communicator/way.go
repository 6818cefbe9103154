package communicator

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/user"
	"slices"
	"strconv"
	"strings"

	"github.com/kevinburke/ssh_config"

	sshmachine "github.com/ingotbuild/ingot/machine/ssh"
)

// way finds the way to a machine: what the template says, and what the user's
// SSH configuration says of aliases.
type way struct {
	dir    string
	config *ssh_config.Config // nil: there is none
	file   string
	known  []string // known_hosts files
	ignore bool
	// As in Target; user is who logs in to a jump that says nothing else.
	person     bool
	jump, user string
}

// ignoreEnv lets Packer's templates, which have no word for host keys, run.
const ignoreEnv = "INGOT_SSH_IGNORE_HOST_KEY"

func newWay(dir string, o *SSH) (*way, error) {
	w := &way{dir: dir, file: o.SSHConfigFile, ignore: o.SSHIgnoreHostKey || os.Getenv(ignoreEnv) == "1"}
	optional := w.file == ""
	if optional {
		w.file = "~/.ssh/config"
	}
	if o.SSHKnownHostsFile != "" {
		w.known = []string{abs(dir, o.SSHKnownHostsFile)}
	} else {
		w.known = existing("~/.ssh/known_hosts", "~/.ssh/known_hosts2", "/etc/ssh/ssh_known_hosts")
	}
	text, err := readSmall(abs(dir, w.file))
	if err != nil {
		if optional && errors.Is(err, fs.ErrNotExist) {
			return w, nil
		}
		return nil, fmt.Errorf("the SSH configuration cannot be read: %w", err)
	}
	if w.config, err = decodeConfig(text); err != nil {
		if optional {
			return w, nil // nobody has asked for it, and ssh itself reads more than we can
		}
		return nil, fmt.Errorf("the SSH configuration %s cannot be read: %w", w.file, err)
	}
	return w, nil
}

// decodeConfig keeps a library's panic on odd input from ending the program.
func decodeConfig(text []byte) (c *ssh_config.Config, err error) {
	defer func() {
		if r := recover(); r != nil {
			c, err = nil, fmt.Errorf("%v", r)
		}
	}()
	return ssh_config.DecodeBytes(text)
}

func existing(paths ...string) (found []string) {
	for _, p := range paths {
		p = abs("", p)
		if info, err := os.Stat(p); err == nil && info.Mode().IsRegular() {
			found = append(found, p)
		}
	}
	return found
}

// alias is what the configuration says of a host.
type alias struct {
	host, user string
	port       int
	keys       []string
	jump       string
	known      []string
	keyName    string // HostKeyAlias
	err        error
}

// host looks a name up. A name that no Host line has is what it is.
func (w *way) host(name string) alias {
	a := alias{host: name}
	if w.config == nil || name == "" || !w.names(name) {
		return a
	}
	get := func(key string) string {
		v, err := w.config.Get(name, key)
		if err != nil && a.err == nil {
			a.err = fmt.Errorf("%s, Host %s, %s: %w", w.file, name, key, err)
		}
		return v
	}
	all := func(key string) []string {
		v, err := w.config.GetAll(name, key)
		if err != nil && a.err == nil {
			a.err = fmt.Errorf("%s, Host %s, %s: %w", w.file, name, key, err)
		}
		return v
	}
	expand := func(key, text string) string {
		out, err := expandTokens(text, map[byte]string{'h': a.host, 'n': name, 'p': strconv.Itoa(cmp.Or(a.port, 22)), 'r': a.user})
		if err != nil && a.err == nil {
			a.err = fmt.Errorf("%s, Host %s, %s %s: %w", w.file, name, key, text, err)
		}
		return out
	}
	a.user = get("User")
	if p := get("Port"); p != "" {
		n, err := strconv.ParseUint(p, 10, 16)
		if (err != nil || n == 0) && a.err == nil {
			a.err = fmt.Errorf("%s, Host %s: %q is no port", w.file, name, p)
		}
		a.port = int(n)
	}
	if h := get("HostName"); h != "" {
		a.host = expand("HostName", h)
	}
	for _, k := range all("IdentityFile") {
		if k = unquote(k); k != "none" {
			a.keys = append(a.keys, expand("IdentityFile", k))
		}
	}
	if j := get("ProxyJump"); !strings.EqualFold(j, "none") {
		a.jump = j
	}
	if c := get("ProxyCommand"); c != "" && !strings.EqualFold(c, "none") && a.jump == "" && a.err == nil {
		a.err = fmt.Errorf("%s, Host %s: ProxyCommand is not supported; use ProxyJump, or ssh_bastion_host", w.file, name)
	}
	for _, f := range all("UserKnownHostsFile") {
		for _, f := range strings.Fields(f) {
			if f = unquote(f); !strings.EqualFold(f, "none") {
				a.known = append(a.known, expand("UserKnownHostsFile", f))
			}
		}
	}
	a.keyName = get("HostKeyAlias")
	return a
}

// names says whether a Host line names the host. A pattern that takes every
// host does not: its settings are for ssh, not for every template.
func (w *way) names(name string) bool {
	return w.person || slices.ContainsFunc(w.config.Hosts, func(h *ssh_config.Host) bool {
		return h.Matches(name) && slices.ContainsFunc(h.Patterns, func(p *ssh_config.Pattern) bool { return strings.Trim(p.String(), "*") != "" })
	})
}

func unquote(s string) string { return strings.Trim(s, `"`) }

// expandTokens replaces %h and the like.
func expandTokens(text string, tokens map[byte]string) (string, error) {
	var b strings.Builder
	for i := 0; i < len(text); i++ {
		if text[i] != '%' {
			b.WriteByte(text[i])
			continue
		}
		i++
		if i == len(text) {
			return "", errors.New("it ends in %")
		}
		v, ok := tokens[text[i]]
		switch {
		case ok:
		case text[i] == '%':
			v = "%"
		case text[i] == 'd':
			home, err := os.UserHomeDir()
			if err != nil {
				return "", err
			}
			v = home
		case text[i] == 'u':
			u, err := user.Current()
			if err != nil {
				return "", err
			}
			v = u.Username
		default:
			return "", fmt.Errorf("%%%c is not supported", text[i])
		}
		b.WriteString(v)
	}
	return b.String(), nil
}

// maxHops bounds a chain of jumps, which may lead in a circle.
const maxHops = 8

// hops is the way to the machine that the template names, without the logins
// that only Connect knows.
func (w *way) hops(o *SSH) ([]sshmachine.Hop, error) {
	a := w.host(o.SSHHost)
	if a.err != nil {
		return nil, a.err
	}
	keys, err := parseHostKeys(o.SSHHostKey)
	if err != nil {
		return nil, err
	}
	port := o.SSHPort
	if a.port != 0 && (port == 0 || port == 22 && !w.person) {
		port = a.port
	}
	last := sshmachine.Hop{Host: a.host, Port: port, User: cmp.Or(o.SSHUsername, a.user)}
	last.HostKeys = w.hostKeys(a)
	last.HostKeys.Known = keys
	if last.Login, err = w.login(o, a); err != nil {
		return nil, err
	}
	var before []sshmachine.Hop
	switch {
	case o.SSHBastionHost != "":
		before, err = w.bastion(o)
	case w.jump != "":
		before, err = w.jumps(o, w.jump, 0)
	case a.jump != "":
		before, err = w.jumps(o, a.jump, 0)
	}
	if err != nil {
		return nil, err
	}
	return append(before, last), nil
}

func (w *way) hostKeys(a alias) sshmachine.HostKeys {
	h := sshmachine.HostKeys{Files: w.known, Name: a.keyName, Ignore: w.ignore}
	if w.person {
		h.Advice = "find out which key is right, and put it into a known_hosts file, as ssh does when it has asked"
	}
	if len(a.known) > 0 {
		h.Files = existing(a.known...)
	}
	return h
}

func (w *way) login(o *SSH, a alias) (l sshmachine.Login, err error) {
	if o.SSHPrivateKeyFile != "" {
		k, err := readKey(w.dir, o.SSHPrivateKeyFile, o.SSHPrivateKeyPassphrase, o.SSHCertificateFile)
		if err != nil {
			return l, err
		}
		l.Keys = append(l.Keys, k)
	}
	if o.SSHAgentAuth {
		l.AgentSocket = os.Getenv("SSH_AUTH_SOCK")
	}
	if o.SSHPassword != "" {
		l.Password, l.PasswordFrom = fixed(o.SSHPassword), "ssh_password"
	}
	if len(l.Keys) == 0 && (w.person || l.AgentSocket == "" && l.Password == nil) {
		l.Keys, err = w.aliasKeys(o, a)
	}
	return l, err
}

// usualKeys are what ssh tries when it is told of no other, as far as they are no DSA keys.
var usualKeys = []string{"~/.ssh/id_ed25519", "~/.ssh/id_ecdsa", "~/.ssh/id_rsa"}

// aliasKeys are the keys of an alias, as far as they are there.
func (w *way) aliasKeys(o *SSH, a alias) (keys []sshmachine.Key, err error) {
	files, usual := a.keys, false
	if w.person && len(files) == 0 && o.SSHPrivateKeyFile == "" {
		files, usual = usualKeys, true
	}
	for _, file := range files {
		k, err := readKey(w.dir, file, o.SSHPrivateKeyPassphrase, "")
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		// Nobody has asked for the usual ones; and what is encrypted is what one has an agent for.
		if err != nil && (usual || w.person && o.SSHAgentAuth && errors.Is(err, sshmachine.ErrPassphrase)) {
			continue
		}
		if err != nil {
			return nil, err
		}
		keys = append(keys, k)
	}
	return keys, nil
}

// bastion is the bastion of the template, behind those that its alias jumps through.
func (w *way) bastion(o *SSH) ([]sshmachine.Hop, error) {
	a := w.host(o.SSHBastionHost)
	if a.err != nil {
		return nil, a.err
	}
	port := o.SSHBastionPort
	if a.port != 0 && (port == 0 || port == 22) {
		port = a.port
	}
	h := sshmachine.Hop{Host: a.host, Port: port, User: cmp.Or(o.SSHBastionUsername, a.user, o.SSHUsername), HostKeys: w.hostKeys(a)}
	var err error
	if h.HostKeys.Known, err = parseHostKeys(o.SSHBastionHostKey); err != nil {
		return nil, err
	}
	switch {
	case o.SSHBastionPrivateKeyFile != "":
		k, err := readKey(w.dir, o.SSHBastionPrivateKeyFile, o.SSHBastionPrivateKeyPassphrase, o.SSHBastionCertificateFile)
		if err != nil {
			return nil, err
		}
		h.Login.Keys = append(h.Login.Keys, k)
	case o.SSHPrivateKeyFile != "":
		k, err := readKey(w.dir, o.SSHPrivateKeyFile, o.SSHPrivateKeyPassphrase, o.SSHCertificateFile)
		if err != nil {
			return nil, err
		}
		h.Login.Keys = append(h.Login.Keys, k)
	}
	if len(h.Login.Keys) == 0 {
		if h.Login.Keys, err = w.aliasKeys(o, a); err != nil {
			return nil, err
		}
	}
	if o.SSHBastionAgentAuth {
		h.Login.AgentSocket = os.Getenv("SSH_AUTH_SOCK")
	}
	if o.SSHBastionPassword != "" {
		h.Login.Password, h.Login.PasswordFrom = fixed(o.SSHBastionPassword), "ssh_bastion_password"
	}
	if o.SSHBastionInteractive {
		h.Login.Ask = askOnTerminal(h)
	}
	var before []sshmachine.Hop
	if a.jump != "" {
		if before, err = w.jumps(o, a.jump, 0); err != nil {
			return nil, err
		}
	}
	return append(before, h), nil
}

func (w *way) jumpUser(o *SSH) string {
	if w.person {
		return w.user
	}
	return o.SSHUsername
}

// jumps are the hops of a ProxyJump: [user@]host[:port],…
func (w *way) jumps(o *SSH, list string, depth int) (hops []sshmachine.Hop, err error) {
	if depth >= maxHops {
		return nil, fmt.Errorf("%s: the ProxyJump lines lead through more than %d hosts: in a circle?", w.file, maxHops)
	}
	for i, jump := range strings.Split(list, ",") {
		jump = strings.TrimPrefix(strings.TrimSpace(jump), "ssh://")
		user, name := "", jump
		if i := strings.LastIndexByte(jump, '@'); i >= 0 {
			user, name = jump[:i], jump[i+1:]
		}
		port := 0
		if h, p, err := net.SplitHostPort(name); err == nil {
			n, err := strconv.ParseUint(p, 10, 16)
			if err != nil || n == 0 {
				return nil, fmt.Errorf("%s: ProxyJump %q: %q is no port", w.file, list, p)
			}
			name, port = h, int(n)
		}
		if name == "" {
			return nil, fmt.Errorf("%s: ProxyJump %q has a host without a name", w.file, list)
		}
		a := w.host(name)
		if a.err != nil {
			return nil, a.err
		}
		// With Host * a jump would be its own jump; ssh goes there directly, too.
		if i == 0 && a.jump != "" && !(w.person && a.jump == list) {
			if hops, err = w.jumps(o, a.jump, depth+1); err != nil {
				return nil, err
			}
		}
		h := sshmachine.Hop{Host: a.host, Port: cmp.Or(port, a.port), User: cmp.Or(user, a.user, w.jumpUser(o)), HostKeys: w.hostKeys(a)}
		if h.Login.Keys, err = w.aliasKeys(o, a); err != nil {
			return nil, err
		}
		if len(h.Login.Keys) == 0 && o.SSHPrivateKeyFile != "" {
			k, err := readKey(w.dir, o.SSHPrivateKeyFile, o.SSHPrivateKeyPassphrase, o.SSHCertificateFile)
			if err != nil {
				return nil, err
			}
			h.Login.Keys = append(h.Login.Keys, k)
		}
		if o.SSHAgentAuth || o.SSHBastionAgentAuth {
			h.Login.AgentSocket = os.Getenv("SSH_AUTH_SOCK")
		}
		if hops = append(hops, h); len(hops) > maxHops {
			return nil, fmt.Errorf("%s: ProxyJump leads through more than %d hosts", w.file, maxHops)
		}
	}
	return hops, nil
}
