// Package amazonimport makes an AMI of a disk image on this machine, by way of
// an object in S3.
package amazonimport

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	s3types "github.com/aws/aws-sdk-go-v2/service/s3/types"

	"github.com/ingotbuild/ingot/builders"
	"github.com/ingotbuild/ingot/builders/amazon"
	"github.com/ingotbuild/ingot/internal/awscloud"
	"github.com/ingotbuild/ingot/internal/config"
	"github.com/ingotbuild/ingot/internal/script"
	"github.com/ingotbuild/ingot/postprocessors"
)

// Options are the options of a `post-processor "amazon-import"` block. The
// artifact needs a disk image: .ova, .raw, .vmdk, .vhd or .vhdx, or .qcow2, which
// is converted where qemu-img is at hand. It is put into a bucket of yours,
// imported by EC2's VM Import, and removed from the bucket, also when the import
// fails. The result is the AMI, and the input artifact is not kept unless
// keep_input_artifact says so.
type Options struct {
	awscloud.Access
	// S3BucketName is a bucket in the region, which the role of RoleName can read.
	S3BucketName string `cfg:"s3_bucket_name,required"`
	// S3KeyName is the object's name there, which must not be in use; a Go
	// template with the generated values. Default: "packer-import-{{timestamp}}-",
	// eight letters that tell it from those of other bakes, and the format.
	S3KeyName string `cfg:"s3_key_name" render:"late"`
	// S3Encryption is how S3 encrypts the object: "AES256" or "aws:kms".
	// Default: as the bucket says.
	S3Encryption string `cfg:"s3_encryption"`
	// S3EncryptionKey is the KMS key of "aws:kms". Default: the account's key for S3.
	S3EncryptionKey string `cfg:"s3_encryption_key"`
	// SkipClean leaves the object in the bucket.
	SkipClean bool `cfg:"skip_clean"`
	// Tags of the AMI and its snapshots.
	Tags map[string]string `cfg:"tags"`
	// AMIName is the AMI's name. It takes a copy of the imported AMI, which is
	// then removed. Default: the name that EC2 gives, import-ami-….
	AMIName string `cfg:"ami_name"`
	// AMIDescription of the AMI.
	AMIDescription string `cfg:"ami_description"`
	// AMIUsers are accounts that may launch the AMI.
	AMIUsers []string `cfg:"ami_users"`
	// AMIGroups that may launch it: "all" makes it public.
	AMIGroups []string `cfg:"ami_groups"`
	// AMIOrgArns are organizations whose accounts may launch it, as ARNs.
	AMIOrgArns []string `cfg:"ami_org_arns"`
	// AMIOUArns are organizational units whose accounts may launch it, as ARNs.
	AMIOUArns []string `cfg:"ami_ou_arns"`
	// AMIEncrypt encrypts the AMI's snapshots.
	AMIEncrypt bool `cfg:"ami_encrypt"`
	// AMIKMSKey is the key to encrypt with. Default: the account's key for EBS.
	AMIKMSKey string `cfg:"ami_kms_key"`
	// IMDSSupport "v2.0" makes instances of the AMI require IMDSv2.
	IMDSSupport string `cfg:"imds_support"`
	// LicenseType is "AWS" or "BYOL", for Windows.
	LicenseType string `cfg:"license_type"`
	// RoleName is the service role of VM Import. Default: "vmimport".
	RoleName string `cfg:"role_name"`
	// Format of the disk image to take: ova, raw, vmdk, vhd or vhdx. Default: ova
	// where the artifact has one, otherwise that of the only disk image it has.
	Format string `cfg:"format"`
	// Architecture is x86_64, arm64 or i386.
	Architecture string `cfg:"architecture"`
	// BootMode is "legacy-bios", "uefi" or "uefi-preferred". Default: what EC2 finds.
	BootMode string `cfg:"boot_mode"`
	// Platform is "Linux" or "Windows", which uefi needs. Default: what EC2 finds.
	Platform string `cfg:"platform"`
}

// CleanResourceName is clean_resource_name in the options.
func (o *Options) CleanResourceName(name string) string {
	return new(amazon.AMIOptions).CleanResourceName(name)
}

// ami are the options of the AMI as the Amazon builders have them.
func (o *Options) ami(name string) *amazon.AMIOptions {
	a := &amazon.AMIOptions{
		AMIName: name, AMIDescription: o.AMIDescription, AMIUsers: o.AMIUsers, AMIGroups: o.AMIGroups, AMIOrgArns: o.AMIOrgArns, AMIOUArns: o.AMIOUArns,
		Tags: o.Tags, KMSKeyID: o.AMIKMSKey, IMDSSupport: o.IMDSSupport,
	}
	if o.AMIEncrypt {
		a.EncryptBoot = aws.Bool(true)
	}
	return a
}

// PostProcessor is the amazon-import post-processor.
type PostProcessor struct {
	o   Options
	env *amazon.Env
	// part is the size of a part of an upload.
	part int64
	// pace is how an import is waited for.
	pace awscloud.Pace
	// session is that of this process's import, and seen its AMI, once EC2 shows it.
	session *awscloud.Session
	seen    string
}

// New returns an amazon-import post-processor with the default options.
func New(env *amazon.Env) *PostProcessor {
	return &PostProcessor{
		o: Options{RoleName: "vmimport", Architecture: "x86_64"}, env: env, part: 16 << 20,
		pace: awscloud.Pace{First: 5 * time.Second, Min: 2 * time.Second, Cap: 15 * time.Second, Timeout: 6 * time.Hour, Grace: 2 * time.Minute},
	}
}

var (
	_ postprocessors.PostProcessor = (*PostProcessor)(nil)
	_ postprocessors.Releaser      = (*PostProcessor)(nil)
)

// BuilderID is the kind of the artifact.
const BuilderID = "packer.post-processor.amazon-import"

// Options implements postprocessors.PostProcessor.
func (p *PostProcessor) Options() any { return &p.o }

// Check implements postprocessors.PostProcessor.
func (p *PostProcessor) Check(context.Context, *postprocessors.Env) []config.Problem {
	ps := p.o.Access.Check()
	add := func(option, summary, detail string) {
		ps = append(ps, config.Problem{Option: option, Summary: summary, Detail: detail})
	}
	oneOf := func(option, value string, allowed ...string) {
		if value != "" && !slices.Contains(allowed, value) {
			add(option, fmt.Sprintf("%s cannot be %q", option, value), "It can be "+strings.Join(allowed, ", ")+".")
		}
	}
	o := &p.o
	if o.S3BucketName == "" {
		add("s3_bucket_name", "s3_bucket_name is empty", "Name a bucket in the region. The import reads from it.")
	}
	if o.S3KeyName != "" {
		ps = append(ps, script.CheckTemplate("s3_key_name", o.S3KeyName)...)
	}
	oneOf("s3_encryption", o.S3Encryption, string(s3types.ServerSideEncryptionAes256), string(s3types.ServerSideEncryptionAwsKms))
	if o.S3EncryptionKey != "" && o.S3Encryption != string(s3types.ServerSideEncryptionAwsKms) {
		add("s3_encryption_key", "s3_encryption_key is given without a use for it", `It belongs to s3_encryption = "aws:kms".`)
	}
	oneOf("license_type", o.LicenseType, "AWS", "BYOL")
	oneOf("format", o.Format, formats[:]...)
	oneOf("architecture", o.Architecture, "x86_64", "arm64", "i386")
	oneOf("boot_mode", o.BootMode, "legacy-bios", "uefi", "uefi-preferred")
	oneOf("platform", o.Platform, "Linux", "Windows")
	if strings.HasPrefix(o.BootMode, "uefi") && o.Platform == "" {
		add("platform", fmt.Sprintf("platform is needed with boot_mode = %q", o.BootMode), `It is "Linux" or "Windows".`)
	}
	if o.AMIKMSKey != "" && !o.AMIEncrypt {
		add("ami_kms_key", "ami_kms_key is given without ami_encrypt", "Set ami_encrypt = true.")
	}
	ami := o.ami(cmp.Or(o.AMIName, "import-ami"))
	ami.EncryptBoot, ami.KMSKeyID = nil, "" // checked above, by the names they have here
	return append(ps, ami.Check(o.Region)...)
}

// Process implements postprocessors.PostProcessor.
func (p *PostProcessor) Process(ctx context.Context, env *postprocessors.Env, in *builders.Artifact) (*builders.Artifact, bool, error) {
	out, err := p.process(ctx, env, in)
	if err != nil {
		return nil, true, fmt.Errorf("amazon-import: %w", err)
	}
	return out, false, nil
}

func (p *PostProcessor) process(ctx context.Context, env *postprocessors.Env, in *builders.Artifact) (_ *builders.Artifact, err error) {
	dir := script.Bake{Dir: env.Dir, Values: in.Values, Template: env.Template}
	disk, err := p.o.choose(in.Files)
	if err != nil {
		return nil, err
	}
	disk.path = dir.Abs(disk.path)
	if p.session, err = p.env.Shared.Connect(ctx, &p.o.Access); err != nil {
		return nil, err
	}
	own := strings.ToLower(rand.Text()[:letters])
	j := &job{PostProcessor: p, env: env, bucket: p.o.S3BucketName, key: p.o.S3KeyName, format: disk.format}
	if disk.convert {
		j.format = "vmdk"
	}
	if j.key == "" {
		j.key = "packer-import-{{timestamp}}-" + own + "." + j.format
	}
	if j.key, err = dir.Render(j.key, nil); err != nil {
		return nil, fmt.Errorf("s3_key_name: %w", err)
	}
	if j.key == "" {
		return nil, errors.New("s3_key_name renders to nothing")
	}
	j.leases = &leases{env.Leases, env.BakeID + own, map[string]string{
		dataImport: env.BakeID + own, dataAccess: p.o.Access.Public(), dataRegion: p.session.Region, dataAccount: p.session.Account, dataBucket: j.bucket, dataKey: j.key,
	}}
	if err := j.ready(ctx); err != nil {
		return nil, err
	}
	if disk.convert {
		done, err := disk.toVMDK(ctx, env.Events, j.leases)
		if err != nil {
			return nil, err
		}
		defer func() {
			if err := done(); err != nil {
				env.Events.Warn(err.Error()) // its lease is there still
			}
		}()
	}
	made, err := j.run(ctx, disk.path)
	if err != nil {
		return nil, err
	}
	made.Values, made.Parent = in.Values, in.Parent
	return made, nil
}

// job is the import of one disk.
type job struct {
	*PostProcessor
	env         *postprocessors.Env
	leases      *leases
	bucket, key string
	format      string
	object      builders.Lease
}

// ready looks for what would make the import fail after a long upload.
func (j *job) ready(ctx context.Context) error {
	if base := aws.ToString(j.session.S3("").Options().BaseEndpoint); base != "" {
		u, err := url.Parse(base)
		if err != nil || u.Scheme != "https" && !loopback(u.Hostname()) {
			return fmt.Errorf("the disk would go to S3 at %s unencrypted: use an endpoint by https", u.Host)
		}
	}
	if j.o.AMIName != "" && !j.env.Force {
		out, err := j.session.EC2("").DescribeImages(ctx, &ec2.DescribeImagesInput{
			Owners: []string{"self"}, IncludeDeprecated: aws.Bool(true),
			Filters: []types.Filter{{Name: aws.String("name"), Values: []string{j.o.AMIName}}},
		})
		if err != nil {
			return awscloud.Explain(err)
		}
		for _, i := range out.Images {
			// The filter takes * and ? for any text.
			if aws.ToString(i.Name) == j.o.AMIName {
				return fmt.Errorf("an AMI named %q is in %s already: %s. Choose another ami_name, or bake with -force", j.o.AMIName, j.session.Region, aws.ToString(i.ImageId))
			}
		}
	}
	in := j.request()
	in.DryRun, in.ClientToken = aws.Bool(true), nil
	if _, err := j.session.EC2("").ImportImage(ctx, in); awscloud.IsDenied(err) {
		return fmt.Errorf("an import would not be allowed: %w", awscloud.Explain(err))
	} else if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return nil // whatever else a trial without the object may say is said of the real one
}

func loopback(host string) bool {
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && ip.IsLoopback()
}

// run uploads, imports and finishes. What is left stands in the ledger.
func (j *job) run(ctx context.Context, path string) (*builders.Artifact, error) {
	if err := j.upload(ctx, path); err != nil {
		return nil, err
	}
	image, err := j.importImage(ctx)
	if err != nil {
		return nil, err
	}
	j.removeObject(ctx)
	run := &builders.Run{
		BakeID: j.leases.id, Name: j.env.BuildName, Type: "amazon-import", Dir: j.env.Dir, Force: j.env.Force, Created: time.Now(),
		Values: map[string]string{}, Leases: j.leases, Events: j.env.Events,
	}
	order := amazon.ImageOrder{
		Env: j.PostProcessor.env, Session: j.session, Access: j.o.Access.Public(), BuilderID: BuilderID,
		AMI: j.o.ami(cmp.Or(j.o.AMIName, image.name)), Image: image.id, KeepImage: j.o.AMIName == "", Encrypted: true, // where it was asked for, the import has done it
	}
	made, err := amazon.MakeImage(ctx, run, order)
	if errors.Is(err, builders.ErrUnfinished) {
		// Nobody goes on with a post-processor's work.
		err = fmt.Errorf("the AMI was not finished, and is given up: %v", err)
	}
	return made, err
}

// cleanup is how long giving one thing back may take.
const cleanup = 5 * time.Minute
