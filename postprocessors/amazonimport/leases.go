package amazonimport

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"

	"github.com/ingotbuild/ingot/builders"
	"github.com/ingotbuild/ingot/builders/amazon"
	"github.com/ingotbuild/ingot/internal/awscloud"
	"github.com/ingotbuild/ingot/internal/s3object"
)

// The kinds of leases.
const (
	leaseFile   = "file"        // a converted disk on this machine, named by its path
	leaseObject = "s3-object"   // named BUCKET/KEY
	leaseUpload = "s3-upload"   // named BUCKET/KEY
	leaseTask   = "import-task" // with the AMI that it makes; named by its client token
	leaseImage  = "image"       // amazon.MakeImage's
)

// The keys of leases' data.
const (
	dataImport  = "import" // the import's id
	dataAccess  = "access" // as awscloud.Access.Public writes it
	dataRegion  = "region"
	dataAccount = "account" // empty: not known
	dataBucket  = "bucket"
	dataKey     = "key"
)

// leases is the ledger of one import. What the import makes bears its own id,
// since a bake may have several: so its leases are shown with that as the bake's.
type leases struct {
	builders.Leases
	id   string
	data map[string]string // in every lease
}

func (s *leases) Intend(ctx context.Context, kind, name string, data map[string]string) (builders.Lease, error) {
	all := maps.Clone(s.data)
	maps.Copy(all, data)
	l, err := s.Leases.Intend(ctx, kind, name, all)
	l.BakeID = s.id
	return l, err
}

func (s *leases) Open() []builders.Lease {
	open := s.Leases.Open()
	for i := range open {
		open[i].BakeID = s.id
	}
	return open
}

// created notes an id, also when the bake has been cancelled meanwhile.
func (s *leases) created(ctx context.Context, l builders.Lease, id string) error {
	return s.Created(context.WithoutCancel(ctx), l, id)
}

// strike strikes a lease of what is gone, or has certainly not come to be.
func (s *leases) strike(ctx context.Context, l builders.Lease) error {
	return s.Released(context.WithoutCancel(ctx), l)
}

// Release implements postprocessors.Releaser.
func (p *PostProcessor) Release(ctx context.Context, l builders.Lease) error {
	if l.Kind == leaseFile {
		if err := os.Remove(l.Name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return nil
	}
	s, err := p.sessionOf(ctx, l)
	if err != nil {
		return err
	}
	switch l.Kind {
	case leaseObject:
		return objectOf(s, l).Remove(ctx)
	case leaseUpload:
		if l.ExternalID == "" {
			return objectOf(s, l).EndUploads(ctx, "")
		}
		return objectOf(s, l).EndUpload(ctx, l.ExternalID)
	case leaseTask:
		return (&giver{p, s}).task(ctx, l)
	case leaseImage:
		l.BakeID = l.Data[dataImport]
		return amazon.ReleaseImage(ctx, p.env, s, l)
	}
	return fmt.Errorf("this Ingot does not know how to give back a %s of %s", l.Kind, l.Builder)
}

// sessionOf reaches the account that a lease tells.
func (p *PostProcessor) sessionOf(ctx context.Context, l builders.Lease) (*awscloud.Session, error) {
	if p.session != nil {
		return p.session, nil
	}
	a, err := awscloud.ReadPublic(l.Data[dataAccess])
	if err != nil {
		return nil, err
	}
	a.Region = l.Data[dataRegion]
	s, err := p.env.Shared.Connect(ctx, a)
	if err != nil {
		return nil, err
	}
	// In another account it would seem to be gone.
	if of := l.Data[dataAccount]; of != "" && s.Account != "" && s.Account != of {
		return nil, fmt.Errorf("the credentials are of account %s, and the import was in %s: set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, to those of that account", s.Account, of)
	}
	return s, nil
}

// objectOf is the object of a lease. An object with an id is whole, and there.
func objectOf(s *awscloud.Session, l builders.Lease) *s3object.Object {
	key, id := l.Data[dataKey], l.Data[dataImport]
	own := l.ExternalID != "" || len(id) > letters && strings.Contains(key, id[len(id)-letters:])
	return &s3object.Object{Client: s.S3(""), Bucket: l.Data[dataBucket], Key: key, ID: id, Own: own, Begun: l.Created}
}

// giver gives an import back.
type giver struct {
	*PostProcessor
	session *awscloud.Session
}

// task cancels an import, and removes the AMI if it was too late.
func (g *giver) task(ctx context.Context, l builders.Lease) error {
	id := l.ExternalID
	if id == "" {
		var err error
		if id, err = g.findTask(ctx, l); err != nil || id == "" {
			return err
		}
	}
	fail := func(err error) error { return fmt.Errorf("give up the import %s: %w", id, awscloud.Explain(err)) }
	// One that has ended, well or not, cannot be cancelled: that shows below.
	_, refused := g.session.EC2("").CancelImportTask(ctx, &ec2.CancelImportTaskInput{ImportTaskId: &id, CancelReason: aws.String("the bake was given up")})
	var made string
	w := awscloud.Wait{What: "import " + id + " to end", Pace: g.pace, Timeout: cleanup, First: -1}
	err := g.session.Wait(ctx, w, func(ctx context.Context) (bool, string, error) {
		t, err := lookTask(ctx, g.session, id)
		made = aws.ToString(t.ImageId)
		state := aws.ToString(t.Status)
		if err == nil && state == "active" && refused != nil {
			err = refused
		}
		return state == "completed" || state == "deleting" || state == "deleted", state, err
	})
	if err != nil && !awscloud.IsNotFound(err) {
		return fail(err)
	}
	if made == "" {
		return nil
	}
	image := builders.Lease{BakeID: l.Data[dataImport], Kind: leaseImage, Name: l.Data[dataRegion] + "/import-" + id, ExternalID: made, Created: time.Now()}
	if made == g.seen {
		image.Created = l.Created // it need not be waited for
	}
	if err := amazon.ReleaseImage(ctx, g.env, g.session, image); err != nil {
		return fail(err)
	}
	return nil
}

// findTask finds the task with the import's mark, as long as it may be there
// without being seen.
func (g *giver) findTask(ctx context.Context, l builders.Lease) (id string, err error) {
	look := func(ctx context.Context) (bool, string, error) {
		pages := ec2.NewDescribeImportImageTasksPaginator(g.session.EC2(""), &ec2.DescribeImportImageTasksInput{})
		for id == "" && pages.HasMorePages() {
			page, err := pages.NextPage(ctx)
			if err != nil {
				return false, "", err
			}
			for _, t := range page.ImportImageTasks {
				for _, tag := range t.Tags {
					if aws.ToString(tag.Key) == tagBuild && aws.ToString(tag.Value) == l.Data[dataImport] {
						id = aws.ToString(t.ImportTaskId)
					}
				}
			}
		}
		return id != "", "", nil
	}
	err = g.session.Wait(ctx, awscloud.Wait{What: "the import of s3://" + l.Data[dataBucket] + "/" + l.Data[dataKey] + " to show", Timeout: g.env.Settle + time.Second, First: -1}, look)
	var timeout *awscloud.TimeoutError
	if errors.As(err, &timeout) && ctx.Err() == nil {
		err = nil
	}
	if err != nil {
		err = fmt.Errorf("look for the import of s3://%s/%s: %w", l.Data[dataBucket], l.Data[dataKey], awscloud.Explain(err))
	}
	return id, err
}

// letters is how many tell an import's id from its bake's. The key has them by default.
const letters = 8
