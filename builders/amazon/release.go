package amazon

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"github.com/aws/aws-sdk-go-v2/service/iam"

	"github.com/ingotbuild/ingot/builders"
	"github.com/ingotbuild/ingot/internal/awscloud"
)

// releaser gives leases back, with or without the bake that they are of.
type releaser struct {
	env     *Env
	session *awscloud.Session
	region  string
	run     *running // nil: another process's bake
}

// kinds are what it can give back.
func (r *releaser) kinds() map[string]func(context.Context, builders.Lease) error {
	return map[string]func(context.Context, builders.Lease) error{
		leaseInstance: r.instance, leaseFleet: r.fleet, leaseTemplate: r.template, leaseProfile: r.instanceProfile,
		leaseRole: r.role, leaseGroup: r.group, leaseKey: r.key, leaseVolume: r.volume,
		leaseSnapshot: r.snapshot, leaseKept: r.kept,
	}
}

// finder finds the ids of what a lease names, by its tags.
type finder func(ctx context.Context, l builders.Lease) ([]string, error)

// leaseFilter finds what a lease names, whatever its own name is.
func leaseFilter(l builders.Lease) []types.Filter {
	return []types.Filter{
		{Name: aws.String("tag:" + tagBuild), Values: []string{l.BakeID}},
		{Name: aws.String("tag:" + tagLease), Values: []string{l.Name}},
	}
}

// ids are those of what the lease names. Without the id in the ledger they are
// looked for, until what was created last must have become visible.
func (r *releaser) ids(ctx context.Context, l builders.Lease, find finder) ([]string, error) {
	if l.ExternalID != "" {
		return []string{l.ExternalID}, nil
	}
	var found []string
	err := r.session.Wait(ctx, awscloud.Wait{What: "what was created last to become visible", Timeout: r.env.Settle + time.Minute, First: -1}, func(ctx context.Context) (bool, string, error) {
		var err error
		found, err = find(ctx, l)
		if awscloud.IsNotFound(err) {
			err = nil
		}
		return len(found) > 0 || !r.young(l), "", err
	})
	return found, err
}

// young says that the thing may exist and not be visible yet.
func (r *releaser) young(l builders.Lease) bool { return time.Since(l.Created) < r.env.Settle }

// gone makes a call that removes something. What is not there is gone, unless it
// is so young that it may not be visible; what is in use, or not removable yet, is waited for.
func (r *releaser) gone(ctx context.Context, l builders.Lease, what string, timeout time.Duration, call func(ctx context.Context) error) error {
	if r.run != nil && r.run.stuck {
		timeout = min(timeout, stuckTime)
	}
	err := r.session.Wait(ctx, awscloud.Wait{What: what, Timeout: timeout, First: -1}, func(ctx context.Context) (bool, string, error) {
		err := call(ctx)
		switch {
		case err == nil:
			return true, "", nil
		case awscloud.IsNotFound(err):
			return l.ExternalID == "" || !r.young(l), awscloud.Code(err), nil
		case inUse(awscloud.Code(err)):
			return false, awscloud.Explain(err).Error(), nil
		}
		return false, "", err
	})
	if err != nil && r.run != nil {
		r.run.stuck = true
	}
	return err
}

func inUse(code string) bool {
	return slices.Contains([]string{"DependencyViolation", "InvalidGroup.InUse", "VolumeInUse", "DeleteConflict", "ConcurrentModification", "IncorrectState"}, code)
}

// releaseTime bounds a wait for what still holds on to something.
const releaseTime = 15 * time.Minute

// stuckTime bounds it once something could not be given back: what holds on to
// the others may be that, and then they are never free.
const stuckTime = 15 * time.Second

// findInstances finds instances that have not ended.
func findInstances(c *ec2.Client) finder {
	return func(ctx context.Context, l builders.Lease) ([]string, error) {
		var ids []string
		pages := ec2.NewDescribeInstancesPaginator(c, &ec2.DescribeInstancesInput{Filters: leaseFilter(l)})
		for pages.HasMorePages() {
			page, err := pages.NextPage(ctx)
			if err != nil {
				return nil, err
			}
			for _, v := range page.Reservations {
				for _, i := range v.Instances {
					ids = append(ids, aws.ToString(i.InstanceId)) // an ended one, too: its volumes may be there
				}
			}
		}
		return ids, nil
	}
}

// instance ends an instance and deletes what volumes it leaves. It does not
// wait for the end where nothing depends on that: it cannot be stopped any more.
func (r *releaser) instance(ctx context.Context, l builders.Lease) error {
	c := r.session.EC2(r.region)
	if r.run != nil && r.run.main != nil && r.run.main.lease.ID == l.ID {
		r.run.main.end()
	}
	ids, err := r.ids(ctx, l, findInstances(c))
	if err != nil {
		return err
	}
	kept := map[string]bool{}
	for _, id := range ids {
		if keep := l.Data[dataKeep]; keep != "" {
			i, err := r.session.Instances(r.region).Get(ctx, id)
			if err != nil && !awscloud.IsNotFound(err) {
				return awscloud.Explain(err)
			}
			for _, m := range i.BlockDeviceMappings {
				if m.Ebs != nil && slices.Contains(strings.Split(keep, ","), aws.ToString(m.DeviceName)) {
					kept[aws.ToString(m.Ebs.VolumeId)] = true
				}
			}
		}
		if _, told := r.run.told(id); told {
			continue
		}
		err := r.gone(ctx, l, "instance "+id+" to be terminated", releaseTime, func(ctx context.Context) error {
			_, err := c.TerminateInstances(ctx, &ec2.TerminateInstancesInput{InstanceIds: []string{id}})
			return err
		})
		if err != nil {
			return fmt.Errorf("terminate instance %s: %w", id, err)
		}
		r.run.tell(id)
	}
	if l.Data[dataVolumes] == "" || len(ids) == 0 {
		return nil
	}
	for _, id := range ids {
		if err := r.ended(ctx, id); err != nil {
			return err
		}
	}
	return r.volumes(ctx, l, kept)
}

// tell notes that an instance has been told to end, and told when that was.
func (r *running) tell(id string) {
	if r == nil {
		return
	}
	if r.terminated == nil {
		r.terminated = map[string]time.Time{}
	}
	if _, have := r.terminated[id]; !have {
		r.terminated[id] = time.Now()
	}
}

func (r *running) told(id string) (time.Time, bool) {
	if r == nil {
		return time.Time{}, false
	}
	at, ok := r.terminated[id]
	return at, ok
}

// endEarly tells the machine to end when its image is there, so that it ends
// while the image is copied. Its lease stays: what has failed here, or has to be
// waited for, is left to the release.
func (r *running) endEarly(ctx context.Context) {
	in := r.main
	if in == nil || in.lease.Data[dataVolumes] != "" {
		return // the release looks at its volumes first
	}
	if _, err := r.session.EC2("").TerminateInstances(ctx, &ec2.TerminateInstancesInput{InstanceIds: []string{in.id}}); err == nil {
		r.tell(in.id)
	}
}

// ended waits until an instance has ended, or is forgotten.
func (r *releaser) ended(ctx context.Context, id string) error {
	since, _ := r.run.told(id)
	_, err := r.session.WaitInstance(ctx, r.region, id, types.InstanceStateNameTerminated, since)
	if awscloud.IsNotFound(err) {
		return nil
	}
	return err
}

// volumes deletes what an instance has left behind.
func (r *releaser) volumes(ctx context.Context, l builders.Lease, kept map[string]bool) error {
	c := r.session.EC2(r.region)
	out, err := c.DescribeVolumes(ctx, &ec2.DescribeVolumesInput{Filters: leaseFilter(l)})
	if err != nil {
		return fmt.Errorf("look for the volumes of the instance: %w", awscloud.Explain(err))
	}
	for _, v := range out.Volumes {
		id := aws.ToString(v.VolumeId)
		if kept[id] || slices.ContainsFunc(v.Tags, func(t types.Tag) bool { return aws.ToString(t.Key) == tagKeep }) ||
			v.State == types.VolumeStateDeleting || v.State == types.VolumeStateDeleted {
			continue
		}
		if err := r.deleteVolume(ctx, builders.Lease{}, id); err != nil {
			return err
		}
	}
	return nil
}

func (r *releaser) deleteVolume(ctx context.Context, l builders.Lease, id string) error {
	err := r.gone(ctx, l, "volume "+id+" to be free", releaseTime, func(ctx context.Context) error {
		_, err := r.session.EC2(r.region).DeleteVolume(ctx, &ec2.DeleteVolumeInput{VolumeId: &id})
		return err
	})
	if err != nil {
		return fmt.Errorf("delete volume %s: %w", id, err)
	}
	return nil
}

func (r *releaser) volume(ctx context.Context, l builders.Lease) error {
	if l.ExternalID == "" {
		return r.volumes(ctx, l, nil)
	}
	return r.deleteVolume(ctx, l, l.ExternalID)
}

// fleet ends a fleet. One without an id has no more than its instance, which is
// leased itself.
func (r *releaser) fleet(ctx context.Context, l builders.Lease) error {
	if l.ExternalID == "" {
		return nil
	}
	out, err := r.session.EC2(r.region).DeleteFleets(ctx, &ec2.DeleteFleetsInput{FleetIds: []string{l.ExternalID}, TerminateInstances: aws.Bool(true)})
	if err != nil && !awscloud.IsNotFound(err) {
		return fmt.Errorf("delete fleet %s: %w", l.ExternalID, awscloud.Explain(err))
	}
	if out != nil {
		for _, f := range out.UnsuccessfulFleetDeletions {
			// fleetNotInDeletableState is one that is being deleted.
			if f.Error != nil && f.Error.Code != types.DeleteFleetErrorCodeFleetIdDoesNotExist && f.Error.Code != types.DeleteFleetErrorCodeFleetNotInDeletableState {
				return fmt.Errorf("delete fleet %s: %s: %s", l.ExternalID, f.Error.Code, aws.ToString(f.Error.Message))
			}
		}
	}
	return nil
}

func findTemplates(c *ec2.Client) finder {
	return func(ctx context.Context, l builders.Lease) ([]string, error) {
		out, err := c.DescribeLaunchTemplates(ctx, &ec2.DescribeLaunchTemplatesInput{Filters: leaseFilter(l)})
		if err != nil {
			return nil, err
		}
		var ids []string
		for _, t := range out.LaunchTemplates {
			ids = append(ids, aws.ToString(t.LaunchTemplateId))
		}
		return ids, nil
	}
}

func (r *releaser) template(ctx context.Context, l builders.Lease) error {
	c := r.session.EC2(r.region)
	ids, err := r.ids(ctx, l, findTemplates(c))
	for _, id := range ids {
		err = errors.Join(err, r.gone(ctx, l, "launch template "+id+" to go", releaseTime, func(ctx context.Context) error {
			_, err := c.DeleteLaunchTemplate(ctx, &ec2.DeleteLaunchTemplateInput{LaunchTemplateId: &id})
			return err
		}))
	}
	return err
}

func (r *releaser) instanceProfile(ctx context.Context, l builders.Lease) error {
	c := r.session.IAM()
	// The name is the bake's own, so that nothing has to be looked up.
	err := r.gone(ctx, builders.Lease{}, "the role to leave its instance profile", releaseTime, func(ctx context.Context) error {
		_, err := c.RemoveRoleFromInstanceProfile(ctx, &iam.RemoveRoleFromInstanceProfileInput{InstanceProfileName: &l.Name, RoleName: aws.String(l.Name)})
		return err
	})
	if err == nil {
		err = r.gone(ctx, builders.Lease{}, "the instance profile to be free", releaseTime, func(ctx context.Context) error {
			_, err := c.DeleteInstanceProfile(ctx, &iam.DeleteInstanceProfileInput{InstanceProfileName: &l.Name})
			return err
		})
	}
	if err != nil {
		return fmt.Errorf("delete instance profile %s: %w", l.Name, err)
	}
	return nil
}

func (r *releaser) role(ctx context.Context, l builders.Lease) error {
	c := r.session.IAM()
	err := r.gone(ctx, builders.Lease{}, "the policy of the role to be free", releaseTime, func(ctx context.Context) error {
		_, err := c.DeleteRolePolicy(ctx, &iam.DeleteRolePolicyInput{RoleName: &l.Name, PolicyName: aws.String(policyName)})
		return err
	})
	if err == nil {
		err = r.gone(ctx, builders.Lease{}, "the role to be free", releaseTime, func(ctx context.Context) error {
			_, err := c.DeleteRole(ctx, &iam.DeleteRoleInput{RoleName: &l.Name})
			return err
		})
	}
	if err != nil {
		return fmt.Errorf("delete role %s: %w", l.Name, err)
	}
	return nil
}

// group deletes a security group, when what is in it has ended.
func (r *releaser) group(ctx context.Context, l builders.Lease) error {
	c := r.session.EC2(r.region)
	ids, err := r.ids(ctx, l, findGroups(c))
	if err != nil {
		return err
	}
	if r.run != nil && len(ids) > 0 {
		for id := range r.run.terminated {
			if err := r.ended(ctx, id); err != nil {
				return err
			}
		}
	}
	for _, id := range ids {
		err := r.gone(ctx, l, "security group "+id+" to be free", releaseTime, func(ctx context.Context) error {
			_, err := c.DeleteSecurityGroup(ctx, &ec2.DeleteSecurityGroupInput{GroupId: &id})
			return err
		})
		if err != nil {
			return fmt.Errorf("delete security group %s: %w", id, err)
		}
	}
	return nil
}

func (r *releaser) key(ctx context.Context, l builders.Lease) error {
	c := r.session.EC2(r.region)
	ids, err := r.ids(ctx, l, findKeys(c))
	for _, id := range ids {
		err = errors.Join(err, r.gone(ctx, l, "key pair "+id+" to go", releaseTime, func(ctx context.Context) error {
			_, err := c.DeleteKeyPair(ctx, &ec2.DeleteKeyPairInput{KeyPairId: &id})
			return err
		}))
	}
	return err
}

func findSnapshots(c *ec2.Client) finder {
	return func(ctx context.Context, l builders.Lease) ([]string, error) {
		out, err := c.DescribeSnapshots(ctx, &ec2.DescribeSnapshotsInput{OwnerIds: []string{"self"}, Filters: leaseFilter(l)})
		if err != nil {
			return nil, err
		}
		var ids []string
		for _, s := range out.Snapshots {
			ids = append(ids, aws.ToString(s.SnapshotId))
		}
		return ids, nil
	}
}

func (r *releaser) snapshot(ctx context.Context, l builders.Lease) error {
	ids, err := r.ids(ctx, l, findSnapshots(r.session.EC2(r.region)))
	if err != nil {
		return fmt.Errorf("look for the snapshot %s: %w", l.Name, err)
	}
	return remover{r.session, r.env.Settle}.removeSnapshots(ctx, r.region, "", ids, "")
}
