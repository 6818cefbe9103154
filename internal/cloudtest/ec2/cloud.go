//go:build linux

package ec2

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/ingotbuild/ingot/internal/cloudtest/fault"
	"github.com/ingotbuild/ingot/internal/cloudtest/machines"
)

// Options say what the cloud is like.
type Options struct {
	// Dir holds machines and contents; it must exist. It is the caller's to remove.
	Dir string
	// Regions are those of the cloud; default us-east-1, us-west-2, eu-central-1.
	Regions []string
	// Durations of state changes in the cloud's time; Speed is how much faster
	// that runs than this machine's clock, default 1.
	Durations Durations
	Speed     float64
	// Consistency of what is new.
	Consistency Consistency
	// Plan records calls and lays faults; nil: a plan of its own, see Cloud.Plan.
	Plan *fault.Plan
	// Images are the base images of each region; default: HostImage().
	Images []BaseImage
	// Throttle bounds calls by action ("RunInstances"), "" all others.
	Throttle map[string]Bucket
	// Account is the caller's; default 123456789012.
	Account string
	// DeviceDir is where the devices appear that are attached to the instance
	// that this host is (see Host); default Dir/dev.
	DeviceDir string
	// NVMe: this host names attached devices as Nitro instances do: nvme1n1 and
	// disk/by-id/nvme-Amazon_Elastic_Block_Store_vol…, not as was asked.
	NVMe bool
}

// BaseImage is an image that is there from the beginning.
type BaseImage struct {
	Name, Description string
	// Owner is an account id; Alias its name ("amazon"), if it has one.
	Owner, Alias string
	// Tree is a directory or a raw disk image (a file); "": this machine's own root.
	Tree string
	// User is the login user that the image makes, with the instance's key.
	User string
	// Size in GiB of its root; default 8.
	Size int64
	// Architecture: default that of this machine. RootDevice: default /dev/xvda.
	Architecture, RootDevice string
	Created                  time.Time
	Deprecated               time.Time
	Tags                     map[string]string
	// Windows makes it an image of that platform, by name only.
	Windows bool
}

// HostImage is an image of this machine's own root, named like Debian's.
func HostImage() BaseImage {
	return BaseImage{Name: "debian-12-amd64-20260101-0001", Description: "Debian 12 (20260101-0001)", Owner: "136693071363", User: "admin",
		Created: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)}
}

// UbuntuLike is the same content under a name and owner as Ubuntu's images
// have, with an owner alias.
func UbuntuLike() BaseImage {
	return BaseImage{Name: "ubuntu/images/hvm-ssd-gp3/ubuntu-noble-24.04-amd64-server-20260115", Description: "Canonical, Ubuntu, 24.04, amd64 noble image",
		Owner: "099720109477", Alias: "amazon", User: "ubuntu", RootDevice: "/dev/sda1", Created: time.Date(2026, 1, 15, 0, 0, 0, 0, time.UTC)}
}

// TreeImage is an image of a directory or raw disk, with Debian's owner
// and the name tree-<its base name>.
func TreeImage(tree, user string) BaseImage {
	return BaseImage{Name: "tree-" + filepath.Base(tree), Description: "of " + tree, Owner: "136693071363", Tree: tree, User: user, Created: time.Date(2026, 1, 2, 0, 0, 0, 0, time.UTC)}
}

// Bucket bounds calls: so many at once, refilled at Rate a second of the machine's clock.
type Bucket struct{ Burst, Rate float64 }

// Cloud is a running emulator. Its exported methods may be used at any time.
type Cloud struct {
	o        Options
	plan     *fault.Plan
	host     *machines.Host
	listener net.Listener
	server   *http.Server
	imds     *metadata
	services map[string]map[string]operation
	ctx      context.Context // ends with the cloud
	cancel   context.CancelFunc
	work     sync.WaitGroup // what goes on behind answers

	mu       sync.Mutex // guards all below, and what they point to
	started  bool
	seq      int64
	spaces   map[string]*space // by account/region
	accounts map[string]*account
	keys     map[string]identity // by access key id
	tokens   map[string]*performed
	buckets  map[string]*bucket
	denied   map[string]bool
	messages map[string]string // authorization messages by their encoded form
	quotas   map[string]int
	onLaunch func(Launch) Outcome
	onImage  func(Making) string
	session  func(Session) http.Handler
	stores   map[string]*store // S3 buckets
	contents []*content        // of base images
	phases   []*Phase
	booting  chan struct{} // a place for each machine that boots at this moment
	problems []error
	baseline map[string]bool
}

// identity is who an access key belongs to.
type identity struct{ account, arn, secret string }

// content is what a disk holds, and the user that images of it make.
type content struct {
	*machines.Content
	user string
}

// space is what one account has in one region.
type space struct {
	region, account string
	vpcs            *table[*vpc]
	subnets         *table[*subnet]
	groups          *table[*group]
	keyPairs        *table[*keyPair]
	images          *table[*image]
	snapshots       *table[*snapshot]
	volumes         *table[*volume]
	instances       *table[*instance]
	interfaces      *table[*netInterface]
	templates       *table[*launchTemplate]
	fleets          *table[*fleet]
	spots           *table[*spotRequest]
	imports         *table[*importTask]
	parameters      map[string]*parameter
	secrets         map[string]*secret
	kmsKeys         map[string]*kmsKey // by key id
	kmsAliases      map[string]string  // alias/… → key id
	sessions        map[string]*ssmSession
	encryptDefault  bool
	defaultKey      string // "" is alias/aws/ebs
}

func (s *space) tables() []interface{ each(func(kind, thing)) } {
	return []interface{ each(func(kind, thing)) }{s.vpcs, s.subnets, s.groups, s.keyPairs, s.images, s.snapshots, s.volumes,
		s.instances, s.interfaces, s.templates, s.fleets, s.spots, s.imports}
}

// The access keys that the cloud knows from the beginning.
const (
	AccessKey = "AKIAINGOTEMULATOR000"
	SecretKey = "ingot/emulator/secret/key/of/no/worth000"
)

// New starts a cloud.
func New(o Options) (*Cloud, error) {
	if len(o.Regions) == 0 {
		o.Regions = []string{"us-east-1", "us-west-2", "eu-central-1"}
	}
	if o.Speed <= 0 {
		o.Speed = 1
	}
	if o.Plan == nil {
		o.Plan = &fault.Plan{}
	}
	if o.Account == "" {
		o.Account = "123456789012"
	}
	if o.Images == nil {
		o.Images = []BaseImage{HostImage()}
	}
	if o.DeviceDir == "" {
		o.DeviceDir = filepath.Join(o.Dir, "dev")
	}
	host, err := machines.New(filepath.Join(o.Dir, "machines"))
	if err != nil {
		return nil, err
	}
	c := &Cloud{o: o, plan: o.Plan, host: host, spaces: map[string]*space{}, accounts: map[string]*account{}, tokens: map[string]*performed{},
		buckets: map[string]*bucket{}, denied: map[string]bool{}, messages: map[string]string{}, quotas: map[string]int{}, stores: map[string]*store{},
		booting: make(chan struct{}, runtime.NumCPU()),
		keys:    map[string]identity{AccessKey: {o.Account, "arn:aws:iam::" + o.Account + ":user/baker", SecretKey}}}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	c.services = map[string]map[string]operation{"ec2": ec2Operations(), "sts": stsOperations(), "iam": iamOperations(), "ssm": ssmOperations(),
		"kms": kmsOperations(), "secretsmanager": secretsOperations(), "ec2-instance-connect": connectOperations(), "servicequotas": quotaOperations()}
	if err := c.start(); err != nil {
		c.cancel()
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

func (c *Cloud) start() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, b := range c.o.Images {
		ct, err := c.baseContent(b)
		if err != nil {
			return fmt.Errorf("the base image %s: %w", b.Name, err)
		}
		c.contents = append(c.contents, ct)
	}
	for _, r := range c.o.Regions {
		s, err := c.spaceOf(c.o.Account, r)
		if err != nil {
			return err
		}
		for i, b := range c.o.Images {
			owner, err := c.spaceOf(b.Owner, r)
			if err != nil {
				return err
			}
			c.addBase(owner, b, c.contents[i])
		}
		if r == c.o.Regions[0] {
			c.addHost(s)
		}
	}
	c.started = true
	var err error
	if c.listener, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		return err
	}
	c.server = &http.Server{Handler: c.handler(), ReadHeaderTimeout: time.Minute}
	c.work.Go(func() { _ = c.server.Serve(c.listener) }) // it ends by Close
	c.imds, err = c.startMetadata()
	return err
}

func (c *Cloud) baseContent(b BaseImage) (*content, error) {
	if b.Tree == "" {
		return &content{c.host.HostContent(), b.User}, nil
	}
	st, err := os.Stat(b.Tree)
	if err != nil {
		return nil, err
	}
	if st.IsDir() {
		return &content{c.host.TreeContent(b.Tree), b.User}, nil
	}
	return &content{c.host.RawContent(b.Tree), b.User}, nil
}

// spaceOf finds or makes what an account has in a region, with its default VPC.
func (c *Cloud) spaceOf(account, region string) (*space, error) {
	if !slices.Contains(c.o.Regions, region) {
		return nil, fail("AuthFailure", "The emulated cloud has no region %q, only %s", region, strings.Join(c.o.Regions, ", "))
	}
	if s := c.spaces[account+"/"+region]; s != nil {
		return s, nil
	}
	l := timeline{{c.now(), ""}}
	s := &space{
		region: region, account: account,
		vpcs:       newTable(kindVPC, &vpc{}),
		subnets:    newTable(kindSubnet, &subnet{}),
		groups:     newTable(kindGroup, &group{}),
		keyPairs:   newTable(kindKey, &keyPair{}),
		images:     newTable(kindImage, &image{line: l, mappings: []mapping{{}}}),
		snapshots:  newTable(kindSnapshot, &snapshot{line: l}),
		volumes:    newTable(kindVolume, &volume{line: l}),
		instances:  newTable(kindInstance, &instance{line: l, image: &image{}, space: &space{}}),
		interfaces: newTable(kindInterface, &netInterface{instance: &instance{}}),
		templates:  newTable(kindTemplate, &launchTemplate{}),
		fleets:     newTable(kindFleet, &fleet{}),
		spots:      newTable(kindSpot, &spotRequest{}),
		imports:    newTable(kindImport, &importTask{line: l}),
		parameters: map[string]*parameter{}, secrets: map[string]*secret{}, kmsKeys: map[string]*kmsKey{}, kmsAliases: map[string]string{}, sessions: map[string]*ssmSession{},
	}
	was := c.started
	c.started = false // a default VPC has always been there
	c.addDefaultVPC(s)
	c.started = was
	c.addDefaultKey(s)
	c.spaces[account+"/"+region] = s
	return s, nil
}

// here is what all accounts have in a region.
func (c *Cloud) here(region string) []*space {
	var list []*space
	for _, key := range sortedKeys(c.spaces) {
		if s := c.spaces[key]; s.region == region {
			list = append(list, s)
		}
	}
	return list
}

// background does work behind an answer, without the lock.
func (c *Cloud) background(f func()) { c.work.Go(f) }

// report keeps a failure of the emulator itself, for Problems.
func (c *Cloud) report(err error) {
	if err == nil || c.ctx.Err() != nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.problems = append(c.problems, err)
}

// Problems are failures of the emulator itself: machines that did not boot,
// disks that could not be read. A test should have none.
func (c *Cloud) Problems() []error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.problems)
}

// URL is the endpoint of all services: AWS_ENDPOINT_URL.
func (c *Cloud) URL() string { return "http://" + c.listener.Addr().String() }

// Plan is where calls are recorded and faults laid.
func (c *Cloud) Plan() *fault.Plan { return c.plan }

// Account is the caller's account id.
func (c *Cloud) Account() string { return c.o.Account }

// Regions are the cloud's.
func (c *Cloud) Regions() []string { return slices.Clone(c.o.Regions) }

const (
	checkIPPath = "/checkip"
	sessionPath = "/session/"
)

// CheckIPURL answers the address of who asks, as checkip.amazonaws.com does.
func (c *Cloud) CheckIPURL() string { return c.URL() + checkIPPath }

// Env is the environment that a program needs to bake on this cloud, as NAME=value:
// endpoint, credentials and region, no shared files, and no metadata service
// (see MetadataEnv).
func (c *Cloud) Env() []string {
	none := os.DevNull
	return []string{
		"AWS_ENDPOINT_URL=" + c.URL(), "AWS_ACCESS_KEY_ID=" + AccessKey, "AWS_SECRET_ACCESS_KEY=" + SecretKey, "AWS_SESSION_TOKEN=",
		"AWS_REGION=" + c.o.Regions[0], "AWS_DEFAULT_REGION=" + c.o.Regions[0], "AWS_PROFILE=",
		"AWS_CONFIG_FILE=" + none, "AWS_SHARED_CREDENTIALS_FILE=" + none, "AWS_EC2_METADATA_DISABLED=true",
	}
}

// MetadataEnv is what makes a program find itself on the instance that this
// host is (see HostInstance); it goes after Env.
func (c *Cloud) MetadataEnv() []string {
	return []string{"AWS_EC2_METADATA_DISABLED=false", "AWS_EC2_METADATA_SERVICE_ENDPOINT=" + c.MetadataURL()}
}

// Deny makes actions ("ec2:RunInstances", "iam:*") unauthorized, besides those
// that are denied already; without any, nothing is denied from now on.
func (c *Cloud) Deny(actions ...string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(actions) == 0 {
		clear(c.denied)
	}
	for _, a := range actions {
		c.denied[a] = true
	}
}

// permitted refuses what is denied.
func (c *Cloud) permitted(k *call) error {
	prefix := k.service
	if k.service == "sts" && k.action == "GetCallerIdentity" {
		return nil // it needs no permission
	}
	action := prefix + ":" + k.action
	if !c.denied[action] && !c.denied[prefix+":*"] {
		return nil
	}
	who := "User: " + k.caller + " is not authorized to perform: " + action
	switch k.service {
	case "ec2":
		message := asJSON(map[string]any{"allowed": false, "explicitDeny": false, "context": map[string]any{"principal": map[string]string{"arn": k.caller}, "action": action}})
		encoded := randomHex(64)
		c.messages[encoded] = message
		return fail("UnauthorizedOperation", "You are not authorized to perform this operation. %s because no identity-based policy allows the action. Encoded authorization failure message: %s", who, encoded)
	case "iam", "sts", "s3":
		return fail("AccessDenied", "%s because no identity-based policy allows the %s action", who, action)
	}
	return fail("AccessDeniedException", "%s because no identity-based policy allows the %s action", who, action)
}

type bucket struct {
	left float64
	at   time.Time
}

func (c *Cloud) throttle(k *call) error {
	name := k.action
	limit, ok := c.o.Throttle[name]
	if !ok {
		name = ""
		if limit, ok = c.o.Throttle[""]; !ok {
			return nil
		}
	}
	key := k.account + "/" + k.regionName + "/" + name
	now := c.now()
	b := c.buckets[key]
	if b == nil {
		b = &bucket{limit.Burst, now}
		c.buckets[key] = b
	}
	b.left = min(limit.Burst, b.left+limit.Rate*now.Sub(b.at).Seconds())
	b.at = now
	if b.left < 1 {
		return throttled(k.service)
	}
	b.left--
	return nil
}

// SetThrottle bounds the calls of an action from now on; "" all that have no
// bound of their own.
func (c *Cloud) SetThrottle(action string, b Bucket) {
	c.mu.Lock()
	defer c.mu.Unlock()
	m := maps.Clone(c.o.Throttle)
	if m == nil {
		m = map[string]Bucket{}
	}
	m[action] = b
	c.o.Throttle = m
	clear(c.buckets)
}

// SetDurations changes how long things take from now on.
func (c *Cloud) SetDurations(d Durations) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.o.Durations = d
}

// The names of quotas, for SetQuota.
const (
	QuotaVCPUs  = "vcpus"           // of running instances: VcpuLimitExceeded
	QuotaGroups = "security-groups" // of a VPC: SecurityGroupLimitExceeded
	QuotaKeys   = "key-pairs"       // KeyPairLimitExceeded
	QuotaCopies = "copies"          // of images at a time, to one region: ResourceLimitExceeded
	QuotaImages = "images"          // AMIQuotaExceeded
	QuotaVolume = "volumes"         // VolumeLimitExceeded
)

// SetQuota bounds what each account may have in each region; negative: no bound.
func (c *Cloud) SetQuota(name string, n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if n < 0 {
		delete(c.quotas, name)
		return
	}
	c.quotas[name] = n
}

// within says whether one more of what there are n is within a quota.
func (c *Cloud) within(quota string, n int) bool {
	limit, ok := c.quotas[quota]
	return !ok || n <= limit
}

// Launch is one instance that somebody wants.
type Launch struct {
	Region, Zone, Type, ImageID string
	Spot                        bool
}

// Outcome is what becomes of a launch. The zero Outcome is that it succeeds.
type Outcome struct {
	// Code refuses it: "InsufficientInstanceCapacity". A message is made if there is none.
	Code, Message string
	// StateReason lets the instance go from pending to terminated for that
	// reason: "Client.VolumeLimitExceeded: Volume limit exceeded".
	StateReason string
}

// OnLaunch sets who decides what becomes of launches; nil: they succeed. It is
// called with the cloud locked: it must not ask the cloud anything.
func (c *Cloud) OnLaunch(f func(Launch) Outcome) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.onLaunch = f
}

// Making is an image or snapshot that somebody wants. Action is CreateImage,
// RegisterImage, CopyImage, CreateSnapshot, CopySnapshot or ImportImage.
type Making struct{ Action, Region, Name string }

// OnImage sets who decides whether images and snapshots that are being made
// end as "failed" ("error"): the reason, or "". It is called with the cloud locked.
func (c *Cloud) OnImage(f func(Making) string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.onImage = f
}

func (k *call) doomed(action, name string) string {
	if k.onImage == nil {
		return ""
	}
	return k.onImage(Making{action, k.regionName, name})
}

// AddAccessKey makes an access key of an account known.
func (c *Cloud) AddAccessKey(id, account, arn string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.keys[id] = identity{account, arn, SecretKey}
}

// Close ends all machines and the server.
func (c *Cloud) Close() error {
	c.cancel()
	var errs []error
	if c.server != nil {
		errs = append(errs, c.server.Close())
	}
	if c.imds != nil {
		errs = append(errs, c.imds.server.Close())
	}
	c.detachHost()
	errs = append(errs, c.host.Close())
	c.work.Wait()
	return errors.Join(errs...)
}
