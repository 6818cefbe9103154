//go:build linux

// Package digitalocean emulates DigitalOcean's API v2 and Spaces over HTTP on
// loopback, for tests and benchmarks: the genuine godo talks to it, and its
// droplets are real machines that are reached by SSH at loopback addresses.
//
// It refuses what DigitalOcean refuses, takes the time that it is told to take,
// shows new things late, locks droplets while something happens to them, limits
// rates, fails where a test wants it, and holds every request and every answer
// of its own against DigitalOcean's OpenAPI description where that is at hand.
//
// Where it differs from the real one: public and private addresses are loopback
// addresses, on which the ports of Options.Ports are served; a VPC is a name
// and separates nothing; volumes are attached only when a droplet is created;
// outbound firewall rules are kept but stop nothing.
package digitalocean

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/ingotbuild/ingot/internal/cloudtest/fault"
	"github.com/ingotbuild/ingot/internal/cloudtest/machines"
)

// Options say how the cloud is. The zero value, but for Dir, is a cloud on
// which everything is done and seen at once.
type Options struct {
	// Dir is an empty directory for the machines and their disks.
	Dir string
	// Durations say how long things take.
	Durations Durations
	// Plan decides of faults; nil: none.
	Plan *fault.Plan
	// Images are the base images; nil: debian-12-x64, debian-13-x64,
	// ubuntu-22-04-x64 and ubuntu-24-04-x64, all of them this machine's own root.
	Images []BaseImage
	// Ports are served at the addresses of droplets. Default: 22. Load balancers reach all.
	Ports []int
	// RateLimit is the number of calls that a token may make in RateWindow
	// (default: an hour); 0: 5000 is what the headers say, and nobody is stopped.
	RateLimit  int
	RateWindow time.Duration
	// Buckets are the Spaces that exist; nil: any that is used.
	Buckets []string
	// OpenAPI is DigitalOcean's description as a file. Default: Description().
	OpenAPI string
	// Unchecked leaves the description alone, for benchmarks.
	Unchecked bool
}

// BaseImage is an image of the cloud's own.
type BaseImage struct {
	Slug, Name, Distribution string
	// Tree is a directory that is the image's root; "": this machine's own root.
	Tree string
	// MinDisk is in GB. Default: 10.
	MinDisk int
	// Regions are where it is; nil: everywhere.
	Regions []string
}

// Durations are how long the cloud takes for what it does; what has to be done
// really, such as to boot a machine, may take longer.
type Durations struct {
	// Create is from the call to status "active", SSH from there until the
	// machine listens at its addresses.
	Create, SSH time.Duration
	// What can be asked of a droplet.
	Shutdown, PowerOff, PowerOn, Reboot, Snapshot time.Duration
	// What can be asked of an image, Transfer for each region.
	Transfer, Convert, Import time.Duration
	// Assign is of a reserved address, Firewall until a change of one is
	// "succeeded", LoadBalancer until one is "active".
	Assign, Firewall, LoadBalancer time.Duration
	// Health is the time between two health checks of load balancers; 0: what each says itself.
	Health time.Duration
	// Visible is how long a new droplet, action, image or snapshot is not found.
	Visible time.Duration
}

// Realistic are durations as they are seen on DigitalOcean with a small droplet.
func Realistic() Durations {
	return Durations{
		Create: 25 * time.Second, SSH: 12 * time.Second,
		Shutdown: 8 * time.Second, PowerOff: 4 * time.Second, PowerOn: 8 * time.Second, Reboot: 15 * time.Second,
		Snapshot: 80 * time.Second, Transfer: 150 * time.Second, Convert: 10 * time.Second, Import: 120 * time.Second,
		Assign: 6 * time.Second, Firewall: 3 * time.Second, LoadBalancer: 40 * time.Second,
		Visible: 2 * time.Second,
	}
}

// Scale returns the durations multiplied by f.
func (d Durations) Scale(f float64) Durations {
	for _, p := range []*time.Duration{
		&d.Create, &d.SSH, &d.Shutdown, &d.PowerOff, &d.PowerOn, &d.Reboot, &d.Snapshot,
		&d.Transfer, &d.Convert, &d.Import, &d.Assign, &d.Firewall, &d.LoadBalancer, &d.Health, &d.Visible,
	} {
		*p = time.Duration(float64(*p) * f)
	}
	return d
}

// Cloud is one account on the emulated DigitalOcean.
type Cloud struct {
	o    Options
	host *machines.Host
	url  string
	spec *description
	// token may do everything.
	token  string
	server *http.Server
	spaces *spaces
	ctx    context.Context
	end    context.CancelFunc
	work   sync.WaitGroup

	mu         sync.Mutex
	violations []string
	breaches   map[string]bool
	fails      func(Action) bool
	holds      func(Action) bool
	release    chan struct{} // closed when what is held may end
	deaf       bool
	tokens     map[string]*token
	lastID     int
	regions    []*region
	sizes      []*size
	actions    []*action
	droplets   []*droplet
	images     []*image
	keys       []*key
	tags       []string
	firewalls  []*firewall
	vpcs       []*vpc
	projects   []*project
	addresses  []*reservedIP
	balancers  []*balancer
	domains    []*domain
	volumes    []*volume
	account    string // its UUID
	// accountStatus is "active".
	accountStatus string
}

// New starts the cloud: its API and Spaces listen at 127.0.0.1.
func New(o Options) (*Cloud, error) {
	if o.Ports == nil {
		o.Ports = []int{22}
	}
	if o.Plan == nil {
		o.Plan = &fault.Plan{}
	}
	if o.RateWindow == 0 {
		o.RateWindow = time.Hour
	}
	c := &Cloud{o: o, tokens: map[string]*token{}, breaches: map[string]bool{}, lastID: 100_000_000, account: uuid.NewString(), accountStatus: "active"}
	var err error
	if o.OpenAPI == "" && !o.Unchecked {
		c.o.OpenAPI, _ = Description()
	}
	if c.o.OpenAPI != "" && !o.Unchecked {
		if c.spec, err = readDescription(c.o.OpenAPI); err != nil {
			return nil, err
		}
	}
	c.token = c.AddToken()
	c.catalog()
	c.ctx, c.end = context.WithCancel(context.Background())
	if c.host, err = machines.New(filepath.Join(o.Dir, "machines")); err != nil {
		c.end()
		return nil, fmt.Errorf("the droplets' host: %w", err)
	}
	if err := c.listen(); err != nil {
		_ = c.Close()
		return nil, err
	}
	return c, nil
}

func (c *Cloud) listen() error {
	if err := c.baseImages(); err != nil {
		return err
	}
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return fmt.Errorf("the API's listener: %w", err)
	}
	c.url = "http://" + l.Addr().String()
	c.server = &http.Server{Handler: c.handler(), ReadHeaderTimeout: time.Minute}
	c.work.Go(func() { _ = c.server.Serve(l) })
	c.spaces, err = newSpaces(filepath.Join(c.o.Dir, "spaces"), c.o.Buckets, c.o.Plan)
	return err
}

// URL is the API's base URL, without a path: DIGITALOCEAN_API_URL.
func (c *Cloud) URL() string { return c.url }

// SpacesURL is the endpoint of Spaces in all regions. Buckets are addressed by path.
func (c *Cloud) SpacesURL() string { return c.spaces.url }

// SpacesKeys are the access key and the secret of Spaces.
func (c *Cloud) SpacesKeys() (access, secret string) { return c.spaces.access, c.spaces.secret }

// Token is an API token that may do everything.
func (c *Cloud) Token() string { return c.token }

// Plan is the one of Options, or the cloud's own.
func (c *Cloud) Plan() *fault.Plan { return c.o.Plan }

// Env is the environment in which programs bake here.
func (c *Cloud) Env() []string {
	return []string{
		"DIGITALOCEAN_TOKEN=" + c.token,
		"DIGITALOCEAN_API_URL=" + c.url,
		"DIGITALOCEAN_SPACES_ACCESS_KEY=" + c.spaces.access,
		"DIGITALOCEAN_SPACES_SECRET_KEY=" + c.spaces.secret,
		"SPACES_ENDPOINT_URL=" + c.spaces.url,
	}
}

// Close ends the API, all machines and all work, and removes what is in Dir.
func (c *Cloud) Close() error {
	c.end()
	var errs []error
	if c.server != nil {
		errs = append(errs, c.server.Close())
	}
	if c.spaces != nil {
		errs = append(errs, c.spaces.close())
	}
	c.mu.Lock() // from here on no call begins any work
	var served []io.Closer
	for _, d := range c.droplets {
		served = append(served, d.served...)
		d.served = nil
	}
	for _, b := range c.balancers {
		b.stop()
	}
	c.mu.Unlock()
	for _, s := range served {
		errs = append(errs, s.Close())
	}
	errs = append(errs, c.host.Close()) // which ends what is being done to machines
	c.work.Wait()
	errs = append(errs, os.RemoveAll(filepath.Join(c.o.Dir, "machines")), os.RemoveAll(filepath.Join(c.o.Dir, "imports")))
	return errors.Join(errs...)
}

// Violations are the requests and answers that DigitalOcean's description does
// not allow, the calls that the emulator does not have, and its own troubles.
func (c *Cloud) Violations() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.violations)
}

func (c *Cloud) violation(format string, args ...any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.violations = append(c.violations, fmt.Sprintf(format, args...))
}

// Checked says whether requests and answers are held against DigitalOcean's description.
func (c *Cloud) Checked() bool { return c.spec != nil }

// FailActions sets who decides which actions end as "errored", without effect;
// nil: none. It is asked when an action begins and must not call the cloud.
func (c *Cloud) FailActions(f func(Action) bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.fails = f
}

// HoldActions sets who decides which actions do not end before release is
// called, however long they should take. It is asked when an action begins, must not call
// the cloud, and is forgotten with release.
func (c *Cloud) HoldActions(f func(Action) bool) (release func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	held := make(chan struct{})
	c.holds, c.release = f, held
	return sync.OnceFunc(func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.release == held {
			c.holds = nil
		}
		close(held)
	})
}

// SetVisible changes Durations.Visible, also for what is there already.
func (c *Cloud) SetVisible(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.o.Durations.Visible = d
}

// IgnoreShutdown makes all droplets deaf to "shutdown": the action completes,
// and the droplet stays active.
func (c *Cloud) IgnoreShutdown(deaf bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.deaf = deaf
}

// id returns a new number, as all kinds of things have one.
func (c *Cloud) id() int {
	c.lastID++
	return c.lastID
}

// later runs do after a while, unless the cloud is closed before.
func (c *Cloud) later(d time.Duration, do func()) {
	c.work.Go(func() {
		if c.wait(d) == nil {
			do()
		}
	})
}

func (c *Cloud) wait(d time.Duration) error {
	if d <= 0 {
		return c.ctx.Err()
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-c.ctx.Done():
		return c.ctx.Err()
	}
}

// seen says whether something that was made then is shown already.
func (c *Cloud) seen(made time.Time) bool { return time.Since(made) >= c.o.Durations.Visible }

func randomHex(n int) string {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails
	return hex.EncodeToString(b)
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }
