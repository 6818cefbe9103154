//go:build linux

package ec2

import (
	"cmp"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"maps"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// item is what all things of the cloud have.
type item struct {
	id     string
	tags   map[string]string
	born   time.Time
	seq    int64 // the order of creation
	misses int   // looks that still do not find it
	first  bool  // there from the beginning
	known  bool  // seen at once, with what it belongs to
}

func (i *item) base() *item { return i }

// thing is one resource.
type thing interface {
	base() *item
	// values are what a filter of that name looks at; nil: it has no such filter.
	values(k *call, filter string) []string
}

// kind says how a kind of resource is named in ids, tags and errors.
type kind struct {
	resource string // as in TagSpecification.N.ResourceType
	prefix   string // of its ids
	noun     string // in messages
	absent   string // the error's code when an id is not there
	bad      string // the error's code when an id is malformed
	max      int    // of one answer, if the caller does not say
}

var (
	kindInstance  = kind{"instance", "i-", "instance ID", "InvalidInstanceID.NotFound", "InvalidInstanceID.Malformed", 1000}
	kindImage     = kind{"image", "ami-", "image id", "InvalidAMIID.NotFound", "InvalidAMIID.Malformed", 1000}
	kindSnapshot  = kind{"snapshot", "snap-", "snapshot", "InvalidSnapshot.NotFound", "InvalidSnapshotID.Malformed", 1000}
	kindVolume    = kind{"volume", "vol-", "volume", "InvalidVolume.NotFound", "InvalidVolumeID.Malformed", 500}
	kindGroup     = kind{"security-group", "sg-", "security group", "InvalidGroup.NotFound", "InvalidGroupId.Malformed", 1000}
	kindRule      = kind{"security-group-rule", "sgr-", "security group rule ID", "InvalidSecurityGroupRuleId.NotFound", "InvalidSecurityGroupRuleId.Malformed", 1000}
	kindKey       = kind{"key-pair", "key-", "key pair", "InvalidKeyPair.NotFound", "InvalidKeyPair.NotFound", 1000}
	kindVPC       = kind{"vpc", "vpc-", "vpc ID", "InvalidVpcID.NotFound", "InvalidVpcID.Malformed", 1000}
	kindSubnet    = kind{"subnet", "subnet-", "subnet ID", "InvalidSubnetID.NotFound", "InvalidSubnetID.Malformed", 1000}
	kindInterface = kind{"network-interface", "eni-", "networkInterface ID", "InvalidNetworkInterfaceID.NotFound", "InvalidNetworkInterfaceId.Malformed", 1000}
	kindTemplate  = kind{"launch-template", "lt-", "launch template ID", "InvalidLaunchTemplateId.NotFound", "InvalidLaunchTemplateId.Malformed", 200}
	kindFleet     = kind{"fleet", "fleet-", "fleet ID", "InvalidFleetId.NotFound", "InvalidFleetId.Malformed", 1000}
	kindSpot      = kind{"spot-instances-request", "sir-", "spot instance request ID", "InvalidSpotInstanceRequestID.NotFound", "InvalidSpotInstanceRequestID.Malformed", 1000}
	kindImport    = kind{"import-image-task", "import-ami-", "import task", "InvalidConversionTaskId.NotFound", "InvalidConversionTaskId.Malformed", 1000}
)

// table is all resources of a kind in one account and region.
type table[T thing] struct {
	kind  kind
	m     map[string]T
	model T // that is asked which filters there are
}

func newTable[T thing](k kind, model T) *table[T] {
	return &table[T]{kind: k, m: map[string]T{}, model: model}
}

func (t *table[T]) each(f func(kind, thing)) {
	for _, v := range t.all() {
		f(t.kind, v)
	}
}

func (t *table[T]) all() []T {
	return slices.SortedFunc(maps.Values(t.m), func(a, b T) int { return cmp.Compare(a.base().seq, b.base().seq) })
}

// newItem makes an id; it is seen when the cloud's consistency says so.
func (c *Cloud) newItem(k kind, tags map[string]string) item {
	c.seq++
	return item{id: k.prefix + randomHex(17), tags: tags, born: c.now(), seq: c.seq, misses: c.o.Consistency.Misses, first: !c.started}
}

func randomHex(n int) string {
	b := make([]byte, (n+1)/2)
	_, _ = rand.Read(b) // it never fails
	return hex.EncodeToString(b)[:n]
}

var hexID = regexp.MustCompile(`^([0-9a-f]{8}|[0-9a-f]{17})$`)

func (kd kind) check(id string) error {
	rest, ok := strings.CutPrefix(id, kd.prefix)
	if kd.resource == "spot-instances-request" {
		ok = ok && len(rest) == 8
	} else if ok && kd.resource == "fleet" {
		ok = len(rest) == 36
	} else {
		ok = ok && (hexID.MatchString(rest))
	}
	if !ok {
		return fail(kd.bad, "Invalid id: %q", id)
	}
	return nil
}

func (kd kind) notFound(ids ...string) error {
	if len(ids) > 1 {
		return fail(kd.absent, "The %ss '%s' do not exist", kd.noun, strings.Join(ids, ", "))
	}
	return fail(kd.absent, "The %s '%s' does not exist", kd.noun, ids[0])
}

// visible says whether the cloud's parts have heard of i yet. look counts as a look at it.
func (k *call) visible(i *item, look bool) bool {
	if i.first || i.known {
		return true
	}
	if k.now().Before(i.born.Add(k.real(k.o.Consistency.Delay))) {
		return false
	}
	if i.misses > 0 {
		if look {
			i.misses--
		}
		return false
	}
	return true
}

// get finds one resource by its id.
func (t *table[T]) get(k *call, id string) (T, error) {
	var none T
	if err := t.kind.check(id); err != nil {
		return none, err
	}
	v, ok := t.m[id]
	if !ok || !k.visible(v.base(), true) {
		return none, t.kind.notFound(id)
	}
	return v, nil
}

// find is what all Describe calls do: those of the ids, or all; then the filters.
func find[T thing](k *call, t *table[T], ids []string, filters []filter) ([]T, error) {
	return t.findIn(k, ids, filters, func(id string) (T, bool) { v, ok := t.m[id]; return v, ok }, t.all)
}

// findIn is find where not only the table itself is looked through.
func (t *table[T]) findIn(k *call, ids []string, filters []filter, byID func(string) (T, bool), all func() []T) ([]T, error) {
	kd := t.kind
	for _, f := range filters {
		if _, err := matches(k, t.model, f); err != nil {
			return nil, err
		}
	}
	var list []T
	if len(ids) > 0 {
		var absent []string
		for _, id := range ids {
			if err := kd.check(id); err != nil {
				return nil, err
			}
			v, ok := byID(id)
			if !ok || !k.visible(v.base(), true) {
				absent = append(absent, id)
				continue
			}
			if !slices.ContainsFunc(list, func(o T) bool { return o.base() == v.base() }) {
				list = append(list, v)
			}
		}
		if len(absent) > 0 {
			return nil, kd.notFound(absent...)
		}
	} else {
		for _, v := range all() {
			if k.visible(v.base(), true) {
				list = append(list, v)
			}
		}
	}
	return slices.DeleteFunc(list, func(v T) bool {
		for _, f := range filters {
			if ok, err := matches(k, v, f); !ok || err != nil {
				return true
			}
		}
		return false
	}), nil
}

func matches(k *call, v thing, f filter) (bool, error) {
	if f.Name == "" {
		return false, missing("Filter.Name")
	}
	var have []string
	tags := v.base().tags
	switch {
	case strings.HasPrefix(f.Name, "tag:"):
		value, ok := tags[strings.TrimPrefix(f.Name, "tag:")]
		if !ok {
			return false, nil
		}
		have = []string{value}
	case f.Name == "tag-key":
		have = sortedKeys(tags)
	case f.Name == "tag-value":
		have = slices.Collect(maps.Values(tags))
	default:
		have = v.values(k, f.Name)
		if have == nil {
			return false, fail("InvalidParameterValue", "The filter '%s' is invalid", f.Name)
		}
	}
	for _, want := range f.Value {
		for _, h := range have {
			if wildcard(want, h) {
				return true, nil
			}
		}
	}
	return false, nil
}

// wildcard compares as filters do: * and ? stand for others, \ takes that from them.
func wildcard(pattern, s string) bool {
	if !strings.ContainsAny(pattern, `*?\`) {
		return pattern == s
	}
	// path.Match knows classes, which filters do not, and stops at slashes.
	r := strings.NewReplacer("[", `\[`, "]", `\]`, "/", "\x00")
	ok, err := path.Match(r.Replace(pattern), strings.ReplaceAll(s, "/", "\x00"))
	return ok && err == nil
}

// page cuts a list as MaxResults and NextToken ask.
func page[T any](list []T, maximum *int64, token string, least, most int) ([]T, string, error) {
	from := 0
	if token != "" {
		var err error
		if from, err = strconv.Atoi(strings.TrimPrefix(token, "page-")); err != nil || from < 0 || from > len(list) {
			return nil, "", fail("InvalidNextToken", "The token '%s' is invalid", token)
		}
	}
	n := most
	if maximum != nil {
		n = int(*maximum)
		if n < least {
			return nil, "", invalid("MaxResults", "%d is less than %d", n, least)
		}
	}
	list = list[from:]
	if len(list) <= n {
		return list, "", nil
	}
	return list[:n], "page-" + strconv.Itoa(from+n), nil
}

// sortedKeys are the keys of m in their order.
func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

func str[T ~string](s ...T) []string {
	list := make([]string, len(s))
	for i, v := range s {
		list[i] = string(v)
	}
	return list
}

func yes(b bool) []string { return []string{strconv.FormatBool(b)} }

func isTrue(b *bool) bool { return b != nil && *b }

func intOr(i *int64, or int64) int64 {
	if i == nil {
		return or
	}
	return *i
}

func ptr[T any](v T) *T { return &v }

func asJSON(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		return ""
	}
	return string(b)
}
