package amazon

import (
	"context"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"github.com/aws/aws-sdk-go-v2/service/servicequotas"
	"golang.org/x/sync/errgroup"

	"github.com/ingotbuild/ingot/internal/awscloud"
)

const (
	// quotaPatience bounds the question: what does not answer is done without.
	quotaPatience = 10 * time.Second
	// quotaLasts is how long what is in use counts for other bakes.
	quotaLasts = time.Minute
)

// quotaCode is the code of the quota of vCPUs that a type counts towards, such
// as "L-1216C47A" for "t3.micro"; "" where it is not known.
func quotaCode(instanceType string, spot bool) string {
	i := strings.IndexAny(instanceType, "-.0123456789")
	if i < 0 {
		return ""
	}
	family := instanceType[:i]
	var onDemand, onSpot string
	switch family {
	case "a", "c", "d", "h", "i", "im", "is", "m", "r", "t", "z":
		onDemand, onSpot = "L-1216C47A", "L-34B43A08"
	case "g", "vt":
		onDemand, onSpot = "L-DB2E81BA", "L-3819A6DF"
	case "f":
		onDemand, onSpot = "L-74FC7D96", "L-88CF9481"
	case "x":
		onDemand, onSpot = "L-7295265B", "L-E3A00192"
	case "inf":
		onDemand, onSpot = "L-1945791B", "L-B5D1601B"
	case "dl":
		onDemand, onSpot = "L-6E869C2A", "L-85EED4F7"
	case "trn":
		onDemand, onSpot = "L-2C3B7624", "L-6B0D517C"
	case "p":
		onDemand = "L-417A185B" // as spot instances, the generations have several
	case "hpc":
		onDemand = "L-F7808C92"
	}
	if spot {
		return onSpot
	}
	return onDemand
}

// checksQuota says whether the instance surely counts towards the quota of its
// type, and whether that is to be looked at.
func (o *RunOptions) checksQuota() bool {
	switch {
	case o.SkipQuotaCheck:
		return false
	case o.spot():
		return !o.SpotOnDemandFallback // that has another quota
	}
	// Hosts and dedicated instances have others, and reserved capacity counts already.
	dedicated := o.Tenancy != "" && o.Tenancy != "default"
	if p := o.Placement; p != nil {
		dedicated = dedicated || p.Tenancy != "" && p.Tenancy != "default" || p.HostID != "" || p.HostResourceGroupARN != ""
	}
	return !dedicated && o.CapacityReservationID == "" && o.CapacityReservationGroupARN == ""
}

// quota checks that the vCPUs of a type that is asked for still fit. Where that
// cannot be known it says nothing: the launch will.
func (p *preflight) quota(ctx context.Context, ps *problems) {
	if p.run == nil || !p.run.checksQuota() {
		return
	}
	names, spot := p.run.types(), p.run.spot()
	code := quotaCode(names[0], spot)
	for _, n := range names[1:] {
		if quotaCode(n, spot) != code {
			return // if not one, then another may fit
		}
	}
	if code == "" {
		return
	}
	known, err := p.knownTypes(ctx)
	if err != nil {
		return // instanceTypes says so
	}
	least, needed := -1, 0
	for i, n := range names {
		for _, t := range known {
			if string(t.InstanceType) != n || t.VCpuInfo == nil || t.VCpuInfo.DefaultVCpus == nil {
				continue
			}
			if v := int(*t.VCpuInfo.DefaultVCpus); least < 0 || v < needed {
				least, needed = i, v
			}
		}
	}
	if least < 0 {
		return
	}
	q, err := p.looks.quota(ctx, code, spot)
	if err != nil || !q.known || float64(q.used+needed) <= q.limit {
		return
	}
	ps.add(p.typeOption(least), "The quota of vCPUs is used up", "%s needs %d vCPUs. The quota %q (%s) of the account in %s is %.0f, and running instances have %d of them. "+
		"End some, choose a smaller type, or ask for more: aws service-quotas request-service-quota-increase --service-code ec2 --quota-code %s --region %s --desired-value %d",
		names[least], needed, q.name, code, p.session.Region, q.limit, q.used, code, p.session.Region, q.used+needed)
}

// quota is what an account may run, and runs.
type quota struct {
	// known is false where nobody would say.
	known bool
	name  string
	limit float64
	// used are the vCPUs in use, or at least so many.
	used int
}

// quotaKey is what a quota was asked for.
type quotaKey struct {
	session *awscloud.Session
	code    string
}

type quotaLook struct {
	once[quota]
	since time.Time
}

// quota asks for a quota of vCPUs once for all bakes that begin together.
func (l *lookups) quota(ctx context.Context, code string, spot bool) (quota, error) {
	key := quotaKey{l.session, code}
	l.env.mu.Lock()
	look := l.env.quotas[key]
	if look == nil || time.Since(look.since) > quotaLasts {
		look = &quotaLook{since: time.Now()}
		l.env.quotas[key] = look
	}
	l.env.mu.Unlock()
	return look.get(ctx, func(ctx context.Context) (quota, error) {
		q, err := askQuota(ctx, l.session, code, spot)
		if err != nil && ctx.Err() == nil {
			return quota{}, nil // remembered: not every bake is to wait for it
		}
		return q, err
	})
}

// askQuota makes one call for what may run, and one for what does.
func askQuota(ctx context.Context, s *awscloud.Session, code string, spot bool) (quota, error) {
	if s.Endpoint() != "" && s.ServiceQuotas("").Options().BaseEndpoint == nil {
		return quota{}, nil // EC2 is not asked at Amazon: what Amazon would say is about another cloud
	}
	ctx, cancel := context.WithTimeout(ctx, quotaPatience)
	defer cancel()
	q := quota{name: code}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		out, err := s.ServiceQuotas("").GetServiceQuota(ctx, &servicequotas.GetServiceQuotaInput{ServiceCode: aws.String("ec2"), QuotaCode: &code})
		if err != nil || out.Quota == nil || out.Quota.Value == nil {
			return err
		}
		q.known, q.limit = true, *out.Quota.Value
		if n := aws.ToString(out.Quota.QuotaName); n != "" {
			q.name = n
		}
		return nil
	})
	used := 0
	g.Go(func() error {
		// Of more than a thousand the rest is not counted: too few are never too many.
		out, err := s.EC2("").DescribeInstances(ctx, &ec2.DescribeInstancesInput{
			MaxResults: aws.Int32(1000),
			Filters:    []types.Filter{{Name: aws.String("instance-state-name"), Values: []string{"pending", "running"}}},
		})
		if err != nil {
			return err
		}
		for _, r := range out.Reservations {
			for _, i := range r.Instances {
				used += counted(i, code, spot)
			}
		}
		return nil
	})
	err := g.Wait()
	q.used = used
	return q, err
}

// counted are the vCPUs with which an instance counts towards the quota.
func counted(i types.Instance, code string, spot bool) int {
	lifecycle := types.InstanceLifecycleType("") // on demand
	if spot {
		lifecycle = types.InstanceLifecycleTypeSpot
	}
	shared := i.Placement == nil || i.Placement.Tenancy == "" || i.Placement.Tenancy == types.TenancyDefault
	if i.CpuOptions == nil || !shared || i.InstanceLifecycle != lifecycle || quotaCode(string(i.InstanceType), spot) != code {
		return 0
	}
	return int(aws.ToInt32(i.CpuOptions.CoreCount)) * int(aws.ToInt32(i.CpuOptions.ThreadsPerCore))
}
