package amazonimport

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ingotbuild/ingot/templates"
)

// Every option of Packer's is read in a template.
func TestInATemplate(t *testing.T) {
	file := filepath.Join(t.TempDir(), "t.pkr.hcl")
	err := os.WriteFile(file, []byte(`
source "null" "a" { communicator = "none" }
build {
  sources = ["null.a"]
  post-processor "amazon-import" {
    access_key                    = "AKIDEXAMPLE"
    secret_key                    = "s"
    token                         = "t"
    region                        = "eu-west-1"
    custom_endpoint_ec2           = "https://ec2.example.com"
    decode_authorization_messages = true
    insecure_skip_tls_verify      = true
    max_retries                   = 3
    mfa_code                      = "1"
    shared_credentials_file       = "f"
    skip_credential_validation    = true
    skip_metadata_api_check       = true
    aws_polling { delay_seconds = 1 }
    s3_bucket_name                = "b"
    s3_key_name                   = "{{timestamp}}/{{.ID}}"
    s3_encryption                 = "aws:kms"
    s3_encryption_key             = "k"
    skip_clean                    = true
    tags                          = { a = "b" }
    ami_name                      = "web-{{clean_resource_name \"a:b\"}}"
    ami_description               = "d"
    ami_users                     = ["123456789012"]
    ami_groups                    = ["all"]
    ami_org_arns                  = ["arn:aws:organizations::123456789012:organization/o-abcdefghij"]
    ami_ou_arns                   = ["arn:aws:organizations::123456789012:ou/o-abcdefghij/ou-abcd-12345678"]
    ami_encrypt                   = true
    ami_kms_key                   = "k"
    imds_support                  = "v2.0"
    license_type                  = "BYOL"
    role_name                     = "r"
    format                        = "vhd"
    architecture                  = "arm64"
    boot_mode                     = "uefi"
    platform                      = "Windows"
    keep_input_artifact           = true
  }
}
`), 0o600)
	if err != nil {
		t.Fatal(err)
	}
	template, diags := templates.Load(templates.Options{Path: file, Context: t.Context()})
	plan, more := template.Plan(templates.Selection{})
	if diags = append(diags, more...); diags.HasErrors() {
		t.Fatal(diags)
	}
	p := New(nil)
	if diags := plan.Bakes[0].PostProcess[0][0].Component.Decode(p.Options(), nil); diags.HasErrors() {
		t.Fatal(diags)
	}
	if p.o.AMIName != "web-a-b" || p.o.S3KeyName != "{{timestamp}}/{{.ID}}" || p.o.AWSPolling == nil || p.o.Region != "eu-west-1" || p.o.Format != "vhd" || p.o.Tags["a"] != "b" {
		t.Errorf("read as %+v", p.o)
	}
	var got []string
	for _, problem := range p.Check(t.Context(), nil) {
		got = append(got, problem.Option)
	}
	if want := "insecure_skip_tls_verify"; strings.Join(got, " ") != want {
		t.Errorf("problems with %q, want %q", got, want)
	}
}
