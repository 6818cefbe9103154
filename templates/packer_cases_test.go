package templates_test

const nullSources = `
source "null" "a" { communicator = "none" }
source "null" "b" { communicator = "none" }
source "file" "f" {
  target  = "out"
  content = "x"
}
`

// step is a template with one block in its build.
func step(block string) string {
	return nullSources + "build {\n  sources = [\"null.a\"]\n" + block + "\n}\n"
}

const (
	newer = "Packer knows it since a version later than 1.6.6"
	later = "Packer refuses it since a version later than 1.6.6"
)

var peerCases = []peerCase{
	// Files.
	{name: "hcl", text: ``},
	{name: "one file", text: ``, path: "t.pkr.hcl"},
	{name: "json", text: `-- t.pkr.json --
{"source": {"null": {"a": {"communicator": "none"}}}, "build": [{"sources": ["null.a"]}]}
`},
	{name: "two files", text: "-- a.pkr.hcl --\nbuild { sources = [\"null.a\"] }\n-- b.pkr.json --\n{\"source\": {\"null\": {\"a\": {\"communicator\": \"none\"}}}}\n"},
	{name: "other files", text: "-- t.pkr.hcl --\n-- x.hcl --\nnonsense {\n-- y.json --\n{"},
	{name: "hidden file", text: "-- t.pkr.hcl --\n-- .h.pkr.hcl --\nlocals { h = 1 }\n", value: "local.h"},
	{name: "no files", text: "-- x.txt --\nbuild\n"},
	{name: "nowhere", text: ``, path: "nowhere.pkr.hcl"},
	{name: "broken", text: "locals {\n"},
	{name: "broken, syntax only", text: "locals {\n", flags: []string{"-syntax-only"}},
	{name: "unset, syntax only", text: "variable \"v\" {}\n", flags: []string{"-syntax-only"}},
	{name: "unknown builder, syntax only", text: "source \"nope\" \"x\" {}\nbuild { sources = [\"nope.x\"] }\n", flags: []string{"-syntax-only"}},
	// Blocks.
	{name: "unknown block", text: "thing \"x\" {}\n"},
	{name: "unknown block, syntax only", text: "thing \"x\" {}\n", flags: []string{"-syntax-only"}},
	{name: "top-level attribute", text: "thing = 1\n"},
	{name: "source without labels", text: "source {}\n"},
	{name: "source with one label", text: "source \"null\" {}\n"},
	{name: "duplicate source", text: nullSources + nullSources + "build { sources = [\"null.a\"] }\n"},
	{name: "required version", text: "packer {\n  required_version = \">= 1.6.0\"\n}\n"},
	{name: "required version, too new", text: "packer {\n  required_version = \">= 99\"\n}\n"},
	{name: "required version, nonsense", text: "packer {\n  required_version = \"new\"\n}\n"},
	{name: "unknown option of packer", text: "packer {\n  nope = 1\n}\n"},
	{name: "communicator block", text: "communicator \"ssh\" \"x\" {}\n"},
	{name: "top-level dynamic", text: "dynamic \"source\" {\n  for_each = [1]\n  content {}\n}\n"},
	{name: "no build", text: "-- t.pkr.hcl --\n# build\nlocals { v = 1 }\n", differs: later},
	// Builds.
	{name: "two sources", text: nullSources + "build { sources = [\"source.null.a\", \"file.f\"] }\n"},
	{name: "named build", text: nullSources + "build {\n  name = \"web\"\n  sources = [\"null.a\", \"null.b\"]\n}\n"},
	{name: "two builds", text: nullSources + "build { sources = [\"null.a\"] }\nbuild {\n  name = \"x\"\n  sources = [\"null.a\"]\n}\n"},
	{name: "build with a description", text: nullSources + "build {\n  description = \"one\"\n  sources = [\"null.b\"]\n}\n"},
	{name: "unknown source", text: nullSources + "build { sources = [\"null.c\"] }\n"},
	{name: "source reference of one part", text: nullSources + "build { sources = [\"a\"] }\n"},
	{name: "sources is a number", text: nullSources + "build { sources = 1 }\n"},
	{name: "build without a source", text: nullSources + "build {}\n", differs: later},
	{name: "unknown attribute of a build", text: nullSources + "build {\n  sources = [\"null.a\"]\n  nope = 1\n}\n"},
	{name: "unknown block of a build", text: step("nope {}")},
	{name: "source block in a build", text: nullSources + "build {\n  source \"source.null.a\" {\n    ssh_host = \"h\"\n  }\n}\n"},
	{name: "source block that overrides", text: nullSources + "build {\n  source \"source.null.a\" {\n    communicator = \"none\"\n  }\n}\n"},
	{name: "from block", text: step("from \"x\" {}")},
	// Builders.
	{name: "unknown builder", text: "source \"nope\" \"x\" {}\nbuild { sources = [\"nope.x\"] }\n"},
	{name: "null without a host", text: "source \"null\" \"x\" {}\nbuild { sources = [\"null.x\"] }\n"},
	{name: "null with a number as text", text: "source \"null\" \"x\" {\n  communicator = \"none\"\n  ssh_port = \"22\"\n}\nbuild { sources = [\"null.x\"] }\n"},
	{name: "null with a word as port", text: "source \"null\" \"x\" {\n  communicator = \"none\"\n  ssh_port = \"many\"\n}\nbuild { sources = [\"null.x\"] }\n"},
	{name: "null with an unknown option", text: "source \"null\" \"x\" {\n  communicator = \"none\"\n  nope = 1\n}\nbuild { sources = [\"null.x\"] }\n"},
	{name: "null with a right ssh", text: "source \"null\" \"x\" {\n  ssh_host = \"h\"\n  ssh_username = \"u\"\n  ssh_password = \"p\"\n}\nbuild { sources = [\"null.x\"] }\n"},
	{name: "null with two ways in", text: "source \"null\" \"x\" {\n  ssh_host = \"h\"\n  ssh_username = \"u\"\n  ssh_password = \"p\"\n  ssh_agent_auth = true\n}\nbuild { sources = [\"null.x\"] }\n"},
	{name: "file", text: nullSources + "build { sources = [\"file.f\"] }\n"},
	{name: "file without a target", text: "source \"file\" \"x\" { content = \"x\" }\nbuild { sources = [\"file.x\"] }\n"},
	{name: "file with content and source", text: "source \"file\" \"x\" {\n  target = \"t\"\n  content = \"x\"\n  source = \"y\"\n}\nbuild { sources = [\"file.x\"] }\n"},
	{name: "file with neither", text: "source \"file\" \"x\" { target = \"t\" }\nbuild { sources = [\"file.x\"] }\n"},
	// Steps.
	{name: "shell-local", text: step(`  provisioner "shell-local" { inline = ["true"] }`)},
	{name: "shell-local without a command", text: step(`  provisioner "shell-local" {}`)},
	{name: "shell-local with both", text: step("  provisioner \"shell-local\" {\n    inline = [\"true\"]\n    script = \"x\"\n  }")},
	{name: "shell without a script", text: step("  provisioner \"shell\" {}")},
	{name: "shell with a missing script", text: step(`  provisioner "shell" { script = "nowhere" }`)},
	{name: "shell with wrong variables", text: step("  provisioner \"shell\" {\n    inline = [\"true\"]\n    environment_vars = [\"novalue\"]\n  }")},
	{name: "file without a destination", text: step(`  provisioner "file" { source = "t.pkr.hcl" }`)},
	{name: "file with a missing source", text: step("  provisioner \"file\" {\n    source = \"nowhere\"\n    destination = \"/x\"\n  }")},
	{name: "sleep", text: step(`  provisioner "sleep" { duration = "1s" }`), differs: "Packer 1.6.6 crashes"},
	{name: "unknown provisioner", text: step(`  provisioner "nope" {}`)},
	{name: "unknown option of a provisioner", text: step("  provisioner \"shell-local\" {\n    inline = [\"true\"]\n    nope = 1\n  }")},
	{name: "pause and retries", text: step("  provisioner \"shell-local\" {\n    inline = [\"true\"]\n    pause_before = \"1s\"\n    max_retries = 2\n    timeout = \"1m\"\n  }")},
	{name: "a pause without a unit", text: step("  provisioner \"shell-local\" {\n    inline = [\"true\"]\n    pause_before = \"5\"\n  }")},
	{name: "only", text: step("  provisioner \"shell-local\" {\n    only = [\"null.a\"]\n    inline = [\"true\"]\n  }")},
	{name: "only and except", text: step("  provisioner \"shell-local\" {\n    only = [\"null.a\"]\n    except = [\"null.b\"]\n    inline = [\"true\"]\n  }")},
	{name: "manifest", text: step(`  post-processor "manifest" { output = "m.json" }`)},
	{name: "chain", text: step("  post-processors {\n    post-processor \"checksum\" { checksum_types = [\"sha256\"] }\n    post-processor \"manifest\" {}\n  }")},
	{name: "checksum of no type", text: step(`  post-processor "checksum" { checksum_types = ["crc"] }`)},
	{name: "unknown post-processor", text: step(`  post-processor "nope" {}`)},
	{name: "provisioner in a chain", text: step("  post-processors {\n    provisioner \"shell-local\" {}\n  }")},
	{name: "dynamic provisioner", text: step("  dynamic \"provisioner\" {\n    for_each = [\"x\"]\n    labels = [\"shell-local\"]\n    content {\n      inline = [provisioner.value]\n    }\n  }")},
	{name: "late strings", text: step(`  provisioner "shell-local" { inline = ["{{timestamp}} {{isotime}} {{build_name}} {{build_type}}"] }`)},
	{name: "build and source values", text: step(`  provisioner "shell-local" { inline = ["${build.ID} ${source.type}"] }`)},
	{name: "source.name", text: step(`  provisioner "shell-local" { inline = ["${source.name}"] }`)},
	{name: "unknown build value", text: step(`  provisioner "shell-local" { inline = ["${build.Nope}"] }`)},
	{name: "override", text: step("  provisioner \"shell-local\" {\n    inline = [\"true\"]\n    override = { a = { inline = [\"false\"] } }\n  }")},
	// Variables.
	{name: "default", text: "variable \"v\" { default = \"x\" }\n", value: "var.v"},
	{name: "unset", text: "variable \"v\" {}\n"},
	{name: "null default", text: "variable \"v\" { default = null }\n"},
	{name: "environment", text: "variable \"env\" { default = \"x\" }\n", value: "var.env"},
	{name: "auto file over the environment", text: "-- t.pkr.hcl --\nvariable \"env\" {}\n-- x.auto.pkrvars.hcl --\nenv = \"auto\"\n", value: "var.env"},
	{name: "json auto file over the other", text: "-- t.pkr.hcl --\nvariable \"env\" {}\n-- x.auto.pkrvars.hcl --\nenv = \"auto\"\n-- a.auto.pkrvars.json --\n{\"env\": \"json\"}\n", value: "var.env"},
	{name: "no auto file for one file", text: "-- t.pkr.hcl --\nvariable \"v\" { default = \"x\" }\n-- x.auto.pkrvars.hcl --\nv = \"auto\"\n", path: "t.pkr.hcl", value: "var.v"},
	{name: "variable file", text: "-- t.pkr.hcl --\nvariable \"env\" {}\n-- v.hcl --\nenv = \"file\"\n", flags: []string{"-var-file=v.hcl"}, value: "var.env"},
	{name: "argument over the file", text: "-- t.pkr.hcl --\nvariable \"env\" {}\n-- v.json --\n{\"env\": \"file\"}\n", flags: []string{"-var=env=arg", "-var-file=v.json"}, value: "var.env"},
	{name: "variable file of another kind", text: "-- t.pkr.hcl --\n-- v.txt --\nenv = \"file\"\n", flags: []string{"-var-file=v.txt"}},
	{name: "no variable file", text: ``, flags: []string{"-var-file=nowhere.hcl"}},
	{name: "undeclared in a file", text: "-- t.pkr.hcl --\n-- v.hcl --\nnobody = \"file\"\n", flags: []string{"-var-file=v.hcl"}},
	{name: "undeclared argument", text: ``, flags: []string{"-var=nobody=x"}},
	{name: "expression for a list", text: "variable \"list\" { type = list(number) }\n", value: "var.list"},
	{name: "literal for a string", text: "variable \"list\" { type = string }\n", value: "var.list"},
	{name: "wrong type", text: "variable \"v\" {\n  type = number\n  default = \"many\"\n}\n"},
	{name: "argument of a wrong type", text: "variable \"v\" { type = bool }\n", flags: []string{"-var=v=yes"}},
	{name: "number", text: "variable \"v\" { type = number }\n", flags: []string{"-var=v=42"}, value: "var.v"},
	{name: "map", text: "variable \"v\" { type = map(string) }\n", flags: []string{`-var=v={ a = "b" }`}, value: "var.v"},
	{name: "env function", text: "variable \"v\" { default = env(\"PKR_VAR_env\") }\n", value: "var.v"},
	{name: "env function elsewhere", text: "locals { v = env(\"PKR_VAR_env\") }\n"},
	{name: "function in a default", text: "variable \"v\" { default = upper(\"x\") }\n"},
	{name: "variable in a default", text: "variable \"w\" { default = 1 }\nvariable \"v\" { default = var.w }\n"},
	{name: "validation passes", text: "variable \"v\" {\n  default = \"x\"\n  validation {\n    condition = length(var.v) > 0\n    error_message = \"Too short.\"\n  }\n}\n"},
	{name: "validation fails", text: "variable \"v\" {\n  default = \"\"\n  validation {\n    condition = length(var.v) > 0\n    error_message = \"Too short.\"\n  }\n}\n"},
	{name: "validation without a sentence", text: "variable \"v\" {\n  default = \"x\"\n  validation {\n    condition = length(var.v) > 0\n    error_message = \"too short\"\n  }\n}\n"},
	{name: "validation of another", text: "variable \"w\" { default = 1 }\nvariable \"v\" {\n  default = \"x\"\n  validation {\n    condition = var.w > 0\n    error_message = \"Too short.\"\n  }\n}\n"},
	{name: "duplicate variable", text: "variable \"v\" { default = 1 }\nvariable \"v\" { default = 1 }\n"},
	{name: "sensitive", text: "variable \"v\" {\n  default = \"secret\"\n  sensitive = true\n}\n"},
	{name: "unknown attribute of a variable", text: "variable \"v\" {\n  default = 1\n  nope = 1\n}\n"},
	// Locals and values.
	{name: "locals in any order", text: "locals { a = \"${local.b}1\" }\nlocals { b = \"x\" }\n", value: "local.a"},
	{name: "duplicate local", text: "locals { a = 1 }\nlocals { a = 2 }\n", differs: later},
	{name: "cycle", text: "locals {\n  a = local.b\n  b = local.a\n}\n"},
	{name: "unknown local", text: "locals { a = local.nope }\n"},
	{name: "unknown variable", text: "locals { a = var.nope }\n"},
	{name: "unknown function", text: "locals { a = nope(1) }\n"},
	{name: "path", text: ``, value: `[path.root, basename(path.cwd) != ""]`},
	{name: "file functions", text: "-- t.pkr.hcl --\n-- x.txt --\nhello\n", value: `[file("x.txt"), fileexists("x.txt"), fileexists("y"), basename("a/b"), dirname("a/b"), sort(fileset(".", "*.txt"))]`},
	{name: "text functions", text: ``, value: `[upper("a"), lower("A"), title("a b"), trimspace(" a "), trim("?a?", "?"), trimprefix("ab", "a"), trimsuffix("ab", "b"), chomp("a\n"), indent(2, "a\nb"), replace("a.b", ".", "-"), regex_replace("abc", "[ab]", "x"), substr("hello", 1, 3), strrev("abc"), format("%s-%03d", "a", 7), formatlist("%s!", ["a", "b"]), join("-", ["a", "b"]), split(",", "a,b")]`},
	{name: "number functions", text: ``, value: `[abs(-1), ceil(1.2), floor(1.8), log(8, 2), max(1, 2), min(1, 2), parseint("ff", 16), pow(2, 3), signum(-3)]`},
	{name: "collection functions", text: ``, value: `[chunklist([1, 2, 3], 2), coalesce("", "a"), coalescelist([], [1]), compact(["a", ""]), concat([1], [2]), contains(["a"], "a"), distinct([1, 1]), element([1, 2], 3), flatten([[1], [2]]), keys({ a = 1 }), length([1, 2]), lookup({ a = 1 }, "a", 2), merge({ a = 1 }, { b = 2 }), range(3), reverse([1, 2]), setunion(["a"], ["b"]), setintersection(["a"], ["a", "b"]), setproduct(["a"], ["b"]), slice([1, 2, 3], 1, 2), sort(["b", "a"]), values({ a = 1 }), zipmap(["a"], [1])]`},
	{name: "encoding functions", text: ``, value: `[base64encode("x"), base64decode("eA=="), csvdecode("a,b\n1,2"), jsondecode("{\"a\":1}"), yamldecode("a: 1"), yamlencode({ a = 1 }), urlencode("a b"), md5("x"), sha1("x"), sha256("x"), sha512("x"), uuidv5("dns", "x")]`},
	{name: "network functions", text: ``, value: `[cidrhost("10.0.0.0/8", 2), cidrnetmask("10.0.0.0/8"), cidrsubnet("10.0.0.0/8", 8, 1)]`},
	{name: "time functions", text: ``, value: `[formatdate("YYYY", "2020-01-02T03:04:05Z"), timeadd("2020-01-02T03:04:05Z", "1h")]`},
	{name: "can, try and convert", text: ``, value: `[can(1 / 0), try(nope, "x"), convert("1", number)]`},
	{name: "lookup with two arguments", text: "locals { a = lookup({ a = 1 }, \"a\") }\n"},
	{name: "an index out of range", text: "locals { a = [1][3] }\n"},
	{name: "conditions and loops", text: "locals {\n  a = true ? \"x\" : \"y\"\n  b = [for v in [1, 2, 3] : v * 2 if v > 1]\n  c = { for k, v in { x = 1 } : k => v + 1 }\n}\n", value: "[local.a, local.b, local.c]"},
	{name: "string templates", text: "variable \"v\" { default = \"w\" }\n", value: `"a-${var.v}-%{ if true }b%{ endif }"`},
	{name: "heredoc", text: "locals {\n  a = <<-EOF\n    x\n      y\n  EOF\n}\n", value: "local.a"},
	// Newer than the Packer of these tests.
	{name: "local block", text: "local \"a\" {\n  expression = 1\n}\n", differs: newer},
	{name: "data source", text: "data \"null\" \"n\" { input = \"x\" }\n", differs: newer},
	{name: "optional", text: "variable \"v\" {\n  type = object({ a = optional(string) })\n  default = {}\n}\n", differs: newer},
	{name: "name of a source", text: nullSources + "build {\n  source \"null.a\" {\n    name = \"x\"\n  }\n}\n", differs: newer},
	{name: "new functions", text: "locals { v = startswith(\"ab\", \"a\") && anytrue([true]) }\n", differs: newer},
}
