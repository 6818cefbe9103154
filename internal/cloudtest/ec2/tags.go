//go:build linux

package ec2

import (
	"maps"
	"strings"
	"unicode/utf8"
)

const maxTags = 50

// tagItem is a tag in an answer.
type tagItem struct {
	Key   string `xml:"key"`
	Value string `xml:"value"`
}

func tagItems(m map[string]string) []tagItem {
	var list []tagItem
	for _, k := range sortedKeys(m) {
		list = append(list, tagItem{k, m[k]})
	}
	return list
}

// checkTags reads tags as they are given, and refuses what EC2 refuses.
func checkTags(list []tag) (map[string]string, error) {
	m := map[string]string{}
	for _, t := range list {
		switch {
		case t.Key == "":
			return nil, fail("InvalidParameterValue", "Tag key cannot be empty")
		case utf8.RuneCountInString(t.Key) > 127:
			return nil, fail("InvalidParameterValue", "Tag key exceeds the maximum length of 127 characters")
		case utf8.RuneCountInString(t.Value) > 255:
			return nil, fail("InvalidParameterValue", "Tag value exceeds the maximum length of 255 characters")
		case strings.HasPrefix(strings.ToLower(t.Key), "aws:"):
			return nil, fail("InvalidParameterValue", "Tag keys starting with 'aws:' are reserved for internal use")
		}
		if _, ok := m[t.Key]; ok {
			return nil, fail("InvalidParameterValue", "Duplicate tag key '%s' specified.", t.Key)
		}
		m[t.Key] = t.Value
	}
	if len(m) > maxTags {
		return nil, fail("TagLimitExceeded", "The maximum number of Tags for a resource has been reached.")
	}
	return m, nil
}

// specified are the tags for each kind of resource; may are the kinds that the
// call makes.
func specified(list []tagSpecification, may ...kind) (map[string]map[string]string, error) {
	m := map[string]map[string]string{}
	for _, s := range list {
		ok := false
		for _, k := range may {
			ok = ok || k.resource == s.ResourceType
		}
		switch {
		case s.ResourceType == "":
			return nil, missing("TagSpecification.ResourceType")
		case !ok:
			return nil, invalid("TagSpecification", "'%s' is not a valid taggable resource type for this operation.", s.ResourceType)
		case m[s.ResourceType] != nil:
			return nil, fail("InvalidParameter", "Same resource type %s has been provided multiple times", s.ResourceType)
		case len(s.Tag) == 0:
			return nil, fail("InvalidParameter", "Tag specification must have at least one tag")
		}
		tags, err := checkTags(s.Tag)
		if err != nil {
			return nil, err
		}
		m[s.ResourceType] = tags
	}
	return m, nil
}

// tagged finds what can have tags by its id.
func (k *call) tagged(id string) (*item, kind, error) {
	var found *item
	var kd kind
	for _, t := range k.tables() {
		t.each(func(tk kind, v thing) {
			if v.base().id == id && k.visible(v.base(), true) {
				found, kd = v.base(), tk
			}
			if g, ok := v.(*group); ok {
				for _, r := range g.rules {
					if r.id == id {
						found, kd = &r.item, kindRule
					}
				}
			}
		})
	}
	if found == nil {
		for _, kd := range []kind{kindInstance, kindImage, kindSnapshot, kindVolume, kindGroup, kindVPC, kindSubnet, kindInterface, kindTemplate, kindFleet, kindSpot} {
			if strings.HasPrefix(id, kd.prefix) {
				if err := kd.check(id); err != nil {
					return nil, kd, err
				}
				return nil, kd, kd.notFound(id)
			}
		}
		return nil, kd, fail("InvalidID", "The ID '%s' is not valid", id)
	}
	return found, kd, nil
}

func (k *call) createTags(in *createTagsRequest) (*answered, error) {
	if len(in.ResourceId) == 0 {
		return nil, missing("resourceIdSet")
	}
	if len(in.Tag) == 0 {
		return nil, missing("tagSet")
	}
	tags, err := checkTags(in.Tag)
	if err != nil {
		return nil, err
	}
	var list []*item
	for _, id := range in.ResourceId {
		i, _, err := k.tagged(id)
		if err != nil {
			return nil, err
		}
		all := map[string]string{}
		maps.Copy(all, i.tags)
		maps.Copy(all, tags)
		if len(all) > maxTags {
			return nil, fail("TagLimitExceeded", "The maximum number of Tags for a resource has been reached.")
		}
		list = append(list, i)
	}
	if err := k.commit(); err != nil {
		return nil, err
	}
	for _, i := range list {
		if i.tags == nil {
			i.tags = map[string]string{}
		}
		maps.Copy(i.tags, tags)
	}
	return done, nil
}

func (k *call) deleteTags(in *deleteTagsRequest) (*answered, error) {
	if len(in.ResourceId) == 0 {
		return nil, missing("resourceIdSet")
	}
	var list []*item
	for _, id := range in.ResourceId {
		i, _, err := k.tagged(id)
		if err != nil {
			return nil, err
		}
		list = append(list, i)
	}
	if err := k.commit(); err != nil {
		return nil, err
	}
	for _, i := range list {
		if len(in.Tag) == 0 {
			clear(i.tags)
		}
		for _, t := range in.Tag {
			if have, ok := i.tags[t.Key]; ok && (t.Value == "" || t.Value == have) {
				delete(i.tags, t.Key)
			}
		}
	}
	return done, nil
}

type tagDescription struct {
	ResourceID   string `xml:"resourceId"`
	ResourceType string `xml:"resourceType"`
	Key          string `xml:"key"`
	Value        string `xml:"value"`
}

type describeTagsResponse struct {
	Tags      []tagDescription `xml:"tagSet>item"`
	NextToken string           `xml:"nextToken,omitempty"`
}

func (k *call) describeTags(in *describeTagsRequest) (*describeTagsResponse, error) {
	for _, f := range in.Filter {
		switch f.Name {
		case "key", "value", "resource-id", "resource-type":
		default:
			if !strings.HasPrefix(f.Name, "tag:") {
				return nil, fail("InvalidParameterValue", "The filter '%s' is invalid", f.Name)
			}
		}
	}
	var list []tagDescription
	for _, t := range k.tables() {
		t.each(func(kd kind, v thing) {
			if !k.visible(v.base(), false) {
				return
			}
			for _, tg := range tagItems(v.base().tags) {
				d := tagDescription{v.base().id, kd.resource, tg.Key, tg.Value}
				if d.matches(in.Filter) {
					list = append(list, d)
				}
			}
		})
	}
	list, next, err := page(list, in.MaxResults, in.NextToken, 5, 1000)
	return &describeTagsResponse{list, next}, err
}

func (d tagDescription) matches(filters []filter) bool {
	for _, f := range filters {
		have := map[string]string{"key": d.Key, "value": d.Value, "resource-id": d.ResourceID, "resource-type": d.ResourceType}[f.Name]
		if name, ok := strings.CutPrefix(f.Name, "tag:"); ok {
			if name != d.Key {
				return false
			}
			have = d.Value
		}
		ok := false
		for _, want := range f.Value {
			ok = ok || wildcard(want, have)
		}
		if !ok {
			return false
		}
	}
	return true
}
