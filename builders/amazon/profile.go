package amazon

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/iam"
	iamtypes "github.com/aws/aws-sdk-go-v2/service/iam/types"
	"golang.org/x/sync/errgroup"

	"github.com/ingotbuild/ingot/builders"
	"github.com/ingotbuild/ingot/internal/awscloud"
)

// iamPath is where temporary roles and profiles are, so that they are found
// among an account's others.
const iamPath = "/ingot/"

// policyName is the one policy of a temporary role.
const policyName = "ingot"

// trust lets EC2 give the role to instances.
const trust = `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":{"Service":"ec2.amazonaws.com"},"Action":"sts:AssumeRole"}]}`

func (d *PolicyDocument) json() (string, error) {
	version := d.Version
	if version == "" {
		version = "2012-10-17"
	}
	b, err := json.Marshal(struct {
		Version   string
		Statement []PolicyStatement
	}{version, d.Statement})
	return string(b), err
}

func iamTags(m map[string]string) []iamtypes.Tag {
	var out []iamtypes.Tag
	for _, k := range slices.Sorted(maps.Keys(m)) {
		out = append(out, iamtypes.Tag{Key: aws.String(k), Value: aws.String(m[k])})
	}
	return out
}

// makeProfile makes a role with the template's policy, and a profile that has it.
// Until EC2 knows the profile, launches are tried again.
func (r *running) makeProfile(ctx context.Context, role, profile builders.Lease) error {
	policy, err := r.o.TemporaryIAMInstanceProfilePolicyDocument.json()
	if err != nil {
		return err
	}
	tags, err := r.tags(ctx, role.Name)
	if err != nil {
		return err
	}
	c := r.session.IAM()
	exists := func(err error) error {
		// The name is this bake's own: a try whose answer was lost.
		if awscloud.Code(err) == "EntityAlreadyExists" {
			return nil
		}
		return err
	}
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		_, err := r.create(gctx, role, func(ctx context.Context) (string, error) {
			_, err := c.CreateRole(ctx, &iam.CreateRoleInput{
				RoleName: &role.Name, Path: aws.String(iamPath), AssumeRolePolicyDocument: aws.String(trust),
				Description: aws.String("Temporary role of an Ingot bake"), Tags: iamTags(tags),
			})
			return role.Name, exists(err)
		})
		if err != nil {
			return fmt.Errorf("make the temporary role: %w", err)
		}
		return r.settle(gctx, "the temporary role to be known", func(ctx context.Context) error {
			_, err := c.PutRolePolicy(ctx, &iam.PutRolePolicyInput{RoleName: &role.Name, PolicyName: aws.String(policyName), PolicyDocument: &policy})
			return err
		})
	})
	g.Go(func() error {
		_, err := r.create(gctx, profile, func(ctx context.Context) (string, error) {
			_, err := c.CreateInstanceProfile(ctx, &iam.CreateInstanceProfileInput{InstanceProfileName: &profile.Name, Path: aws.String(iamPath), Tags: iamTags(tags)})
			return profile.Name, exists(err)
		})
		if err != nil {
			return fmt.Errorf("make the temporary instance profile: %w", err)
		}
		return nil
	})
	if err := g.Wait(); err != nil {
		return err
	}
	r.profile = profile.Name
	return r.settle(ctx, "the temporary instance profile to be known", func(ctx context.Context) error {
		_, err := c.AddRoleToInstanceProfile(ctx, &iam.AddRoleToInstanceProfileInput{InstanceProfileName: &profile.Name, RoleName: &role.Name})
		if awscloud.Code(err) == "LimitExceeded" || awscloud.Code(err) == "EntityAlreadyExists" {
			return nil // a profile has one role: a try whose answer was lost
		}
		return err
	})
}

// settle makes a call again while what it speaks of is not known yet.
func (r *running) settle(ctx context.Context, what string, call func(ctx context.Context) error) error {
	return r.session.Wait(ctx, awscloud.Wait{What: what, First: -1}, func(ctx context.Context) (bool, string, error) {
		err := call(ctx)
		return err == nil, awscloud.Code(err), err
	})
}
