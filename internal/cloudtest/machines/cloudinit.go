//go:build linux

package machines

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/ingotbuild/ingot/internal/sandbox"
	"github.com/ingotbuild/ingot/machine"
)

const (
	sshdPath     = "/usr/sbin/sshd"
	instanceFile = "var/lib/cloud/data/instance-id"
	// sshdGrace is how long sshd has until it listens.
	sshdGrace = time.Minute
)

var (
	validName    = regexp.MustCompile(`^[a-z_][a-z0-9_.-]*\$?$`)
	validKeyType = regexp.MustCompile(`^(rsa|dsa|ecdsa|ed25519)$`)
)

// bringUp does what happens in a machine after its kernel has started: cloud-init
// and the SSH server.
func (m *Machine) bringUp(ctx context.Context, r *run) error {
	u := parseUserData(m.cfg.UserData)
	if err := sh(ctx, r.box, "umask 022; mkdir -p /run/sshd /run/cloud-init && { mkfifo -m 600 /run/initctl || mknod -m 600 /run/initctl p; }", nil); err != nil {
		return fmt.Errorf("prepare it: %w", err)
	}
	r.wg.Go(func() { m.initctl(r) })
	seen, err := look(ctx, r.box)
	if err != nil {
		return fmt.Errorf("look at its system: %w", err)
	}
	if !m.cfg.NoSSH && !seen.has(sshdPath) {
		return fmt.Errorf("its disk has no SSH server (%s): only a machine with NoSSH can be made of it", sshdPath)
	}
	first := strings.TrimSpace(seen.file[instanceFile]) != m.cfg.ID
	m.printf("Cloud-init v. 22.4.2 running 'init' of %s\n", m.cfg.ID)
	early := u.boothooks
	for _, c := range u.config.Bootcmd {
		early = append(early, commandLine(c))
	}
	if len(early) > 0 {
		for i, s := range early {
			if err := m.script(ctx, r.box, fmt.Sprintf("boot-%03d", i), s); err != nil {
				m.printf("cloud-init: a boot command failed: %v\n", err)
			}
		}
		if seen, err = look(ctx, r.box); err != nil {
			return fmt.Errorf("look at its system: %w", err)
		}
	}
	b := &firstBoot{m: m, u: u, seen: seen}
	if first {
		if err := b.apply(ctx, r.box); err != nil {
			return fmt.Errorf("apply its user data: %w", err)
		}
	}
	for _, w := range u.warnings {
		m.printf("cloud-init: WARNING: %s\n", w)
	}
	if err := m.showKeys(ctx, r.box); err != nil {
		return err
	}
	if !m.cfg.NoSSH {
		if err := m.startSSH(ctx, r); err != nil {
			return err
		}
	}
	r.wg.Go(func() {
		defer close(r.ready)
		if first {
			r.err = b.finish(r.ctx, r.box)
		}
		result := `{"v1": {"datasource": "DataSourceIngotTest", "errors": []}}`
		state := ""
		if r.err != nil {
			m.printf("cloud-init: WARNING: %v\n", r.err)
			result = `{"v1": {"datasource": "DataSourceIngotTest", "errors": ["user data failed"]}}`
			state = "touch /run/cloud-init/failed; "
		}
		status := `{"v1": {"datasource": "DataSourceIngotTest", "stage": null, "init": {"start": 1, "finished": 1, "errors": []}, "modules-final": {"start": 1, "finished": 1, "errors": []}}}`
		m.printf("Cloud-init v. 22.4.2 finished at %s. Up 0 seconds\n", time.Now().UTC().Format(time.RFC1123Z))
		err := sh(r.ctx, r.box, state+machine.Quote("printf", "%s\n", status)+" >/run/cloud-init/status.json; "+
			machine.Quote("printf", "%s\n", result)+" >/run/cloud-init/result.json", nil)
		if r.ctx.Err() == nil {
			r.err = errors.Join(r.err, err)
		}
	})
	return nil
}

// sh runs a script that must succeed.
func sh(ctx context.Context, box *sandbox.Machine, script string, out io.Writer) error {
	var text bytes.Buffer
	if out == nil {
		out = &text
	}
	// As input, since a command line has a bound.
	err := box.Exec(ctx, sandbox.Program{Argv: []string{"/bin/sh", "-s"}, Dir: "/"}, machine.Command{Stdin: strings.NewReader(script), Stdout: out, Stderr: &text})
	if err != nil {
		return fmt.Errorf("%w: %s", err, bytes.TrimSpace(text.Bytes()))
	}
	return nil
}

// script runs a program of the user data, with its output on the console.
func (m *Machine) script(ctx context.Context, box *sandbox.Machine, name string, b []byte) error {
	if !bytes.HasPrefix(b, []byte("#!")) {
		b = append([]byte("#!/bin/sh\n"), b...)
	}
	dir := "/var/lib/cloud/instances/" + m.cfg.ID + "/scripts"
	if err := box.Put(ctx, dir, machine.BytesTree(name, b, 0o700)); err != nil {
		return err
	}
	out := console{m}
	return box.Exec(ctx, sandbox.Program{Argv: []string{dir + "/" + name}, Dir: "/"}, machine.Command{Stdout: out, Stderr: out})
}

// commandLine is one of runcmd or bootcmd: a line for the shell, or a list of words.
func commandLine(c any) []byte {
	if list, ok := c.([]any); ok {
		var w []string
		for _, v := range list {
			w = append(w, fmt.Sprint(v))
		}
		return []byte(machine.Quote(w...) + "\n")
	}
	return []byte(fmt.Sprint(c) + "\n")
}

// system is what the first look finds in a machine.
type system struct {
	file  map[string]string // by path without its first slash
	there []string          // programs and host keys, absolute
}

func (s *system) has(path string) bool { return slices.Contains(s.there, path) }

func look(ctx context.Context, box *sandbox.Machine) (*system, error) {
	const script = `
for f in etc/passwd etc/group etc/shadow etc/gshadow etc/ssh/sshd_config ` + instanceFile + `; do
	[ -f /$f ] || continue
	printf '%s\0' $f; cat /$f; printf '\0'
done
printf '\0'
ls -d ` + sshdPath + ` /bin/bash /etc/skel /etc/ssh/sshd_config.d /etc/ssh/ssh_host_*_key 2>/dev/null
exit 0
`
	var out bytes.Buffer
	if err := sh(ctx, box, script, &out); err != nil {
		return nil, err
	}
	s := &system{file: map[string]string{}}
	parts := strings.Split(out.String(), "\x00")
	for len(parts) > 1 && parts[0] != "" {
		s.file[parts[0]] = parts[1]
		parts = parts[2:]
	}
	s.there = strings.Fields(strings.Join(parts, "\n"))
	return s, nil
}

// find returns the fields of a line of passwd or group, by its name.
func (s *system) find(file, name string) []string {
	for line := range strings.Lines(s.file[file]) {
		if f := strings.Split(strings.TrimSpace(line), ":"); f[0] == name && len(f) > 3 {
			return f
		}
	}
	return nil
}

// ids resolves "user:group" as chown does; -1 where there is none.
func (s *system) ids(owner string) (uid, gid int) {
	user, group, _ := strings.Cut(owner, ":")
	id := func(file, name string, field int) int {
		if f := s.find(file, name); f != nil {
			if n, err := strconv.Atoi(f[field]); err == nil {
				return n
			}
		}
		if n, err := strconv.Atoi(name); err == nil && n >= 0 {
			return n
		}
		return -1
	}
	uid = id("etc/passwd", user, 2)
	if group == "" {
		return uid, max(0, id("etc/passwd", user, 3))
	}
	return uid, id("etc/group", group, 2)
}

// freeID is the first free number of users and groups from 1000 on, or below for the system's.
func (s *system) freeID(below bool) int {
	used := map[string]bool{}
	for _, file := range []string{"etc/passwd", "etc/group"} {
		for line := range strings.Lines(s.file[file]) {
			if f := strings.Split(line, ":"); len(f) > 2 {
				used[f[2]] = true
			}
		}
	}
	n, step := 1000, 1
	if below {
		n, step = 999, -1
	}
	for used[strconv.Itoa(n)] {
		n += step
	}
	return n
}

// firstBoot applies user data to a machine that boots for the first time as an instance.
type firstBoot struct {
	m      *Machine
	u      *userData
	seen   *system
	script strings.Builder // run before the files are put
	files  fileTree
	sudo   strings.Builder
}

func (b *firstBoot) do(words ...string) { b.script.WriteString(machine.Quote(words...) + "\n") }

// appendTo adds lines to a file of the machine.
func (b *firstBoot) appendTo(file, line string) {
	b.script.WriteString(machine.Quote("printf", "%s\n", line) + " >>" + machine.Quote(file) + "\n")
	name := strings.TrimPrefix(file, "/")
	b.seen.file[name] += line + "\n"
}

// apply does all that comes before the SSH server starts.
func (b *firstBoot) apply(ctx context.Context, box *sandbox.Machine) error {
	b.script.WriteString("set -e\numask 022\n")
	c := &b.u.config
	if c.SSHDeleteKeys == nil || *c.SSHDeleteKeys {
		b.script.WriteString("rm -f /etc/ssh/ssh_host_*key*\n")
		b.seen.there = slices.DeleteFunc(b.seen.there, func(p string) bool { return strings.HasPrefix(p, "/etc/ssh/ssh_host_") })
	}
	if err := b.hostKeys(); err != nil {
		return err
	}
	b.passwords()
	if err := b.users(); err != nil {
		return err
	}
	for _, f := range c.WriteFiles {
		if !f.Defer {
			b.writeFile(f)
		}
	}
	b.files.add(instanceFile, 0o644, []byte(b.m.cfg.ID+"\n"))
	dir := "var/lib/cloud/instances/" + b.m.cfg.ID
	b.files.add(dir+"/user-data.txt", 0o600, b.m.cfg.UserData)
	b.do("mkdir", "-p", "/"+dir)
	b.do("rm", "-rf", "/var/lib/cloud/instance")
	b.do("ln", "-s", "/"+dir, "/var/lib/cloud/instance")
	if err := sh(ctx, box, b.script.String(), nil); err != nil {
		return err
	}
	return box.Put(ctx, "/", &b.files)
}

// hostKeys puts in the keys of the user data, or makes some.
func (b *firstBoot) hostKeys() error {
	given := map[string]bool{}
	for name, value := range b.u.config.SSHKeys {
		kind, part, ok := strings.Cut(name, "_")
		if !ok || !validKeyType.MatchString(kind) {
			b.u.warn("user data: ssh_keys: there is no kind of key %q", name)
			continue
		}
		file := "etc/ssh/ssh_host_" + kind + "_key"
		switch part {
		case "private":
			given[kind] = true
			text := strings.TrimRight(value, "\n") + "\n"
			b.files.add(file, 0o600, []byte(text))
			if b.u.config.SSHKeys[kind+"_public"] == "" {
				if signer, err := ssh.ParsePrivateKey([]byte(text)); err != nil {
					b.u.warn("user data: ssh_keys: %s is no private key", name)
				} else {
					b.files.add(file+".pub", 0o644, ssh.MarshalAuthorizedKey(signer.PublicKey()))
				}
			}
		case "public":
			b.files.add(file+".pub", 0o644, []byte(strings.TrimSpace(value)+"\n"))
		case "certificate":
			b.files.add(file+"-cert.pub", 0o644, []byte(strings.TrimSpace(value)+"\n"))
			b.appendTo("/etc/ssh/sshd_config", "HostCertificate /"+file+"-cert.pub")
		}
	}
	if len(given) > 0 {
		return nil
	}
	// Without RSA, whose keys take long to make.
	kinds := []string{"ecdsa", "ed25519"}
	if t := b.u.config.SSHGenKeyTypes; t != nil {
		kinds = *t
	}
	for _, kind := range kinds {
		file := "etc/ssh/ssh_host_" + kind + "_key"
		if b.seen.has("/" + file) {
			continue
		}
		var key any
		var err error
		switch kind {
		case "ed25519":
			_, key, err = ed25519.GenerateKey(rand.Reader)
		case "ecdsa":
			key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		case "rsa":
			key, err = rsa.GenerateKey(rand.Reader, 3072)
		default:
			b.u.warn("user data: ssh_genkeytypes: cannot make a key of kind %q", kind)
			continue
		}
		if err != nil {
			return err
		}
		if k, ok := key.(ed25519.PrivateKey); ok {
			key = &k
		}
		comment := "root@" + b.m.cfg.Hostname
		block, err := ssh.MarshalPrivateKey(key, comment)
		if err != nil {
			return err
		}
		signer, err := ssh.NewSignerFromKey(key)
		if err != nil {
			return err
		}
		b.files.add(file, 0o600, pem.EncodeToMemory(block))
		b.files.add(file+".pub", 0o644, append(bytes.TrimSpace(ssh.MarshalAuthorizedKey(signer.PublicKey())), " "+comment+"\n"...))
	}
	return nil
}

// passwords says in sshd's configuration whether passwords may be used: only if
// the user data wants it.
func (b *firstBoot) passwords() {
	line := "PasswordAuthentication no"
	if yes, ok := truth(b.u.config.SSHPasswords); ok && yes {
		line = "PasswordAuthentication yes"
	} else if b.u.config.SSHPasswords != nil && !ok {
		return // "unchanged"
	}
	config := b.seen.file["etc/ssh/sshd_config"]
	if b.seen.has("/etc/ssh/sshd_config.d") && strings.Contains(config, "sshd_config.d/") {
		b.files.add("etc/ssh/sshd_config.d/50-cloud-init.conf", 0o600, []byte(line+"\n"))
		return
	}
	// The first line of a kind is the one that counts.
	b.files.add("etc/ssh/sshd_config", 0o644, []byte(line+"\n"+config))
}

func (b *firstBoot) users() error {
	def := account{Name: b.m.cfg.User, Gecos: "Default user", Groups: []any{"adm", "sudo", "wheel"}, Sudo: "ALL=(ALL) NOPASSWD:ALL"}
	list, hasDefault := b.u.accounts(def)
	if b.m.cfg.User == "root" {
		list = slices.DeleteFunc(list, func(a account) bool { return a.Name == "root" })
	} else if !validName.MatchString(b.m.cfg.User) {
		return fmt.Errorf("cannot make the user %q", b.m.cfg.User)
	}
	for _, a := range list {
		b.user(a)
	}
	if b.sudo.Len() > 0 {
		b.do("mkdir", "-p", "-m", "750", "/etc/sudoers.d")
		b.files.add("etc/sudoers.d/90-cloud-init-users", 0o440, []byte("# Created by cloud-init\n"+b.sudo.String()))
	}
	keys := slices.Concat(b.m.cfg.Keys, b.u.config.SSHAuthorizedKeys)
	prefix := ""
	if b.m.cfg.User != "root" {
		to := "NONE"
		if hasDefault {
			to = b.m.cfg.User
			b.authorize(to, keys, "")
		}
		if d := b.u.config.DisableRoot; d == nil || *d {
			prefix = fmt.Sprintf(`no-port-forwarding,no-agent-forwarding,no-X11-forwarding,command="echo 'Please login as the user \"%s\" rather than the user \"root\".';echo;sleep 10;exit 142" `, to)
		}
	}
	b.authorize("root", keys, prefix)
	set := func(name, password string) {
		if !validName.MatchString(name) || strings.ContainsAny(password, "\n\x00") {
			b.u.warn("user data: cannot set the password of %q", name)
			return
		}
		how := "chpasswd"
		if strings.HasPrefix(password, "$") {
			how = "chpasswd -e"
		}
		b.script.WriteString(machine.Quote("printf", "%s\n", name+":"+password) + " | " + how + "\n")
	}
	if p := b.u.config.Password; p != "" && hasDefault {
		set(b.m.cfg.User, p)
	}
	for _, a := range list {
		if a.PlainPassword != "" {
			set(a.Name, a.PlainPassword)
		}
	}
	var lines []string
	switch l := b.u.config.Chpasswd.List.(type) {
	case string:
		lines = strings.Split(l, "\n")
	case []any:
		for _, v := range l {
			lines = append(lines, fmt.Sprint(v))
		}
	}
	for _, l := range lines {
		if name, password, ok := strings.Cut(strings.TrimSpace(l), ":"); ok {
			set(name, password)
		}
	}
	for _, p := range b.u.config.Chpasswd.Users {
		set(p.Name, p.Password)
	}
	return nil
}

// user makes an account by hand: the tools for it differ from image to image.
func (b *firstBoot) user(a account) {
	switch s := a.Sudo.(type) {
	case string:
		b.sudo.WriteString(a.Name + " " + oneLine(s) + "\n")
	case []any:
		for _, l := range s {
			b.sudo.WriteString(a.Name + " " + oneLine(fmt.Sprint(l)) + "\n")
		}
	}
	if b.seen.find("etc/passwd", a.Name) == nil {
		id := b.seen.freeID(a.System)
		if n, err := strconv.Atoi(fmt.Sprint(a.UID)); err == nil && n > 0 {
			id = n
		}
		gid := strconv.Itoa(id)
		if g := b.seen.find("etc/group", a.PrimaryGroup); a.PrimaryGroup != "" && g != nil {
			gid = g[2]
		} else if g := b.seen.find("etc/group", a.Name); g != nil {
			gid = g[2]
		} else {
			b.appendTo("/etc/group", a.Name+":x:"+gid+":")
			if b.seen.file["etc/gshadow"] != "" {
				b.appendTo("/etc/gshadow", a.Name+":!::")
			}
		}
		home, shell := a.Home, a.Shell
		if home == "" {
			home = "/home/" + a.Name
		}
		if shell == "" {
			shell = "/bin/sh"
			if b.seen.has("/bin/bash") {
				shell = "/bin/bash"
			}
		}
		// No password can be right, but the account is not locked: sshd without
		// PAM keeps locked ones out.
		hash := "*"
		for _, h := range []string{a.Hash, a.Hashed} {
			if h != "" {
				hash = oneLine(h)
			}
		}
		b.appendTo("/etc/passwd", strings.Join([]string{a.Name, "x", strconv.Itoa(id), gid, oneLine(strings.ReplaceAll(a.Gecos, ":", " ")), oneLine(home), oneLine(shell)}, ":"))
		if b.seen.file["etc/shadow"] != "" {
			b.appendTo("/etc/shadow", a.Name+":"+hash+":19000:0:99999:7:::")
		}
		if !a.NoHome {
			b.do("mkdir", "-p", path.Dir(home))
			if b.seen.has("/etc/skel") {
				b.script.WriteString("[ -d " + machine.Quote(home) + " ] || " + machine.Quote("cp", "-R", "/etc/skel", home) + "\n")
			}
			b.do("mkdir", "-p", home)
			b.do("chmod", "755", home)
			b.do("chown", "-R", a.Name+":"+gid, home)
		}
	}
	for _, g := range words(a.Groups) {
		f := b.seen.find("etc/group", g)
		if f == nil || slices.Contains(strings.Split(f[3], ","), a.Name) || !validName.MatchString(g) {
			continue
		}
		for _, file := range []string{"/etc/group", "/etc/gshadow"} {
			b.script.WriteString("[ ! -f " + file + " ] || sed -i -e " + machine.Quote("/^"+regexp.QuoteMeta(g)+":/{s/$/,"+a.Name+"/;s/:,/:/;}") + " " + file + "\n")
		}
	}
	b.authorize(a.Name, a.Keys, "")
}

func oneLine(s string) string {
	return strings.NewReplacer("\n", " ", "\r", " ", "\x00", "").Replace(s)
}

// authorize adds keys to a user's authorized_keys, with options before each.
func (b *firstBoot) authorize(user string, keys []string, options string) {
	f := b.seen.find("etc/passwd", user)
	if len(f) < 6 || len(keys) == 0 {
		return
	}
	dir := path.Join(f[5], ".ssh")
	file := path.Join(dir, "authorized_keys")
	b.do("mkdir", "-p", dir)
	for _, k := range keys {
		for line := range strings.Lines(k) {
			if line = strings.TrimSpace(line); line == "" || line[0] == '#' {
				continue
			}
			q := machine.Quote(options + line)
			b.script.WriteString("grep -qxF -e " + q + " " + machine.Quote(file) + " 2>/dev/null || printf '%s\\n' " + q + " >>" + machine.Quote(file) + "\n")
		}
	}
	b.do("chmod", "700", dir)
	b.script.WriteString("[ ! -e " + machine.Quote(file) + " ] || " + machine.Quote("chmod", "600", file) + "\n")
	b.do("chown", "-R", f[2]+":"+f[3], dir)
}

func (b *firstBoot) writeFile(f writeFile) {
	data, err := f.data()
	name := strings.TrimPrefix(path.Clean("/"+f.Path), "/")
	if err != nil || name == "" {
		b.u.warn("user data: write_files: cannot write %q: %v", f.Path, err)
		return
	}
	mode := int64(0o644)
	switch p := f.Permissions.(type) {
	case string:
		if n, err := strconv.ParseInt(strings.TrimPrefix(p, "0o"), 8, 32); err == nil {
			mode = n
		}
	case int:
		mode = int64(p)
	}
	uid, gid := b.seen.ids(orText(f.Owner, "root:root"))
	if uid < 0 || gid < 0 {
		b.u.warn("user data: write_files: %s: there is no %s", f.Path, f.Owner)
		return
	}
	if f.Append {
		b.do("mkdir", "-p", path.Dir("/"+name))
		b.script.WriteString(machine.Quote("printf", "%s", string(data)) + " >>" + machine.Quote("/"+name) + "\n")
		b.do("chown", fmt.Sprintf("%d:%d", uid, gid), "/"+name)
		b.do("chmod", fmt.Sprintf("%o", mode), "/"+name)
		return
	}
	b.files = append(b.files, file{name: name, mode: mode, uid: uid, gid: gid, data: data})
}

// finish does what cloud-init does last, beside the SSH server.
func (b *firstBoot) finish(ctx context.Context, box *sandbox.Machine) error {
	late := &firstBoot{m: b.m, u: b.u, seen: b.seen}
	for _, f := range b.u.config.WriteFiles {
		if f.Defer {
			late.writeFile(f)
		}
	}
	var errs []error
	if late.script.Len() > 0 {
		errs = append(errs, sh(ctx, box, late.script.String(), nil))
	}
	if len(late.files) > 0 {
		errs = append(errs, box.Put(ctx, "/", &late.files))
	}
	if len(b.u.config.Runcmd) > 0 {
		var all []byte
		for _, c := range b.u.config.Runcmd {
			all = append(all, commandLine(c)...)
		}
		if err := b.m.script(ctx, box, "runcmd", all); err != nil {
			errs = append(errs, fmt.Errorf("runcmd: %w", err))
		}
	}
	for i, s := range b.u.scripts {
		if err := b.m.script(ctx, box, fmt.Sprintf("part-%03d", i+1), s); err != nil {
			errs = append(errs, fmt.Errorf("user script %d: %w", i+1, err))
		}
	}
	errs = append(errs, sh(ctx, box, "date >/var/lib/cloud/instance/boot-finished", nil))
	return errors.Join(errs...)
}

// showKeys prints the machine's host keys on its console.
func (m *Machine) showKeys(ctx context.Context, box *sandbox.Machine) error {
	var out bytes.Buffer
	if err := sh(ctx, box, "cat /etc/ssh/ssh_host_*_key.pub 2>/dev/null; exit 0", &out); err != nil {
		return fmt.Errorf("read its host keys: %w", err)
	}
	var prints, keys strings.Builder
	for line := range strings.Lines(out.String()) {
		line = strings.TrimSpace(line)
		key, comment, _, _, err := ssh.ParseAuthorizedKey([]byte(line))
		if err != nil {
			continue
		}
		keys.WriteString(line + "\n")
		kind, bits := strings.ToUpper(strings.TrimPrefix(key.Type(), "ssh-")), 256
		if strings.HasPrefix(key.Type(), "ecdsa") {
			kind = "ECDSA"
		} else if kind == "RSA" {
			bits = 3072
			if k, ok := key.(ssh.CryptoPublicKey); ok {
				if p, ok := k.CryptoPublicKey().(*rsa.PublicKey); ok {
					bits = p.N.BitLen()
				}
			}
		}
		fmt.Fprintf(&prints, "<14>ec2: %d %s %s (%s)\n", bits, ssh.FingerprintSHA256(key), orText(comment, "no comment"), kind)
	}
	m.printf("<14>ec2: \n<14>ec2: #############################################################\n"+
		"<14>ec2: -----BEGIN SSH HOST KEY FINGERPRINTS-----\n%s<14>ec2: -----END SSH HOST KEY FINGERPRINTS-----\n"+
		"<14>ec2: #############################################################\n"+
		"-----BEGIN SSH HOST KEY KEYS-----\n%s-----END SSH HOST KEY KEYS-----\n", prints.String(), keys.String())
	return nil
}

// startSSH starts the machine's own sshd and waits until it listens.
func (m *Machine) startSSH(ctx context.Context, r *run) error {
	var log bytes.Buffer
	ended := make(chan error, 1)
	r.wg.Go(func() {
		// It stays in the foreground, so that what it says can be heard. Killed and
		// started again by somebody in the machine, it is theirs.
		ended <- r.box.Exec(r.ctx, sandbox.Program{Argv: []string{sshdPath, "-D", "-e"}, Dir: "/"}, machine.Command{Stdout: &log, Stderr: &log})
	})
	deadline := time.Now().Add(sshdGrace)
	for wait := time.Millisecond; ; wait = min(2*wait, 50*time.Millisecond) {
		select {
		case err := <-ended:
			return fmt.Errorf("its SSH server did not start: %v: %s", err, bytes.TrimSpace(log.Bytes()))
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(wait):
		}
		c, err := r.box.Dial(ctx, "tcp", "127.0.0.1:22")
		if err == nil {
			return c.Close()
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("its SSH server does not listen on port 22 after %s", sshdGrace)
		}
	}
}

// file is one that is put into a machine, with its owner.
type file struct {
	name     string
	mode     int64
	uid, gid int
	data     []byte
}

// fileTree is a machine.Tree.
type fileTree []file

func (t *fileTree) add(name string, mode int64, data []byte) {
	*t = append(*t, file{name: name, mode: mode, data: data})
}

// WriteTar implements machine.Tree.
func (t *fileTree) WriteTar(_ context.Context, w io.Writer) error {
	tw := tar.NewWriter(w)
	for _, f := range *t {
		h := &tar.Header{Typeflag: tar.TypeReg, Name: f.name, Mode: f.mode, Uid: f.uid, Gid: f.gid, Size: int64(len(f.data)), ModTime: time.Now(), Format: tar.FormatGNU}
		if err := tw.WriteHeader(h); err != nil {
			return err
		}
		if _, err := tw.Write(f.data); err != nil {
			return err
		}
	}
	return tw.Close()
}
