package amazon

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/ingotbuild/ingot/internal/awscloud"
)

// lookups are what has been looked up in the account for source blocks that ask
// for the same. The check before a bake and the bake itself share them, so that
// nothing is asked twice.
type lookups struct {
	env     *Env
	session *awscloud.Session
	o       RunOptions
	since   time.Time

	image   once[types.Image]
	network once[network]
	groups  once[[]string]
	// What only the check before the bake asks for.
	regions once[map[string]string]        // whether the account has opted in, by name
	types   once[[]types.InstanceTypeInfo] // those that are asked for
	zones   once[map[string]bool]          // where one of them is to be had
}

// lookupsLast is how long an answer counts: from the check to the boot, and not
// for a process that lives for days.
const lookupsLast = 15 * time.Minute

// lookups are those of the options.
func (e *Env) lookups(s *awscloud.Session, a *awscloud.Access, o *RunOptions) *lookups {
	b, err := json.Marshal([]any{a, s.Region, o.SourceAMI, o.SourceAMIFilter, o.VPCID, o.VPCFilter, o.SubnetID, o.SubnetFilter,
		o.SecurityGroupID, o.SecurityGroupIDs, o.SecurityGroupFilter, o.AvailabilityZone, o.AssociatePublicIPAddress, o.InstanceType, o.SpotInstanceTypes})
	if err != nil {
		return &lookups{env: e, session: s, o: *o, since: time.Now()}
	}
	sum := sha256.Sum256(b)
	key := string(sum[:])
	e.mu.Lock()
	defer e.mu.Unlock()
	l := e.looks[key]
	if l == nil || time.Since(l.since) > lookupsLast {
		l = &lookups{env: e, session: s, o: *o, since: time.Now()}
		e.looks[key] = l
	}
	return l
}

// once remembers the answer to a question that was answered without an error.
type once[T any] struct {
	turn  sync.Mutex
	value *T
}

func (o *once[T]) get(ctx context.Context, ask func(context.Context) (T, error)) (T, error) {
	o.turn.Lock()
	defer o.turn.Unlock()
	if o.value != nil {
		return *o.value, nil
	}
	v, err := ask(ctx)
	if err == nil {
		o.value = &v
	}
	return v, err
}

// ec2 are the filters as EC2 takes them.
func (f *Filter) ec2() ([]types.Filter, error) {
	if f == nil {
		return nil, nil
	}
	all := maps.Clone(f.Filters)
	if all == nil {
		all = map[string]string{}
	}
	for _, p := range f.Filter {
		all[p.name()] = p.Value
	}
	var out []types.Filter
	for _, name := range slices.Sorted(maps.Keys(all)) {
		// As in Packer, a comma in a value is written in quotes.
		values, err := csv.NewReader(strings.NewReader(all[name])).Read()
		if err != nil {
			return nil, fmt.Errorf("the value %q of the filter %q: %w", all[name], name, err)
		}
		out = append(out, types.Filter{Name: aws.String(name), Values: values})
	}
	return out, nil
}

// Image is the source AMI.
func (l *lookups) Image(ctx context.Context) (types.Image, error) {
	return l.image.get(ctx, func(ctx context.Context) (types.Image, error) {
		in := &ec2.DescribeImagesInput{}
		if l.o.SourceAMI != "" {
			in.ImageIds = []string{l.o.SourceAMI}
		}
		f := l.o.SourceAMIFilter
		if f != nil && !f.empty() {
			var err error
			if in.Filters, err = f.ec2(); err != nil {
				return types.Image{}, err
			}
			in.Owners = f.Owners
			in.IncludeDeprecated = aws.Bool(f.IncludeDeprecated)
		}
		var found []types.Image
		pages := ec2.NewDescribeImagesPaginator(l.session.EC2(""), in)
		for pages.HasMorePages() {
			page, err := pages.NextPage(ctx)
			if err != nil {
				if awscloud.IsNotFound(err) {
					return types.Image{}, fmt.Errorf("there is no source AMI %s in %s, or it is not shared with this account: %w", l.o.SourceAMI, l.session.Region, awscloud.Explain(err))
				}
				return types.Image{}, fmt.Errorf("look for the source AMI: %w", awscloud.Explain(err))
			}
			found = append(found, page.Images...)
		}
		switch {
		case len(found) == 0 && l.o.SourceAMI != "" && f != nil:
			return types.Image{}, fmt.Errorf("the AMI %s in %s does not fit source_ami_filter", l.o.SourceAMI, l.session.Region)
		case len(found) == 0 && f == nil:
			return types.Image{}, fmt.Errorf("there is no source AMI %s in %s, or it is not shared with this account", l.o.SourceAMI, l.session.Region)
		case len(found) == 0:
			return types.Image{}, fmt.Errorf("no AMI in %s fits source_ami_filter: %s", l.session.Region, describeFilter(in))
		case len(found) > 1 && (f == nil || !f.MostRecent):
			return types.Image{}, fmt.Errorf("%d AMIs in %s fit source_ami_filter, among them %s and %s: narrow the filter, or set most_recent = true",
				len(found), l.session.Region, aws.ToString(found[0].ImageId), aws.ToString(found[1].ImageId))
		}
		return slices.MaxFunc(found, func(a, b types.Image) int {
			return cmp.Or(created(a).Compare(created(b)), cmp.Compare(aws.ToString(a.ImageId), aws.ToString(b.ImageId)))
		}), nil
	})
}

func created(i types.Image) time.Time {
	t, err := time.Parse(time.RFC3339, aws.ToString(i.CreationDate))
	if err != nil {
		return time.Unix(0, 0)
	}
	return t
}

func describeFilter(in *ec2.DescribeImagesInput) string {
	words := []string{"owners " + strings.Join(in.Owners, ", ")}
	for _, f := range in.Filters {
		words = append(words, fmt.Sprintf("%s = %q", aws.ToString(f.Name), strings.Join(f.Values, ",")))
	}
	return strings.Join(words, "; ")
}

// network is where instances go.
type network struct {
	// vpc is "" for the account's default one.
	vpc string
	// subnets to try one after another; none: EC2 chooses.
	subnets []types.Subnet
}

// Network is where the instance goes.
func (l *lookups) Network(ctx context.Context) (network, error) {
	return l.network.get(ctx, func(ctx context.Context) (network, error) {
		o, c := &l.o, l.session.EC2("")
		n := network{vpc: o.VPCID}
		if !o.VPCFilter.empty() {
			filters, err := o.VPCFilter.ec2()
			if err != nil {
				return n, err
			}
			out, err := c.DescribeVpcs(ctx, &ec2.DescribeVpcsInput{Filters: filters})
			if err != nil {
				return n, fmt.Errorf("look for the VPC: %w", awscloud.Explain(err))
			}
			if len(out.Vpcs) != 1 {
				return n, fmt.Errorf("%d VPCs in %s fit vpc_filter, and it must be one", len(out.Vpcs), l.session.Region)
			}
			n.vpc = aws.ToString(out.Vpcs[0].VpcId)
		}
		in := &ec2.DescribeSubnetsInput{}
		filtered := o.SubnetFilter != nil && !o.SubnetFilter.empty()
		switch {
		case o.SubnetID != "":
			in.SubnetIds = []string{o.SubnetID}
		case filtered:
			filters, err := o.SubnetFilter.ec2()
			if err != nil {
				return n, err
			}
			in.Filters = append(filters, types.Filter{Name: aws.String("state"), Values: []string{"available"}})
			in.Filters = append(in.Filters, equals("vpc-id", n.vpc)...)
			in.Filters = append(in.Filters, equals("availability-zone", o.AvailabilityZone)...)
		case n.vpc == "" && o.AssociatePublicIPAddress == nil:
			return n, nil // EC2 chooses in the default VPC
		case n.vpc == "":
			in.Filters = append(equals("default-for-az", "true"), equals("availability-zone", o.AvailabilityZone)...)
		default:
			// EC2 launches in a VPC by a subnet of it.
			in.Filters = append(equals("vpc-id", n.vpc), equals("availability-zone", o.AvailabilityZone)...)
		}
		out, err := c.DescribeSubnets(ctx, in)
		if err != nil {
			return n, fmt.Errorf("look for the subnet: %w", awscloud.Explain(err))
		}
		n.subnets = out.Subnets
		switch {
		case len(n.subnets) == 0 && filtered:
			return n, fmt.Errorf("no subnet in %s fits subnet_filter%s", l.session.Region, within(n.vpc, o.AvailabilityZone))
		case len(n.subnets) == 0 && n.vpc == "" && o.SubnetID == "":
			return n, fmt.Errorf("the account has no default subnet in %s%s: give subnet_id or subnet_filter", l.session.Region, within("", o.AvailabilityZone))
		case len(n.subnets) == 0:
			return n, fmt.Errorf("there is no subnet %s in %s%s", o.SubnetID, l.session.Region, within(n.vpc, o.AvailabilityZone))
		case filtered && len(n.subnets) > 1 && !o.SubnetFilter.MostFree && !o.SubnetFilter.Random:
			return n, fmt.Errorf("%d subnets in %s fit subnet_filter: narrow it, or set most_free or random", len(n.subnets), l.session.Region)
		}
		if filtered && o.SubnetFilter.Random {
			rand.Shuffle(len(n.subnets), func(i, j int) { n.subnets[i], n.subnets[j] = n.subnets[j], n.subnets[i] })
		} else {
			slices.SortStableFunc(n.subnets, func(a, b types.Subnet) int {
				return cmp.Compare(aws.ToInt32(b.AvailableIpAddressCount), aws.ToInt32(a.AvailableIpAddressCount))
			})
		}
		vpc := aws.ToString(n.subnets[0].VpcId)
		if n.vpc != "" && vpc != n.vpc {
			return n, fmt.Errorf("the subnet %s is in %s and not in %s", aws.ToString(n.subnets[0].SubnetId), vpc, n.vpc)
		}
		n.vpc = vpc
		// All in one VPC: the security group is of one only.
		n.subnets = slices.DeleteFunc(n.subnets, func(s types.Subnet) bool { return aws.ToString(s.VpcId) != vpc })
		return n, nil
	})
}

func within(vpc, zone string) string {
	s := ""
	if vpc != "" {
		s += " in " + vpc
	}
	if zone != "" {
		s += " in zone " + zone
	}
	return s
}

func equals(name, value string) []types.Filter {
	if value == "" {
		return nil
	}
	return []types.Filter{{Name: aws.String(name), Values: []string{value}}}
}

// Groups are the security groups that the template names; none: a temporary one
// is to be made.
func (l *lookups) Groups(ctx context.Context) ([]string, error) {
	if given := l.o.groups(); len(given) > 0 {
		return given, nil
	}
	if l.o.SecurityGroupFilter.empty() {
		return nil, nil
	}
	return l.groups.get(ctx, func(ctx context.Context) ([]string, error) {
		n, err := l.Network(ctx)
		if err != nil {
			return nil, err
		}
		filters, err := l.o.SecurityGroupFilter.ec2()
		if err != nil {
			return nil, err
		}
		out, err := l.session.EC2("").DescribeSecurityGroups(ctx, &ec2.DescribeSecurityGroupsInput{Filters: append(filters, equals("vpc-id", n.vpc)...)})
		if err != nil {
			return nil, fmt.Errorf("look for the security groups: %w", awscloud.Explain(err))
		}
		var ids []string
		for _, g := range out.SecurityGroups {
			ids = append(ids, aws.ToString(g.GroupId))
		}
		if len(ids) == 0 {
			return nil, errors.New("no security group fits security_group_filter" + within(n.vpc, ""))
		}
		return ids, nil
	})
}
