package amazon

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"github.com/aws/aws-sdk-go-v2/service/iam"
	iamtypes "github.com/aws/aws-sdk-go-v2/service/iam/types"
	"golang.org/x/sync/errgroup"

	"github.com/ingotbuild/ingot/builders"
	"github.com/ingotbuild/ingot/internal/awscloud"
)

// orphans finds what bakes of a builder have left in the session's region, by
// tags alone. The leases are in the order in which they came to be: given back
// from the last to the first, nothing is in the way of another.
func orphans(ctx context.Context, s *awscloud.Session, a *awscloud.Access, builder string, olderThan time.Duration) ([]builders.Lease, error) {
	c := s.EC2("")
	var mu sync.Mutex
	found := map[string][]builders.Lease{}
	add := func(kind, id string, tags map[string]string, created time.Time) {
		source := tags[tagSource]
		if tags[tagBuild] == "" || !strings.HasPrefix(source, builder+".") {
			return
		}
		if t, err := time.Parse(time.RFC3339, tags[tagCreated]); err == nil && (created.IsZero() || t.Before(created)) {
			created = t
		}
		if created.IsZero() || time.Since(created) < olderThan {
			return
		}
		l := builders.Lease{BakeID: tags[tagBuild], Builder: builder, Kind: kind, Name: tags[tagLease], ExternalID: id, Created: created,
			Data: map[string]string{dataRegion: s.Region, dataAccess: a.Public(), dataSource: source, tagExpires: tags[tagExpires]}}
		if kind == leaseInstance {
			l.Data[dataVolumes] = "left" // it is not known whether there are any
		}
		mu.Lock()
		found[kind] = append(found[kind], l)
		mu.Unlock()
	}
	ours := []types.Filter{{Name: aws.String("tag-key"), Values: []string{tagBuild}}}
	var g errgroup.Group
	look := func(what string, do func() error) {
		g.Go(func() error {
			if err := do(); err != nil {
				return fmt.Errorf("look for %s that were left: %w", what, awscloud.Explain(err))
			}
			return nil
		})
	}
	instances := map[string]bool{} // leases of instances that are there
	look("instances and volumes", func() error {
		for pages := ec2.NewDescribeInstancesPaginator(c, &ec2.DescribeInstancesInput{Filters: ours}); pages.HasMorePages(); {
			page, err := pages.NextPage(ctx)
			if err != nil {
				return err
			}
			for _, r := range page.Reservations {
				for _, i := range r.Instances {
					if st := awscloud.InstanceState(i); st == types.InstanceStateNameTerminated || st == types.InstanceStateNameShuttingDown {
						continue
					}
					tags := tagMap(i.Tags)
					instances[tags[tagLease]] = true
					add(leaseInstance, aws.ToString(i.InstanceId), tags, aws.ToTime(i.LaunchTime))
				}
			}
		}
		for pages := ec2.NewDescribeVolumesPaginator(c, &ec2.DescribeVolumesInput{Filters: ours}); pages.HasMorePages(); {
			page, err := pages.NextPage(ctx)
			if err != nil {
				return err
			}
			for _, v := range page.Volumes {
				tags := tagMap(v.Tags)
				if _, kept := tags[tagKeep]; kept || v.State != types.VolumeStateAvailable || instances[tags[tagLease]] {
					continue
				}
				add(leaseVolume, aws.ToString(v.VolumeId), tags, aws.ToTime(v.CreateTime))
			}
		}
		return nil
	})
	look("key pairs", func() error {
		out, err := c.DescribeKeyPairs(ctx, &ec2.DescribeKeyPairsInput{Filters: ours})
		if err != nil {
			return err
		}
		for _, k := range out.KeyPairs {
			add(leaseKey, aws.ToString(k.KeyPairId), tagMap(k.Tags), aws.ToTime(k.CreateTime))
		}
		return nil
	})
	look("security groups", func() error {
		for pages := ec2.NewDescribeSecurityGroupsPaginator(c, &ec2.DescribeSecurityGroupsInput{Filters: ours}); pages.HasMorePages(); {
			page, err := pages.NextPage(ctx)
			if err != nil {
				return err
			}
			for _, v := range page.SecurityGroups {
				add(leaseGroup, aws.ToString(v.GroupId), tagMap(v.Tags), time.Time{})
			}
		}
		return nil
	})
	look("launch templates", func() error {
		for pages := ec2.NewDescribeLaunchTemplatesPaginator(c, &ec2.DescribeLaunchTemplatesInput{Filters: ours}); pages.HasMorePages(); {
			page, err := pages.NextPage(ctx)
			if err != nil {
				return err
			}
			for _, v := range page.LaunchTemplates {
				add(leaseTemplate, aws.ToString(v.LaunchTemplateId), tagMap(v.Tags), aws.ToTime(v.CreateTime))
			}
		}
		return nil
	})
	// Roles are no part of most people's bakes: who may not list them has none of them.
	look("roles", func() error { return orphanRoles(ctx, s, add) })
	if err := g.Wait(); err != nil {
		return nil, err
	}
	var all []builders.Lease
	for _, kind := range []string{leaseGroup, leaseRole, leaseProfile, leaseKey, leaseTemplate, leaseVolume, leaseInstance} {
		slices.SortFunc(found[kind], func(a, b builders.Lease) int { return a.Created.Compare(b.Created) })
		all = append(all, found[kind]...)
	}
	return all, nil
}

func orphanRoles(ctx context.Context, s *awscloud.Session, add func(kind, id string, tags map[string]string, created time.Time)) error {
	c := s.IAM()
	for pages := iam.NewListRolesPaginator(c, &iam.ListRolesInput{PathPrefix: aws.String(iamPath)}); pages.HasMorePages(); {
		page, err := pages.NextPage(ctx)
		if awscloud.IsDenied(err) {
			return nil
		}
		if err != nil {
			return err
		}
		for _, role := range page.Roles {
			out, err := c.ListRoleTags(ctx, &iam.ListRoleTagsInput{RoleName: role.RoleName})
			if err != nil {
				return err
			}
			add(leaseRole, aws.ToString(role.RoleName), iamTagMap(out.Tags), aws.ToTime(role.CreateDate))
		}
	}
	for pages := iam.NewListInstanceProfilesPaginator(c, &iam.ListInstanceProfilesInput{PathPrefix: aws.String(iamPath)}); pages.HasMorePages(); {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return err
		}
		for _, p := range page.InstanceProfiles {
			out, err := c.ListInstanceProfileTags(ctx, &iam.ListInstanceProfileTagsInput{InstanceProfileName: p.InstanceProfileName})
			if err != nil {
				return err
			}
			add(leaseProfile, aws.ToString(p.InstanceProfileName), iamTagMap(out.Tags), aws.ToTime(p.CreateDate))
		}
	}
	return nil
}

func tagMap(tags []types.Tag) map[string]string {
	m := map[string]string{}
	for _, t := range tags {
		m[aws.ToString(t.Key)] = aws.ToString(t.Value)
	}
	return m
}

func iamTagMap(tags []iamtypes.Tag) map[string]string {
	m := map[string]string{}
	for _, t := range tags {
		m[aws.ToString(t.Key)] = aws.ToString(t.Value)
	}
	return m
}
