//go:build linux

package ec2

import (
	"encoding/json"
	"regexp"
	"slices"
	"strconv"
)

type launchTemplate struct {
	item
	name     string
	versions []templateVersion
}

type templateVersion struct {
	description string
	data        *requestLaunchTemplateData
	created     string
}

func (t *launchTemplate) values(_ *call, f string) []string {
	switch f {
	case "launch-template-name":
		return str(t.name)
	case "create-time":
		return str(iso(t.born))
	}
	return nil
}

type templateItem struct {
	ID      string    `xml:"launchTemplateId"`
	Name    string    `xml:"launchTemplateName"`
	Created string    `xml:"createTime"`
	By      string    `xml:"createdBy"`
	Default int       `xml:"defaultVersionNumber"`
	Latest  int       `xml:"latestVersionNumber"`
	Tags    []tagItem `xml:"tagSet>item"`
}

func (k *call) templateItem(t *launchTemplate) templateItem {
	return templateItem{t.id, t.name, iso(t.born), k.caller, 1, len(t.versions), tagItems(t.tags)}
}

type templateResponse struct {
	Template templateItem `xml:"launchTemplate"`
}

var templateName = regexp.MustCompile(`^[a-zA-Z0-9()./_\-]{3,128}$`)

func (k *call) createLaunchTemplate(in *createLaunchTemplateRequest) (*templateResponse, error) {
	switch {
	case in.LaunchTemplateName == "":
		return nil, missing("LaunchTemplateName")
	case in.LaunchTemplateData == nil:
		return nil, missing("LaunchTemplateData")
	case !templateName.MatchString(in.LaunchTemplateName):
		return nil, fail("InvalidLaunchTemplateName.MalformedException", "A launch template name must be between 3 and 128 characters, and may contain letters, numbers, and the following characters: - ( ) . / _.")
	}
	for _, t := range k.templates.m {
		if t.name == in.LaunchTemplateName {
			return nil, fail("InvalidLaunchTemplateName.AlreadyExistsException", "Launch template name already in use.")
		}
	}
	if err := checkTemplate(in.LaunchTemplateData); err != nil {
		return nil, err
	}
	tags, err := specified(in.TagSpecification, kindTemplate)
	if err != nil {
		return nil, err
	}
	if err := k.commit(); err != nil {
		return nil, err
	}
	t := &launchTemplate{item: k.newItem(kindTemplate, tags["launch-template"]), name: in.LaunchTemplateName}
	t.versions = []templateVersion{{in.VersionDescription, in.LaunchTemplateData, iso(k.now())}}
	k.templates.m[t.id] = t
	return &templateResponse{k.templateItem(t)}, nil
}

// checkTemplate refuses what is wrong in itself; whether the things it names
// are there is asked at the launch, as in the real service.
func checkTemplate(d *requestLaunchTemplateData) error {
	if _, err := decodeUserData(d.UserData); err != nil {
		return fail("InvalidUserData.Malformed", "Invalid BASE64 encoding of user data.")
	}
	if len(d.NetworkInterface) > 0 && len(d.SecurityGroupId) > 0 {
		return combination("Network interfaces and an instance-level security groups may not be specified on the same request")
	}
	for _, s := range d.TagSpecification {
		if _, err := checkTags(s.Tag); err != nil {
			return err
		}
		if !slices.Contains([]string{"instance", "volume", "network-interface", "spot-instances-request", "elastic-gpu"}, s.ResourceType) {
			return invalid("TagSpecification", "'%s' is not a valid taggable resource type for this operation.", s.ResourceType)
		}
	}
	return nil
}

// templateOf finds a template by its id or name.
func (k *call) templateOf(id, name string) (*launchTemplate, error) {
	switch {
	case id != "" && name != "":
		return nil, combination("Both launch template ID and name may not be given")
	case id != "":
		return k.templates.get(k, id)
	case name == "":
		return nil, missing("LaunchTemplateId")
	}
	for _, t := range k.templates.m {
		if t.name == name && k.visible(&t.item, true) {
			return t, nil
		}
	}
	return nil, fail("InvalidLaunchTemplateName.NotFoundException", "At least one of the launch templates specified in the request does not exist.")
}

func (k *call) templateData(id, name, version string) (*requestLaunchTemplateData, error) {
	t, err := k.templateOf(id, name)
	if err != nil {
		return nil, err
	}
	n := 1
	switch version {
	case "", "$Default":
	case "$Latest":
		n = len(t.versions)
	default:
		if n, err = strconv.Atoi(version); err != nil || n < 1 || n > len(t.versions) {
			return nil, fail("InvalidLaunchTemplateId.VersionNotFound", "Could not find the specified version '%s' for the launch template with ID %s.", version, t.id)
		}
	}
	return t.versions[n-1].data, nil
}

type templateVersionItem struct {
	ID          string `xml:"launchTemplateId"`
	Name        string `xml:"launchTemplateName"`
	Version     int    `xml:"versionNumber"`
	Description string `xml:"versionDescription,omitempty"`
	Default     bool   `xml:"defaultVersion"`
	Created     string `xml:"createTime"`
	Image       string `xml:"launchTemplateData>imageId,omitempty"`
	Type        string `xml:"launchTemplateData>instanceType,omitempty"`
	Key         string `xml:"launchTemplateData>keyName,omitempty"`
	UserData    string `xml:"launchTemplateData>userData,omitempty"`
}

type templateVersionResponse struct {
	Version templateVersionItem `xml:"launchTemplateVersion"`
}

func (t *launchTemplate) version(n int) templateVersionItem {
	v := t.versions[n]
	return templateVersionItem{t.id, t.name, n + 1, v.description, n == 0, v.created, v.data.ImageId, v.data.InstanceType, v.data.KeyName, v.data.UserData}
}

func (k *call) createLaunchTemplateVersion(in *createLaunchTemplateVersionRequest) (*templateVersionResponse, error) {
	t, err := k.templateOf(in.LaunchTemplateId, in.LaunchTemplateName)
	if err != nil {
		return nil, err
	}
	if in.LaunchTemplateData == nil {
		return nil, missing("LaunchTemplateData")
	}
	if err := checkTemplate(in.LaunchTemplateData); err != nil {
		return nil, err
	}
	if err := k.commit(); err != nil {
		return nil, err
	}
	t.versions = append(t.versions, templateVersion{in.VersionDescription, in.LaunchTemplateData, iso(k.now())})
	return &templateVersionResponse{t.version(len(t.versions) - 1)}, nil
}

type templateVersionsResponse struct {
	Versions []templateVersionItem `xml:"launchTemplateVersionSet>item"`
}

func (k *call) describeLaunchTemplateVersions(in *describeLaunchTemplateVersionsRequest) (*templateVersionsResponse, error) {
	t, err := k.templateOf(in.LaunchTemplateId, in.LaunchTemplateName)
	if err != nil {
		return nil, err
	}
	out := &templateVersionsResponse{}
	for n := range t.versions {
		w := in.LaunchTemplateVersion
		if len(w) == 0 || slices.Contains(w, strconv.Itoa(n+1)) || n == 0 && slices.Contains(w, "$Default") || n == len(t.versions)-1 && slices.Contains(w, "$Latest") {
			out.Versions = append(out.Versions, t.version(n))
		}
	}
	return out, nil
}

type templatesResponse struct {
	Templates []templateItem `xml:"launchTemplates>item"`
	NextToken string         `xml:"nextToken,omitempty"`
}

func (k *call) describeLaunchTemplates(in *describeLaunchTemplatesRequest) (*templatesResponse, error) {
	ids := slices.Clone(in.LaunchTemplateId)
	for _, n := range in.LaunchTemplateName {
		t, err := k.templateOf("", n)
		if err != nil {
			return nil, err
		}
		ids = append(ids, t.id)
	}
	list, err := find(k, k.templates, ids, in.Filter)
	if err != nil {
		return nil, err
	}
	list, next, err := page(list, in.MaxResults, in.NextToken, 1, kindTemplate.max)
	if err != nil {
		return nil, err
	}
	out := &templatesResponse{NextToken: next}
	for _, t := range list {
		out.Templates = append(out.Templates, k.templateItem(t))
	}
	return out, nil
}

func (k *call) deleteLaunchTemplate(in *deleteLaunchTemplateRequest) (*templateResponse, error) {
	t, err := k.templateOf(in.LaunchTemplateId, in.LaunchTemplateName)
	if err != nil {
		return nil, err
	}
	if err := k.commit(); err != nil {
		return nil, err
	}
	delete(k.templates.m, t.id)
	return &templateResponse{k.templateItem(t)}, nil
}

// cloneData is a copy of a template's data that may be changed.
func cloneData(d *requestLaunchTemplateData) (*requestLaunchTemplateData, error) {
	b, err := json.Marshal(d)
	if err != nil {
		return nil, err
	}
	c := &requestLaunchTemplateData{}
	return c, json.Unmarshal(b, c)
}
