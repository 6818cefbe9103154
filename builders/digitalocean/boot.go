package digitalocean

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/digitalocean/godo"
	"golang.org/x/crypto/ssh"
	"golang.org/x/sync/errgroup"

	"github.com/ingotbuild/ingot/builders"
	"github.com/ingotbuild/ingot/internal/docloud"
	"github.com/ingotbuild/ingot/machine"
	"github.com/ingotbuild/ingot/machine/communicator"
	sshmachine "github.com/ingotbuild/ingot/machine/ssh"
)

// tagPrefix begins all that is temporary.
const tagPrefix = "ingot-"

const proofSuffix = "-proof"

// tags are those of a bake, none of which any other bake has: so each can be
// removed without a look at what else has it. A colon ends what must not run on.
type tags struct{ build, expires, source string }

func tagsOf(run *builders.Run, expires time.Duration) tags {
	return tags{
		build:   buildTag(run.BakeID),
		expires: fmt.Sprintf("%sexpires-%d:%s", tagPrefix, run.Created.Add(expires).Unix(), run.BakeID),
		source:  fmt.Sprintf("%ssource-%s:%s:%s", tagPrefix, docloud.TagText(run.Type), docloud.TagText(run.Source), run.BakeID),
	}
}

func (t tags) all() []string { return []string{t.build, t.expires, t.source} }

func buildTag(bakeID string) string { return tagPrefix + "build-" + bakeID }

// droplet is what one bake has made to build its image on.
type droplet struct {
	sess *docloud.Session
	ref  docloud.Ref
	tags tags

	keyID           int
	private         []byte // of the temporary key
	public          string // of it, as in authorized_keys
	parent          string // the id or slug of the base
	id              int
	called          time.Time // when something was asked for last
	name            string
	lease           builders.Lease
	host            *hostKey
	machine         machine.Machine // nil: the communicator is none
	region          string
	firewallSources []string
}

// Boot implements builders.Builder.
func (b *Builder) Boot(ctx context.Context, run *builders.Run) (machine.Machine, error) {
	sess, err := b.shared.Connect(&b.o.Access)
	if err != nil {
		return nil, err
	}
	m := &droplet{sess: sess, tags: tagsOf(run, b.o.Expires), region: b.o.Region, name: b.o.DropletName, keyID: b.o.SSHKeyID}
	if m.name == "" {
		m.name = "packer-" + run.BakeID
	}
	if m.ref, err = sess.Ref(ctx); err != nil {
		return nil, fmt.Errorf("ask whose the token is: %w", err)
	}
	b.m = m

	// The leases come first, all of them, in the order in which what they are
	// for must go: the last one first.
	var key, tag, wall builders.Lease
	if b.o.temporaryKey() {
		if m.private, m.public, err = b.o.NewKey(); err != nil {
			return nil, err
		}
		fp, err := fingerprint(m.public)
		if err != nil {
			return nil, err
		}
		if key, err = run.Leases.Intend(ctx, leaseKey, keyName(run), m.ref.Data(map[string]string{"fingerprint": fp})); err != nil {
			return nil, err
		}
	}
	if tag, err = run.Leases.Intend(ctx, leaseTags, m.tags.build, m.ref.Data(map[string]string{"tags": strings.Join(m.tags.all(), " ")})); err != nil {
		return nil, err
	}
	if b.o.firewall() {
		if wall, err = run.Leases.Intend(ctx, leaseFirewall, firewallName(run.BakeID), m.ref.Data(map[string]string{})); err != nil {
			return nil, err
		}
	}

	// What fails stops nothing of the rest: a call that is cut off leaves more
	// to look for than one that is answered.
	var image godo.DropletCreateImage
	var g errgroup.Group
	if b.o.temporaryKey() {
		g.Go(func() error { return b.makeKey(ctx, run, key) })
	}
	g.Go(func() (err error) { image, err = b.base(ctx); return err })
	g.Go(func() error {
		sources := make(chan error, 1)
		if b.o.firewall() {
			go func() (err error) {
				defer func() { sources <- err }()
				m.firewallSources, err = b.callers(ctx)
				return err
			}()
		} else {
			sources <- nil
		}
		terr := sess.MakeTag(ctx, m.tags.build)
		if terr == nil {
			terr = run.Leases.Created(ctx, tag, m.tags.build)
		} else {
			terr = fmt.Errorf("make the tag of the bake: %w", terr)
		}
		if err := errors.Join(<-sources, terr); err != nil || !b.o.firewall() {
			return err
		}
		return b.makeFirewall(ctx, run, wall)
	})
	err = g.Wait()
	m.called = time.Now()
	if err != nil {
		return nil, err
	}
	m.parent = image.Slug
	if image.ID > 0 {
		m.parent = strconv.Itoa(image.ID)
	}

	if b.o.injectKey() {
		if m.host, err = newHostKey(); err != nil {
			return nil, err
		}
	}
	data, err := b.o.userData(run.Dir, m.host)
	if err != nil {
		return nil, err
	}
	if m.lease, err = run.Leases.Intend(ctx, leaseDroplet, m.name, m.ref.Data(map[string]string{"tag": m.tags.build})); err != nil {
		return nil, err
	}
	run.Events.Say(fmt.Sprintf("Making the droplet %s: %s in %s, from %s", m.name, b.o.Size, b.o.Region, m.parent))
	if m.id, m.machine, err = b.launch(ctx, run, launch{name: m.name, image: image, userData: data, host: m.host, lease: m.lease, whole: true}); err != nil {
		return nil, err
	}
	return m.machine, nil
}

func keyName(run *builders.Run) string {
	return fmt.Sprintf("%s%s-%d", tagPrefix, run.BakeID, run.Created.Unix())
}

func firewallName(bakeID string) string { return tagPrefix + bakeID }

// fingerprint is the name that DigitalOcean has for a key; it follows from the
// key alone.
func fingerprint(public string) (string, error) {
	k, _, _, _, err := ssh.ParseAuthorizedKey([]byte(public))
	if err != nil {
		return "", err
	}
	return ssh.FingerprintLegacyMD5(k), nil
}

// made notes what came of a lease: the id, or that there is nothing to give back.
func made(ctx context.Context, run *builders.Run, l builders.Lease, id string, err error) error {
	switch {
	case err == nil:
		return run.Leases.Created(ctx, l, id)
	case docloud.Nothing(err):
		return errors.Join(err, run.Leases.Released(context.WithoutCancel(ctx), l))
	}
	return err
}

func (b *Builder) makeKey(ctx context.Context, run *builders.Run, l builders.Lease) error {
	k, err := docloud.Once(ctx, b.m.sess, func(ctx context.Context) (*godo.Key, error) {
		k, _, err := b.m.sess.API.Keys.Create(ctx, &godo.KeyCreateRequest{Name: l.Name, PublicKey: b.m.public})
		return k, err
	}, func(ctx context.Context) (*godo.Key, bool, error) {
		k, _, err := b.m.sess.API.Keys.GetByFingerprint(ctx, l.Data["fingerprint"])
		if docloud.NotFound(err) {
			return nil, false, nil
		}
		return k, err == nil, err
	})
	id := ""
	if err == nil {
		b.m.keyID, id = k.ID, strconv.Itoa(k.ID)
	}
	if err := made(ctx, run, l, id, err); err != nil {
		return fmt.Errorf("give the temporary key to DigitalOcean: %w", err)
	}
	return nil
}

// allPorts is how the API writes that every port is meant.
const allPorts = "0"

func (b *Builder) makeFirewall(ctx context.Context, run *builders.Run, l builders.Lease) error {
	s := b.m.sess
	everywhere := &godo.Destinations{Addresses: []string{"0.0.0.0/0", "::/0"}}
	req := &godo.FirewallRequest{Name: l.Name, Tags: []string{b.m.tags.build}, DropletIDs: []int{}}
	for _, port := range b.o.ports() {
		req.InboundRules = append(req.InboundRules, godo.InboundRule{Protocol: "tcp", PortRange: strconv.Itoa(port), Sources: &godo.Sources{Addresses: b.m.firewallSources}})
	}
	for _, p := range []string{"tcp", "udp", "icmp"} {
		req.OutboundRules = append(req.OutboundRules, godo.OutboundRule{Protocol: p, PortRange: allPorts, Destinations: everywhere})
	}
	start := time.Now()
	w, err := docloud.Once(ctx, s, func(ctx context.Context) (*godo.Firewall, error) {
		for {
			w, _, err := s.API.Firewalls.Create(ctx, req)
			// The tag was made a moment ago.
			if (docloud.Pending(err) || docloud.NotFound(err)) && time.Since(start) < s.Settle() {
				if err := s.Pause(ctx, s.Settle()/5); err != nil {
					return nil, err
				}
				continue
			}
			return w, err
		}
	}, func(ctx context.Context) (*godo.Firewall, bool, error) {
		found, err := firewalls(ctx, s, l.Name)
		if len(found) == 0 {
			return nil, false, err
		}
		return &found[0], true, nil
	})
	id := ""
	if err == nil {
		id = w.ID
	}
	if err := made(ctx, run, l, id, err); err != nil {
		return fmt.Errorf("make the temporary firewall: %w", err)
	}
	run.Events.Say("Only " + strings.Join(b.m.firewallSources, ", ") + " can reach the droplet")
	return nil
}

// ports are those by which the droplet is reached.
func (o *Options) ports() []int {
	if o.Kind() == communicator.WinRMKind {
		switch {
		case o.WinRMPort != 0:
			return []int{o.WinRMPort}
		case o.WinRMUseSSL:
			return []int{5986}
		}
		return []int{5985}
	}
	if o.SSHPort == 0 {
		return []int{22}
	}
	return []int{o.SSHPort}
}

// firewalls are those of that name.
func firewalls(ctx context.Context, s *docloud.Session, name string) ([]godo.Firewall, error) {
	all, err := docloud.Pages(ctx, s.API.Firewalls.List)
	return slices.DeleteFunc(all, func(w godo.Firewall) bool { return w.Name != name }), err
}

// droplets are those with that tag.
func droplets(ctx context.Context, s *docloud.Session, tag string) ([]godo.Droplet, error) {
	return docloud.Pages(ctx, func(ctx context.Context, o *godo.ListOptions) ([]godo.Droplet, *godo.Response, error) {
		return s.API.Droplets.ListByTag(ctx, tag, o)
	})
}

// base is the image to start from.
func (b *Builder) base(ctx context.Context) (godo.DropletCreateImage, error) {
	if b.o.Image != "" {
		if id, err := strconv.Atoi(b.o.Image); err == nil {
			return godo.DropletCreateImage{ID: id}, nil
		}
		return godo.DropletCreateImage{Slug: b.o.Image}, nil
	}
	i, err := b.o.newest(ctx, b.m.sess)
	return godo.DropletCreateImage{ID: i.ID}, err
}

// newest is the newest of the account's own images that the template means.
func (o *Options) newest(ctx context.Context, s *docloud.Session) (godo.Image, error) {
	found, err := s.Images(ctx, docloud.ImageQuery{Name: o.ImageName, Tag: o.ImageTag, Type: "user", Region: o.Region})
	if err != nil {
		return godo.Image{}, fmt.Errorf("look for the base image: %w", err)
	}
	if len(found) == 0 {
		var what []string
		if o.ImageName != "" {
			what = append(what, fmt.Sprintf("with the name %q", o.ImageName))
		}
		if o.ImageTag != "" {
			what = append(what, fmt.Sprintf("with the tag %q", o.ImageTag))
		}
		return godo.Image{}, fmt.Errorf("there is no image of your own in %s %s", o.Region, strings.Join(what, " and "))
	}
	return found[0], nil
}

// launch is a droplet to make.
type launch struct {
	name     string
	image    godo.DropletCreateImage
	userData string
	host     *hostKey
	lease    builders.Lease
	whole    bool // with all that the template says of the droplet to bake on
}

// launch makes a droplet and connects to it.
func (b *Builder) launch(ctx context.Context, run *builders.Run, l launch) (int, machine.Machine, error) {
	s := b.m.sess
	req := &godo.DropletCreateRequest{
		Name: l.name, Region: b.o.Region, Size: b.o.Size, Image: l.image, SSHKeys: []godo.DropletCreateSSHKey{},
		IPv6: b.o.IPVersionSix, PrivateNetworking: b.o.PrivateNetworking, VPCUUID: b.o.VPCUUID, Monitoring: b.o.Monitoring, WithDropletAgent: b.o.DropletAgent,
		UserData: l.userData, Tags: append(b.m.tags.all(), b.o.Tags...),
	}
	req.Backups = l.whole && b.o.Backups
	if b.m.keyID > 0 {
		req.SSHKeys = append(req.SSHKeys, godo.DropletCreateSSHKey{ID: b.m.keyID})
	}
	action := 0
	start := time.Now()
	d, err := docloud.Once(ctx, s, func(ctx context.Context) (*godo.Droplet, error) {
		for {
			d, resp, err := s.API.Droplets.Create(ctx, req)
			if err == nil && resp.Links != nil && len(resp.Links.Actions) > 0 {
				action = resp.Links.Actions[0].ID
			}
			// The key was made a moment ago.
			if docloud.Pending(err) && b.o.temporaryKey() && strings.Contains(strings.ToLower(err.Error()), "key") && time.Since(start) < s.Settle() {
				if err := s.Pause(ctx, s.Settle()/5); err != nil {
					return nil, err
				}
				continue
			}
			return d, err
		}
	}, func(ctx context.Context) (*godo.Droplet, bool, error) {
		found, err := droplets(ctx, s, b.m.tags.build)
		for i := range found {
			if found[i].Name == l.name {
				return &found[i], true, nil
			}
		}
		return nil, false, err
	})
	b.m.called = time.Now()
	id := ""
	if err == nil {
		id = strconv.Itoa(d.ID)
	}
	if err := made(ctx, run, l.lease, id, err); err != nil {
		return 0, nil, fmt.Errorf("make the droplet: %w", err)
	}
	if l.whole {
		run.Values["ID"] = id
	}

	g, gctx := errgroup.WithContext(ctx)
	if l.whole && b.o.Project != "" {
		g.Go(func() error { return b.intoProject(gctx, d) })
	}
	var m machine.Machine
	g.Go(func() (err error) {
		m, err = b.connect(gctx, run, d.ID, action, l)
		return err
	})
	if err := g.Wait(); err != nil {
		if m != nil {
			_ = m.Close() // the bake ends
		}
		return 0, nil, err
	}
	return d.ID, m, nil
}

// connect waits until the droplet can be used. That it is active counts for
// nothing where the machine answers before.
func (b *Builder) connect(ctx context.Context, run *builders.Run, id, action int, l launch) (machine.Machine, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	active := make(chan error, 1)
	go func() {
		err := b.active(ctx, id, action)
		if err != nil {
			cancel(err)
		}
		active <- err
	}()
	if !b.o.remote() {
		return nil, <-active
	}
	if l.whole && b.o.ReservedIP != "" {
		if err := <-active; err != nil {
			return nil, err
		}
		if err := b.assign(ctx, id); err != nil {
			return nil, err
		}
	}
	host, err := b.address(ctx, id, l.whole)
	if err != nil {
		return nil, err
	}
	t := communicator.Target{
		Host: func(ctx context.Context) (string, int, error) { return host, 0, b.knock(ctx, host) }, PrivateKey: b.m.private, Fresh: true, Dir: run.Dir,
	}
	if l.host != nil {
		t.HostKeys = []string{l.host.public}
	}
	m, values, err := communicator.Connect(ctx, &b.o.Options, t, run.Events)
	if err != nil {
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		}
		var mismatch *sshmachine.HostKeyError
		if errors.As(err, &mismatch) && l.host != nil {
			err = fmt.Errorf("%w: the droplet has not taken the host key that it was given by user data; does its image run cloud-init? Otherwise set inject_host_key = false, and ssh_host_key", err)
		}
		return nil, err
	}
	if l.whole {
		maps.Copy(run.Values, values)
	}
	return m, nil
}

// knock returns when an SSH server answers, so that no pause between two
// logins goes by in vain: the first one is made at once. Where the way to the
// droplet is not a straight one, it does nothing.
func (b *Builder) knock(ctx context.Context, host string) error {
	if !b.o.ssh() || b.o.SSHBastionHost != "" || b.o.SSHProxyHost != "" || b.o.SSHHost != "" {
		return nil
	}
	at := net.JoinHostPort(host, strconv.Itoa(b.o.ports()[0]))
	try := func() bool {
		ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
		defer cancel()
		conn, err := new(net.Dialer).DialContext(ctx, "tcp", at)
		if err != nil {
			return false
		}
		defer conn.Close()
		end, _ := ctx.Deadline()
		_ = conn.SetReadDeadline(end) // the connection is closed next
		hello := make([]byte, 1)
		n, _ := conn.Read(hello)
		return n > 0 // one that is not ready, or turns us away, closes
	}
	return b.m.sess.Until(ctx, docloud.Wait{What: "an SSH server at " + at, Option: "ssh_timeout", Timeout: cmp.Or(b.o.SSHWaitTimeout, b.o.SSHTimeout), First: 500 * time.Millisecond, Every: time.Second},
		func(ctx context.Context, wait time.Duration) (bool, error) {
			if try() {
				return true, nil
			}
			return false, b.m.sess.Pause(ctx, wait)
		})
}

// active waits until the droplet is active.
func (b *Builder) active(ctx context.Context, id, action int) error {
	w := docloud.Wait{What: fmt.Sprintf("droplet %d to become active", id), Option: "state_timeout", Timeout: b.o.StateTimeout, First: 3 * time.Second}
	if action != 0 {
		return b.m.sess.Completed(ctx, action, w)
	}
	return b.state(ctx, id, w, func(d *godo.Droplet) bool { return d.Status == "active" })
}

// state waits for the droplet to be as it is wanted.
func (b *Builder) state(ctx context.Context, id int, w docloud.Wait, wanted func(*godo.Droplet) bool) error {
	start := time.Now()
	return b.m.sess.Until(ctx, w, func(ctx context.Context, wait time.Duration) (bool, error) {
		d, err := b.m.sess.Droplet(ctx, id, wait)
		switch {
		case docloud.NotFound(err) && b.m.sess.Young(start):
			return false, docloud.Later(err)
		case docloud.NotFound(err):
			return false, fmt.Errorf("droplet %d is gone: %w", id, err)
		case err != nil:
			return false, err
		}
		return wanted(d), nil
	})
}

// address waits until the droplet has the address that it is to be reached by.
func (b *Builder) address(ctx context.Context, id int, whole bool) (host string, err error) {
	if whole && b.o.ReservedIP != "" {
		return b.o.ReservedIP, nil
	}
	w := docloud.Wait{What: fmt.Sprintf("the address of droplet %d", id), Option: "state_timeout", Timeout: b.o.StateTimeout, First: 2 * time.Second}
	err = b.state(ctx, id, w, func(d *godo.Droplet) bool {
		host, _ = d.PublicIPv4()
		if b.o.ConnectWithPrivateIP {
			host, _ = d.PrivateIPv4()
		}
		return host != ""
	})
	return host, err
}

// assign gives the reserved address to the droplet. It goes with the droplet.
func (b *Builder) assign(ctx context.Context, id int) error {
	s, ip := b.m.sess, b.o.ReservedIP
	r, _, err := s.API.ReservedIPs.Get(ctx, ip)
	if err != nil {
		return fmt.Errorf("ask for the reserved address %s: %w", ip, err)
	}
	if r.Droplet != nil && r.Droplet.ID != id {
		return fmt.Errorf("the reserved address %s is droplet %d's (%s) already; it is not taken away from it", ip, r.Droplet.ID, r.Droplet.Name)
	}
	var action *godo.Action
	w := docloud.Wait{What: "the reserved address " + ip, Option: "state_timeout", Timeout: b.o.StateTimeout}
	err = s.Patiently(ctx, w, func(ctx context.Context) (err error) {
		action, _, err = s.API.ReservedIPActions.Assign(docloud.Repeatable(ctx), ip, id)
		return err
	})
	if err == nil {
		err = s.Completed(ctx, action.ID, w)
	}
	if err != nil {
		return fmt.Errorf("assign the reserved address %s: %w", ip, err)
	}
	return nil
}

// intoProject lists the droplet in the project.
func (b *Builder) intoProject(ctx context.Context, d *godo.Droplet) error {
	s := b.m.sess
	id, err := b.o.projectID(ctx, s)
	if err != nil {
		return err
	}
	w := docloud.Wait{What: "the project of the droplet", Option: "state_timeout", Timeout: b.o.StateTimeout}
	err = s.Patiently(ctx, w, func(ctx context.Context) error {
		_, _, err := s.API.Projects.AssignResources(docloud.Repeatable(ctx), id, d.URN())
		return err
	})
	if err != nil {
		return fmt.Errorf("list the droplet in project %s: %w", b.o.Project, err)
	}
	return nil
}

// projectID is the id of the project that the template names.
func (o *Options) projectID(ctx context.Context, s *docloud.Session) (string, error) {
	if uuidForm.MatchString(o.Project) {
		return o.Project, nil
	}
	all, err := docloud.Pages(ctx, s.API.Projects.List)
	if err != nil {
		return "", fmt.Errorf("look for the project %q: %w", o.Project, err)
	}
	var ids []string
	for _, p := range all {
		if p.Name == o.Project {
			ids = append(ids, p.ID)
		}
	}
	switch len(ids) {
	case 1:
		return ids[0], nil
	case 0:
		return "", fmt.Errorf("there is no project %q", o.Project)
	}
	return "", fmt.Errorf("there are %d projects %q: give the id of one", len(ids), o.Project)
}

// BootProof implements builders.Proofer.
func (b *Builder) BootProof(ctx context.Context, run *builders.Run, a *builders.Artifact) (machine.Machine, error) {
	if !b.o.remote() {
		return nil, fmt.Errorf("a droplet booted from the image cannot be looked at: %w (communicator = %q)", machine.ErrNone, communicator.None)
	}
	_, text, _ := strings.Cut(a.ID, ":")
	id, err := docloud.IDOf(text)
	if err != nil {
		return nil, err
	}
	l := launch{name: b.m.name + proofSuffix, image: godo.DropletCreateImage{ID: id}}
	if b.o.injectKey() {
		if l.host, err = newHostKey(); err != nil {
			return nil, err
		}
		// Without the user data of the bake: the image is proved as it is.
		if l.userData, err = addHostKey("", l.host); err != nil {
			return nil, err
		}
	}
	if l.lease, err = run.Leases.Intend(ctx, leaseDroplet, l.name, b.m.ref.Data(map[string]string{"tag": b.m.tags.build})); err != nil {
		return nil, err
	}
	_, m, err := b.launch(ctx, run, l)
	return m, err
}
