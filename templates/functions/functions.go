// Package functions is the function library of the template language: Packer's
// names, with Packer's meaning.
package functions

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/hashicorp/go-cty-funcs/cidr"
	"github.com/hashicorp/go-cty-funcs/collection"
	"github.com/hashicorp/go-cty-funcs/crypto"
	"github.com/hashicorp/go-cty-funcs/encoding"
	"github.com/hashicorp/go-cty-funcs/filesystem"
	"github.com/hashicorp/go-cty-funcs/uuid"
	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/ext/tryfunc"
	"github.com/hashicorp/hcl/v2/ext/typeexpr"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	ctyyaml "github.com/zclconf/go-cty-yaml"
	"github.com/zclconf/go-cty/cty"
	"github.com/zclconf/go-cty/cty/function"
	"github.com/zclconf/go-cty/cty/function/stdlib"
)

// Options are what the functions are to know.
type Options struct {
	// Dir is where file, fileexists, fileset and templatefile start relative
	// paths. The others start them from the working directory, as in Packer.
	Dir string
	// Now is what the legacy_ functions tell, in UTC.
	Now time.Time
	// Environ says how vault and consul_key reach their servers, in the form of
	// os.Environ. The aws_ functions read the environment of the process.
	Environ []string
	// Context bounds what these four wait for. Default: context.Background.
	Context context.Context
	// Secret, if any, is told each answer of these four. It may be called by
	// several goroutines at once.
	Secret func(string)
}

// All returns the functions by their names.
func All(o Options) map[string]function.Function {
	dir, now := o.Dir, o.Now
	ask := &remote{Options: o, answers: map[string]func() (string, error){}}
	funcs := map[string]function.Function{
		"abs":                    stdlib.AbsoluteFunc,
		"abspath":                filesystem.AbsPathFunc,
		"alltrue":                allTrueFunc,
		"anytrue":                anyTrueFunc,
		"aws_secretsmanager":     ask.function("aws_secretsmanager", []string{"name", "key"}, true, awsSecret),
		"aws_secretsmanager_raw": ask.function("aws_secretsmanager_raw", []string{"name"}, false, awsRaw),
		"base64decode":           encoding.Base64DecodeFunc,
		"base64encode":           encoding.Base64EncodeFunc,
		"base64gzip":             base64GzipFunc,
		"basename":               filesystem.BasenameFunc,
		"bcrypt":                 crypto.BcryptFunc,
		"can":                    tryfunc.CanFunc,
		"ceil":                   stdlib.CeilFunc,
		"chomp":                  stdlib.ChompFunc,
		"chunklist":              stdlib.ChunklistFunc,
		"cidrhost":               cidr.HostFunc,
		"cidrnetmask":            cidr.NetmaskFunc,
		"cidrsubnet":             cidr.SubnetFunc,
		"cidrsubnets":            cidr.SubnetsFunc,
		"coalesce":               collection.CoalesceFunc,
		"coalescelist":           stdlib.CoalesceListFunc,
		"compact":                stdlib.CompactFunc,
		"concat":                 stdlib.ConcatFunc,
		"consul_key":             ask.function("consul_key", []string{"key"}, false, ask.consul),
		"contains":               stdlib.ContainsFunc,
		"convert":                typeexpr.ConvertFunc,
		"csvdecode":              stdlib.CSVDecodeFunc,
		"dirname":                filesystem.DirnameFunc,
		"distinct":               stdlib.DistinctFunc,
		"element":                stdlib.ElementFunc,
		"endswith":               affixFunc(strings.HasSuffix, "suffix"),
		"file":                   fileFunc(dir, false),
		"filebase64":             fileFunc("", true),
		"fileexists":             filesystem.MakeFileExistsFunc(dir),
		"fileset":                filesystem.MakeFileSetFunc(dir),
		"flatten":                stdlib.FlattenFunc,
		"floor":                  stdlib.FloorFunc,
		"format":                 stdlib.FormatFunc,
		"formatdate":             stdlib.FormatDateFunc,
		"formatlist":             stdlib.FormatListFunc,
		"indent":                 stdlib.IndentFunc,
		"index":                  indexFunc,
		"join":                   stdlib.JoinFunc,
		"jsondecode":             stdlib.JSONDecodeFunc,
		"jsonencode":             stdlib.JSONEncodeFunc,
		"keys":                   stdlib.KeysFunc,
		"legacy_isotime":         legacyIsotimeFunc(now.UTC()),
		"legacy_strftime":        legacyStrftimeFunc(now.UTC()),
		"length":                 lengthFunc,
		"log":                    stdlib.LogFunc,
		"lookup":                 stdlib.LookupFunc,
		"lower":                  stdlib.LowerFunc,
		"max":                    stdlib.MaxFunc,
		"md5":                    crypto.Md5Func,
		"merge":                  stdlib.MergeFunc,
		"min":                    stdlib.MinFunc,
		"parseint":               stdlib.ParseIntFunc,
		"pathexpand":             filesystem.PathExpandFunc,
		"pow":                    stdlib.PowFunc,
		"range":                  stdlib.RangeFunc,
		"regex":                  stdlib.RegexFunc,
		"regex_replace":          stdlib.RegexReplaceFunc,
		"regexall":               stdlib.RegexAllFunc,
		"replace":                stdlib.ReplaceFunc,
		"reverse":                stdlib.ReverseListFunc,
		"rfc3339_parse":          rfc3339ParseFunc,
		"rsadecrypt":             crypto.RsaDecryptFunc,
		"setintersection":        stdlib.SetIntersectionFunc,
		"setproduct":             stdlib.SetProductFunc,
		"setunion":               stdlib.SetUnionFunc,
		"sha1":                   crypto.Sha1Func,
		"sha256":                 crypto.Sha256Func,
		"sha512":                 crypto.Sha512Func,
		"signum":                 stdlib.SignumFunc,
		"slice":                  stdlib.SliceFunc,
		"sort":                   stdlib.SortFunc,
		"split":                  stdlib.SplitFunc,
		"startswith":             affixFunc(strings.HasPrefix, "prefix"),
		"strcontains":            affixFunc(strings.Contains, "substr"),
		"strrev":                 stdlib.ReverseFunc,
		"substr":                 stdlib.SubstrFunc,
		"sum":                    sumFunc,
		"textdecodebase64":       textDecodeFunc,
		"textencodebase64":       textEncodeFunc,
		"timeadd":                stdlib.TimeAddFunc,
		"timestamp":              timestampFunc,
		"title":                  stdlib.TitleFunc,
		"trim":                   stdlib.TrimFunc,
		"trimprefix":             stdlib.TrimPrefixFunc,
		"trimspace":              stdlib.TrimSpaceFunc,
		"trimsuffix":             stdlib.TrimSuffixFunc,
		"try":                    tryfunc.TryFunc,
		"unix_timestamp_parse":   unixParseFunc,
		"upper":                  stdlib.UpperFunc,
		"urlencode":              encoding.URLEncodeFunc,
		"uuidv4":                 uuid.V4Func,
		"uuidv5":                 uuid.V5Func,
		"values":                 stdlib.ValuesFunc,
		"vault":                  ask.function("vault", []string{"path", "key"}, false, ask.vault),
		"yamldecode":             ctyyaml.YAMLDecodeFunc,
		"yamlencode":             ctyyaml.YAMLEncodeFunc,
		"zipmap":                 stdlib.ZipmapFunc,
	}
	funcs["templatefile"] = templateFileFunc(dir, maps.Clone(funcs))
	return funcs
}

// Env returns the function env, which only the defaults of variables may call.
// environ is in the form of os.Environ; a name that is not there is "".
func Env(environ []string) function.Function {
	return function.New(&function.Spec{
		Params: []function.Parameter{{Name: "key", Type: cty.String}},
		Type:   function.StaticReturnType(cty.String),
		Impl: func(args []cty.Value, _ cty.Type) (cty.Value, error) {
			return cty.StringVal(lookup(environ, args[0].AsString())), nil
		},
	})
}

// lookup finds the last value of a name.
func lookup(environ []string, name string) (value string) {
	for _, entry := range environ {
		if v, ok := strings.CutPrefix(entry, name+"="); ok {
			value = v
		}
	}
	return value
}

func templateFileFunc(dir string, funcs map[string]function.Function) function.Function {
	eval := func(args []cty.Value) (cty.Value, error) {
		vars := args[1]
		if t := vars.Type(); !t.IsObjectType() && !t.IsMapType() {
			return cty.NilVal, function.NewArgErrorf(1, "the variables must be an object")
		}
		path := args[0].AsString()
		if !filepath.IsAbs(path) {
			path = filepath.Join(dir, path)
		}
		src, err := readFile(path, MaxSource, false)
		if err == nil {
			err = CheckSource(src)
		}
		if err != nil {
			return cty.NilVal, function.NewArgError(0, err)
		}
		expr, diags := hclsyntax.ParseTemplate(src, path, hcl.InitialPos)
		if diags.HasErrors() {
			return cty.NilVal, diags
		}
		ctx := &hcl.EvalContext{Variables: vars.AsValueMap(), Functions: funcs}
		v, diags := expr.Value(ctx)
		if diags.HasErrors() {
			return cty.NilVal, diags
		}
		return v, nil
	}
	return function.New(&function.Spec{
		Params: []function.Parameter{{Name: "path", Type: cty.String}, {Name: "vars", Type: cty.DynamicPseudoType}},
		Type: func(args []cty.Value) (cty.Type, error) {
			if !args[0].IsKnown() || !args[1].IsWhollyKnown() {
				return cty.DynamicPseudoType, nil
			}
			v, err := eval(args)
			if err != nil {
				return cty.NilType, err
			}
			return v.Type(), nil
		},
		Impl: func(args []cty.Value, _ cty.Type) (cty.Value, error) {
			if !args[1].IsWhollyKnown() {
				return cty.DynamicVal, nil
			}
			return eval(args)
		},
	})
}

// maxFile is the size in bytes of a file that becomes a value.
const maxFile = 64 << 20

// fileFunc reads a file, as it is or in base64; relative paths start at dir. The
// library has one, which reads a device like /dev/zero until the memory ends.
func fileFunc(dir string, encode bool) function.Function {
	return function.New(&function.Spec{
		Params: []function.Parameter{{Name: "path", Type: cty.String}},
		Type:   function.StaticReturnType(cty.String),
		Impl: func(args []cty.Value, _ cty.Type) (cty.Value, error) {
			expanded, err := filesystem.PathExpandFunc.Call(args)
			if err != nil {
				return cty.NilVal, function.NewArgError(0, err)
			}
			path := expanded.AsString()
			if !filepath.IsAbs(path) {
				path = filepath.Join(dir, path)
			}
			data, err := readFile(path, maxFile, encode)
			switch {
			case err != nil:
				return cty.NilVal, function.NewArgError(0, err)
			case encode:
				return cty.StringVal(base64.StdEncoding.EncodeToString(data)), nil
			}
			return cty.StringVal(string(data)), nil
		},
	})
}

// readFile reads a file of at most limit bytes, which must be text if it is not binary.
func readFile(path string, limit int64, binary bool) ([]byte, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("no file exists at %s", path)
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	switch {
	case err != nil:
		return nil, err
	case int64(len(data)) > limit:
		return nil, fmt.Errorf("%s is refused: it is larger than %d bytes", path, limit)
	case !binary && !utf8.Valid(data):
		return nil, fmt.Errorf("%s is not UTF-8", path)
	}
	return data, nil
}
