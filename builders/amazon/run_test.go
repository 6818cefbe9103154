package amazon

import (
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"golang.org/x/crypto/ssh"

	"github.com/ingotbuild/ingot/internal/awscloud"
	"github.com/ingotbuild/ingot/internal/config"
	"github.com/ingotbuild/ingot/machine/communicator"
)

const goodRun = "ami_name = \"web\"\ninstance_type = \"t3.micro\"\nsource_ami = \"ami-0123456789abcdef0\"\nssh_username = \"admin\"\nregion = \"us-east-1\"\n"

func decodeRun(t *testing.T, body string) *Builder {
	t.Helper()
	b := New(NewEnv(awscloud.NewShared(awscloud.Options{Guard: awscloud.LoopbackOnly})))
	f, diags := hclsyntax.ParseConfig([]byte(body), "x.hcl", hcl.InitialPos)
	if !diags.HasErrors() {
		diags = config.Decode(f.Body, nil, b.Options())
	}
	if diags.HasErrors() {
		t.Fatal(diags)
	}
	return b
}

func TestRunOptionsCheck(t *testing.T) {
	for body, want := range map[string]string{ // "": nothing; "~x": a warning
		"":                    "",
		"expires = \"1m\"":    "expires",
		"expires = \"1000h\"": "expires",
		"user_data = \"x\"\nuser_data_file = \"y\"":                                              "user_data_file",
		"user_data_file = \"missing\"":                                                           "user_data_file",
		"shutdown_behavior = \"hibernate\"":                                                      "shutdown_behavior",
		"shutdown_behavior = \"terminate\"\ndisable_stop_instance = true":                        "shutdown_behavior",
		"security_group_id = \"sg-1\"\nsecurity_group_ids = [\"sg-2\"]":                          "security_group_ids",
		"vpc_id = \"vpc-1\"\nvpc_filter {\nfilters = { x = \"y\" }\n}":                           "vpc_filter",
		"temporary_security_group_source_cidrs = [\"here\"]":                                     "temporary_security_group_source_cidrs.0",
		"temporary_security_group_source_cidrs = [\"0.0.0.0/0\"]":                                "~temporary_security_group_source_cidrs.0",
		"temporary_security_group_source_cidrs = [\"192.0.2.7/32\"]":                             "",
		"ssh_bastion_host = \"b\"\nssh_bastion_agent_auth = false\nssh_bastion_password = \"p\"": "ssh_bastion_host",
		"ssh_interface = \"wifi\"":                                                               "ssh_interface",
		"ssh_interface = \"session_manager\"":                                                    "iam_instance_profile",
		"temporary_key_pair_type = \"ecdsa\"":                                                    "temporary_key_pair_type",
		"temporary_key_pair_type = \"rsa\"\ntemporary_key_pair_bits = 8192":                      "temporary_key_pair_bits",
		"ssh_keypair_name = \"k\"":                                                               "ssh_keypair_name",
		"spot_price = \"cheap\"":                                                                 "spot_price",
		"spot_price = \"auto\"\nblock_duration_minutes = 60":                                     "~block_duration_minutes",
		"spot_price = \"auto\"\ntenancy = \"dedicated\"":                                         "~tenancy",
		"spot_price = \"auto\"\ndisable_stop_instance = true":                                    "disable_stop_instance",
		"spot_on_demand_fallback = true":                                                         "~spot_on_demand_fallback",
		"spot_instance_types = [\"t3.large\"]":                                                   "spot_instance_types",
		"capacity_reservation_id = \"cr-1\"":                                                     "",
		"capacity_reservation_id = \"cr-1\"\ncapacity_reservation_preference = \"open\"":         "capacity_reservation_id",
		"metadata_options {\nhttp_tokens = \"sometimes\"\n}":                                     "metadata_options.http_tokens",
		"metadata_options {\nhttp_put_response_hop_limit = 65\n}":                                "metadata_options.http_put_response_hop_limit",
		"source_ami_filter {\nfilters = { name = \"x\" }\n}":                                     "source_ami_filter.owners",
		"source_ami_filter {\nowners = [\"self\"]\nfilters = { name = \"a\\\"b\" }\n}":           "source_ami_filter.filters",
		"run_tags = { \"ingot:build\" = \"x\" }":                                                 "run_tags.ingot:build",
		"run_tags = { a = \"{{ .Nothing }}\" }":                                                  "run_tags.a",
		"run_tags = { a = \"{{ .SourceAMIName }}\" }":                                            "",
		"temporary_iam_instance_profile_policy_document {\n}":                                    "temporary_iam_instance_profile_policy_document",
		"temporary_iam_instance_profile_policy_document {\nStatement {\nEffect = \"Maybe\"\nAction = [\"a\"]\nResource = [\"*\"]\n}\n}": "temporary_iam_instance_profile_policy_document.Statement.0.Effect",
		"communicator = \"winrm\"\nwinrm_username = \"Administrator\"\ntemporary_key_pair_type = \"ed25519\"":                           "temporary_key_pair_type",
	} {
		b := decodeRun(t, goodRun+body)
		ps := b.o.RunOptions.check(&b.o.Options, t.TempDir())
		option, warning := strings.CutPrefix(want, "~")
		if want == "" && len(ps) > 0 {
			t.Errorf("%s: %+v", body, ps)
		}
		if want != "" && !slices.ContainsFunc(ps, func(p config.Problem) bool { return p.Option == option && p.Warning == warning && p.Summary != "" }) {
			t.Errorf("%s: %+v, want %s", body, ps, want)
		}
	}
}

func TestRunOptionsCheckMissing(t *testing.T) {
	b := decodeRun(t, "ami_name = \"web\"\n")
	ps := b.o.RunOptions.check(&b.o.Options, t.TempDir())
	for _, option := range []string{"instance_type", "source_ami"} {
		if !slices.ContainsFunc(ps, func(p config.Problem) bool { return p.Option == option }) {
			t.Errorf("nothing is said of %s", option)
		}
	}
}

func TestFilters(t *testing.T) {
	f := &Filter{Filters: map[string]string{"name": `a,"b,c"`}, Filter: []FilterPair{{Key: "state", Value: "available"}}}
	got, err := f.ec2()
	if err != nil || len(got) != 2 || !slices.Equal(got[0].Values, []string{"a", "b,c"}) || aws.ToString(got[1].Name) != "state" {
		t.Errorf("%+v, %v", got, err)
	}
	if len(f.Filters) != 1 {
		t.Error("the template's own map was changed")
	}
}

func TestConsoleKeys(t *testing.T) {
	_, public, err := newHostKey()
	if err != nil {
		t.Fatal(err)
	}
	block := "-----BEGIN SSH HOST KEY KEYS-----\r\n[   12.3] cloud-init[812]: " + public + " root@ip-10-0-0-1\r\n-----END SSH HOST KEY KEYS-----\r\n"
	for name, tc := range map[string]struct {
		text string
		want int
	}{
		"a whole block":   {"boot\r\n" + block + "login:", 1},
		"not printed yet": {"boot\r\n", 0},
		"half a block":    {block[:len(block)-20], 0},
		"no key":          {"BEGIN SSH HOST KEY KEYS\nssh-ed25519 AAAA\nEND SSH HOST KEY KEYS", 0},
		"broken key":      {"BEGIN SSH HOST KEY KEYS\nssh-ed25519 " + strings.Repeat("A", 68) + "\nEND SSH HOST KEY KEYS", 0},
		"before it":       {public + "\n" + "BEGIN SSH HOST KEY KEYS\nEND SSH HOST KEY KEYS", 0},
	} {
		if got := consoleKeys(tc.text); len(got) != tc.want || tc.want == 1 && got[0] != public {
			t.Errorf("%s: %q", name, got)
		}
	}
}

func TestDecryptPassword(t *testing.T) {
	private, public, err := (&communicator.SSH{TemporaryKeyPairType: "rsa", TemporaryKeyPairBits: 2048}).NewKey()
	if err != nil {
		t.Fatal(err)
	}
	k, _, _, _, err := ssh.ParseAuthorizedKey([]byte(public))
	if err != nil {
		t.Fatal(err)
	}
	//lint:ignore SA1019 EC2 encrypts by PKCS #1 v1.5 and by nothing else.
	sealed, err := rsa.EncryptPKCS1v15(rand.Reader, k.(ssh.CryptoPublicKey).CryptoPublicKey().(*rsa.PublicKey), []byte("s3cret"))
	if err != nil {
		t.Fatal(err)
	}
	data := "\r\n" + base64.StdEncoding.EncodeToString(sealed) + "\r\n"
	if got, err := decryptPassword(data, private); err != nil || got != "s3cret" {
		t.Errorf("%q, %v", got, err)
	}
	other, _, _ := newHostKey()
	for name, key := range map[string]string{"an ed25519 key": other, "no key": "x"} {
		if _, err := decryptPassword(data, []byte(key)); err == nil {
			t.Errorf("it is decrypted with %s", name)
		}
	}
	if _, err := decryptPassword("!", private); err == nil {
		t.Error("no base64 is taken")
	}
}

// toBake is a bake that is about to begin; no account is asked for it.
func toBake(t *testing.T, body, addressURL string) *running {
	t.Helper()
	none := t.TempDir() + "/none"
	for n, v := range map[string]string{"AWS_ENDPOINT_URL": "", "AWS_ENDPOINT_URL_EC2": "", "AWS_CONFIG_FILE": none, "AWS_SHARED_CREDENTIALS_FILE": none, "AWS_EC2_METADATA_DISABLED": "true"} {
		t.Setenv(n, v)
	}
	b := decodeRun(t, goodRun+"access_key = \"a\"\nsecret_key = \"s\"\nskip_credential_validation = true\n"+body)
	b.env.AddressURL = addressURL
	s, err := b.env.Shared.Connect(t.Context(), &b.o.Access)
	if err != nil {
		t.Fatal(err)
	}
	return &running{env: b.env, session: s, o: &b.o.RunOptions, comm: &b.o.Options}
}

// The group lets this host in, and nobody else.
func TestSources(t *testing.T) {
	reply := "198.51.100.7\n"
	service := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = fmt.Fprint(w, reply) }))
	defer service.Close()
	sources := func(body, url string) ([]netip.Prefix, error) { return toBake(t, body, url).sources(t.Context()) }
	for body, want := range map[string]string{
		"ssh_interface = \"public_ip\"":                              "[198.51.100.7/32]",
		"temporary_security_group_source_cidrs = [\"192.0.2.9/24\"]": "[192.0.2.0/24]",
		"custom_endpoint_ec2 = \"http://127.0.0.1:1\"":               "[127.0.0.1/32]",
		"custom_endpoint_ec2 = \"http://localhost:1\"":               "[127.0.0.1/32]",
		"custom_endpoint_ec2 = \"http://[::1]:1\"":                   "[::1/128]",
		"communicator = \"none\"":                                    "[]",
		"ssh_interface = \"session_manager\"":                        "[]",
	} {
		if got, err := sources(body, service.URL); err != nil || fmt.Sprint(got) != want {
			t.Errorf("%s: %v, %v", body, got, err)
		}
	}
	// With no interface given the private ones may come beside it, each a single address.
	got, err := sources("", service.URL)
	if err != nil || got[0].String() != "198.51.100.7/32" || slices.ContainsFunc(got, func(p netip.Prefix) bool { return !p.IsSingleIP() }) {
		t.Errorf("%v, %v", got, err)
	}
	for _, bad := range []string{"0.0.0.0", "::", "<html>", "224.0.0.1", ""} {
		reply = bad
		if got, err := sources("", service.URL); err == nil || !strings.Contains(err.Error(), "temporary_security_group_source_cidrs") {
			t.Errorf("the service answers %q: %v, %v", bad, got, err)
		}
	}
	service.Close()
	if got, err := sources("", service.URL); err == nil || len(got) > 0 {
		t.Errorf("nobody answers: %v, %v", got, err)
	}
}

// The group opens the one port that the machine is connected to at.
func TestPort(t *testing.T) {
	for body, want := range map[string]int{
		"": 22, "ssh_port = 2222": 2222, "communicator = \"none\"": 0,
		"communicator = \"winrm\"": 5985, "communicator = \"winrm\"\nwinrm_use_ssl = true": 5986, "communicator = \"winrm\"\nwinrm_port = 443": 443,
	} {
		b := decodeRun(t, goodRun+body)
		if got := (&running{comm: &b.o.Options}).port(); got != want {
			t.Errorf("%q: port %d, want %d", body, got, want)
		}
	}
}

func TestAddress(t *testing.T) {
	i := types.Instance{InstanceId: aws.String("i-1"), PrivateIpAddress: aws.String("127.0.1.1"), PrivateDnsName: aws.String("private.dns"), PublicDnsName: aws.String("public.dns"),
		State: &types.InstanceState{Name: types.InstanceStateNamePending}}
	public := i
	public.PublicIpAddress = aws.String("127.0.2.2")
	runs := i
	runs.State = &types.InstanceState{Name: types.InstanceStateNameRunning}
	v6 := i
	v6.NetworkInterfaces = []types.InstanceNetworkInterface{{Ipv6Addresses: []types.InstanceIpv6Address{{Ipv6Address: aws.String("::1")}}}}
	for name, tc := range map[string]struct {
		o    RunOptions
		i    types.Instance
		want string
	}{
		"pending, public to come":      {RunOptions{}, i, ""},
		"pending, with public":         {RunOptions{}, public, "127.0.2.2"},
		"running without public":       {RunOptions{}, runs, "127.0.1.1"},
		"none wanted":                  {RunOptions{AssociatePublicIPAddress: aws.Bool(false)}, i, "127.0.1.1"},
		"one wanted":                   {RunOptions{AssociatePublicIPAddress: aws.Bool(true)}, runs, ""},
		"public_ip":                    {RunOptions{SSHInterface: "public_ip"}, runs, ""},
		"private_ip":                   {RunOptions{SSHInterface: "private_ip"}, public, "127.0.1.1"},
		"public_dns":                   {RunOptions{SSHInterface: "public_dns"}, i, "public.dns"},
		"private_dns":                  {RunOptions{SSHInterface: "private_dns"}, i, "private.dns"},
		"ipv6":                         {RunOptions{SSHInterface: "ipv6"}, v6, "::1"},
		"ipv6, without":                {RunOptions{SSHInterface: "ipv6"}, public, ""},
		"by the tunnel to an instance": {RunOptions{SSHInterface: sessionManager}, i, "i-1"},
	} {
		if got := (&running{o: &tc.o}).address(tc.i); got != tc.want {
			t.Errorf("%s: %q, want %q", name, got, tc.want)
		}
	}
}

func TestStays(t *testing.T) {
	disk := func(name string, ends bool) types.BlockDeviceMapping {
		return types.BlockDeviceMapping{DeviceName: &name, Ebs: &types.EbsBlockDevice{DeleteOnTermination: &ends}}
	}
	image := types.Image{BlockDeviceMappings: []types.BlockDeviceMapping{disk("/dev/xvda", true), disk("/dev/xvdb", false)}}
	none := types.BlockDeviceMapping{DeviceName: aws.String("/dev/xvdb"), NoDevice: aws.String("")}
	for want, disks := range map[bool][]types.BlockDeviceMapping{true: nil, false: {none}} {
		if stays(image, disks) != want {
			t.Errorf("%v: %v", disks, !want)
		}
	}
	if !stays(types.Image{}, []types.BlockDeviceMapping{disk("/dev/xvdc", false)}) || stays(image, []types.BlockDeviceMapping{disk("/dev/xvdb", true)}) {
		t.Error("the launch's mappings do not count")
	}
}

func TestMetadata(t *testing.T) {
	m := (&RunOptions{}).metadata()
	if m.HttpTokens != types.HttpTokensStateRequired || m.HttpEndpoint != types.InstanceMetadataEndpointStateEnabled || *m.HttpPutResponseHopLimit != 1 {
		t.Errorf("by default %+v", m)
	}
	m = (&RunOptions{MetadataOptions: &MetadataOptions{HTTPEndpoint: "disabled", InstanceMetadataTags: "enabled"}}).metadata()
	if m.HttpEndpoint != types.InstanceMetadataEndpointStateDisabled || m.HttpTokens != "" {
		t.Errorf("disabled: %+v", m)
	}
}

func TestHostKeyMark(t *testing.T) {
	a, _, err := newHostKey()
	if err != nil {
		t.Fatal(err)
	}
	b, publicB, _ := newHostKey()
	mark := hostKeyMark(a)
	if len(mark) < 60 || strings.Contains(b, mark) || strings.Contains(publicB, mark) || strings.Count(a, mark) != 1 {
		t.Errorf("the mark is %q", mark)
	}
	if hostKeyMark("") != "" {
		t.Error("there is a mark of nothing")
	}
}
