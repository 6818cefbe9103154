// Package amazon is what a template can read from an AWS account: the AMI that
// a filter finds, parameters of Systems Manager, and secrets of Secrets Manager.
package amazon

import (
	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/zclconf/go-cty/cty"
)

// text is a string of the API as a template has it: "" where there is none.
func text(s *string) cty.Value { return cty.StringVal(aws.ToString(s)) }

// stringsOf is the type of an object with these attributes, all of them text.
func stringsOf(names ...string) cty.Type {
	types := map[string]cty.Type{}
	for _, n := range names {
		types[n] = cty.String
	}
	return cty.Object(types)
}
