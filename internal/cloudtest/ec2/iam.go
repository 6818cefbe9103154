//go:build linux

package ec2

import (
	"encoding/json"
	"net/url"
	"regexp"
	"strings"
	"time"
)

// account is what an account has in all regions: roles and instance profiles.
type account struct {
	roles    map[string]*role
	profiles map[string]*profile
}

type role struct {
	name, arn, id, path, description, trust string
	policies                                map[string]string
	attached                                []string
	tags                                    map[string]string
	born                                    time.Time
}

type profile struct {
	name, arn, id, path string
	roles               []*role
	tags                map[string]string
	born                time.Time
	changed             time.Time // EC2 knows it as it is only some time later
}

func (c *Cloud) accountOf(id string) *account {
	a := c.accounts[id]
	if a == nil {
		a = &account{roles: map[string]*role{}, profiles: map[string]*profile{}}
		c.accounts[id] = a
	}
	return a
}

func iamOperations() map[string]operation {
	return map[string]operation{
		"CreateRole": op((*call).createRole), "GetRole": op((*call).getRole), "DeleteRole": op((*call).deleteRole), "ListRoles": op((*call).listRoles),
		"PutRolePolicy": op((*call).putRolePolicy), "GetRolePolicy": op((*call).getRolePolicy), "DeleteRolePolicy": op((*call).deleteRolePolicy), "ListRolePolicies": op((*call).listRolePolicies),
		"AttachRolePolicy": op((*call).attachRolePolicy), "DetachRolePolicy": op((*call).detachRolePolicy), "ListAttachedRolePolicies": op((*call).listAttachedRolePolicies),
		"ListRoleTags": op((*call).listRoleTags), "TagRole": op((*call).tagRole), "ListInstanceProfileTags": op((*call).listInstanceProfileTags),
		"CreateInstanceProfile": op((*call).createInstanceProfile), "GetInstanceProfile": op((*call).getInstanceProfile), "DeleteInstanceProfile": op((*call).deleteInstanceProfile),
		"ListInstanceProfiles": op((*call).listInstanceProfiles), "ListInstanceProfilesForRole": op((*call).listInstanceProfilesForRole),
		"AddRoleToInstanceProfile": op((*call).addRoleToInstanceProfile), "RemoveRoleFromInstanceProfile": op((*call).removeRoleFromInstanceProfile),
	}
}

var iamName = regexp.MustCompile(`^[\w+=,.@-]{1,128}$`)

// iamRequest has the parameters of all actions of IAM that there are here.
type iamRequest struct {
	RoleName, InstanceProfileName, PolicyName, PolicyArn  string
	AssumeRolePolicyDocument, PolicyDocument, Description string
	Path, PathPrefix, PermissionsBoundary, Marker         string
	MaxSessionDuration, MaxItems                          *int64
	Tags                                                  []tag
}

type iamTag struct {
	Key   string
	Value string
}

type iamTags struct {
	Tags        []iamTag `xml:"Tags>member"`
	IsTruncated bool
}

func iamTagsOf(m map[string]string) []iamTag {
	var list []iamTag
	for _, t := range tagItems(m) {
		list = append(list, iamTag(t))
	}
	return list
}

type roleItem struct {
	Path                     string
	RoleName                 string
	RoleID                   string `xml:"RoleId"`
	Arn                      string
	CreateDate               string
	AssumeRolePolicyDocument string
	Description              string   `xml:",omitempty"`
	Tags                     []iamTag `xml:"Tags>member"`
}

func (r *role) item() roleItem {
	return roleItem{r.path, r.name, r.id, r.arn, r.born.UTC().Format(time.RFC3339), url.QueryEscape(r.trust), r.description, iamTagsOf(r.tags)}
}

type profileItem struct {
	Path                string
	InstanceProfileName string
	InstanceProfileID   string `xml:"InstanceProfileId"`
	Arn                 string
	CreateDate          string
	Roles               []roleItem `xml:"Roles>member"`
	Tags                []iamTag   `xml:"Tags>member"`
}

func (p *profile) item() profileItem {
	i := profileItem{p.path, p.name, p.id, p.arn, p.born.UTC().Format(time.RFC3339), nil, iamTagsOf(p.tags)}
	for _, r := range p.roles {
		i.Roles = append(i.Roles, r.item())
	}
	return i
}

func noEntity(what, name string) error {
	return fail("NoSuchEntity", "The %s with name %s cannot be found.", what, name)
}

func (k *call) roleNamed(name string) (*role, error) {
	if name == "" {
		return nil, fail("ValidationError", "1 validation error detected: Value null at 'roleName' failed to satisfy constraint: Member must not be null")
	}
	r := k.accountOf(k.account).roles[name]
	if r == nil {
		return nil, noEntity("role", name)
	}
	return r, nil
}

func (k *call) profileNamed(name string) (*profile, error) {
	p := k.accountOf(k.account).profiles[name]
	if p == nil {
		return nil, fail("NoSuchEntity", "Instance Profile %s cannot be found.", name)
	}
	return p, nil
}

type roleResponse struct{ Role roleItem }

func iamPath(p string) string {
	if p == "" {
		return "/"
	}
	return p
}

func (k *call) createRole(in *iamRequest) (*roleResponse, error) {
	tags, err := checkTags(in.Tags)
	switch {
	case err != nil:
		return nil, fail("InvalidInput", "%s", err)
	case !iamName.MatchString(in.RoleName) || len(in.RoleName) > 64:
		return nil, fail("ValidationError", "The specified value for roleName is invalid. It must contain only alphanumeric characters and/or the following: +=,.@_-, and no more than 64")
	case !json.Valid([]byte(in.AssumeRolePolicyDocument)):
		return nil, fail("MalformedPolicyDocument", "This policy contains invalid Json")
	case k.accountOf(k.account).roles[in.RoleName] != nil:
		return nil, fail("EntityAlreadyExists", "Role with name %s already exists.", in.RoleName)
	}
	r := &role{name: in.RoleName, path: iamPath(in.Path), arn: "arn:aws:iam::" + k.account + ":role" + iamPath(in.Path) + in.RoleName, id: "AROA" + strings.ToUpper(randomHex(17)),
		description: in.Description, trust: in.AssumeRolePolicyDocument, policies: map[string]string{}, tags: tags, born: k.now()}
	k.accountOf(k.account).roles[r.name] = r
	return &roleResponse{r.item()}, nil
}

func (k *call) getRole(in *iamRequest) (*roleResponse, error) {
	r, err := k.roleNamed(in.RoleName)
	if err != nil {
		return nil, err
	}
	return &roleResponse{r.item()}, nil
}

type rolesResponse struct {
	Roles       []roleItem `xml:"Roles>member"`
	IsTruncated bool
}

func (k *call) listRoles(in *iamRequest) (*rolesResponse, error) {
	out := &rolesResponse{}
	roles := k.accountOf(k.account).roles
	for _, n := range sortedKeys(roles) {
		if strings.HasPrefix(roles[n].path, in.PathPrefix) {
			i := roles[n].item()
			i.Tags = nil // lists have none
			out.Roles = append(out.Roles, i)
		}
	}
	return out, nil
}

func (k *call) deleteRole(in *iamRequest) (*none, error) {
	r, err := k.roleNamed(in.RoleName)
	if err != nil {
		return nil, err
	}
	if len(r.policies) > 0 {
		return nil, fail("DeleteConflict", "Cannot delete entity, must delete policies first.")
	}
	if len(r.attached) > 0 {
		return nil, fail("DeleteConflict", "Cannot delete entity, must detach all policies first.")
	}
	for _, p := range k.accountOf(k.account).profiles {
		for _, o := range p.roles {
			if o == r {
				return nil, fail("DeleteConflict", "Cannot delete entity, must remove roles from instance profile first.")
			}
		}
	}
	delete(k.accountOf(k.account).roles, r.name)
	return &none{}, nil
}

func (k *call) putRolePolicy(in *iamRequest) (*none, error) {
	r, err := k.roleNamed(in.RoleName)
	if err != nil {
		return nil, err
	}
	var doc struct {
		Version   string
		Statement json.RawMessage
	}
	if err := json.Unmarshal([]byte(in.PolicyDocument), &doc); err != nil || len(doc.Statement) == 0 {
		return nil, fail("MalformedPolicyDocument", "Syntax errors in policy.")
	}
	if !iamName.MatchString(in.PolicyName) {
		return nil, fail("ValidationError", "The specified value for policyName is invalid.")
	}
	r.policies[in.PolicyName] = in.PolicyDocument
	return &none{}, nil
}

type rolePolicyResponse struct {
	RoleName       string
	PolicyName     string
	PolicyDocument string
}

func (k *call) getRolePolicy(in *iamRequest) (*rolePolicyResponse, error) {
	r, err := k.roleNamed(in.RoleName)
	if err != nil {
		return nil, err
	}
	doc, ok := r.policies[in.PolicyName]
	if !ok {
		return nil, noEntity("role policy", in.PolicyName)
	}
	return &rolePolicyResponse{r.name, in.PolicyName, url.QueryEscape(doc)}, nil
}

func (k *call) deleteRolePolicy(in *iamRequest) (*none, error) {
	r, err := k.roleNamed(in.RoleName)
	if err != nil {
		return nil, err
	}
	if _, ok := r.policies[in.PolicyName]; !ok {
		return nil, noEntity("role policy", in.PolicyName)
	}
	delete(r.policies, in.PolicyName)
	return &none{}, nil
}

type policyNames struct {
	Names       []string `xml:"PolicyNames>member"`
	IsTruncated bool
}

func (k *call) listRolePolicies(in *iamRequest) (*policyNames, error) {
	r, err := k.roleNamed(in.RoleName)
	if err != nil {
		return nil, err
	}
	return &policyNames{Names: sortedKeys(r.policies)}, nil
}

func (k *call) attachRolePolicy(in *iamRequest) (*none, error) {
	r, err := k.roleNamed(in.RoleName)
	if err != nil {
		return nil, err
	}
	if !strings.HasPrefix(in.PolicyArn, "arn:aws:iam::") {
		return nil, noEntity("policy", in.PolicyArn)
	}
	r.attached = append(r.attached, in.PolicyArn)
	return &none{}, nil
}

func (k *call) detachRolePolicy(in *iamRequest) (*none, error) {
	r, err := k.roleNamed(in.RoleName)
	if err != nil {
		return nil, err
	}
	for n, a := range r.attached {
		if a == in.PolicyArn {
			r.attached = append(r.attached[:n:n], r.attached[n+1:]...)
			return &none{}, nil
		}
	}
	return nil, fail("NoSuchEntity", "Policy %s was not found.", in.PolicyArn)
}

type attachedPolicy struct {
	PolicyName string
	PolicyArn  string
}

type attachedPolicies struct {
	Policies    []attachedPolicy `xml:"AttachedPolicies>member"`
	IsTruncated bool
}

func (k *call) listAttachedRolePolicies(in *iamRequest) (*attachedPolicies, error) {
	r, err := k.roleNamed(in.RoleName)
	if err != nil {
		return nil, err
	}
	out := &attachedPolicies{}
	for _, a := range r.attached {
		out.Policies = append(out.Policies, attachedPolicy{a[strings.LastIndex(a, "/")+1:], a})
	}
	return out, nil
}

func (k *call) listRoleTags(in *iamRequest) (*iamTags, error) {
	r, err := k.roleNamed(in.RoleName)
	if err != nil {
		return nil, err
	}
	return &iamTags{Tags: iamTagsOf(r.tags)}, nil
}

func (k *call) tagRole(in *iamRequest) (*none, error) {
	r, err := k.roleNamed(in.RoleName)
	if err != nil {
		return nil, err
	}
	tags, err := checkTags(in.Tags)
	if err != nil {
		return nil, fail("InvalidInput", "%s", err)
	}
	for n, v := range tags {
		r.tags[n] = v
	}
	return &none{}, nil
}

func (k *call) listInstanceProfileTags(in *iamRequest) (*iamTags, error) {
	p, err := k.profileNamed(in.InstanceProfileName)
	if err != nil {
		return nil, err
	}
	return &iamTags{Tags: iamTagsOf(p.tags)}, nil
}

type profileResponse struct{ InstanceProfile profileItem }

func (k *call) createInstanceProfile(in *iamRequest) (*profileResponse, error) {
	tags, err := checkTags(in.Tags)
	switch {
	case err != nil:
		return nil, fail("InvalidInput", "%s", err)
	case !iamName.MatchString(in.InstanceProfileName):
		return nil, fail("ValidationError", "The specified value for instanceProfileName is invalid. It must contain only alphanumeric characters and/or the following: +=,.@_-")
	case k.accountOf(k.account).profiles[in.InstanceProfileName] != nil:
		return nil, fail("EntityAlreadyExists", "Instance Profile %s already exists.", in.InstanceProfileName)
	}
	p := &profile{name: in.InstanceProfileName, path: iamPath(in.Path), arn: "arn:aws:iam::" + k.account + ":instance-profile" + iamPath(in.Path) + in.InstanceProfileName,
		id: "AIPA" + strings.ToUpper(randomHex(17)), tags: tags, born: k.now(), changed: k.now()}
	k.accountOf(k.account).profiles[p.name] = p
	return &profileResponse{p.item()}, nil
}

func (k *call) getInstanceProfile(in *iamRequest) (*profileResponse, error) {
	p, err := k.profileNamed(in.InstanceProfileName)
	if err != nil {
		return nil, err
	}
	return &profileResponse{p.item()}, nil
}

type profilesResponse struct {
	Profiles    []profileItem `xml:"InstanceProfiles>member"`
	IsTruncated bool
}

func (k *call) listInstanceProfiles(in *iamRequest) (*profilesResponse, error) {
	out := &profilesResponse{}
	all := k.accountOf(k.account).profiles
	for _, n := range sortedKeys(all) {
		if strings.HasPrefix(all[n].path, in.PathPrefix) {
			i := all[n].item()
			i.Tags = nil
			out.Profiles = append(out.Profiles, i)
		}
	}
	return out, nil
}

func (k *call) listInstanceProfilesForRole(in *iamRequest) (*profilesResponse, error) {
	r, err := k.roleNamed(in.RoleName)
	if err != nil {
		return nil, err
	}
	out := &profilesResponse{}
	all := k.accountOf(k.account).profiles
	for _, n := range sortedKeys(all) {
		for _, o := range all[n].roles {
			if o == r {
				out.Profiles = append(out.Profiles, all[n].item())
			}
		}
	}
	return out, nil
}

func (k *call) deleteInstanceProfile(in *iamRequest) (*none, error) {
	p, err := k.profileNamed(in.InstanceProfileName)
	if err != nil {
		return nil, err
	}
	if len(p.roles) > 0 {
		return nil, fail("DeleteConflict", "Cannot delete entity, must remove roles from instance profile first.")
	}
	delete(k.accountOf(k.account).profiles, p.name)
	return &none{}, nil
}

func (k *call) addRoleToInstanceProfile(in *iamRequest) (*none, error) {
	p, err := k.profileNamed(in.InstanceProfileName)
	if err != nil {
		return nil, err
	}
	r, err := k.roleNamed(in.RoleName)
	if err != nil {
		return nil, err
	}
	if len(p.roles) > 0 {
		return nil, fail("LimitExceeded", "Cannot exceed quota for InstanceSessionsPerInstanceProfile: 1")
	}
	p.roles, p.changed = []*role{r}, k.now()
	return &none{}, nil
}

func (k *call) removeRoleFromInstanceProfile(in *iamRequest) (*none, error) {
	p, err := k.profileNamed(in.InstanceProfileName)
	if err != nil {
		return nil, err
	}
	r, err := k.roleNamed(in.RoleName)
	if err != nil {
		return nil, err
	}
	if len(p.roles) == 0 || p.roles[0] != r {
		return nil, noEntity("role", in.RoleName)
	}
	p.roles = nil
	return &none{}, nil
}

// usableProfile is an instance profile as RunInstances sees it.
func (k *call) usableProfile(arn, name string) (*profile, error) {
	switch {
	case arn == "" && name == "":
		return nil, nil // sent empty: none is asked for
	case arn != "" && name != "":
		return nil, combination("The parameter 'iamInstanceProfile.name' may not be used in combination with 'iamInstanceProfile.arn'")
	}
	for _, p := range k.accountOf(k.account).profiles {
		if p.arn != arn && p.name != name {
			continue
		}
		if k.now().Before(p.changed.Add(k.real(k.o.Durations.Profile))) {
			break
		}
		if len(p.roles) == 0 {
			return nil, fail("InvalidParameterValue", "IAM Instance Profile \"%s\" has no associated IAM Roles", p.arn)
		}
		return p, nil
	}
	if arn != "" {
		return nil, fail("InvalidParameterValue", "Value (%s) for parameter iamInstanceProfile.arn is invalid. Invalid IAM Instance Profile ARN", arn)
	}
	return nil, fail("InvalidParameterValue", "Value (%s) for parameter iamInstanceProfile.name is invalid. Invalid IAM Instance Profile name", name)
}
