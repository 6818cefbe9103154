package amazon

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/ingotbuild/ingot/builders"
	"github.com/ingotbuild/ingot/internal/awscloud"
	"github.com/ingotbuild/ingot/internal/config"
	"github.com/ingotbuild/ingot/internal/render"
)

// ImageOrder is what a builder wants made, once what the AMI is made of is ready.
type ImageOrder struct {
	Env     *Env
	Session *awscloud.Session
	// Access is how the account is reached, as awscloud.Access.Public writes it.
	Access    string
	BuilderID string
	AMI       *AMIOptions
	// FastLaunch is nil for builders that have no such option.
	FastLaunch *FastLaunch
	// RunTags, rendered, go on images and snapshots too.
	RunTags map[string]string
	// Source is the AMI that the machine was made of; nil: none.
	Source *types.Image
	// Create, Register or Image says how the first AMI comes to be: of an
	// instance, of snapshots, or it is there already. Name, description and
	// tags are filled in here.
	Create   *ec2.CreateImageInput
	Register *ec2.RegisterImageInput
	Image    string
	// Volumes are those that Register's block devices are to be snapshots of, by
	// device name. SnapshotDescription is the snapshots' own.
	Volumes             map[string]string
	SnapshotDescription string
	// Captured, unless nil, is called once the volumes' snapshots have begun: they
	// are not needed any more.
	Captured func(context.Context)
	// Available, unless nil, is called beside the copies, once the first image is
	// available: what it was made of is not needed any more.
	Available func(context.Context)
	// KeepImage keeps Image under the name it has, which AMI.AMIName must be.
	KeepImage bool
	// Encrypted says that the volumes were encrypted as encrypt_boot asks, when
	// they were made. Otherwise it takes a copy.
	Encrypted bool
}

// imagePlan is all that remains to be done once what the AMI is made of is
// ready. It stands in the lease of each of its images, so that another process
// can go on with it. It holds no secret.
type imagePlan struct {
	BakeID    string `json:"bake"`
	BuilderID string `json:"builder_id"`
	Access    string `json:"access"`
	Region    string `json:"region"`
	Name      string `json:"name"`
	// FirstName is the name of the first image: Name, or that of an intermediate
	// one, which is removed in the end.
	FirstName string                  `json:"first_name"`
	Create    *ec2.CreateImageInput   `json:"create,omitempty"`
	Register  *ec2.RegisterImageInput `json:"register,omitempty"`
	Image     string                  `json:"image,omitempty"`
	// Volumes, by block device of Register, are to be snapshotted first. Source is
	// what tells whose the snapshots are: "amazon-chroot.web".
	Volumes             map[string]string `json:"volumes,omitempty"`
	SnapshotDescription string            `json:"snapshot_description,omitempty"`
	Source              string            `json:"source,omitempty"`
	Description         string            `json:"description,omitempty"`
	// Encrypted: the first image must be.
	Encrypted bool       `json:"encrypted,omitempty"`
	Copies    []copyPlan `json:"copies,omitempty"`

	ImageTags    map[string]string `json:"image_tags,omitempty"`
	SnapshotTags map[string]string `json:"snapshot_tags,omitempty"`

	Users          []string                  `json:"users,omitempty"`
	Groups         []string                  `json:"groups,omitempty"`
	OrgARNs        []string                  `json:"orgs,omitempty"`
	OUARNs         []string                  `json:"ous,omitempty"`
	ProductCodes   []string                  `json:"product_codes,omitempty"`
	SnapshotUsers  []string                  `json:"snapshot_users,omitempty"`
	SnapshotGroups []string                  `json:"snapshot_groups,omitempty"`
	IMDSv2         bool                      `json:"imds_v2,omitempty"`
	ENA            *bool                     `json:"ena,omitempty"`
	Sriov          bool                      `json:"sriov,omitempty"`
	DeprecateAt    *time.Time                `json:"deprecate_at,omitempty"`
	Protect        bool                      `json:"protect,omitempty"`
	Cooldown       bool                      `json:"cooldown,omitempty"`
	FastLaunch     map[string]fastLaunchPlan `json:"fast_launch,omitempty"` // by region
	Parameters     []string                  `json:"parameters,omitempty"`

	Replace          bool   `json:"replace,omitempty"`
	ReplaceSnapshots bool   `json:"replace_snapshots,omitempty"`
	KeepPartial      bool   `json:"keep_partial,omitempty"`
	CopyMinutes      *int64 `json:"copy_minutes,omitempty"`

	Parent string            `json:"parent,omitempty"`
	Values map[string]string `json:"values,omitempty"`
}

// copyPlan is one copy of the first image.
type copyPlan struct {
	Region    string `json:"region"`
	Encrypted *bool  `json:"encrypted,omitempty"`
	Key       string `json:"key,omitempty"`
}

type fastLaunchPlan struct {
	TemplateID   string `json:"template_id,omitempty"`
	TemplateName string `json:"template_name,omitempty"`
	Version      string `json:"version,omitempty"`
	Parallel     int32  `json:"parallel,omitempty"`
	Count        int32  `json:"count,omitempty"`
}

// foreign are snapshots of the first image that the template names. Without
// Volumes, those of Register were made for the bake.
func (p *imagePlan) foreign() []string {
	var ms []types.BlockDeviceMapping
	switch {
	case p.Create != nil:
		ms = p.Create.BlockDeviceMappings
	case p.Register != nil && len(p.Volumes) > 0:
		ms = p.Register.BlockDeviceMappings
	}
	return snapshotsOf(types.Image{BlockDeviceMappings: slices.DeleteFunc(slices.Clone(ms), func(m types.BlockDeviceMapping) bool {
		return p.Volumes[aws.ToString(m.DeviceName)] != ""
	})})
}

// intermediate says whether the first image is only there to be copied.
func (p *imagePlan) intermediate() bool { return p.FirstName != p.Name }

// sourceValues are the build.* values that the source AMI gives.
func sourceValues(region string, source types.Image) map[string]string {
	values := map[string]string{}
	for k, v := range lateData(region, source) {
		if s, ok := v.(string); ok {
			values[k] = s
		}
	}
	return values
}

var tagName = regexp.MustCompile(`\.SourceAMITags\.(\w+)`)

// renderLate renders a late-rendered string. Of a tag that the source AMI does
// not have, it says so.
func renderLate(s string, data map[string]any, env render.Env) (string, error) {
	out, err := render.String(s, data, env)
	if err == nil {
		return out, nil
	}
	if tags, ok := data["SourceAMITags"].(map[string]string); ok {
		for _, m := range tagName.FindAllStringSubmatch(s, -1) {
			if _, has := tags[m[1]]; !has {
				return "", fmt.Errorf("the source AMI %v has no tag %q; write {{ index .SourceAMITags %q }} to have nothing in its place", data["SourceAMI"], m[1], m[1])
			}
		}
	}
	return "", err
}

// renderTagOptions renders a map of tags and the blocks beside it. Errors say which
// option they are about.
func renderTagOptions(option string, m map[string]string, blockOption string, blocks []Tag, data map[string]any, env render.Env) (map[string]string, []config.OptionError) {
	out := map[string]string{}
	var errs []config.OptionError
	one := func(at, key, value string) {
		k, err1 := renderLate(key, data, env)
		v, err2 := renderLate(value, data, env)
		err := errors.Join(err1, err2)
		if err == nil {
			err = tagError(k, v)
		}
		if err != nil {
			errs = append(errs, config.OptionError{Option: at, Err: err})
			return
		}
		out[k] = v
	}
	for _, k := range slices.Sorted(maps.Keys(m)) {
		one(option+"."+k, k, m[k])
	}
	for i := range blocks {
		one(blockOption+"."+strconv.Itoa(i), blocks[i].key(), blocks[i].Value)
	}
	return out, errs
}

// renderedAMI are the late-rendered options of an AMI.
type renderedAMI struct {
	description        string
	tags, snapshotTags map[string]string
}

func (o *AMIOptions) render(data map[string]any, env render.Env) (r renderedAMI, errs []config.OptionError) {
	var err error
	if r.description, err = renderLate(o.AMIDescription, data, env); err != nil {
		errs = append(errs, config.OptionError{Option: "ami_description", Err: err})
	} else if n := len([]rune(r.description)); n > 255 {
		errs = append(errs, config.OptionError{Option: "ami_description", Err: fmt.Errorf("it has %d characters; EC2 takes 255", n)})
	}
	var e []config.OptionError
	r.tags, e = renderTagOptions("tags", o.Tags, "tag", o.Tag, data, env)
	errs = append(errs, e...)
	r.snapshotTags, e = renderTagOptions("snapshot_tags", o.SnapshotTags, "snapshot_tag", o.SnapshotTag, data, env)
	return r, append(errs, e...)
}

// plan makes the plan of the order.
func (o *ImageOrder) plan(run *builders.Run) (*imagePlan, error) {
	build := o.Session.Region
	a := o.AMI
	source := types.Image{} // without one, its values are empty
	if o.Source != nil {
		source = *o.Source
	}
	late, errs := a.render(lateData(build, source), renderEnv(run))
	if len(errs) > 0 {
		e := make([]error, len(errs))
		for i := range errs {
			e[i] = fmt.Errorf("%s: %w", errs[i].Option, errs[i].Err)
		}
		return nil, errors.Join(e...)
	}
	p := &imagePlan{
		BakeID: run.BakeID, BuilderID: o.BuilderID, Access: o.Access, Region: build, Name: a.AMIName, FirstName: a.AMIName, Description: late.description,
		Create: o.Create, Register: o.Register, Image: o.Image, Volumes: o.Volumes, SnapshotDescription: o.SnapshotDescription, Source: run.Type + "." + run.Source,
		Users: a.AMIUsers, Groups: a.AMIGroups, OrgARNs: a.AMIOrgArns, OUARNs: a.AMIOUArns, ProductCodes: a.AMIProductCodes,
		SnapshotUsers: a.SnapshotUsers, SnapshotGroups: a.SnapshotGroups, IMDSv2: a.IMDSSupport == "v2.0", Parameters: a.SSMParameters,
		Replace: a.ForceDeregister || run.Force, ReplaceSnapshots: a.ForceDeleteSnapshot, KeepPartial: a.KeepPartial,
		Values: sourceValues(build, source),
	}
	p.Protect, p.Cooldown = a.protects()
	// What the source AMI has, the machine and the image of it have too.
	if o.Source == nil || a.ENASupport == nil || aws.ToBool(o.Source.EnaSupport) != *a.ENASupport {
		p.ENA = a.ENASupport
	}
	p.Sriov = a.SriovSupport && (o.Source == nil || aws.ToString(o.Source.SriovNetSupport) != "simple")
	if o.Source != nil {
		p.Parent = aws.ToString(o.Source.ImageId)
	}
	if a.DeprecateAt != "" {
		at, err := time.Parse(time.RFC3339, a.DeprecateAt)
		if err != nil {
			return nil, fmt.Errorf("deprecate_at: %w", err)
		}
		p.DeprecateAt = &at
	}
	if n := a.SnapshotCopyDurationMinutes; n != nil {
		p.CopyMinutes = aws.Int64(int64(*n))
	}
	p.ImageTags, p.SnapshotTags = map[string]string{}, map[string]string{}
	maps.Copy(p.ImageTags, o.RunTags)
	maps.Copy(p.ImageTags, late.tags)
	p.ImageTags[tagBuild] = run.BakeID
	maps.Copy(p.SnapshotTags, p.ImageTags)
	maps.Copy(p.SnapshotTags, late.snapshotTags)
	for _, tags := range []map[string]string{p.ImageTags, p.SnapshotTags} {
		if len(tags) > 50 {
			return nil, fmt.Errorf("there are %d tags, with run_tags and one of Ingot's own; EC2 takes 50", len(tags))
		}
	}
	// Where the volumes are not encrypted yet, the image of them must be copied.
	byCopy := a.encrypts() && !o.Encrypted
	p.Encrypted = a.encrypts() && o.Encrypted
	if byCopy || a.SkipSaveBuildRegion || o.Image != "" && !o.KeepImage {
		p.FirstName = "ingot-" + run.BakeID
	}
	if p.intermediate() && !a.SkipSaveBuildRegion {
		p.Copies = append(p.Copies, copyPlan{build, a.EncryptBoot, a.key(build, build)})
	}
	for _, r := range a.regions(build) {
		c := copyPlan{r, a.EncryptBoot, a.key(build, r)}
		if c.Key != "" {
			c.Encrypted = aws.Bool(true)
		}
		p.Copies = append(p.Copies, c)
	}
	p.FastLaunch = o.FastLaunch.plan(build, a.targets(build))
	return p, nil
}

// plan says which regions get fast launch, and how.
func (f *FastLaunch) plan(build string, regions []string) map[string]fastLaunchPlan {
	if f == nil || !f.Enable && f.TemplateID == "" && f.TemplateName == "" && len(f.Regions) == 0 && f.MaxParallelLaunches == 0 && f.TargetResourceCount == 0 {
		return nil
	}
	version := func(id, name string, n int) string {
		switch {
		case id == "" && name == "":
			return ""
		case n == 0:
			return "$Default"
		}
		return strconv.Itoa(n)
	}
	plans := map[string]fastLaunchPlan{}
	for _, r := range regions {
		p := fastLaunchPlan{Parallel: int32(f.MaxParallelLaunches), Count: int32(f.TargetResourceCount)}
		if r == build || f.TemplateID == "" {
			p.TemplateID, p.TemplateName, p.Version = f.TemplateID, f.TemplateName, version(f.TemplateID, f.TemplateName, f.TemplateVersion)
		}
		wanted := true
		for _, own := range f.Regions {
			if own.Region == r {
				p.TemplateID, p.TemplateName, p.Version = own.TemplateID, own.TemplateName, version(own.TemplateID, own.TemplateName, own.TemplateVersion)
				wanted = own.Enable == nil || *own.Enable
			}
		}
		if wanted {
			plans[r] = p
		}
	}
	return plans
}

// tagSpecs are tags as a call that creates an image takes them.
func (p *imagePlan) tagSpecs() []types.TagSpecification {
	return []types.TagSpecification{
		{ResourceType: types.ResourceTypeImage, Tags: ec2Tags(p.ImageTags)},
		{ResourceType: types.ResourceTypeSnapshot, Tags: ec2Tags(p.SnapshotTags)},
	}
}

// encode writes the plan into a lease's data.
func (p *imagePlan) encode() (string, error) {
	b, err := json.Marshal(p)
	if err != nil {
		return "", fmt.Errorf("write down the plan of the image: %w", err)
	}
	return string(b), nil
}

func decodePlan(s string) (*imagePlan, error) {
	p := &imagePlan{}
	if err := json.Unmarshal([]byte(s), p); err != nil {
		return nil, fmt.Errorf("the ledger's plan of the image cannot be read: %w", err)
	}
	if p.Region == "" || p.Name == "" || p.FirstName == "" || p.BakeID == "" || p.Create == nil && p.Register == nil && p.Image == "" {
		return nil, errors.New("the ledger's plan of the image is not whole")
	}
	return p, nil
}

// launchMappings are the block devices to launch with, so that an AMI of the
// machine is as encrypt_boot asks without a copy: EC2 encrypts a volume when it
// is made of a plain snapshot. user are launch_block_device_mappings.
func launchMappings(a *AMIOptions, user []types.BlockDeviceMapping, source *types.Image, build string) []types.BlockDeviceMapping {
	if !a.encrypts() {
		return user
	}
	key := optional(a.key(build, build))
	var all []types.BlockDeviceMapping
	for _, m := range user {
		if m.Ebs != nil {
			ebs := *m.Ebs
			ebs.Encrypted, ebs.KmsKeyId = aws.Bool(true), key
			m.Ebs = &ebs
		}
		all = append(all, m)
	}
	for _, m := range source.BlockDeviceMappings {
		mine := func(u types.BlockDeviceMapping) bool { return aws.ToString(u.DeviceName) == aws.ToString(m.DeviceName) }
		if m.Ebs != nil && !slices.ContainsFunc(user, mine) {
			// What is not said here, the source AMI says.
			all = append(all, types.BlockDeviceMapping{DeviceName: m.DeviceName, Ebs: &types.EbsBlockDevice{Encrypted: aws.Bool(true), KmsKeyId: key}})
		}
	}
	return all
}

// imageMappings are the block devices to give CreateImage.
func imageMappings(a *AMIOptions, noEphemeral bool) []types.BlockDeviceMapping {
	ms := mappings(a.AMIMappings)
	if !noEphemeral {
		return ms
	}
	for c := 'a'; c <= 'z'; c++ {
		name := "xvdc" + string(c)
		if !slices.ContainsFunc(a.AMIMappings, func(d BlockDevice) bool { return strings.TrimPrefix(d.DeviceName, "/dev/") == name }) {
			ms = append(ms, types.BlockDeviceMapping{DeviceName: aws.String(name), NoDevice: aws.String("")})
		}
	}
	return ms
}
