package amazon_test

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/ingotbuild/ingot/datasources"
	"github.com/ingotbuild/ingot/datasources/amazon"
	"github.com/ingotbuild/ingot/internal/awscloud"
	"github.com/ingotbuild/ingot/templates"
)

// A template reads all three, and what is secret of them is known to be.
func TestInATemplate(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		target := r.Header.Get("X-Amz-Target")
		w.Header().Set("Content-Type", "application/x-amz-json-1.1")
		switch {
		case strings.HasSuffix(target, ".GetSecretValue"):
			secret, _ := json.Marshal(map[string]string{"password": "hunter2"})
			_ = json.NewEncoder(w).Encode(map[string]string{"SecretString": string(secret), "VersionId": "v"})
		case strings.HasSuffix(target, ".GetParameter"):
			_, _ = io.WriteString(w, `{"Parameter":{"Type":"SecureString","Value":"swordfish","Version":1,"ARN":"a"}}`)
		case strings.Contains(string(body), "DescribeImages"):
			w.Header().Set("Content-Type", "text/xml")
			_, _ = io.WriteString(w, `<DescribeImagesResponse><imagesSet><item><imageId>ami-7</imageId><name>n</name></item></imagesSet></DescribeImagesResponse>`)
		default:
			w.WriteHeader(http.StatusBadRequest)
		}
	}))
	defer server.Close()
	for k, v := range map[string]string{
		"AWS_ENDPOINT_URL": server.URL, "AWS_EC2_METADATA_DISABLED": "true", "AWS_REGION": "",
		"AWS_CONFIG_FILE": os.DevNull, "AWS_SHARED_CREDENTIALS_FILE": os.DevNull,
		"AWS_ACCESS_KEY_ID": "AKIDEXAMPLE", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_SESSION_TOKEN": "", "AWS_PROFILE": "",
	} {
		t.Setenv(k, v)
	}
	file := filepath.Join(t.TempDir(), "t.pkr.hcl")
	err := os.WriteFile(file, []byte(`
data "amazon-ami" "base" {
  region                     = "eu-west-1"
  skip_credential_validation = true
  filters                    = { name = "web-*" }
  filter {
    key   = "architecture"
    value = "x86_64"
  }
  owners      = ["self"]
  most_recent = true
}
data "amazon-parameterstore" "p" {
  region                     = "eu-west-1"
  skip_credential_validation = true
  name                       = "/db"
  with_decryption            = true
}
data "amazon-secretsmanager" "s" {
  region                     = "eu-west-1"
  skip_credential_validation = true
  name                       = "db"
  key                        = "password"
}
source "null" "a" { communicator = "none" }
build {
  name    = "${data.amazon-ami.base.id}-${data.amazon-parameterstore.p.value}-${data.amazon-secretsmanager.s.value}"
  sources = ["null.a"]
}
`), 0o600)
	if err != nil {
		t.Fatal(err)
	}
	shared := awscloud.NewShared(awscloud.Options{Guard: awscloud.LoopbackOnly})
	template, diags := templates.Load(templates.Options{
		Path: file, EvaluateData: true, Context: t.Context(),
		Datasources: map[string]func() datasources.Source{
			"amazon-ami":            func() datasources.Source { return amazon.NewAMI(shared) },
			"amazon-parameterstore": func() datasources.Source { return amazon.NewParameterStore(shared) },
			"amazon-secretsmanager": func() datasources.Source { return amazon.NewSecretsManager(shared) },
		},
	})
	if diags.HasErrors() {
		t.Fatal(diags)
	}
	for _, want := range []string{"hunter2", "swordfish"} {
		if !slices.Contains(template.Secrets(), want) {
			t.Errorf("%q is not among the secrets %q", want, template.Secrets())
		}
	}
	plan, diags := template.Plan(templates.Selection{})
	if diags.HasErrors() || len(plan.Bakes) != 1 || plan.Bakes[0].Name != "ami-7-swordfish-hunter2.null.a" {
		t.Errorf("%+v %v", plan, diags)
	}
}
