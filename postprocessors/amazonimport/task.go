package amazonimport

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/ingotbuild/ingot/builders"
	"github.com/ingotbuild/ingot/builders/amazon"
	"github.com/ingotbuild/ingot/internal/awscloud"
)

// imported is the AMI of a completed import.
type imported struct{ id, name string }

// id names this import among those of the bake: letters and digits.
func (j *job) id() string {
	sum := sha256.Sum256([]byte(j.session.Region + "/" + j.bucket + "/" + j.key))
	return j.env.BakeID + hex.EncodeToString(sum[:4])
}

// request is the call that begins the import. Made again, it begins no other.
func (j *job) request() *ec2.ImportImageInput {
	in := &ec2.ImportImageInput{
		ClientToken: aws.String("ingot-" + j.id()), Description: aws.String("Ingot: " + j.env.BuildName),
		Architecture: optional(j.o.Architecture), BootMode: types.BootModeValues(j.o.BootMode), Platform: optional(j.o.Platform),
		LicenseType: optional(j.o.LicenseType), RoleName: optional(j.o.RoleName),
		DiskContainers: []types.ImageDiskContainer{{
			Format: optional(j.format), UserBucket: &types.UserBucket{S3Bucket: &j.bucket, S3Key: &j.key},
		}},
		TagSpecifications: []types.TagSpecification{{
			ResourceType: types.ResourceTypeImportImageTask, Tags: []types.Tag{{Key: aws.String(tagBuild), Value: aws.String(j.id())}},
		}},
	}
	if j.o.AMIEncrypt {
		in.Encrypted, in.KmsKeyId = aws.Bool(true), optional(j.o.AMIKMSKey)
	}
	return in
}

// tagBuild is the mark of a bake on what it makes, as the Amazon builders have it.
const tagBuild = "ingot:build"

// importImage has EC2 import the object, and waits for it. When that fails, or
// ctx ends, the import is given up, with what has come of it.
func (j *job) importImage(ctx context.Context) (_ imported, err error) {
	client := j.session.EC2("")
	var task string
	defer func() {
		if err != nil {
			err = errors.Join(err, j.giveUp(ctx, task))
		}
	}()
	out, err := client.ImportImage(ctx, j.request())
	if err != nil {
		if !awscloud.IsUnanswered(err) && ctx.Err() == nil {
			task = none
		}
		return imported{}, fmt.Errorf("import s3://%s/%s: %w", j.bucket, j.key, awscloud.Explain(err))
	}
	task = aws.ToString(out.ImportTaskId)
	j.env.Events.Say(fmt.Sprintf("EC2 imports it (%s).", task))
	var id string
	said := ""
	w := awscloud.Wait{What: "import " + task, Pace: j.pace}
	err = j.session.Wait(ctx, w, func(ctx context.Context) (bool, string, error) {
		t, err := j.look(ctx, task)
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
	return imported{id, aws.ToString(image.Name)}, err
}

func (j *job) look(ctx context.Context, task string) (types.ImportImageTask, error) {
	out, err := j.session.EC2("").DescribeImportImageTasks(ctx, &ec2.DescribeImportImageTasksInput{ImportTaskIds: []string{task}})
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

// none, as a task, says that there is certainly none.
const none = "-"

// giveUp cancels a task, or, where its id never came, that with our mark, and
// removes the AMI if it was too late.
func (j *job) giveUp(ctx context.Context, task string) error {
	if task == none {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanup)
	defer cancel()
	if task == "" {
		pages := ec2.NewDescribeImportImageTasksPaginator(j.session.EC2(""), &ec2.DescribeImportImageTasksInput{})
		for task == "" && pages.HasMorePages() {
			page, err := pages.NextPage(ctx)
			if err != nil {
				return fmt.Errorf("perhaps left behind: an import of s3://%s/%s: %w", j.bucket, j.key, awscloud.Explain(err))
			}
			for _, t := range page.ImportImageTasks {
				for _, tag := range t.Tags {
					if aws.ToString(tag.Key) == tagBuild && aws.ToString(tag.Value) == j.id() {
						task = aws.ToString(t.ImportTaskId)
					}
				}
			}
		}
		if task == "" {
			return nil
		}
	}
	left := func(err error) error {
		return fmt.Errorf("left behind: the import %s: %w", task, awscloud.Explain(err))
	}
	// One that has ended, well or not, cannot be cancelled: that shows below.
	_, refused := j.session.EC2("").CancelImportTask(ctx, &ec2.CancelImportTaskInput{ImportTaskId: &task, CancelReason: aws.String("the bake was given up")})
	var made string
	w := awscloud.Wait{What: "import " + task + " to end", Pace: j.pace, Timeout: cleanup, First: -1}
	err := j.session.Wait(ctx, w, func(ctx context.Context) (bool, string, error) {
		t, err := j.look(ctx, task)
		made = aws.ToString(t.ImageId)
		state := aws.ToString(t.Status)
		if err == nil && state == "active" && refused != nil {
			err = refused
		}
		return state == "completed" || state == "deleting" || state == "deleted", state, err
	})
	if err != nil && !awscloud.IsNotFound(err) {
		return left(err)
	}
	if made == "" {
		return nil
	}
	l := builders.Lease{BakeID: j.id(), Kind: "image", Name: j.session.Region + "/import-" + task, ExternalID: made, Created: time.Now()}
	if err := amazon.ReleaseImage(ctx, j.PostProcessor.env, j.session, l); err != nil {
		return fmt.Errorf("left behind: the AMI %s: %w", made, awscloud.Explain(err))
	}
	return nil
}
