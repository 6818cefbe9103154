package functions

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
)

// table has each function of Packer: how many arguments it takes ("+": or
// more), what one call gives, and what another call is refused with. What
// cannot be refused but for the number of its arguments has only that.
var table = []struct{ name, arity, good, want, bad, err string }{
	{"abs", "1", `abs(-2)`, `2`, `abs("x")`, "number"},
	{"abspath", "1", `abspath("/a/../b")`, `"/b"`, `abspath(null)`, "null"},
	{"alltrue", "1", `alltrue([true, null])`, `false`, `alltrue(["x"])`, "bool"},
	{"anytrue", "1", `anytrue([null, true])`, `true`, `anytrue(1)`, "list"},
	{"aws_secretsmanager", "2", ``, ``, `aws_secretsmanager(null, "x")`, "null"}, // TestAWSSecretsManager
	{"aws_secretsmanager_raw", "1", ``, ``, `aws_secretsmanager_raw(null)`, "null"},
	{"base64decode", "1", `base64decode("aGk=")`, `"hi"`, `base64decode("?")`, "base64"},
	{"base64encode", "1", `base64encode("hi")`, `"aGk="`, `base64encode([])`, "string"},
	{"base64gzip", "1", `length(base64gzip("x")) > 0`, `true`, `base64gzip(null)`, "null"},
	{"basename", "1", `basename("/a/b.c")`, `"b.c"`, `basename([])`, "string"},
	{"bcrypt", "1+", `length(bcrypt("x", 4))`, `60`, `bcrypt("x", 99)`, "cost"},
	{"can", "1", `can(1 + "x")`, `false`, ``, ``},
	{"ceil", "1", `ceil(1.2)`, `2`, `ceil("x")`, "number"},
	{"chomp", "1", `chomp("a\r\n\n")`, `"a"`, `chomp([])`, "string"},
	{"chunklist", "2", `chunklist(["a", "b", "c"], 2)`, `[["a","b"],["c"]]`, `chunklist(["a"], -1)`, "positive"},
	{"cidrhost", "2", `cidrhost("10.0.0.0/8", 258)`, `"10.0.1.2"`, `cidrhost("10.0.0.0/30", 9)`, "accommodate"},
	{"cidrnetmask", "1", `cidrnetmask("10.0.0.0/12")`, `"255.240.0.0"`, `cidrnetmask("x")`, "CIDR"},
	{"cidrsubnet", "3", `cidrsubnet("10.0.0.0/8", 8, 3)`, `"10.3.0.0/16"`, `cidrsubnet("10.0.0.0/8", 99, 3)`, "may not extend"},
	{"cidrsubnets", "1+", `cidrsubnets("10.0.0.0/8", 8, 16)`, `["10.0.0.0/16","10.1.0.0/24"]`, `cidrsubnets("x", 1)`, "CIDR"},
	{"coalesce", "0+", `coalesce(null, "", "x", "y")`, `"x"`, `coalesce("", null)`, "no non-null"},
	{"coalescelist", "0+", `coalescelist([], ["a"])`, `["a"]`, `coalescelist([])`, "no non-null"},
	{"compact", "1", `compact(["a", "", "b"])`, `["a","b"]`, `compact("a")`, "list of string"},
	{"concat", "0+", `concat(["a"], [1])`, `["a",1]`, `concat("a")`, "lists or tuples"},
	{"consul_key", "1", ``, ``, `consul_key("")`, "must be a key"}, // TestConsul
	{"contains", "2", `contains(["a", "b"], "b")`, `true`, `contains("ab", "b")`, "list"},
	{"convert", "2", `convert(["b", "a", "a"], set(string))`, `["a","b"]`, `convert("x", number)`, "number"},
	{"csvdecode", "1", `csvdecode("a,b\n1,2\n")`, `[{"a":"1","b":"2"}]`, `csvdecode("a,a\n1,2\n")`, "duplicate"},
	{"dirname", "1", `dirname("/a/b.c")`, `"/a"`, `dirname([])`, "string"},
	{"distinct", "1", `distinct(["a", "b", "a"])`, `["a","b"]`, `distinct("a")`, "list"},
	{"element", "2", `element(["a", "b", "c"], 4)`, `"b"`, `element([], 0)`, "empty"},
	{"endswith", "2", `endswith("abc", "bc")`, `true`, `endswith("abc", null)`, "null"},
	{"file", "1", `file("a.txt")`, `"hello"`, `file("none")`, "none"},
	{"filebase64", "1", `filebase64("DIR/a.txt")`, `"aGVsbG8="`, `filebase64("a.txt")`, "no file exists"}, // not from the template's directory
	{"fileexists", "1", `fileexists("a.txt")`, `true`, `fileexists(".")`, "not a regular file"},
	{"fileset", "2", `fileset(".", "*.txt")`, `["a.txt"]`, `fileset(".", "[")`, "pattern"},
	{"flatten", "1", `flatten([["a"], [["b"]]])`, `["a","b"]`, `flatten("a")`, "flatten"},
	{"floor", "1", `floor(-1.2)`, `-2`, `floor("x")`, "number"},
	{"format", "1+", `format("%s-%03d", "a", 7)`, `"a-007"`, `format("%d", "x")`, "number"},
	{"formatdate", "2", `formatdate("DD MMM YYYY hh:mm", "2026-07-24T12:30:05Z")`, `"24 Jul 2026 12:30"`, `formatdate("YYYY", "today")`, "RFC3339"},
	{"formatlist", "1+", `formatlist("%s!", ["a", "b"])`, `["a!","b!"]`, `formatlist("%s%s", ["a"], ["b", "c"])`, "length"},
	{"indent", "2", `indent(2, "a\nb")`, `"a\n  b"`, `indent("x", "a")`, "number"},
	{"index", "2", `index(["a", "b"], "b")`, `1`, `index(["a"], "b")`, "does not have"},
	{"join", "1+", `join("-", ["a"], ["b", "c"])`, `"a-b-c"`, `join("-", [null])`, "null"},
	{"jsondecode", "1", `jsondecode("[1,{\"a\":true}]")`, `[1,{"a":true}]`, `jsondecode("{")`, "EOF"},
	{"jsonencode", "1", `jsonencode({ a = [1, null] })`, `"{\"a\":[1,null]}"`, ``, ``},
	{"keys", "1", `keys({ b = 1, a = 2 })`, `["a","b"]`, `keys(["a"])`, "map"},
	{"legacy_isotime", "0+", `legacy_isotime("2006-01-02")`, `"2026-07-24"`, `legacy_isotime("a", "b")`, "only one"},
	{"legacy_strftime", "0+", `legacy_strftime("%Y")`, `"2026"`, `legacy_strftime("%Y", "%Y")`, "only one"},
	{"length", "1", `length("größe")`, `5`, `length(5)`, "must be a string"},
	{"log", "2", `log(8, 2)`, `3`, `log("x", 2)`, "number"},
	{"lookup", "3", `lookup({ a = "x" }, "b", "y")`, `"y"`, `lookup({ a = "x" }, "a")`, "Not enough"},
	{"lower", "1", `lower("ÄB")`, `"äb"`, `lower([])`, "string"},
	{"max", "0+", `max(1, 3, 2)`, `3`, `max()`, "at least one"},
	{"md5", "1", `md5("a")`, `"0cc175b9c0f1b6a831c399e269772661"`, `md5(null)`, "null"},
	{"merge", "0+", `merge({ a = 1 }, { a = 2, b = 3 })`, `{"a":2,"b":3}`, `merge("a")`, "maps or objects"},
	{"min", "0+", `min(3, 1, 2)`, `1`, `min()`, "at least one"},
	{"parseint", "2", `parseint("ff", 16)`, `255`, `parseint("g", 16)`, "base 16"},
	{"pathexpand", "1", `pathexpand("/a")`, `"/a"`, `pathexpand("~other/a")`, "user-specific"},
	{"pow", "2", `pow(2, 10)`, `1024`, `pow("x", 1)`, "number"},
	{"range", "0+", `range(1, 7, 2)`, `[1,3,5]`, `range(1, 2, 0)`, "1024"},
	{"regex", "2", `regex("([a-z]+)([0-9]+)", "ab12")`, `["ab","12"]`, `regex("x", "y")`, "did not match"},
	{"regex_replace", "3", `regex_replace("abc", "(b+)", "($1)")`, `"a(b)c"`, `regex_replace("a", "(", "")`, "regex"},
	{"regexall", "2", `regexall("[0-9]", "a1b2")`, `["1","2"]`, `regexall("(", "")`, "pattern"},
	{"replace", "3", `replace("a/b/c", "/b/", "-")`, `"a-c"`, `replace("a", [], "b")`, "string"}, // no regular expressions
	{"reverse", "1", `reverse(["a", "b"])`, `["b","a"]`, `reverse("ab")`, "reverse"},
	{"rfc3339_parse", "1", `rfc3339_parse("2026-07-24T12:30:05Z")`,
		`{"day":24,"hour":12,"iso_week":30,"iso_year":2026,"minute":30,"month":7,"month_name":"July","second":5,"unix":1784896205,"weekday":5,"weekday_name":"Friday","year":2026,"year_day":205}`,
		`rfc3339_parse("24.07.2026")`, "must be a time"},
	{"rsadecrypt", "2", `rsadecrypt(file("cipher"), file("key"))`, `"secret"`, `rsadecrypt("aGk=", file("key"))`, "decrypt"},
	{"setintersection", "1+", `setintersection(["a", "b"], ["b", "c"])`, `["b"]`, `setintersection("a", "b")`, "set"},
	{"setproduct", "0+", `setproduct(["a"], [1, 2])`, `[["a",1],["a",2]]`, `setproduct(["a"])`, "at least two"},
	{"setunion", "1+", `setunion(["b"], ["a", "b"])`, `["a","b"]`, `setunion("a", "b")`, "set"},
	{"sha1", "1", `sha1("a")`, `"86f7e437faa5a7fce15d1ddcb9eaeaea377667b8"`, `sha1(null)`, "null"},
	{"sha256", "1", `sha256("a")`, `"ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb"`, `sha256(null)`, "null"},
	{"sha512", "1", `substr(sha512("a"), 0, 8)`, `"1f40fc92"`, `sha512(null)`, "null"},
	{"signum", "1", `signum(-3)`, `-1`, `signum("x")`, "number"},
	{"slice", "3", `slice(["a", "b", "c"], 1, 2)`, `["b"]`, `slice(["a"], 0, 5)`, "end index"},
	{"sort", "1", `sort(["b", "a"])`, `["a","b"]`, `sort([[]])`, "string"},
	{"split", "2", `split(",", "a,b")`, `["a","b"]`, `split([], "a")`, "string"},
	{"startswith", "2", `startswith("abc", "ab")`, `true`, `startswith(null, "a")`, "null"},
	{"strcontains", "2", `strcontains("abc", "d")`, `false`, `strcontains("a", [])`, "string"},
	{"strrev", "1", `strrev("añb")`, `"bña"`, `strrev([])`, "string"},
	{"substr", "3", `substr("hello", 1, -1)`, `"ello"`, `substr("a", "x", 1)`, "number"},
	{"sum", "1", `sum([1, 2.5, "3"])`, `6.5`, `sum([])`, "not be empty"},
	{"templatefile", "2", `templatefile("t.tpl", { n = "x" })`, `"n is x"`, `templatefile("t.tpl", {})`, "n"},
	{"textdecodebase64", "2", `textdecodebase64("aABpAA==", "UTF-16LE")`, `"hi"`, `textdecodebase64("?", "UTF-8")`, "not base64"},
	{"textencodebase64", "2", `textencodebase64("hi", "UTF-16LE")`, `"aABpAA=="`, `textencodebase64("x", "klingon")`, "no encoding"},
	{"timeadd", "2", `timeadd("2026-07-24T12:30:05Z", "1h")`, `"2026-07-24T13:30:05Z"`, `timeadd("x", "1h")`, "RFC3339"},
	{"timestamp", "0", `can(formatdate("YYYY", timestamp()))`, `true`, ``, ``},
	{"title", "1", `title("a bc")`, `"A Bc"`, `title([])`, "string"},
	{"trim", "2", `trim("--a--", "-")`, `"a"`, `trim("a", null)`, "null"},
	{"trimprefix", "2", `trimprefix("aab", "a")`, `"ab"`, `trimprefix("a", null)`, "null"},
	{"trimspace", "1", `trimspace(" a\n")`, `"a"`, `trimspace([])`, "string"},
	{"trimsuffix", "2", `trimsuffix("abb", "b")`, `"ab"`, `trimsuffix("a", null)`, "null"},
	{"try", "0+", `try(jsondecode("{"), "no")`, `"no"`, `try(jsondecode("{"))`, "no expression succeeded"},
	{"unix_timestamp_parse", "1", `unix_timestamp_parse(1)`,
		`{"day":1,"hour":0,"iso_week":1,"iso_year":1970,"minute":0,"month":1,"month_name":"January","rfc3339":"1970-01-01T00:00:01Z","second":1,"weekday":4,"weekday_name":"Thursday","year":1970,"year_day":1}`,
		`unix_timestamp_parse(0.5)`, "whole number"},
	{"upper", "1", `upper("äb")`, `"ÄB"`, `upper([])`, "string"},
	{"urlencode", "1", `urlencode("a b&c")`, `"a+b%26c"`, `urlencode(null)`, "null"},
	{"uuidv4", "0", `length(uuidv4())`, `36`, ``, ``},
	{"uuidv5", "2", `uuidv5("dns", "example.com")`, `"cfbff0d1-9375-5685-968c-48ce8b15ae17"`, `uuidv5("x", "y")`, "namespace"},
	{"values", "1", `values({ b = 1, a = 2 })`, `[2,1]`, `values(["a"])`, "map"},
	{"vault", "2", ``, ``, `vault("a", "b")`, "VAULT_TOKEN is not set"}, // TestVault
	{"yamldecode", "1", `yamldecode("a: [1, x]")`, `{"a":[1,"x"]}`, `yamldecode("a: [")`, "on line 1"},
	{"yamlencode", "1", `yamlencode({ a = [1] })`, `"\"a\":\n- 1\n"`, ``, ``},
	{"zipmap", "2", `zipmap(["a", "b"], [1, 2])`, `{"a":1,"b":2}`, `zipmap(["a"], [1, 2])`, "number of keys"},
}

func TestTable(t *testing.T) {
	dir := t.TempDir()
	writeFile(t, filepath.Join(dir, "a.txt"), "hello")
	writeFile(t, filepath.Join(dir, "t.tpl"), "n is ${n}")
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	//lint:ignore SA1019 the padding that rsadecrypt reads, as Packer's does
	//lint:ignore SA1019 it is what rsadecrypt decrypts
	secret, err := rsa.EncryptPKCS1v15(rand.Reader, &key.PublicKey, []byte("secret"))
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, filepath.Join(dir, "cipher"), base64.StdEncoding.EncodeToString(secret))
	writeFile(t, filepath.Join(dir, "key"), string(pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)})))

	funcs := All(Options{Dir: dir, Now: start})
	for _, c := range table {
		f, ok := funcs[c.name]
		if !ok {
			t.Errorf("%s is missing", c.name)
			continue
		}
		delete(funcs, c.name)
		arity := fmt.Sprint(len(f.Params()))
		if f.VarParam() != nil {
			arity += "+"
		}
		if arity != c.arity {
			t.Errorf("%s takes %s arguments, want %s", c.name, arity, c.arity)
		}
		if c.good != "" {
			if got, err := eval(t, dir, strings.ReplaceAll(c.good, "DIR", filepath.ToSlash(dir))); err != nil || got != c.want {
				t.Errorf("%s = %s, %v; want %s", c.good, got, err, c.want)
			}
		}
		if c.bad != "" {
			if got, err := eval(t, dir, c.bad); err == nil || !strings.Contains(err.Error(), c.err) {
				t.Errorf("%s = %s, %v; want an error that says %q", c.bad, got, err, c.err)
			}
		}
		if !strings.HasSuffix(c.arity, "+") {
			if got, err := eval(t, dir, c.name+"("+strings.Repeat("null, ", len(f.Params())+1)+")"); err == nil || !strings.Contains(err.Error(), "Too many") {
				t.Errorf("%s with an argument too many = %s, %v", c.name, got, err)
			}
		}
	}
	for name := range funcs {
		t.Errorf("Packer has no function %s", name)
	}
	if len(table) != 103 {
		t.Errorf("%d functions, want 103", len(table))
	}
}
