package amazon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"syscall"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/ingotbuild/ingot/builders"
	"github.com/ingotbuild/ingot/internal/awscloud"
	"github.com/ingotbuild/ingot/machine/communicator"
)

// port is what the machine is connected to at.
func (r *running) port() int {
	switch r.comm.Kind() {
	case communicator.SSHKind:
		return max(r.comm.SSHPort, 1)
	case communicator.WinRMKind:
		switch {
		case r.comm.WinRMPort != 0:
			return r.comm.WinRMPort
		case r.comm.WinRMUseSSL:
			return 5986
		}
		return 5985
	}
	return 0
}

// makeGroup makes a security group that admits the baker alone.
func (r *running) makeGroup(ctx context.Context, l builders.Lease) error {
	sources, err := r.sources(ctx)
	if err != nil {
		return err
	}
	tags, err := r.tags(ctx, l.Name)
	if err != nil {
		return err
	}
	c := r.session.EC2("")
	id, err := r.create(ctx, l, func(ctx context.Context) (string, error) {
		out, err := c.CreateSecurityGroup(ctx, &ec2.CreateSecurityGroupInput{
			GroupName: &l.Name, Description: aws.String("Temporary group of an Ingot bake"), VpcId: optional(r.network.vpc),
			TagSpecifications: tagged(types.ResourceTypeSecurityGroup, tags),
		})
		if err == nil {
			return aws.ToString(out.GroupId), nil
		}
		if awscloud.Code(err) == "InvalidGroup.Duplicate" {
			if id, e := r.lost(ctx, l, findGroups(c)); e == nil {
				return id, nil
			}
		}
		if awscloud.Code(err) == "VPCIdNotSpecified" {
			return "", fmt.Errorf("the account has no default VPC in %s: give vpc_id and subnet_id, or filters for them: %w", r.session.Region, err)
		}
		return "", err
	})
	if err != nil {
		return fmt.Errorf("make the temporary security group: %w", err)
	}
	r.groups = []string{id}
	if len(sources) == 0 {
		return nil
	}
	p := types.IpPermission{IpProtocol: aws.String("tcp"), FromPort: aws.Int32(int32(r.port())), ToPort: aws.Int32(int32(r.port()))}
	for _, s := range sources {
		if s.Addr().Is4() {
			p.IpRanges = append(p.IpRanges, types.IpRange{CidrIp: aws.String(s.String()), Description: aws.String("the Ingot baker")})
		} else {
			p.Ipv6Ranges = append(p.Ipv6Ranges, types.Ipv6Range{CidrIpv6: aws.String(s.String()), Description: aws.String("the Ingot baker")})
		}
	}
	err = r.session.Wait(ctx, awscloud.Wait{What: "security group " + id + " to be known", First: -1}, func(ctx context.Context) (bool, string, error) {
		_, err := c.AuthorizeSecurityGroupIngress(ctx, &ec2.AuthorizeSecurityGroupIngressInput{GroupId: &id, IpPermissions: []types.IpPermission{p}})
		if awscloud.Code(err) == "InvalidPermission.Duplicate" {
			err = nil // a try whose answer was lost
		}
		return err == nil, awscloud.Code(err), err
	})
	if err != nil {
		return fmt.Errorf("let this host in by the temporary security group: %w", err)
	}
	return nil
}

func findGroups(c *ec2.Client) finder {
	return func(ctx context.Context, l builders.Lease) ([]string, error) {
		out, err := c.DescribeSecurityGroups(ctx, &ec2.DescribeSecurityGroupsInput{Filters: leaseFilter(l)})
		if err != nil {
			return nil, err
		}
		var ids []string
		for _, g := range out.SecurityGroups {
			ids = append(ids, aws.ToString(g.GroupId))
		}
		return ids, nil
	}
}

// sources are the addresses that may connect: this host's, and never everybody's.
func (r *running) sources(ctx context.Context) ([]netip.Prefix, error) {
	if r.o.SSHInterface == sessionManager || r.port() == 0 {
		return nil, nil
	}
	var all []netip.Prefix
	for _, c := range r.o.TemporarySecurityGroupSourceCIDRs {
		p, err := netip.ParsePrefix(c)
		if err != nil {
			return nil, err // Check has said so before
		}
		all = append(all, p.Masked())
	}
	if len(all) > 0 {
		return all, nil
	}
	if a, ok := loopbackEndpoint(r.session.Endpoint()); ok {
		return []netip.Prefix{single(a)}, nil // a cloud on this host
	}
	switch r.o.SSHInterface {
	case "ipv6":
		if all = localAddresses(func(a netip.Addr) bool { return a.Is6() && a.IsGlobalUnicast() && !a.IsPrivate() }); len(all) == 0 {
			return nil, errors.New(`this host has no IPv6 address of its own to let in: give temporary_security_group_source_cidrs = ["YOUR:ADDRESS::/128"]`)
		}
		return all, nil
	case "private_ip", "private_dns":
		if all = r.private(); len(all) > 0 || !r.o.TemporarySecurityGroupSourcePublicIP {
			break
		}
		fallthrough
	default:
		// Without a public address the instance is reached at its private one.
		if a := r.o.AssociatePublicIPAddress; a != nil && !*a && r.o.SSHInterface == "" {
			all = r.private()
			break
		}
		a, err := r.publicAddress(ctx)
		if err != nil {
			return nil, fmt.Errorf(`which address this host has in the internet could not be found out, and Ingot lets nobody else connect to the instance: give temporary_security_group_source_cidrs = ["YOUR.ADDRESS/32"]: %w`, err)
		}
		all = append(all, single(a))
		if r.o.SSHInterface == "" {
			all = append(all, r.private()...) // where there is no public address after all
		}
	}
	if len(all) == 0 {
		return nil, errors.New(`which address this host reaches the VPC from is not known: give temporary_security_group_source_cidrs = ["YOUR.ADDRESS/32"]`)
	}
	return all, nil
}

func single(a netip.Addr) netip.Prefix {
	a = a.Unmap().WithZone("")
	return netip.PrefixFrom(a, a.BitLen())
}

// loopbackEndpoint says whether the API is on this host, and by which address
// this host connects to it.
func loopbackEndpoint(endpoint string) (netip.Addr, bool) {
	u, err := url.Parse(endpoint)
	if err != nil || u.Host == "" {
		return netip.Addr{}, false
	}
	if u.Hostname() == "localhost" {
		return netip.AddrFrom4([4]byte{127, 0, 0, 1}), true
	}
	a, err := netip.ParseAddr(u.Hostname())
	if err != nil || !a.IsLoopback() {
		return netip.Addr{}, false
	}
	if a.Is6() && !a.Is4In6() {
		return a, true
	}
	return netip.AddrFrom4([4]byte{127, 0, 0, 1}), true
}

// private are the addresses of this host that a private network may see.
func (r *running) private() []netip.Prefix {
	return localAddresses(func(a netip.Addr) bool { return a.Is4() && a.IsPrivate() })
}

func localAddresses(want func(netip.Addr) bool) []netip.Prefix {
	var all []netip.Prefix
	links, err := net.Interfaces()
	if err != nil {
		return nil
	}
	for _, link := range links {
		// Bridges and tunnels to containers are no way out.
		if link.Flags&net.FlagUp == 0 || link.Flags&net.FlagLoopback != 0 || strings.HasPrefix(link.Name, "docker") ||
			strings.HasPrefix(link.Name, "br-") || strings.HasPrefix(link.Name, "veth") || strings.HasPrefix(link.Name, "virbr") {
			continue
		}
		addrs, err := link.Addrs()
		if err != nil {
			continue
		}
		for _, a := range addrs {
			if n, ok := a.(*net.IPNet); ok {
				if ip, ok := netip.AddrFromSlice(n.IP); ok && want(ip.Unmap()) {
					all = append(all, single(ip))
				}
			}
		}
	}
	return all[:min(len(all), 16)]
}

// publicAddress asks a service in the internet which address this host has there.
func (r *running) publicAddress(ctx context.Context) (netip.Addr, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, r.env.AddressURL, nil)
	if err != nil {
		return netip.Addr{}, err
	}
	// No proxy: its address is not the one that connects to the instance.
	dialer := &net.Dialer{Timeout: 5 * time.Second, ControlContext: func(_ context.Context, _, address string, _ syscall.RawConn) error {
		ap, err := netip.ParseAddrPort(address)
		if err != nil {
			return err
		}
		return r.session.Admit(ap)
	}}
	transport := &http.Transport{DialContext: dialer.DialContext}
	defer transport.CloseIdleConnections()
	resp, err := (&http.Client{Transport: transport}).Do(req)
	if err != nil {
		return netip.Addr{}, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 256))
	if err != nil {
		return netip.Addr{}, err
	}
	a, err := netip.ParseAddr(strings.TrimSpace(string(body)))
	if resp.StatusCode != http.StatusOK || err != nil || a.IsUnspecified() || a.IsMulticast() {
		return netip.Addr{}, fmt.Errorf("%s answers %s and no address", r.env.AddressURL, resp.Status)
	}
	return a.Unmap(), nil
}
