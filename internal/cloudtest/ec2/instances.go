//go:build linux

package ec2

import (
	"encoding/base64"
	"fmt"
	"io"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"time"

	"github.com/ingotbuild/ingot/internal/cloudtest/machines"
)

// The states of instances, and the codes that EC2 gives them.
const (
	pending      = "pending"
	running      = "running"
	shuttingDown = "shutting-down"
	terminated   = "terminated"
	stopping     = "stopping"
	stopped      = "stopped"
)

var stateCodes = map[string]int{pending: 0, running: 16, shuttingDown: 32, terminated: 48, stopping: 64, stopped: 80}

var devicePath = regexp.MustCompile(`^(/dev/)?(sd[a-z][0-9]{0,2}|xvd[a-z]{1,2}[0-9]{0,2}|hd[a-z][0-9]{0,2})$`)

// instance is one machine of the cloud.
type instance struct {
	item
	space                 *space
	image                 *image
	kind                  instanceType
	zone, vpc, subnet     string
	key                   *keyPair
	groups                []string
	private, public       netip.Addr
	eni                   *netInterface
	userData              []byte
	profile               *profile
	shutdown              string // stop or terminate
	spot                  *spotRequest
	fleet, clientToken    string
	rootDevice            string
	disks                 []*attachment
	metadata              metadataOptions
	tenancy               string
	ebsOptimized, enclave bool
	ena                   bool
	sriov                 string
	noTerminate, noStop   bool
	credits               string
	line                  timeline
	launched              time.Time
	reason                string // "Client.UserInitiatedShutdown: …"
	index                 int
	doomed                bool     // it never starts
	pushed                []string // keys of Instance Connect

	// changed: its disks are others than those that the machine was started with.
	changed bool
	machine *machines.Machine
	served  map[int]bool
	closers []io.Closer
	ending  int           // work that has to end before it is stopped or terminated
	last    chan struct{} // closed when the work queued last is done
	phase   *Phase        // the one that it is in
	tried   int           // connections to it, admitted or not
}

type metadataOptions struct {
	Tokens   string `xml:"httpTokens"`
	Hops     int64  `xml:"httpPutResponseHopLimit"`
	Endpoint string `xml:"httpEndpoint"`
	IPv6     string `xml:"httpProtocolIpv6"`
	Tags     string `xml:"instanceMetadataTags"`
	State    string `xml:"state"`
}

// state is what EC2 says of the instance now. That it is stopped or terminated
// it says only when the machine behind really is.
func (i *instance) state(now time.Time) string {
	s := i.line.at(now)
	if i.ending > 0 {
		switch s {
		case stopped:
			return stopping
		case terminated:
			return shuttingDown
		}
	}
	return s
}

// holdsNetwork says whether its interface still uses groups and subnet.
func (i *instance) holdsNetwork(k *call) bool {
	return i.state(k.now()) != terminated || k.now().Before(i.line.end().Add(k.real(k.o.Durations.Detached)))
}

func (i *instance) at(device string) *attachment {
	for _, a := range i.disks {
		if a.device == device {
			return a
		}
	}
	return nil
}

func (i *instance) detaching(k *call, device string) bool {
	for _, v := range i.space.volumes.m {
		if v.was != nil && v.was.instance == i && v.was.device == device && v.state(k) == "in-use" {
			return true
		}
	}
	return false
}

func (i *instance) values(k *call, f string) []string {
	optional := func(s string) []string {
		if s == "" {
			return []string{}
		}
		return str(s)
	}
	switch f {
	case "instance-id":
		return str(i.id)
	case "instance-state-name":
		return str(i.state(k.now()))
	case "instance-state-code":
		return str(strconv.Itoa(stateCodes[i.state(k.now())]))
	case "image-id":
		return str(i.image.id)
	case "instance-type":
		return str(i.kind.name)
	case "key-name":
		if i.key == nil {
			return []string{}
		}
		return str(i.key.name)
	case "client-token":
		return optional(i.clientToken)
	case "vpc-id", "network-interface.vpc-id":
		return str(i.vpc)
	case "subnet-id", "network-interface.subnet-id":
		return str(i.subnet)
	case "availability-zone":
		return str(i.zone)
	case "instance.group-id", "network-interface.group-id":
		return append([]string{}, i.groups...)
	case "ip-address":
		return optional(addr(i.public))
	case "private-ip-address":
		return str(addr(i.private))
	case "instance-lifecycle":
		if i.spot == nil {
			return []string{}
		}
		return str("spot")
	case "spot-instance-request-id":
		if i.spot == nil {
			return []string{}
		}
		return str(i.spot.id)
	case "iam-instance-profile.arn":
		if i.profile == nil {
			return []string{}
		}
		return str(i.profile.arn)
	case "block-device-mapping.volume-id":
		list := []string{}
		for _, a := range i.disks {
			list = append(list, a.volume.id)
		}
		return list
	case "architecture":
		return str(i.kind.arch)
	case "root-device-type":
		return str("ebs")
	case "reason":
		return str(i.reason)
	case "launch-time":
		return str(iso(i.launched))
	case "tenancy":
		return str(i.tenancy)
	case "owner-id":
		return str(i.space.account)
	case "root-device-name":
		return str(i.rootDevice)
	case "virtualization-type":
		return str("hvm")
	case "hypervisor":
		return str("xen")
	case "platform":
		return optional(i.image.platform)
	}
	return nil
}

func addr(a netip.Addr) string {
	if !a.IsValid() {
		return ""
	}
	return a.String()
}

// then queues work on the instance's machine behind what is queued already.
func (c *Cloud) then(i *instance, work func() error) {
	before := i.last
	finished := make(chan struct{})
	i.last = finished
	c.background(func() {
		defer close(finished)
		if before != nil {
			<-before
		}
		if err := work(); err != nil {
			c.report(fmt.Errorf("%s: %w", i.id, err))
		}
	})
}

// boot starts the machine behind an instance, with the disks that it has now.
// No more boot at once than there are processors: in a cloud they do not take
// the time of whoever launches them.
func (c *Cloud) boot(i *instance) {
	c.then(i, func() error {
		c.booting <- struct{}{}
		defer func() { <-c.booting }()
		c.mu.Lock()
		// Shared images need not be there any longer: what it starts from are its disks.
		if s := i.line.at(c.now()); s != pending && s != running {
			c.mu.Unlock()
			return nil
		}
		disks := slices.Clone(i.disks)
		cfg := machines.Config{ID: i.id, Hostname: i.id, UserData: i.userData, User: i.image.content.user, Disks: map[string]*machines.Volume{}}
		if i.key != nil {
			cfg.Keys = []string{i.key.public}
		}
		old, changed := i.machine, i.changed
		i.changed = false
		c.mu.Unlock()
		cfg.Poweroff = func() { c.poweredOff(i) }
		if old != nil && !changed {
			if err := old.Start(c.ctx); err != nil {
				return c.bootFailed(i, err)
			}
			c.expose(i)
			return nil
		}
		for _, a := range disks {
			real, err := a.volume.open(c)
			if err != nil {
				return c.bootFailed(i, err)
			}
			if a.device == i.rootDevice {
				cfg.Root = real
				if u := a.volume.from; u != nil && u.user != "" {
					cfg.User = u.user
				}
			} else {
				cfg.Disks[a.device] = real
			}
		}
		m, err := c.host.Boot(c.ctx, cfg)
		if err != nil {
			return c.bootFailed(i, err)
		}
		c.mu.Lock()
		i.machine = m
		c.mu.Unlock()
		c.expose(i)
		return nil
	})
}

// bootFailed: an instance whose machine did not boot ends, as one does whose
// root volume cannot be used.
func (c *Cloud) bootFailed(i *instance, err error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.end(i, "Server.InternalError: "+err.Error())
	return fmt.Errorf("booting: %w", err)
}

// expose lets the machine's ports be reached at the instance's addresses.
func (c *Cloud) expose(i *instance) {
	c.mu.Lock()
	defer c.mu.Unlock()
	i.served = map[int]bool{}
	c.openPorts(i)
	if i.phase != nil && i.phase.What == "boot" {
		i.phase.over(c.now(), i.line.end().Add(c.real(c.o.Durations.SSH)))
	}
}

// openPorts serves the ports that the instance's groups open, if not served yet.
func (c *Cloud) openPorts(i *instance) {
	if i.machine == nil || i.served == nil {
		return
	}
	want := []int{22}
	for _, id := range i.groups {
		if g := i.space.groups.m[id]; g != nil {
			want = append(want, g.ports()...)
		}
	}
	var ports []int
	for _, p := range want {
		if !i.served[p] {
			i.served[p] = true
			ports = append(ports, p)
		}
	}
	if len(ports) == 0 {
		return
	}
	for _, a := range []netip.Addr{i.public, i.private} {
		if !a.IsValid() {
			continue
		}
		closer, err := i.machine.Serve(a, ports, func(from netip.Addr, port int) bool { return c.admits(i, from, port) })
		if err != nil {
			c.problems = append(c.problems, fmt.Errorf("%s: serving %v at %s: %w", i.id, ports, a, err))
			continue
		}
		i.closers = append(i.closers, closer)
	}
}

// closePorts ends what openPorts began. It is called with the cloud locked, and
// gives back what to close without the lock.
func (i *instance) closePorts() []io.Closer {
	list := i.closers
	i.closers, i.served = nil, nil
	return list
}

// admits says whether a connection reaches the instance now.
func (c *Cloud) admits(i *instance, from netip.Addr, port int) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	i.tried++
	now := c.now()
	if s := i.line.at(now); s != running && s != pending || now.Before(i.line.end().Add(c.real(c.o.Durations.SSH))) {
		return false
	}
	for _, id := range i.groups {
		if g := i.space.groups.m[id]; g != nil && g.admits(i.space, from.Unmap(), port) {
			return true
		}
	}
	return false
}

// Tried is how many connections to an instance somebody has tried to make.
func (c *Cloud) Tried(id string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range c.spaces {
		if i := s.instances.m[id]; i != nil {
			return i.tried
		}
	}
	return 0
}

// rulesChanged opens what a group's new rules open.
func (c *Cloud) rulesChanged(s *space, g *group) {
	for _, i := range s.instances.m {
		if slices.Contains(i.groups, g.id) {
			c.openPorts(i)
		}
	}
}

// poweredOff is what happens when a machine has ended by itself.
func (c *Cloud) poweredOff(i *instance) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if s := i.state(c.now()); s != running && s != pending {
		return
	}
	const why = "Client.InstanceInitiatedShutdown: Instance initiated shutdown"
	if i.shutdown == "terminate" {
		c.end(i, why)
		return
	}
	c.halt(i, why)
}

// halt stops an instance.
func (c *Cloud) halt(i *instance, why string) {
	i.reason = why
	i.line = c.after(stopping, c.o.Durations.Stopped, stopped)
	i.ending++
	i.phase = c.phase("stop", i.item)
	phase, due := i.phase, i.line.end()
	closers := i.closePorts()
	c.then(i, func() error {
		defer c.ended(i, phase, due)
		for _, cl := range closers {
			_ = cl.Close() // a listener that is closed already is closed
		}
		if m := c.machineOf(i); m != nil {
			return m.Stop(c.ctx)
		}
		return nil
	})
}

func (c *Cloud) machineOf(i *instance) *machines.Machine {
	c.mu.Lock()
	defer c.mu.Unlock()
	return i.machine
}

func (c *Cloud) ended(i *instance, p *Phase, due time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	i.ending--
	p.over(c.now(), due)
}

// end terminates an instance, and what dies with it.
func (c *Cloud) end(i *instance, why string) {
	if s := i.line.at(c.now()); s == shuttingDown || s == terminated {
		return
	}
	i.reason = why
	i.line = c.after(shuttingDown, c.o.Durations.Terminated, terminated)
	i.ending++
	i.phase = c.phase("terminate", i.item)
	phase, due := i.phase, i.line.end().Add(c.real(c.o.Durations.Detached))
	closers := i.closePorts()
	if i.spot != nil {
		i.spot.state, i.spot.status = "closed", "instance-terminated-by-user"
	}
	delete(i.space.interfaces.m, i.eni.id)
	c.then(i, func() error {
		defer c.ended(i, phase, due)
		for _, cl := range closers {
			_ = cl.Close()
		}
		var err error
		if m := c.machineOf(i); m != nil {
			err = m.Stop(c.ctx)
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		for _, a := range i.disks {
			a.volume.at = nil
			if a.dies {
				c.removeVolume(i.space, a.volume)
			}
		}
		i.disks = nil
		return err
	})
}

// The parts of an instance in answers.
type stateItem struct {
	Code int    `xml:"code"`
	Name string `xml:"name"`
}

type reasonItem struct {
	Code    string `xml:"code"`
	Message string `xml:"message"`
}

type groupRef struct {
	ID   string `xml:"groupId"`
	Name string `xml:"groupName"`
}

type mappedVolume struct {
	Device string `xml:"deviceName"`
	Volume string `xml:"ebs>volumeId"`
	State  string `xml:"ebs>status"`
	Since  string `xml:"ebs>attachTime"`
	Dies   bool   `xml:"ebs>deleteOnTermination"`
}

type profileRef struct {
	ARN string `xml:"arn"`
	ID  string `xml:"id"`
}

type placementItem struct {
	Zone    string `xml:"availabilityZone"`
	Group   string `xml:"groupName"`
	Tenancy string `xml:"tenancy"`
}

type instanceItem struct {
	ID           string          `xml:"instanceId"`
	Image        string          `xml:"imageId"`
	State        stateItem       `xml:"instanceState"`
	PrivateName  string          `xml:"privateDnsName"`
	PublicName   string          `xml:"dnsName"`
	Reason       string          `xml:"reason"`
	Key          string          `xml:"keyName,omitempty"`
	Index        int             `xml:"amiLaunchIndex"`
	Type         string          `xml:"instanceType"`
	Launched     string          `xml:"launchTime"`
	Placement    placementItem   `xml:"placement"`
	Platform     string          `xml:"platform,omitempty"`
	Monitoring   string          `xml:"monitoring>state"`
	Subnet       string          `xml:"subnetId,omitempty"`
	VPC          string          `xml:"vpcId,omitempty"`
	Private      string          `xml:"privateIpAddress,omitempty"`
	Public       string          `xml:"ipAddress,omitempty"`
	Groups       []groupRef      `xml:"groupSet>item"`
	StateReason  *reasonItem     `xml:"stateReason"`
	Architecture string          `xml:"architecture"`
	RootType     string          `xml:"rootDeviceType"`
	Root         string          `xml:"rootDeviceName"`
	Volumes      []mappedVolume  `xml:"blockDeviceMapping>item"`
	Virtual      string          `xml:"virtualizationType"`
	Hypervisor   string          `xml:"hypervisor"`
	Lifecycle    string          `xml:"instanceLifecycle,omitempty"`
	Spot         string          `xml:"spotInstanceRequestId,omitempty"`
	ClientToken  string          `xml:"clientToken,omitempty"`
	Interfaces   []interfaceItem `xml:"networkInterfaceSet>item"`
	Profile      *profileRef     `xml:"iamInstanceProfile"`
	EBSOptimized bool            `xml:"ebsOptimized"`
	ENA          bool            `xml:"enaSupport"`
	Sriov        string          `xml:"sriovNetSupport,omitempty"`
	Metadata     metadataOptions `xml:"metadataOptions"`
	Enclave      bool            `xml:"enclaveOptions>enabled"`
	Cores        int64           `xml:"cpuOptions>coreCount"`
	Threads      int64           `xml:"cpuOptions>threadsPerCore"`
	Details      string          `xml:"platformDetails"`
	Tags         []tagItem       `xml:"tagSet>item"`
}

// split takes a reason apart into code and message.
var reasonParts = regexp.MustCompile(`(?s)^([A-Za-z.]+): (.*)$`)

func (k *call) instanceItem(i *instance) instanceItem {
	s := i.state(k.now())
	m := i.metadata
	m.State = "applied"
	o := instanceItem{ID: i.id, Image: i.image.id, State: stateItem{stateCodes[s], s}, Index: i.index, Type: i.kind.name, Launched: iso(i.launched),
		Placement: placementItem{Zone: i.zone, Tenancy: i.tenancy}, Platform: i.image.platform, Monitoring: "disabled", Architecture: i.kind.arch, RootType: "ebs", Root: i.rootDevice,
		Virtual: "hvm", Hypervisor: "xen", ClientToken: i.clientToken, EBSOptimized: i.ebsOptimized, ENA: i.ena, Sriov: i.sriov, Metadata: m, Enclave: i.enclave, Details: i.image.details(), Tags: tagItems(i.tags)}
	o.Threads = i.kind.threads()
	o.Cores = i.kind.cpus / o.Threads
	if i.key != nil {
		o.Key = i.key.name
	}
	if s == stopping || s == stopped || s == shuttingDown || s == terminated {
		if p := reasonParts.FindStringSubmatch(i.reason); p != nil {
			o.StateReason = &reasonItem{p[1], p[0]}
			if p[1] == "Client.UserInitiatedShutdown" {
				o.Reason = "User initiated (" + i.line[0].at.UTC().Format("2006-01-02 15:04:05 GMT") + ")"
			}
		}
	}
	if i.spot != nil {
		o.Lifecycle, o.Spot = "spot", i.spot.id
	}
	if i.profile != nil {
		o.Profile = &profileRef{i.profile.arn, i.profile.id}
	}
	if s == terminated {
		return o // its network and disks are gone
	}
	o.Subnet, o.VPC, o.Private, o.PrivateName = i.subnet, i.vpc, addr(i.private), addr(i.private)
	if i.public.IsValid() && (s == running || s == pending && k.now().After(i.launched.Add(k.real(k.o.Durations.Running/4)))) {
		o.Public, o.PublicName = addr(i.public), addr(i.public)
	}
	o.Groups = k.groupRefs(i.space, i.groups)
	for _, a := range i.disks {
		o.Volumes = append(o.Volumes, mappedVolume{a.device, a.volume.id, a.state(k), a.since, a.dies})
	}
	o.Interfaces = []interfaceItem{k.interfaceItem(i.eni)}
	return o
}

func (k *call) groupRefs(s *space, ids []string) []groupRef {
	var list []groupRef
	for _, id := range ids {
		if g := s.groups.m[id]; g != nil {
			list = append(list, groupRef{g.id, g.name})
		}
	}
	return list
}

type reservation struct {
	ID        string         `xml:"reservationId"`
	Owner     string         `xml:"ownerId"`
	Instances []instanceItem `xml:"instancesSet>item"`
}

type describeInstancesResponse struct {
	Reservations []reservation `xml:"reservationSet>item"`
	NextToken    string        `xml:"nextToken,omitempty"`
}

func (k *call) describeInstances(in *describeInstancesRequest) (*describeInstancesResponse, error) {
	if len(in.InstanceId) > 0 && in.MaxResults != nil {
		return nil, combination("The parameter instancesSet cannot be used with the parameter maxResults")
	}
	list, err := find(k, k.instances, in.InstanceId, in.Filter)
	if err != nil {
		return nil, err
	}
	list, next, err := page(list, in.MaxResults, in.NextToken, 5, kindInstance.max)
	if err != nil {
		return nil, err
	}
	out := &describeInstancesResponse{NextToken: next}
	for _, i := range list {
		out.Reservations = append(out.Reservations, reservation{"r-" + i.id[2:], k.account, []instanceItem{k.instanceItem(i)}})
	}
	return out, nil
}

type statusItem struct {
	ID       string    `xml:"instanceId"`
	Zone     string    `xml:"availabilityZone"`
	State    stateItem `xml:"instanceState"`
	System   string    `xml:"systemStatus>status"`
	Instance string    `xml:"instanceStatus>status"`
}

type describeInstanceStatusResponse struct {
	Statuses  []statusItem `xml:"instanceStatusSet>item"`
	NextToken string       `xml:"nextToken,omitempty"`
}

func (k *call) describeInstanceStatus(in *describeInstanceStatusRequest) (*describeInstanceStatusResponse, error) {
	list, err := find(k, k.instances, in.InstanceId, in.Filter)
	if err != nil {
		return nil, err
	}
	var all []statusItem
	for _, i := range list {
		s := i.state(k.now())
		if s != running && !isTrue(in.IncludeAllInstances) {
			continue
		}
		health := "not-applicable"
		if s == running {
			health = "initializing"
			if i.machine != nil && !k.now().Before(i.line.end().Add(k.real(k.o.Durations.SSH))) {
				health = "ok"
			}
		}
		all = append(all, statusItem{i.id, i.zone, stateItem{stateCodes[s], s}, health, health})
	}
	all, next, err := page(all, in.MaxResults, in.NextToken, 5, 1000)
	return &describeInstanceStatusResponse{all, next}, err
}

type stateChange struct {
	ID  string    `xml:"instanceId"`
	Now stateItem `xml:"currentState"`
	Was stateItem `xml:"previousState"`
}

type stateChanges struct {
	Instances []stateChange `xml:"instancesSet>item"`
}

// named are the instances of a call that must name some.
func (k *call) named(ids []string) ([]*instance, error) {
	if len(ids) == 0 {
		return nil, missing("instancesSet")
	}
	return find(k, k.instances, ids, nil)
}

// changeStates does f to each instance and answers what that changed.
func (k *call) changeStates(list []*instance, f func(*instance)) (*stateChanges, error) {
	if err := k.commit(); err != nil {
		return nil, err
	}
	out := &stateChanges{}
	for _, i := range list {
		was := i.state(k.now())
		f(i)
		now := i.state(k.now())
		if now == terminated && was != terminated {
			now = shuttingDown
		}
		if now == stopped && was != stopped {
			now = stopping
		}
		out.Instances = append(out.Instances, stateChange{i.id, stateItem{stateCodes[now], now}, stateItem{stateCodes[was], was}})
	}
	return out, nil
}

func (k *call) stopInstances(in *stopInstancesRequest) (*stateChanges, error) {
	list, err := k.named(in.InstanceId)
	if err != nil {
		return nil, err
	}
	for _, i := range list {
		s := i.state(k.now())
		switch {
		case s == terminated || s == shuttingDown:
			return nil, fail("IncorrectInstanceState", "This instance '%s' is not in a state from which it can be stopped.", i.id)
		case i.spot != nil && !i.spot.persistent:
			return nil, fail("UnsupportedOperation", "You can't stop the Spot Instance '%s' because it is associated with a one-time Spot Instance request. You can only stop Spot Instances associated with persistent Spot Instance requests.", i.id)
		case i.noStop:
			return nil, fail("OperationNotPermitted", "The instance '%s' may not be stopped. Modify its 'disableApiStop' instance attribute and try again.", i.id)
		case i.id == HostInstance:
			return nil, fail("OperationNotPermitted", "The instance '%s' is this host.", i.id)
		case s == pending:
			return nil, fail("IncorrectInstanceState", "The instance '%s' is not in a state from which it can be stopped.", i.id)
		}
	}
	return k.changeStates(list, func(i *instance) {
		if i.state(k.now()) == running {
			now := k.now()
			k.halt(i, "Client.UserInitiatedShutdown: User initiated shutdown")
			i.reason = fmt.Sprintf("Client.UserInitiatedShutdown: User initiated shutdown (%s)", now.UTC().Format("2006-01-02 15:04:05 GMT"))
		}
	})
}

func (k *call) startInstances(in *startInstancesRequest) (*stateChanges, error) {
	list, err := k.named(in.InstanceId)
	if err != nil {
		return nil, err
	}
	for _, i := range list {
		if s := i.state(k.now()); s != stopped && s != running && s != pending {
			return nil, fail("IncorrectInstanceState", "The instance '%s' is not in a state from which it can be started.", i.id)
		}
		if i.at(i.rootDevice) == nil {
			return nil, fail("IncorrectInstanceState", "Instance '%s' does not have a volume attached at root (%s)", i.id, i.rootDevice)
		}
	}
	return k.changeStates(list, func(i *instance) {
		if i.state(k.now()) == stopped {
			i.line = k.after(pending, k.o.Durations.Running, running)
			i.launched, i.reason = k.now(), ""
			k.boot(i)
		}
	})
}

func (k *call) rebootInstances(in *rebootInstancesRequest) (*answered, error) {
	list, err := k.named(in.InstanceId)
	if err != nil {
		return nil, err
	}
	for _, i := range list {
		if s := i.state(k.now()); s != running {
			return nil, fail("IncorrectInstanceState", "Instance '%s' is %s", i.id, s)
		}
	}
	if err := k.commit(); err != nil {
		return nil, err
	}
	for _, i := range list {
		k.restart(i, nil)
	}
	return done, nil
}

// restart stops the machine, does something while it is stopped, and starts it.
func (c *Cloud) restart(i *instance, meanwhile func()) {
	closers := i.closePorts()
	i.changed = i.changed || i.machine == nil
	c.then(i, func() error {
		for _, cl := range closers {
			_ = cl.Close()
		}
		var err error
		if m := c.machineOf(i); m != nil {
			err = m.Stop(c.ctx)
		}
		if meanwhile != nil {
			meanwhile()
		}
		return err
	})
	c.boot(i)
}

func (k *call) terminateInstances(in *terminateInstancesRequest) (*stateChanges, error) {
	list, err := k.named(in.InstanceId)
	if err != nil {
		return nil, err
	}
	for _, i := range list {
		if i.noTerminate || i.id == HostInstance {
			return nil, fail("OperationNotPermitted", "The instance '%s' may not be terminated. Modify its 'disableApiTermination' instance attribute and try again.", i.id)
		}
	}
	return k.changeStates(list, func(i *instance) { k.end(i, "Client.UserInitiatedShutdown: User initiated shutdown") })
}

type getConsoleOutputResponse struct {
	ID     string `xml:"instanceId"`
	Time   string `xml:"timestamp"`
	Output string `xml:"output"`
}

func (k *call) getConsoleOutput(in *getConsoleOutputRequest) (*getConsoleOutputResponse, error) {
	i, err := k.instances.get(k, in.InstanceId)
	if err != nil {
		return nil, err
	}
	out := &getConsoleOutputResponse{ID: i.id, Time: iso(k.now())}
	if i.machine != nil && !k.now().Before(i.line.end().Add(k.real(k.o.Durations.Console))) {
		b := i.machine.Console()
		out.Output = base64.StdEncoding.EncodeToString(b[max(0, len(b)-64<<10):])
	}
	return out, nil
}

type getPasswordDataResponse struct {
	ID       string `xml:"instanceId"`
	Time     string `xml:"timestamp"`
	Password string `xml:"passwordData"`
}

// getPasswordData is empty for ever: nothing behind an instance is Windows.
func (k *call) getPasswordData(in *getPasswordDataRequest) (*getPasswordDataResponse, error) {
	i, err := k.instances.get(k, in.InstanceId)
	if err != nil {
		return nil, err
	}
	return &getPasswordDataResponse{ID: i.id, Time: iso(k.now())}, nil
}

func (k *call) modifyInstanceAttribute(in *modifyInstanceAttributeRequest) (*answered, error) {
	i, err := k.instances.get(k, in.InstanceId)
	if err != nil {
		return nil, err
	}
	s := i.state(k.now())
	// The older form names an attribute and gives its value.
	switch in.Attribute {
	case "":
	case "instanceInitiatedShutdownBehavior":
		in.InstanceInitiatedShutdownBehavior = &attributeValue{in.Value}
	case "disableApiTermination":
		in.DisableApiTermination = &attributeBooleanValue{ptr(in.Value == "true")}
	case "sriovNetSupport":
		in.SriovNetSupport = &attributeValue{in.Value}
	case "instanceType":
		in.InstanceType = &attributeValue{in.Value}
	case "blockDeviceMapping":
	default:
		return nil, invalid("Attribute", "this emulator does not change %s", in.Attribute)
	}
	given := 0
	for _, is := range []bool{in.SriovNetSupport != nil, in.EnaSupport != nil, in.InstanceInitiatedShutdownBehavior != nil, in.DisableApiTermination != nil, in.DisableApiStop != nil,
		in.InstanceType != nil, in.UserData != nil, len(in.GroupId) > 0, len(in.BlockDeviceMapping) > 0, in.EbsOptimized != nil, in.SourceDestCheck != nil} {
		if is {
			given++
		}
	}
	switch {
	case given == 0:
		return nil, combination("No attributes specified.")
	case given > 1:
		return nil, combination("Fields for multiple attribute types specified")
	case (in.SriovNetSupport != nil || in.EnaSupport != nil || in.InstanceType != nil || in.UserData != nil || in.EbsOptimized != nil) && s != stopped:
		return nil, fail("IncorrectInstanceState", "The instance '%s' is not in the 'stopped' state.", i.id)
	case in.SriovNetSupport != nil && in.SriovNetSupport.Value != "simple":
		return nil, invalid("sriovNetSupport", "%q is not simple", in.SriovNetSupport.Value)
	case in.InstanceInitiatedShutdownBehavior != nil && in.InstanceInitiatedShutdownBehavior.Value != "stop" && in.InstanceInitiatedShutdownBehavior.Value != "terminate":
		return nil, invalid("instanceInitiatedShutdownBehavior", "%q", in.InstanceInitiatedShutdownBehavior.Value)
	}
	for _, b := range in.BlockDeviceMapping {
		if i.at(b.DeviceName) == nil {
			return nil, fail("InvalidInstanceAttributeValue", "No device is currently mapped at %s", b.DeviceName)
		}
	}
	for _, id := range in.GroupId {
		if _, err := k.groups.get(k, id); err != nil {
			return nil, err
		}
	}
	var kd instanceType
	if in.InstanceType != nil {
		var ok bool
		if kd, ok = typeNamed(in.InstanceType.Value); !ok {
			return nil, fail("InvalidInstanceAttributeValue", "The instance type '%s' is not valid.", in.InstanceType.Value)
		}
	}
	if err := k.commit(); err != nil {
		return nil, err
	}
	switch {
	case in.SriovNetSupport != nil:
		i.sriov = in.SriovNetSupport.Value
	case in.EnaSupport != nil:
		i.ena = isTrue(in.EnaSupport.Value)
	case in.InstanceInitiatedShutdownBehavior != nil:
		i.shutdown = in.InstanceInitiatedShutdownBehavior.Value
	case in.DisableApiTermination != nil:
		i.noTerminate = isTrue(in.DisableApiTermination.Value)
	case in.DisableApiStop != nil:
		i.noStop = isTrue(in.DisableApiStop.Value)
	case in.InstanceType != nil:
		i.kind = kd
	case len(in.GroupId) > 0:
		i.groups = slices.Clone(in.GroupId)
		k.openPorts(i)
	case len(in.BlockDeviceMapping) > 0:
		for _, b := range in.BlockDeviceMapping {
			if b.Ebs != nil && b.Ebs.DeleteOnTermination != nil {
				i.at(b.DeviceName).dies = *b.Ebs.DeleteOnTermination
			}
		}
	case in.UserData != nil:
		b, err := base64.StdEncoding.DecodeString(in.UserData.Value)
		if err != nil {
			return nil, fail("InvalidUserData.Malformed", "Invalid BASE64 encoding of user data.")
		}
		i.userData = b
	}
	return done, nil
}

type stringAttribute struct {
	Value string `xml:"value"`
}

type describeInstanceAttributeResponse struct {
	ID       string           `xml:"instanceId"`
	UserData *stringAttribute `xml:"userData"`
	Shutdown *stringAttribute `xml:"instanceInitiatedShutdownBehavior"`
	Sriov    *stringAttribute `xml:"sriovNetSupport"`
	NoTerm   *stringAttribute `xml:"disableApiTermination"`
	NoStop   *stringAttribute `xml:"disableApiStop"`
	Type     *stringAttribute `xml:"instanceType"`
	ENA      *stringAttribute `xml:"enaSupport"`
	Root     *stringAttribute `xml:"rootDeviceName"`
	Groups   []groupRef       `xml:"groupSet>item"`
	Volumes  []mappedVolume   `xml:"blockDeviceMapping>item"`
}

func (k *call) describeInstanceAttribute(in *describeInstanceAttributeRequest) (*describeInstanceAttributeResponse, error) {
	i, err := k.instances.get(k, in.InstanceId)
	if err != nil {
		return nil, err
	}
	out := &describeInstanceAttributeResponse{ID: i.id}
	text := func(s string) *stringAttribute { return &stringAttribute{s} }
	switch in.Attribute {
	case "userData":
		out.UserData = text(base64.StdEncoding.EncodeToString(i.userData))
	case "instanceInitiatedShutdownBehavior":
		out.Shutdown = text(i.shutdown)
	case "sriovNetSupport":
		out.Sriov = text(i.sriov)
	case "disableApiTermination":
		out.NoTerm = text(strconv.FormatBool(i.noTerminate))
	case "disableApiStop":
		out.NoStop = text(strconv.FormatBool(i.noStop))
	case "instanceType":
		out.Type = text(i.kind.name)
	case "enaSupport":
		out.ENA = text(strconv.FormatBool(i.ena))
	case "rootDeviceName":
		out.Root = text(i.rootDevice)
	case "groupSet":
		out.Groups = k.groupRefs(i.space, i.groups)
	case "blockDeviceMapping":
		out.Volumes = k.instanceItem(i).Volumes
	default:
		return nil, invalid("Attribute", "this emulator does not describe %q", in.Attribute)
	}
	return out, nil
}

type modifyInstanceMetadataOptionsResponse struct {
	ID      string          `xml:"instanceId"`
	Options metadataOptions `xml:"instanceMetadataOptions"`
}

func (k *call) modifyInstanceMetadataOptions(in *modifyInstanceMetadataOptionsRequest) (*modifyInstanceMetadataOptionsResponse, error) {
	i, err := k.instances.get(k, in.InstanceId)
	if err != nil {
		return nil, err
	}
	o, err := i.metadata.with(&instanceMetadataOptionsRequest{HttpEndpoint: in.HttpEndpoint, HttpPutResponseHopLimit: in.HttpPutResponseHopLimit, HttpTokens: in.HttpTokens, InstanceMetadataTags: in.InstanceMetadataTags})
	if err != nil {
		return nil, err
	}
	if err := k.commit(); err != nil {
		return nil, err
	}
	i.metadata = o
	return &modifyInstanceMetadataOptionsResponse{i.id, o}, nil
}

// with is m with what is asked for.
func (m metadataOptions) with(in *instanceMetadataOptionsRequest) (metadataOptions, error) {
	if in == nil {
		return m, nil
	}
	for _, o := range []struct {
		name, value string
		into        *string
		may         []string
	}{
		{"HttpEndpoint", in.HttpEndpoint, &m.Endpoint, str("enabled", "disabled")}, {"HttpTokens", in.HttpTokens, &m.Tokens, str("optional", "required")},
		{"InstanceMetadataTags", in.InstanceMetadataTags, &m.Tags, str("enabled", "disabled")}, {"HttpProtocolIpv6", in.HttpProtocolIpv6, &m.IPv6, str("enabled", "disabled")},
	} {
		if o.value == "" {
			continue
		}
		if !slices.Contains(o.may, o.value) {
			return m, invalid("MetadataOptions."+o.name, "%q is none of %v", o.value, o.may)
		}
		*o.into = o.value
	}
	if h := in.HttpPutResponseHopLimit; h != nil {
		if *h < 1 || *h > 64 {
			return m, invalid("MetadataOptions.HttpPutResponseHopLimit", "%d is not between 1 and 64", *h)
		}
		m.Hops = *h
	}
	m.State = "pending"
	return m, nil
}

// netInterface is the network interface of an instance.
type netInterface struct {
	item
	instance *instance
}

func (n *netInterface) values(k *call, f string) []string {
	switch f {
	case "network-interface-id":
		return str(n.id)
	case "attachment.instance-id":
		return str(n.instance.id)
	case "group-id":
		return append([]string{}, n.instance.groups...)
	case "vpc-id":
		return str(n.instance.vpc)
	case "subnet-id":
		return str(n.instance.subnet)
	case "status":
		return str("in-use")
	}
	return nil
}

type interfaceItem struct {
	ID      string     `xml:"networkInterfaceId"`
	Subnet  string     `xml:"subnetId"`
	VPC     string     `xml:"vpcId"`
	Owner   string     `xml:"ownerId"`
	Status  string     `xml:"status"`
	Private string     `xml:"privateIpAddress"`
	Groups  []groupRef `xml:"groupSet>item"`
	Index   int        `xml:"attachment>deviceIndex"`
	At      string     `xml:"attachment>status"`
	Public  string     `xml:"association>publicIp,omitempty"`
	Tags    []tagItem  `xml:"tagSet>item"`
}

func (k *call) interfaceItem(n *netInterface) interfaceItem {
	i := n.instance
	return interfaceItem{n.id, i.subnet, i.vpc, k.account, "in-use", addr(i.private), k.groupRefs(i.space, i.groups), 0, "attached", addr(i.public), tagItems(n.tags)}
}

type describeNetworkInterfacesResponse struct {
	Interfaces []interfaceItem `xml:"networkInterfaceSet>item"`
	NextToken  string          `xml:"nextToken,omitempty"`
}

func (k *call) describeNetworkInterfaces(in *describeNetworkInterfacesRequest) (*describeNetworkInterfacesResponse, error) {
	list, err := find(k, k.interfaces, in.NetworkInterfaceId, in.Filter)
	if err != nil {
		return nil, err
	}
	list, next, err := page(list, in.MaxResults, in.NextToken, 5, kindInterface.max)
	if err != nil {
		return nil, err
	}
	out := &describeNetworkInterfacesResponse{NextToken: next}
	for _, n := range list {
		out.Interfaces = append(out.Interfaces, k.interfaceItem(n))
	}
	return out, nil
}
