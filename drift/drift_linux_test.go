package drift

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"

	"github.com/ingotbuild/ingot/internal/sandboxtest"
	"github.com/ingotbuild/ingot/machine"
	"github.com/ingotbuild/ingot/specs"
)

// keyed lists changes as KIND NAME PROPERTY.
func keyed(cs []Change) (out []string) {
	for _, c := range cs {
		out = append(out, c.Kind+" "+c.Name+" "+c.Property)
	}
	return out
}

// Whatever is done to a machine is found, and nothing else.
func TestTampering(t *testing.T) {
	for name, base := range bases(t) {
		t.Run(name, func(t *testing.T) {
			m := sandboxtest.Start(t, base)
			do(t, m, `mkdir -p /etc/app /etc/systemd/system/multi-user.target.wants && cd /etc/app && for f in edited chmod chown gone typed; do echo $f > $f; done && ln -s a link &&
				ln -s /x /etc/systemd/system/multi-user.target.wants/old.service && mkdir -p /usr/local/bin && echo x > /usr/local/bin/tool`)
			before := facts(t, m)
			do(t, m, `cd /etc/app && echo other > edited && chmod 4755 chmod && chown 65534 chown && rm gone link typed && mkdir typed && ln -s b link && echo new > new && mkdir -p dir/sub && echo > dir/sub/f
				echo 'eve:x:0:0::/root:/bin/sh' >> /etc/passwd && echo 'wheels:x:4242:eve' >> /etc/group && rm /etc/systemd/system/multi-user.target.wants/old.service && ln -s /dev/null /etc/systemd/system/ssh.service
				echo ignored > /etc/hostname; echo ignored > /etc/ssh_host || true; rm -f /etc/ssh_host; touch -d @0 /usr/local/bin/tool; echo y >> /usr/local/bin/tool`)
			want := []string{
				"file /etc/app/chmod mode", "file /etc/app/chown owner", "file /etc/app/dir exist", "file /etc/app/edited content", "file /etc/app/gone exist",
				"file /etc/app/link link_target", "file /etc/app/new exist", "file /etc/app/typed type", "service old.service be_enabled", "service ssh.service be_enabled",
				"file /usr/local/bin/tool content", "user eve exist", "group wheels exist",
			}
			if name == "host" {
				do(t, m, `awk 'BEGIN { RS = ""; ORS = "\n\n" } !/^Package: dpkg\n/' /var/lib/dpkg/status > /tmp/s && cp /tmp/s /var/lib/dpkg/status`)
				want = append(want, "package dpkg be_installed")
			}
			// A port is opened, and a parameter of the machine's own network set where
			// the machine may.
			ctx, cancel := context.WithCancel(t.Context())
			ended := make(chan struct{})
			go func() {
				defer close(ended)
				_ = m.Run(ctx, machine.Command{Line: listen(name), Stdout: io.Discard, Stderr: io.Discard})
			}()
			defer func() { cancel(); <-ended }()
			do(t, m, `n=0; until grep -q ':1A0A ' /proc/net/tcp; do n=$((n+1)); [ $n -lt 1200 ] || exit 1; sleep 0.05; done`)
			want = append(want, "port tcp 6666 (any address) be_listening")
			after := facts(t, m)
			after.Kernel["net.ipv4.ip_forward"] = "tampered" // /proc/sys is read-only here
			want = append(want, "linux_kernel_parameter net.ipv4.ip_forward value")
			c, err := Compare(before, after, Rules{})
			if err != nil {
				t.Fatal(err)
			}
			got := keyed(c.Changes)
			slices.Sort(got)
			slices.Sort(want)
			if !slices.Equal(got, want) {
				t.Errorf("found\n\t%s\nwant\n\t%s", strings.Join(got, "\n\t"), strings.Join(want, "\n\t"))
			}
			c, err = Compare(before, after, Rules{Ignore: []string{"/etc/app/**", "/usr/local/bin/t*", "user e*", "group wheels", "service *", "port tcp 6666*", "linux_kernel_parameter net.*", "package dpkg"}})
			if err != nil || len(c.Changes) > 0 {
				t.Errorf("all is ignored, and found is %q, %v", keyed(c.Changes), err)
			}
		})
	}
}

// listen is a command that listens on port 6666 for as long as it runs.
func listen(base string) string {
	if base == "host" {
		return `exec perl -MIO::Socket::INET -e '$s = IO::Socket::INET->new(LocalAddr => "0.0.0.0", LocalPort => 6666, Listen => 1) or die; sleep 600'`
	}
	return "exec httpd -f -p 0.0.0.0:6666"
}

// counting counts how many machines are open at once.
type counting struct{ open, most atomic.Int64 }

func (c *counting) enter() {
	n := c.open.Add(1)
	for most := c.most.Load(); n > most && !c.most.CompareAndSwap(most, n); most = c.most.Load() {
	}
}

// hostile answers every command in its own way.
type hostile struct {
	machine.Machine
	run func(ctx context.Context, c machine.Command) error
}

func (h hostile) Platform() machine.Platform { return machine.Platform{OS: "linux", Shell: "sh"} }

func (h hostile) Run(ctx context.Context, c machine.Command) error { return h.run(ctx, c) }

func TestManyHosts(t *testing.T) {
	sandboxtest.Need(t)
	m := sandboxtest.Start(t, sandboxtest.Busybox(t))
	do(t, m, "mkdir /etc/app && echo on > /etc/app/conf")
	img := &Image{Ref: "web@v1", Facts: facts(t, m)}
	img.Facts.Unknown = map[string]string{SectionServices: "no init ran"}
	img.Facts.Specs = []*specs.Recorded{{Name: "conf", Source: `file "/etc/app/conf" {
  its "content" { match = "on" }
}`}}
	drifted := sandboxtest.Start(t, sandboxtest.Busybox(t))
	do(t, drifted, "mkdir /etc/app && echo off > /etc/app/conf")

	f, diags := hclsyntax.ParseConfig([]byte(`user "root" { exist = true }`), "x.hcl", hcl.InitialPos)
	spec, more := specs.Compile(f.Body, nil, "own")
	if diags.HasErrors() || more.HasErrors() {
		t.Fatal(diags, more)
	}
	o := Options{Parallel: 4, Timeout: time.Minute}
	for i := range 12 {
		o.Hosts = append(o.Hosts, &Host{Name: fmt.Sprint("web", i), Target: "ok", Image: "web@production", Specs: []*specs.Spec{spec}})
	}
	o.Hosts[3].Target = "dead"
	o.Hosts[5].Target = "drifted"
	o.Hosts[7].Target = "garbage"
	o.Hosts[9].Target = "no image"
	o.Hosts[9].Image = "db"
	lookups := 0
	o.Image = func(_ context.Context, ref, _ string) (*Image, error) {
		lookups++
		if ref == "db" {
			return nil, errors.New("there is no image db")
		}
		return img, nil
	}
	var n counting
	o.Open = func(_ context.Context, target string) (machine.Machine, func() error, error) {
		n.enter()
		done := func() error { n.open.Add(-1); return nil }
		switch target {
		case "dead":
			n.open.Add(-1)
			return nil, nil, errors.New("no route to host")
		case "drifted":
			return drifted, done, nil
		case "garbage":
			return hostile{run: func(_ context.Context, c machine.Command) error {
				_, err := io.WriteString(c.Stdout, "root 0 end\nall is well\n")
				return err
			}}, done, nil
		}
		return m, done, nil
	}
	results := Run(t.Context(), o)
	if n.most.Load() > 4 || n.open.Load() != 0 || lookups != 2 {
		t.Errorf("%d machines were open at once and %d stay so; %d look-ups", n.most.Load(), n.open.Load(), lookups)
	}
	for i, r := range results {
		want, says := specs.Pass, ""
		switch i {
		case 3:
			want, says = specs.Error, "no route to host"
		case 5:
			want = specs.Fail
		case 7:
			want, says = specs.Error, "broke off after 0 of"
		case 9:
			want, says = specs.Error, "there is no image db"
		}
		if r.Host != o.Hosts[i] || r.Verdict() != want || says != "" && (r.Err == nil || !strings.Contains(r.Err.Error(), says)) || says == "" && r.Err != nil {
			t.Errorf("%s: %s, %v", r.Host.Name, r.Verdict(), r.Err)
		}
		if i != 3 && i != 7 && i != 9 && len(r.Reports) != 3 {
			t.Errorf("%s: %d reports, want those of drift, the recorded spec and its own", r.Host.Name, len(r.Reports))
		}
	}
	// The specs of a host whose image is not known are checked all the same.
	if rs := results[9].Reports; len(rs) != 1 || !rs[0].Passed() {
		t.Errorf("without an image: %+v", rs)
	}
	if got := keyed(results[5].Compared.Changes); !slices.Equal(got, []string{"file /etc/app/conf content"}) {
		t.Errorf("drifted: %q", got)
	}
}

func TestHostWithoutEnd(t *testing.T) {
	img := &Image{Ref: "web@v1", Facts: &Facts{}}
	for name, run := range map[string]func(ctx context.Context, c machine.Command) error{
		"it never answers": func(ctx context.Context, c machine.Command) error { <-ctx.Done(); return ctx.Err() },
		"it never stops": func(ctx context.Context, c machine.Command) error {
			for ctx.Err() == nil {
				if _, err := c.Stdout.Write(make([]byte, 1<<20)); err != nil {
					return err
				}
			}
			return ctx.Err()
		},
	} {
		o := Options{
			Hosts: []*Host{{Name: "a", Image: "web"}}, Timeout: 300 * time.Millisecond,
			Image: func(context.Context, string, string) (*Image, error) { return img, nil },
			Open: func(context.Context, string) (machine.Machine, func() error, error) {
				return hostile{run: run}, func() error { return nil }, nil
			},
		}
		if name == "it never stops" {
			o.Timeout = time.Minute // its own bound comes first
		}
		r := Run(t.Context(), o)[0]
		if r.Verdict() != specs.Error || r.Err == nil {
			t.Errorf("%s: %s, %v", name, r.Verdict(), r.Err)
		}
	}
}
