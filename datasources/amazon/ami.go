package amazon

import (
	"cmp"
	"context"
	"encoding/csv"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"github.com/ingotbuild/ingot/datasources"
	"github.com/ingotbuild/ingot/internal/awscloud"
	"github.com/ingotbuild/ingot/internal/config"
	"github.com/zclconf/go-cty/cty"
)

// AMIOptions are the options of a `data "amazon-ami"` block. It gives the
// attributes `id`, `name`, `creation_date`, `owner` (an account), `owner_name`
// (its alias, where it has one) and `tags` of the AMI that is found.
type AMIOptions struct {
	awscloud.Access
	// Filters are EC2's filters by name, as DescribeImages has them; several
	// values stand with commas between, and a comma in a value in quotes.
	Filters map[string]string `cfg:"filters"`
	// Filter blocks are further ones.
	Filter []Filter `cfg:"filter,block"`
	// Owners are accounts, or "self", "amazon", "aws-marketplace". An AMI's name
	// says nothing of who made it.
	Owners []string `cfg:"owners"`
	// MostRecent takes the newest of those that fit. Default: one only may fit.
	MostRecent bool `cfg:"most_recent"`
	// IncludeDeprecated finds deprecated ones too.
	IncludeDeprecated bool `cfg:"include_deprecated"`
}

// Filter is one filter.
type Filter struct {
	// Name of the filter; Key is another word for it.
	Name string `cfg:"name"`
	Key  string `cfg:"key"`
	// Value to find; several stand with commas between.
	Value string `cfg:"value"`
}

// AMI is the amazon-ami data source.
type AMI struct {
	o      AMIOptions
	shared *awscloud.Shared
}

// NewAMI returns an amazon-ami data source.
func NewAMI(shared *awscloud.Shared) *AMI { return &AMI{shared: shared} }

var _ datasources.Source = (*AMI)(nil)

// Options implements datasources.Source.
func (s *AMI) Options() any { return &s.o }

// Type implements datasources.Source.
func (s *AMI) Type() cty.Type {
	return cty.Object(map[string]cty.Type{
		"id": cty.String, "name": cty.String, "creation_date": cty.String, "owner": cty.String, "owner_name": cty.String, "tags": cty.Map(cty.String),
	})
}

// Check implements datasources.Source.
func (s *AMI) Check() []config.Problem {
	problems := s.o.Access.Check()
	bad := func(option, summary, detail string) {
		problems = append(problems, config.Problem{Option: option, Summary: summary, Detail: detail})
	}
	if len(s.o.Filters) == 0 && len(s.o.Filter) == 0 {
		bad("filters", "There are no filters", `Say which AMI it is: filters = { name = "…", root-device-type = "ebs" }.`)
	}
	if len(s.o.Owners) == 0 {
		bad("owners", "There are no owners", `Anyone can publish an AMI by any name. Say whose it is: an account, "self", "amazon".`)
	}
	for i, f := range s.o.Filter {
		if (f.Name == "") == (f.Key == "") {
			bad(fmt.Sprintf("filter[%d]", i), "A filter needs one name", "Give name (or key) and value.")
		}
	}
	if _, err := s.filters(); err != nil {
		bad("filters", "A filter cannot be read", err.Error())
	}
	return problems
}

// filters are the filters as EC2 takes them, in the order of their names.
func (s *AMI) filters() ([]types.Filter, error) {
	all := maps.Clone(s.o.Filters)
	if all == nil {
		all = map[string]string{}
	}
	for _, f := range s.o.Filter {
		all[cmp.Or(f.Name, f.Key)] = f.Value
	}
	var out []types.Filter
	for _, name := range slices.Sorted(maps.Keys(all)) {
		values := []string{""}
		if all[name] != "" {
			var err error
			if values, err = csv.NewReader(strings.NewReader(all[name])).Read(); err != nil {
				return nil, fmt.Errorf("the value %q of the filter %q: %w", all[name], name, err)
			}
		}
		out = append(out, types.Filter{Name: aws.String(name), Values: values})
	}
	return out, nil
}

// Read implements datasources.Source.
func (s *AMI) Read(ctx context.Context) (cty.Value, error) {
	filters, err := s.filters()
	if err != nil {
		return cty.NilVal, err
	}
	session, err := s.shared.Connect(ctx, &s.o.Access)
	if err != nil {
		return cty.NilVal, err
	}
	in := &ec2.DescribeImagesInput{Filters: filters, Owners: s.o.Owners, IncludeDeprecated: aws.Bool(s.o.IncludeDeprecated)}
	var found []types.Image
	for pages := ec2.NewDescribeImagesPaginator(session.EC2(""), in); pages.HasMorePages(); {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return cty.NilVal, awscloud.Explain(err)
		}
		found = append(found, page.Images...)
	}
	switch {
	case len(found) == 0:
		return cty.NilVal, fmt.Errorf("no AMI of %s in %s fits: %s", strings.Join(s.o.Owners, ", "), session.Region, describe(filters))
	case len(found) > 1 && !s.o.MostRecent:
		return cty.NilVal, fmt.Errorf("%d AMIs of %s in %s fit, among them %s (%s) and %s (%s): narrow the filters, or set most_recent = true",
			len(found), strings.Join(s.o.Owners, ", "), session.Region,
			aws.ToString(found[0].ImageId), aws.ToString(found[0].Name), aws.ToString(found[1].ImageId), aws.ToString(found[1].Name))
	}
	image := slices.MaxFunc(found, func(a, b types.Image) int {
		return cmp.Or(created(a).Compare(created(b)), cmp.Compare(aws.ToString(a.ImageId), aws.ToString(b.ImageId)))
	})
	tags := cty.MapValEmpty(cty.String)
	if len(image.Tags) > 0 {
		m := map[string]cty.Value{}
		for _, t := range image.Tags {
			m[aws.ToString(t.Key)] = text(t.Value)
		}
		tags = cty.MapVal(m)
	}
	return cty.ObjectVal(map[string]cty.Value{
		"id": text(image.ImageId), "name": text(image.Name), "creation_date": text(image.CreationDate),
		"owner": text(image.OwnerId), "owner_name": text(image.ImageOwnerAlias), "tags": tags,
	}), nil
}

// created is the time of an image; what cannot be read is long ago.
func created(i types.Image) time.Time {
	t, err := time.Parse(time.RFC3339, aws.ToString(i.CreationDate))
	if err != nil {
		return time.Time{}
	}
	return t
}

func describe(filters []types.Filter) string {
	var words []string
	for _, f := range filters {
		words = append(words, fmt.Sprintf("%s = %q", aws.ToString(f.Name), strings.Join(f.Values, ",")))
	}
	return strings.Join(words, "; ")
}
