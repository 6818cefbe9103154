//go:build linux

package ec2

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"time"
)

// HostInstance is the id of the instance that this host is, in the first
// region and its first zone: what is attached to it really is a block device here.
//
// A volume attached as /dev/sdf appears in Options.DeviceDir, where everything is
// a symbolic link to the real device (/dev/loop3): as sdf and xvdf, and its
// partitions as xvdf1; with Options.NVMe as nvme1n1, with nvme1n1p1, and as
// disk/by-id/nvme-Amazon_Elastic_Block_Store_vol0123… (the volume's id without
// its dash; partitions with -part1), as on Nitro instances. The links of the first
// four partitions are there at once and lead nowhere until the volume has them.
const HostInstance = "i-0000000000000b057"

// addHost puts the instance that this host is into a region.
func (c *Cloud) addHost(s *space) {
	kd, _ := typeNamed("t2.medium")
	if c.o.NVMe {
		kd, _ = typeNamed("m5.large")
	}
	if runtime.GOARCH == "arm64" {
		kd, _ = typeNamed("t4g.medium")
	}
	var img *image
	for _, sp := range c.here(s.region) {
		for _, i := range sp.images.all() {
			if img == nil {
				img = i
			}
		}
	}
	if img == nil {
		return // without images there is nothing that this host could have been made of
	}
	sub := s.subnets.all()[0]
	i := &instance{item: c.newItem(kindInstance, map[string]string{"Name": "this host"}), space: s, image: img, kind: kd, zone: sub.zone, vpc: sub.vpc, subnet: sub.id,
		private: loopback, shutdown: "stop", rootDevice: img.root, metadata: metadataOptions{Tokens: "required", Hops: 1, Endpoint: "enabled", IPv6: "disabled", Tags: "disabled"},
		tenancy: "default", ena: true, line: timeline{{c.now(), running}}, launched: c.now()}
	delete(s.instances.m, i.id)
	i.id = HostInstance
	i.eni = &netInterface{item: c.newItem(kindInterface, nil), instance: i}
	s.interfaces.m[i.eni.id] = i.eni
	root := &volume{item: c.newItem(kindVolume, nil), disk: disk{size: 8, kind: "gp3"}, zone: i.zone, line: timeline{{c.now(), "available"}}}
	root.at = &attachment{volume: root, instance: i, device: img.root, dies: true, line: timeline{{c.now(), "attached"}}, since: iso(c.now())}
	s.volumes.m[root.id] = root
	i.disks = []*attachment{root.at}
	s.instances.m[i.id] = i
}

var loopback = netip.AddrFrom4([4]byte{127, 0, 0, 1})

// attachHere makes a volume a block device of this host.
func (c *Cloud) attachHere(a *attachment) {
	a.busy = true
	c.then(a.instance, func() error {
		defer c.through(a)
		real, err := a.volume.open(c)
		if err != nil {
			return err
		}
		device, err := real.AttachHere()
		if err != nil {
			return err
		}
		return c.link(a, device)
	})
}

func (c *Cloud) through(a *attachment) {
	c.mu.Lock()
	defer c.mu.Unlock()
	a.busy = false
}

// detachHere takes it away again. A device that is still mounted stays
// "detaching", as in the real service, until it is unmounted.
func (c *Cloud) detachHere(a *attachment) {
	a.busy = true
	c.then(a.instance, func() error {
		real, err := a.volume.open(c)
		if err != nil {
			return err
		}
		if err := real.DetachHere(); err != nil {
			c.background(func() { c.detachLater(a) })
			return nil
		}
		defer c.through(a)
		return c.unlink(a)
	})
}

func (c *Cloud) detachLater(a *attachment) {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-c.ctx.Done():
			return
		case <-tick.C:
		}
		real, err := a.volume.open(c)
		if err == nil {
			err = real.DetachHere()
		}
		if err == nil {
			c.report(c.unlink(a))
			c.through(a)
			return
		}
	}
}

// names are those that a device has below DeviceDir, for a partition ("" is the whole).
func (c *Cloud) names(a *attachment, partition string) []string {
	letter := strings.TrimPrefix(strings.TrimPrefix(strings.TrimPrefix(a.device, "/dev/"), "sd"), "xvd")
	if !c.o.NVMe {
		return []string{"sd" + letter + partition, "xvd" + letter + partition}
	}
	part, byID := "", ""
	if partition != "" {
		part, byID = "p"+partition, "-part"+partition
	}
	return []string{fmt.Sprintf("nvme%dn1%s", a.number, part), "disk/by-id/nvme-Amazon_Elastic_Block_Store_" + strings.Replace(a.volume.id, "-", "", 1) + byID}
}

const maxPartitions = 4

func (c *Cloud) link(a *attachment, device string) error {
	c.mu.Lock()
	taken := map[int]bool{}
	for _, o := range a.instance.disks {
		taken[o.number] = true
	}
	for n := 1; a.number == 0; n++ {
		if !taken[n] {
			a.number = n
		}
	}
	c.mu.Unlock()
	var errs []error
	for n := 0; n <= maxPartitions; n++ {
		partition, to := "", device
		if n > 0 {
			partition, to = strconv.Itoa(n), fmt.Sprintf("%sp%d", device, n)
		}
		for _, name := range c.names(a, partition) {
			p := filepath.Join(c.o.DeviceDir, name)
			errs = append(errs, os.MkdirAll(filepath.Dir(p), 0o755), os.Symlink(to, p))
		}
	}
	return errors.Join(errs...)
}

func (c *Cloud) unlink(a *attachment) error {
	var errs []error
	for n := 0; n <= maxPartitions; n++ {
		partition := ""
		if n > 0 {
			partition = strconv.Itoa(n)
		}
		for _, name := range c.names(a, partition) {
			if err := os.Remove(filepath.Join(c.o.DeviceDir, name)); err != nil && !errors.Is(err, os.ErrNotExist) {
				errs = append(errs, err)
			}
		}
	}
	return errors.Join(errs...)
}

// DeviceDir is where attached devices appear.
func (c *Cloud) DeviceDir() string { return c.o.DeviceDir }

// metadata is the instance metadata service of the instance that this host is.
type metadata struct {
	server   *http.Server
	listener net.Listener
	mu       sync.Mutex
	tokens   map[string]time.Time
}

// MetadataURL is its endpoint, at an address of its own: AWS_EC2_METADATA_SERVICE_ENDPOINT.
func (c *Cloud) MetadataURL() string { return "http://" + c.imds.listener.Addr().String() }

func (c *Cloud) startMetadata() (*metadata, error) {
	a, err := c.host.Address()
	if err != nil {
		return nil, err
	}
	l, err := net.Listen("tcp", net.JoinHostPort(a.String(), "0"))
	if err != nil {
		return nil, err
	}
	m := &metadata{listener: l, tokens: map[string]time.Time{}}
	mux := http.NewServeMux()
	mux.HandleFunc("PUT /latest/api/token", m.token)
	mux.Handle("GET /latest/", m.guard(http.HandlerFunc(c.serveMetadata)))
	m.server = &http.Server{Handler: mux, ReadHeaderTimeout: time.Minute}
	c.work.Go(func() { _ = m.server.Serve(l) })
	return m, nil
}

const (
	tokenTTL = "X-Aws-Ec2-Metadata-Token-Ttl-Seconds"
	tokenIs  = "X-Aws-Ec2-Metadata-Token"
)

func (m *metadata) token(w http.ResponseWriter, r *http.Request) {
	ttl, err := strconv.Atoi(r.Header.Get(tokenTTL))
	if err != nil || ttl < 1 || ttl > 21600 {
		http.Error(w, "bad "+tokenTTL, http.StatusBadRequest)
		return
	}
	if r.Header.Get("X-Forwarded-For") != "" {
		http.Error(w, "forwarded", http.StatusForbidden)
		return
	}
	t := randomHex(56)
	m.mu.Lock()
	m.tokens[t] = time.Now().Add(time.Duration(ttl) * time.Second)
	m.mu.Unlock()
	w.Header().Set(tokenTTL, strconv.Itoa(ttl))
	_, _ = w.Write([]byte(t))
}

// guard admits who has a token: version 2 is required.
func (m *metadata) guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		m.mu.Lock()
		until, ok := m.tokens[r.Header.Get(tokenIs)]
		m.mu.Unlock()
		if !ok || time.Now().After(until) {
			http.Error(w, "Unauthorized", http.StatusUnauthorized)
			return
		}
		next.ServeHTTP(w, r)
	})
}

func (c *Cloud) serveMetadata(w http.ResponseWriter, r *http.Request) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.spaces[c.o.Account+"/"+c.o.Regions[0]]
	i := s.instances.m[HostInstance]
	if i == nil {
		http.NotFound(w, r)
		return
	}
	const role = "bakery"
	text := ""
	switch strings.TrimSuffix(strings.TrimPrefix(r.URL.Path, "/latest/"), "/") {
	case "dynamic/instance-identity/document":
		text = asJSON(map[string]any{"version": "2017-09-30", "accountId": c.o.Account, "architecture": i.kind.arch, "availabilityZone": i.zone, "imageId": i.image.id, "instanceId": i.id,
			"instanceType": i.kind.name, "pendingTime": i.launched.UTC().Format(time.RFC3339), "privateIp": addr(i.private), "region": s.region,
			"billingProducts": nil, "devpayProductCodes": nil, "marketplaceProductCodes": nil, "kernelId": nil, "ramdiskId": nil})
	case "meta-data/instance-id":
		text = i.id
	case "meta-data/ami-id":
		text = i.image.id
	case "meta-data/instance-type":
		text = i.kind.name
	case "meta-data/placement/availability-zone":
		text = i.zone
	case "meta-data/placement/region":
		text = s.region
	case "meta-data/local-ipv4":
		text = addr(i.private)
	case "meta-data/iam/security-credentials":
		text = role
	case "meta-data/iam/security-credentials/" + role:
		k := c.issue(c.o.Account, "arn:aws:sts::"+c.o.Account+":assumed-role/"+role+"/"+i.id, 6*time.Hour)
		text = asJSON(map[string]string{"Code": "Success", "LastUpdated": c.now().UTC().Format(time.RFC3339), "Type": "AWS-HMAC", "AccessKeyId": k.AccessKeyID,
			"SecretAccessKey": k.SecretAccessKey, "Token": k.SessionToken, "Expiration": k.Expiration})
	default:
		http.NotFound(w, r)
		return
	}
	_, _ = w.Write([]byte(text))
}

// detachHost takes what is attached to this host away, when the cloud ends.
func (c *Cloud) detachHost() {
	if c.spaces == nil {
		return
	}
	c.mu.Lock()
	s := c.spaces[c.o.Account+"/"+c.o.Regions[0]]
	var list []*attachment
	if s != nil {
		if i := s.instances.m[HostInstance]; i != nil {
			list = append(list, i.disks...)
		}
	}
	c.mu.Unlock()
	for _, a := range list {
		if a.number > 0 {
			_ = c.unlink(a) // the links dangle otherwise; the devices go with the machines' host
		}
	}
}
