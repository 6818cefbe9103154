package amazonimport

import (
	"context"
	"errors"
	"fmt"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/ingotbuild/ingot/builders"
	"github.com/ingotbuild/ingot/internal/awscloud"
	"github.com/ingotbuild/ingot/internal/s3object"
)

// imported is the AMI of a completed import.
type imported struct{ id, name string }

// request is the call that begins the import. Made again, it begins no other.
func (j *job) request() *ec2.ImportImageInput {
	in := &ec2.ImportImageInput{
		ClientToken: aws.String("ingot-" + j.leases.id), Description: aws.String("Ingot: " + j.env.BuildName),
		Architecture: optional(j.o.Architecture), BootMode: types.BootModeValues(j.o.BootMode), Platform: optional(j.o.Platform),
		LicenseType: optional(j.o.LicenseType), RoleName: optional(j.o.RoleName),
		DiskContainers: []types.ImageDiskContainer{{
			Format: optional(j.format), UserBucket: &types.UserBucket{S3Bucket: &j.bucket, S3Key: &j.key},
		}},
		TagSpecifications: []types.TagSpecification{{
			ResourceType: types.ResourceTypeImportImageTask, Tags: []types.Tag{{Key: aws.String(tagBuild), Value: aws.String(j.leases.id)}},
		}},
	}
	if j.o.AMIEncrypt {
		in.Encrypted, in.KmsKeyId = aws.Bool(true), optional(j.o.AMIKMSKey)
	}
	return in
}

// tagBuild is the mark of a bake on what it makes, as the Amazon builders have it.
const tagBuild = "ingot:build"

// importImage has EC2 import the object, and waits for it. The task's lease is
// the AMI's too, and stays open beside those of MakeImage until all is well.
func (j *job) importImage(ctx context.Context) (imported, error) {
	client := j.session.EC2("")
	in := j.request()
	lease, err := j.leases.Intend(ctx, leaseTask, aws.ToString(in.ClientToken), map[string]string{builders.UntilRecorded: "yes"})
	if err != nil {
		return imported{}, err
	}
	var tries s3object.Tries
	out, err := client.ImportImage(ctx, in, func(o *ec2.Options) { o.APIOptions = append(o.APIOptions, tries.Count) })
	if err != nil {
		refused := tries.Refused(ctx, err)
		err = fmt.Errorf("import s3://%s/%s: %w", j.bucket, j.key, awscloud.Explain(err))
		if refused {
			err = errors.Join(err, j.leases.strike(ctx, lease))
		}
		return imported{}, err
	}
	task := aws.ToString(out.ImportTaskId)
	if err := j.leases.created(ctx, lease, task); err != nil {
		return imported{}, err
	}
	j.env.Events.Say(fmt.Sprintf("EC2 imports it (%s).", task))
	var id string
	said := ""
	w := awscloud.Wait{What: "import " + task, Pace: j.pace}
	err = j.session.Wait(ctx, w, func(ctx context.Context) (bool, string, error) {
		t, err := lookTask(ctx, j.session, task)
		if err != nil {
			return false, "", err
		}
		message := aws.ToString(t.StatusMessage)
		state := aws.ToString(t.Status)
		if message != "" {
			if p := aws.ToString(t.Progress); p != "" {
				message += " (" + p + "%)"
			}
			if state == "active" && message != said {
				said = message
				j.env.Events.Say("Import: " + message)
			}
			state += ", " + message
		}
		switch aws.ToString(t.Status) {
		case "completed":
			if id = aws.ToString(t.ImageId); id == "" {
				return false, state, &awscloud.FailedError{What: "import " + task, State: "completed without an AMI", Message: aws.ToString(t.StatusMessage)}
			}
			return true, state, nil
		case "deleting", "deleted":
			return false, state, &awscloud.FailedError{What: "import " + task, State: aws.ToString(t.Status), Message: aws.ToString(t.StatusMessage)}
		}
		return false, state, nil
	})
	if err != nil {
		return imported{}, err
	}
	var image types.Image
	err = j.session.Wait(ctx, awscloud.Wait{What: "image " + id + " to be known", First: -1}, func(ctx context.Context) (bool, string, error) {
		var err error
		image, err = j.session.Images("").Get(ctx, id)
		return err == nil, string(image.State), err
	})
	if err == nil {
		j.seen = id
	}
	return imported{id, aws.ToString(image.Name)}, err
}

func lookTask(ctx context.Context, s *awscloud.Session, task string) (types.ImportImageTask, error) {
	out, err := s.EC2("").DescribeImportImageTasks(ctx, &ec2.DescribeImportImageTasksInput{ImportTaskIds: []string{task}})
	if err != nil {
		return types.ImportImageTask{}, err
	}
	for _, t := range out.ImportImageTasks {
		if aws.ToString(t.ImportTaskId) == task {
			return t, nil
		}
	}
	return types.ImportImageTask{}, &awscloud.NotFoundError{What: "import " + task}
}
