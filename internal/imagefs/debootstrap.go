package imagefs

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"time"
)

// Debootstrap says what debootstrap should make.
type Debootstrap struct {
	Suite   string   // "bookworm"; required
	Mirror  string   // http, https or file URL. Default: http://deb.debian.org/debian
	Variant string   // minbase (the default), buildd, or "standard" for debootstrap's own default
	Include []string // further packages
	Arch    string   // Debian's word (amd64, arm64). Default: this machine's
}

var (
	suitePattern   = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]*$`)
	packagePattern = regexp.MustCompile(`^[a-z0-9][a-z0-9.+-]*(:[a-z0-9-]+)?$`)
)

// debianArch maps Go's words to Debian's where they differ.
func debianArch(goarch string) string {
	switch goarch {
	case "386":
		return "i386"
	case "arm":
		return "armhf"
	case "ppc64le":
		return "ppc64el"
	}
	return goarch
}

func goArch(debian string) string {
	switch debian {
	case "i386":
		return "386"
	case "armhf", "armel":
		return "arm"
	case "ppc64el":
		return "ppc64le"
	}
	return debian
}

// Check says what is wrong with d, without asking the tool or the mirror.
func (d Debootstrap) Check() error {
	_, err := d.normal()
	return err
}

// normal fills in the defaults and refuses what the tool could misread.
func (d Debootstrap) normal() (Debootstrap, error) {
	if d.Mirror == "" {
		d.Mirror = "http://deb.debian.org/debian"
	}
	d.Mirror = strings.TrimRight(d.Mirror, "/")
	if d.Variant == "" {
		d.Variant = "minbase"
	}
	if d.Arch == "" {
		d.Arch = debianArch(runtime.GOARCH)
	}
	if !suitePattern.MatchString(d.Suite) {
		return d, fmt.Errorf("suite %q: want a name such as bookworm", d.Suite)
	}
	u, err := url.Parse(d.Mirror)
	if err != nil || (u.Scheme != "http" && u.Scheme != "https" && u.Scheme != "file") {
		return d, errors.New("mirror: want an http, https or file URL")
	}
	if u.User != nil {
		return d, errors.New("mirror: a password in the URL would end up in the image; use a mirror that needs none")
	}
	if d.Variant != "minbase" && d.Variant != "buildd" && d.Variant != "standard" {
		return d, fmt.Errorf("variant %q: want minbase, buildd or standard", d.Variant)
	}
	if !suitePattern.MatchString(d.Arch) {
		return d, fmt.Errorf("arch %q: want a name such as amd64", d.Arch)
	}
	for _, p := range d.Include {
		if !packagePattern.MatchString(p) {
			return d, fmt.Errorf("include %q: want the name of a package", p)
		}
	}
	return d, nil
}

// DebootstrapBase makes a Debian tree with debootstrap, or takes the one made
// earlier from the same options, tool version and state of the mirror. When
// the mirror cannot be reached, the newest tree of the same options is used,
// with a warning.
func (s *Store) DebootstrapBase(ctx context.Context, d Debootstrap) (*Base, error) {
	fail := func(err error) (*Base, error) { return nil, fmt.Errorf("debootstrap %s: %w", d.Suite, err) }
	d, err := d.normal()
	if err != nil {
		return fail(err)
	}
	version, err := toolDebootstrap.run(ctx, nil, "--version")
	if err != nil {
		return fail(err)
	}
	options, err := json.Marshal(struct {
		Debootstrap
		Version string
		Without []string
	}{d, strings.TrimSpace(version), leftBehind})
	if err != nil {
		return fail(err)
	}
	release, err := d.inRelease(ctx)
	var e *cacheEntry
	if err != nil {
		var gone unreachable
		if !errors.As(err, &gone) {
			return fail(err)
		}
		if e = s.cached("deblast", string(options)); e == nil {
			return fail(err)
		}
		s.events.Warn(fmt.Sprintf("%v; using the tree made on %s", err, e.Made.Format(time.DateTime)))
	} else {
		key := string(options) + digestOf(release)
		// Side by side bakes of one base wait here for the first.
		unlock, err := s.lock(ctx, "debootstrap", true)
		if err != nil {
			return fail(err)
		}
		defer unlock.Close()
		if e = s.cached("deb", key); e == nil {
			l, err := s.debootstrap(ctx, d, releaseDate(release))
			if err != nil {
				return fail(err)
			}
			e = &cacheEntry{Key: key, Source: l.DiffID, Layers: []Layer{l}}
			if err := s.remember(ctx, "deb", *e); err != nil {
				return fail(err)
			}
		}
		last := *e
		last.Key = string(options)
		if err := s.remember(ctx, "deblast", last); err != nil {
			return fail(err)
		}
	}
	if err := s.ensureLayers(ctx, e.Layers); err != nil {
		return fail(err)
	}
	return &Base{
		Kind: KindDebootstrap, Ref: d.Suite, Layers: e.Layers, Config: emptyConfig(goArch(d.Arch)), Fingerprint: e.Source,
	}, nil
}

// unreachable is why a mirror gave no answer.
type unreachable struct{ error }

// inRelease fetches the mirror's signed index of the suite. Its signature is
// debootstrap's to check; here it only says which state the mirror is in.
func (d Debootstrap) inRelease(ctx context.Context) ([]byte, error) {
	where := d.Mirror + "/dists/" + d.Suite + "/InRelease"
	const limit = 8 << 20
	if p, ok := strings.CutPrefix(d.Mirror, "file://"); ok {
		return os.ReadFile(filepath.Join(p, "dists", d.Suite, "InRelease"))
	}
	reqCtx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(reqCtx, http.MethodGet, where, nil)
	if err != nil {
		return nil, err
	}
	resp, err := http.DefaultClient.Do(req)
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	if err != nil {
		return nil, unreachable{fmt.Errorf("the mirror cannot be reached: %w", err)}
	}
	defer resp.Body.Close()
	switch {
	case resp.StatusCode >= 500 || resp.StatusCode == http.StatusTooManyRequests:
		return nil, unreachable{fmt.Errorf("the mirror does not work now: %s says %s", where, resp.Status)}
	case resp.StatusCode != http.StatusOK:
		return nil, fmt.Errorf("the mirror has no such suite: %s says %s", where, resp.Status)
	}
	b, err := io.ReadAll(io.LimitReader(resp.Body, limit+1))
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	if err != nil {
		return nil, unreachable{fmt.Errorf("the mirror broke off: %w", err)}
	}
	if len(b) > limit {
		return nil, fmt.Errorf("%s is larger than %d MiB: that is no InRelease file", where, limit>>20)
	}
	return b, nil
}

// releaseDate is when the mirror's state was made. Clamping to it makes the
// tree the same whenever it is built.
func releaseDate(release []byte) time.Time {
	for line := range bytes.Lines(release) {
		if v, ok := bytes.CutPrefix(line, []byte("Date:")); ok {
			t, err := time.Parse(time.RFC1123, strings.TrimSpace(string(v)))
			if err != nil {
				return time.Time{}
			}
			return t
		}
	}
	return time.Time{}
}

// leftBehind is what debootstrap takes from this machine, or writes the time
// or chance into.
var leftBehind = []string{
	"etc/resolv.conf", "etc/hostname", "var/log/bootstrap.log", "var/log/dpkg.log", "var/log/alternatives.log",
	"var/log/apt/history.log", "var/log/apt/term.log", "var/cache/ldconfig/aux-cache", "var/lib/dbus/machine-id",
	"var/cache/apt/pkgcache.bin", "var/cache/apt/srcpkgcache.bin",
}

// removeLeftBehind takes leftBehind and the downloaded packages out of a tree,
// whatever links are in it.
func removeLeftBehind(tree string) error {
	root, err := os.OpenRoot(tree)
	if err != nil {
		return err
	}
	defer root.Close()
	debs, err := fs.Glob(root.FS(), "var/cache/apt/archives/*.deb")
	if err != nil {
		return err
	}
	for _, name := range append(debs, leftBehind...) {
		if err := root.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	// Empty, it gets an id when a machine first boots.
	f, err := root.OpenFile("etc/machine-id", os.O_WRONLY|os.O_TRUNC, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return f.Close()
}

func (s *Store) debootstrap(ctx context.Context, d Debootstrap, epoch time.Time) (Layer, error) {
	target := filepath.Join(s.tmp, "debootstrap-"+randomName())
	if err := os.Mkdir(target, 0o755); err != nil {
		return Layer{}, err
	}
	defer os.RemoveAll(target)
	args := []string{"--arch=" + d.Arch}
	if d.Variant != "standard" {
		args = append(args, "--variant="+d.Variant)
	}
	if len(d.Include) > 0 {
		args = append(args, "--include="+strings.Join(d.Include, ","))
	}
	cmd, err := toolDebootstrap.command(ctx, nil, append(args, d.Suite, target, d.Mirror)...)
	if err != nil {
		return Layer{}, err
	}
	// Its mounts and whatever it starts end with it.
	ownNamespaces(cmd)
	lines := s.events.Lines("stdout")
	defer lines.Flush()
	var out bytes.Buffer
	cmd.Stdout = io.MultiWriter(lines, &out)
	cmd.Stderr = cmd.Stdout
	if err := toolDebootstrap.wait(ctx, cmd, &out); err != nil {
		return Layer{}, err
	}
	if err := removeLeftBehind(target); err != nil {
		return Layer{}, fmt.Errorf("clean up after debootstrap: %w", err)
	}
	l, err := s.packTree(ctx, target, packOptions{epoch: epoch}, PackOptions{})
	if err != nil {
		return Layer{}, err
	}
	_, err = s.AdoptLayer(ctx, target, l)
	return l, err
}
