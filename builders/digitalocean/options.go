// Package digitalocean is the builder that makes snapshots of droplets.
package digitalocean

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/ingotbuild/ingot/builders"
	"github.com/ingotbuild/ingot/internal/config"
	"github.com/ingotbuild/ingot/internal/docloud"
	"github.com/ingotbuild/ingot/machine/communicator"
)

// Options are what a source "digitalocean" block can say. A droplet is made,
// provisioned, powered off and snapshotted, and the snapshot brought to further
// regions. What Packer has no option for is marked as Ingot's own.
type Options struct {
	docloud.Access
	communicator.Options

	// Region is where the droplet is made: "nyc3".
	Region string `cfg:"region,required"`
	// Size is that of the droplet: "s-1vcpu-1gb". The image fits droplets whose
	// disk is at least as large.
	Size string `cfg:"size,required"`
	// Image is the base: the slug of a public image, or the id of any. Either it,
	// or ImageName, ImageTag or both must be given.
	Image string `cfg:"image"`
	// ImageName takes the newest of your own images with that name in the region
	// as the base. Ingot's own.
	ImageName string `cfg:"image_name"`
	// ImageTag takes the newest of your own images with that tag in the region
	// as the base. Ingot's own.
	ImageTag string `cfg:"image_tag"`

	// SnapshotName is the image's name. Default: "packer-" and the time in
	// seconds since 1970.
	SnapshotName string `cfg:"snapshot_name"`
	// SnapshotRegions are the regions that the image is brought to, besides Region.
	SnapshotRegions []string `cfg:"snapshot_regions"`
	// SnapshotTags are the image's tags.
	SnapshotTags []string `cfg:"snapshot_tags"`
	// WaitSnapshotTransfer waits until the image is in all regions. Without, the
	// bake ends when the transfers have begun. Default: true.
	WaitSnapshotTransfer *bool `cfg:"wait_snapshot_transfer"`
	// KeepPartial keeps an image that could not be brought to some of the
	// regions, and says to which. Otherwise it is removed. Ingot's own.
	KeepPartial bool `cfg:"keep_partial"`

	// DropletName is the droplet's name, and its host name. Default:
	// "packer-" and the bake's id.
	DropletName string `cfg:"droplet_name"`
	// PrivateNetworking gives the droplet a private address too, which newer
	// droplets have in any case.
	PrivateNetworking bool `cfg:"private_networking"`
	// VPCUUID is the network of the droplet, with PrivateNetworking. Default: the
	// region's default network.
	VPCUUID string `cfg:"vpc_uuid"`
	// ConnectWithPrivateIP reaches the droplet by its private address, with
	// PrivateNetworking.
	ConnectWithPrivateIP bool `cfg:"connect_with_private_ip"`
	// ReservedIP is a reserved address of yours, assigned to nothing else, that
	// the droplet has while it is baked and is reached by. Ingot's own.
	ReservedIP string `cfg:"reserved_ip"`
	// IPVersionSix gives the droplet an address of version 6 too.
	IPVersionSix bool `cfg:"ipv6"`
	// Monitoring has DigitalOcean's agent for metrics installed.
	Monitoring bool `cfg:"monitoring"`
	// DropletAgent has DigitalOcean's agent for the web console installed, or not.
	// Default: where the image supports it.
	DropletAgent *bool `cfg:"droplet_agent"`
	// Backups has the droplet backed up while it is baked. Ingot's own.
	Backups bool `cfg:"backups"`
	// UserData is given to cloud-init on the droplet. It is not part of the image.
	UserData string `cfg:"user_data"`
	// UserDataFile is a file with it.
	UserDataFile string `cfg:"user_data_file"`
	// Tags are the droplet's tags.
	Tags []string `cfg:"tags"`
	// Project is the name or the id of the project that the droplet is listed
	// in. Default: the account's default project. Ingot's own.
	Project string `cfg:"project"`
	// SSHKeyID is a key of the account to log in with instead of a temporary one,
	// with SSHPrivateKeyFile.
	SSHKeyID int `cfg:"ssh_key_id"`

	// InjectHostKey gives the droplet a host key that is made for this bake, by
	// user data, so that it is known whom we talk to; the image doesn't have
	// it. Without, ssh_host_key or ssh_known_hosts_file must tell. Default:
	// true. Ingot's own.
	InjectHostKey *bool `cfg:"inject_host_key"`
	// TemporaryFirewall lets only this host reach the droplet. Default: true.
	// Ingot's own.
	TemporaryFirewall *bool `cfg:"temporary_firewall"`
	// TemporaryFirewallSourceCIDRs are who may reach the droplet, instead of
	// this host's own address. Ingot's own.
	TemporaryFirewallSourceCIDRs []string `cfg:"temporary_firewall_source_cidrs"`
	// TemporaryFirewallCheckURL answers with the address that calls come from.
	// Default: "https://checkip.amazonaws.com". Ingot's own.
	TemporaryFirewallCheckURL string `cfg:"temporary_firewall_check_url"`
	// Expires is how old the droplet may become before it is surely rubbish,
	// which a tag on it says. A droplet is paid for until it is destroyed, also
	// when it is off, so nothing on it can end it: `ingot sweep` does. Default: 6h.
	// Ingot's own.
	Expires time.Duration `cfg:"expires"`

	// StateTimeout bounds each wait for the droplet: to be made, to be off, to be
	// free for the next action. Default: 6m.
	StateTimeout time.Duration `cfg:"state_timeout"`
	// ShutdownTimeout is how long the droplet's system may take to shut down
	// before the power is cut. Default: 2m. Ingot's own.
	ShutdownTimeout time.Duration `cfg:"shutdown_timeout"`
	// SnapshotTimeout bounds the wait for the snapshot. Default: 60m.
	SnapshotTimeout time.Duration `cfg:"snapshot_timeout"`
	// TransferTimeout bounds the wait for each region's copy. Default: 30m.
	TransferTimeout time.Duration `cfg:"transfer_timeout"`
}

// Builder implements builders.Builder.
type Builder struct {
	shared *docloud.Shared
	o      Options
	m      *droplet // from Boot on
}

// New makes a builder for one bake. shared is common to all of a process.
func New(shared *docloud.Shared) *Builder {
	return &Builder{shared: shared, o: Options{
		Options: communicator.Defaults(), TemporaryFirewallCheckURL: "https://checkip.amazonaws.com", Expires: 6 * time.Hour,
		StateTimeout: 6 * time.Minute, ShutdownTimeout: 2 * time.Minute, SnapshotTimeout: 60 * time.Minute, TransferTimeout: 30 * time.Minute,
	}}
}

var (
	_ builders.Proofer = (*Builder)(nil)
	_ builders.Resumer = (*Builder)(nil)
)

// Options implements builders.Builder.
func (b *Builder) Options() any { return &b.o }

func or(b *bool, otherwise bool) bool {
	if b == nil {
		return otherwise
	}
	return *b
}

func (o *Options) remote() bool       { return o.Kind() != communicator.None }
func (o *Options) ssh() bool          { return o.Kind() == communicator.SSHKind }
func (o *Options) injectKey() bool    { return o.ssh() && or(o.InjectHostKey, true) }
func (o *Options) firewall() bool     { return o.remote() && or(o.TemporaryFirewall, true) }
func (o *Options) temporaryKey() bool { return o.ssh() && o.SSHKeyID == 0 }

// targets are the regions besides Region, each once.
func (o *Options) targets() (all []string) {
	for _, r := range o.SnapshotRegions {
		if r != o.Region && !slices.Contains(all, r) {
			all = append(all, r)
		}
	}
	return all
}

var (
	slug        = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]*$`)
	dropletName = regexp.MustCompile(`^[a-zA-Z0-9]?[a-z0-9A-Z.\-]*[a-z0-9A-Z]$`)
	uuidForm    = regexp.MustCompile(`^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$`)
)

type badFunc func(option, detail, format string, args ...any)

// static finds what is wrong whatever the account has.
func (o *Options) static(env *builders.CheckEnv) []config.Problem {
	ps := o.Access.Check(!env.Validate)
	ps = append(ps, o.Options.Check(env.Dir, communicator.Rules{User: true})...)
	bad := func(option, detail, format string, args ...any) {
		ps = append(ps, config.Problem{Option: option, Summary: fmt.Sprintf(format, args...), Detail: detail})
	}
	for option, value := range map[string]string{"region": o.Region, "size": o.Size} {
		if !slug.MatchString(value) {
			bad(option, "`doctl compute "+option+" list` shows them.", "%q is no %s", value, option)
		}
	}
	for i, r := range o.SnapshotRegions {
		if !slug.MatchString(r) {
			bad(fmt.Sprintf("snapshot_regions.%d", i), "`doctl compute region list` shows them.", "%q is no region", r)
		}
	}
	switch own := o.ImageName != "" || o.ImageTag != ""; {
	case o.Image == "" && !own:
		bad("image", "Give the slug or the id of an image; or image_name or image_tag, for the newest of your own.", "There is no image to start from")
	case o.Image != "" && own:
		bad("image", "Give one of them.", "image is given, and image_name or image_tag too")
	case o.Image != "" && !slug.MatchString(o.Image):
		bad("image", "It is a slug, such as debian-12-x64, or an id. An image of your own is found by image_name.", "%q is neither", o.Image)
	}
	if n, err := strconv.ParseInt(o.Image, 10, 64); err == nil && n <= 0 {
		bad("image", "", "%q is no id of an image", o.Image)
	}
	if o.ImageTag != "" {
		o.checkTags("image_tag", []string{o.ImageTag}, bad)
	}
	o.checkTags("tags", o.Tags, bad)
	o.checkTags("snapshot_tags", o.SnapshotTags, bad)
	if len(o.SnapshotName) > 255 || strings.ContainsFunc(o.SnapshotName, unicode.IsControl) || !utf8.ValidString(o.SnapshotName) {
		bad("snapshot_name", "A name has at most 255 bytes and no control characters.", "snapshot_name cannot be an image's name")
	}
	// A second droplet, to prove the image, has a suffix.
	if o.DropletName != "" && (!dropletName.MatchString(o.DropletName) || len(o.DropletName)+len(proofSuffix) > 255) {
		bad("droplet_name", "It has letters, digits, dots and dashes, and begins and ends with a letter or a digit.", "%q cannot be a droplet's name", o.DropletName)
	}
	for option, given := range map[string]bool{"vpc_uuid": o.VPCUUID != "", "connect_with_private_ip": o.ConnectWithPrivateIP} {
		if given && !o.PrivateNetworking {
			bad(option, "Set private_networking = true.", "%s is given without private_networking", option)
		}
	}
	if o.VPCUUID != "" && !uuidForm.MatchString(o.VPCUUID) {
		bad("vpc_uuid", "`doctl vpcs list` shows them.", "%q is no id of a VPC", o.VPCUUID)
	}
	if o.ReservedIP != "" {
		if a, err := netip.ParseAddr(o.ReservedIP); err != nil || !a.Is4() {
			bad("reserved_ip", "", "%q is no address of version 4", o.ReservedIP)
		}
		if o.ConnectWithPrivateIP {
			bad("reserved_ip", "Give one of them.", "reserved_ip and connect_with_private_ip are both given")
		}
	}
	switch {
	case o.SSHKeyID < 0:
		bad("ssh_key_id", "", "ssh_key_id is negative")
	case o.SSHKeyID > 0 && o.SSHPrivateKeyFile == "" && !o.SSHAgentAuth:
		bad("ssh_key_id", "Give ssh_private_key_file, or ssh_agent_auth.", "ssh_key_id is given without the private key")
	}
	for option, given := range map[string]bool{"ssh_keypair_name": o.SSHKeypairName != "", "temporary_key_pair_name": o.TemporaryKeyPairName != ""} {
		if given {
			ps = append(ps, config.Problem{Option: option, Warning: true, Summary: option + " is left aside",
				Detail: "A temporary key has a name by which `ingot sweep` finds it; a key of the account is given as ssh_key_id."})
		}
	}
	if _, err := o.userData(env.Dir, &hostKey{public: strings.Repeat("k", 80), private: strings.Repeat("k", 400)}); err != nil {
		option := "user_data"
		if o.UserDataFile != "" {
			option = "user_data_file"
		}
		bad(option, "", "%v", err)
	}
	if o.UserData != "" && o.UserDataFile != "" {
		bad("user_data_file", "Give one of them.", "user_data and user_data_file are both given")
	}
	if o.ssh() && !or(o.InjectHostKey, true) && len(o.SSHHostKey) == 0 && o.SSHKnownHostsFile == "" && !o.SSHIgnoreHostKey && os.Getenv("INGOT_SSH_IGNORE_HOST_KEY") == "" {
		bad("inject_host_key", "Give ssh_host_key, ssh_known_hosts_file, or leave inject_host_key out.", "The droplet's host key cannot be known")
	}
	if o.injectKey() && len(o.SSHHostKey) > 0 {
		bad("ssh_host_key", "Set inject_host_key = false if the image has a host key of its own.", "ssh_host_key is given, and the droplet gets another by inject_host_key")
	}
	for i, c := range o.TemporaryFirewallSourceCIDRs {
		if _, err := prefix(c); err != nil {
			bad(fmt.Sprintf("temporary_firewall_source_cidrs.%d", i), `Write it as "203.0.113.7/32".`, "%q is no network", c)
		}
	}
	if !o.firewall() && len(o.TemporaryFirewallSourceCIDRs) > 0 {
		bad("temporary_firewall_source_cidrs", "", "temporary_firewall_source_cidrs is given, and there is no temporary firewall")
	}
	if u, err := url.Parse(o.TemporaryFirewallCheckURL); err != nil || u.Host == "" || u.Scheme != "https" && (u.Scheme != "http" || !docloud.Loopback(u)) {
		bad("temporary_firewall_check_url", "Over http anyone on the way could open the droplet for themselves.", "temporary_firewall_check_url is no https address")
	}
	for option, d := range map[string]time.Duration{
		"expires": o.Expires, "state_timeout": o.StateTimeout, "shutdown_timeout": o.ShutdownTimeout, "snapshot_timeout": o.SnapshotTimeout, "transfer_timeout": o.TransferTimeout,
	} {
		if d <= 0 {
			bad(option, "", "%s must be more than nothing", option)
		}
	}
	return ps
}

func (o *Options) checkTags(option string, tags []string, bad badFunc) {
	for i, t := range tags {
		at := option
		if option != "image_tag" {
			at = fmt.Sprintf("%s.%d", option, i)
		}
		if err := docloud.CheckTag(t); err != nil {
			bad(at, "", "%v", err)
		} else if option != "image_tag" && strings.HasPrefix(strings.ToLower(t), tagPrefix) {
			bad(at, "Choose another.", "Tags that begin with %q are those by which `ingot sweep` finds what is temporary", tagPrefix)
		}
	}
}

// prefix reads a network, or an address as one.
func prefix(s string) (netip.Prefix, error) {
	if a, err := netip.ParseAddr(s); err == nil && a.Zone() == "" {
		return netip.PrefixFrom(a, a.BitLen()), nil
	}
	p, err := netip.ParsePrefix(s)
	return p.Masked(), err
}

// givenUserData is the user's own.
func (o *Options) givenUserData(dir string) (string, error) {
	if o.UserDataFile == "" {
		return o.UserData, nil
	}
	path := o.UserDataFile
	if !filepath.IsAbs(path) {
		path = filepath.Join(dir, path)
	}
	f, err := os.Open(path)
	if err != nil {
		return "", fmt.Errorf("user_data_file cannot be read: %w", err)
	}
	defer f.Close()
	if fi, err := f.Stat(); err != nil || !fi.Mode().IsRegular() {
		return "", errors.Join(fmt.Errorf("user_data_file is no regular file: %s", path), err)
	}
	text, err := io.ReadAll(io.LimitReader(f, maxUserData+1))
	if err != nil {
		return "", fmt.Errorf("user_data_file cannot be read: %w", err)
	}
	return string(text), nil
}
