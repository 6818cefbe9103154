//go:build linux

package digitalocean

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
)

// project is a folder of the account's things; whatever is in no other is in the default one.
type project struct {
	id                                      string
	name, description, purpose, environment string
	isDefault                               bool
	given                                   bool // there at the beginning
	created, updated                        time.Time
	// assigned is when each thing, by its URN, was put in.
	assigned map[string]time.Time
}

func (c *Cloud) defaultProject() *project {
	return &project{id: uuid.NewString(), name: "first-project", purpose: "Just trying out DigitalOcean", environment: "Development",
		isDefault: true, given: true, created: time.Now(), updated: time.Now(), assigned: map[string]time.Time{}}
}

func (c *Cloud) projectView(p *project) obj {
	return obj{"id": p.id, "owner_uuid": c.account, "owner_id": 258992, "name": p.name, "description": p.description, "purpose": p.purpose,
		"environment": p.environment, "is_default": p.isDefault, "created_at": stamp(p.created), "updated_at": stamp(p.updated)}
}

// project is the one in the path.
func (q *request) project() (*project, error) {
	id := q.PathValue("project")
	i := slices.IndexFunc(q.c.projects, func(p *project) bool { return p.id == id || id == "default" && p.isDefault })
	if i < 0 {
		return nil, notFound()
	}
	return q.c.projects[i], nil
}

func listProjects(q *request) (any, error) {
	var all []obj
	for _, p := range q.c.projects {
		all = append(all, q.c.projectView(p))
	}
	return q.page("projects", all)
}

type projectWish struct {
	Name, Description, Purpose, Environment *string
	IsDefault                               *bool `json:"is_default"`
}

// apply changes what is given.
func (w projectWish) apply(c *Cloud, p *project) error {
	name := p.name
	if w.Name != nil {
		name = *w.Name
	}
	switch {
	case name == "" || len(name) > 175:
		return unprocessable("name has 1 to 175 characters")
	case slices.ContainsFunc(c.projects, func(o *project) bool { return o != p && o.name == name }):
		return conflict("name is already in use")
	case w.Environment != nil && *w.Environment != "" && !slices.Contains([]string{"Development", "Staging", "Production"}, *w.Environment):
		return unprocessable("environment must be Development, Staging or Production")
	}
	for to, v := range map[*string]*string{&p.name: w.Name, &p.description: w.Description, &p.purpose: w.Purpose, &p.environment: w.Environment} {
		if v != nil {
			*to = *v
		}
	}
	if w.IsDefault != nil && *w.IsDefault {
		for _, o := range c.projects {
			o.isDefault = o == p
		}
	}
	p.updated = time.Now()
	return nil
}

func createProject(q *request) (any, error) {
	var in projectWish
	if err := q.decode(&in); err != nil {
		return nil, err
	}
	if in.Purpose == nil || *in.Purpose == "" {
		return nil, unprocessable("purpose can't be blank")
	}
	p := &project{id: uuid.NewString(), created: time.Now(), environment: "Development", assigned: map[string]time.Time{}}
	if err := in.apply(q.c, p); err != nil {
		return nil, err
	}
	q.c.projects = append(q.c.projects, p)
	return obj{"project": q.c.projectView(p)}, nil
}

func getProject(q *request) (any, error) {
	p, err := q.project()
	if err != nil {
		return nil, err
	}
	return obj{"project": q.c.projectView(p)}, nil
}

func updateProject(q *request) (any, error) {
	p, err := q.project()
	if err != nil {
		return nil, err
	}
	var in projectWish
	if err := q.decode(&in); err != nil {
		return nil, err
	}
	if err := in.apply(q.c, p); err != nil {
		return nil, err
	}
	return obj{"project": q.c.projectView(p)}, nil
}

func deleteProject(q *request) (any, error) {
	p, err := q.project()
	if err != nil {
		return nil, err
	}
	if p.isDefault || len(q.c.projectResources(p)) > 0 {
		return nil, &refusal{http.StatusPreconditionFailed, "precondition_failed", "cannot delete a project with resources. move or remove the resources first"}
	}
	q.c.projects = slices.DeleteFunc(q.c.projects, func(o *project) bool { return o == p })
	return nil, nil
}

func isKind(u, kind string) bool { return strings.HasPrefix(u, "do:"+kind+":") }

// urns are all things that a project can hold, with the time of their making.
func (c *Cloud) urns() map[string]time.Time {
	all := map[string]time.Time{}
	for _, d := range c.droplets {
		all[urn("droplet", fmt.Sprint(d.id))] = d.created
	}
	for _, r := range c.addresses {
		all[urn("floatingip", r.ip.String())] = r.created
	}
	for _, b := range c.balancers {
		all[urn("loadbalancer", b.id)] = b.created
	}
	for _, v := range c.volumes {
		all[urn("volume", v.id)] = v.created
	}
	for _, d := range c.domains {
		all[urn("domain", d.name)] = d.created
	}
	return all
}

// forgetResource is called as a thing is deleted.
func (c *Cloud) forgetResource(u string) {
	for _, p := range c.projects {
		delete(p.assigned, u)
	}
}

// projectOf is the project that a thing is in.
func (c *Cloud) projectOf(u string) *project {
	i := slices.IndexFunc(c.projects, func(p *project) bool { _, here := p.assigned[u]; return here })
	if i < 0 {
		i = slices.IndexFunc(c.projects, func(p *project) bool { return p.isDefault })
	}
	return c.projects[i]
}

// projectResources are the things in a project, by URN.
func (c *Cloud) projectResources(p *project) []obj {
	var all []obj
	for u, made := range c.urns() {
		if c.projectOf(u) != p {
			continue
		}
		if at, ok := p.assigned[u]; ok {
			made = at
		}
		all = append(all, c.resourceView(u, made, "ok"))
	}
	slices.SortFunc(all, func(a, b obj) int { return strings.Compare(a["urn"].(string), b["urn"].(string)) })
	return all
}

func (c *Cloud) resourceView(u string, at time.Time, status string) obj {
	parts := strings.SplitN(u, ":", 3)
	path := map[string]string{"droplet": "droplets", "floatingip": "floating_ips", "loadbalancer": "load_balancers", "volume": "volumes", "domain": "domains"}[parts[1]]
	return obj{"urn": u, "assigned_at": stamp(at), "status": status, "links": obj{"self": c.url + "/v2/" + path + "/" + parts[2]}}
}

func listProjectResources(q *request) (any, error) {
	p, err := q.project()
	if err != nil {
		return nil, err
	}
	return q.page("resources", q.c.projectResources(p))
}

func assignResources(q *request) (any, error) {
	p, err := q.project()
	if err != nil {
		return nil, err
	}
	var in struct{ Resources []string }
	if err := q.decode(&in); err != nil {
		return nil, err
	}
	known := q.c.urns()
	all := []obj{}
	for _, u := range in.Resources {
		// A reserved address is a floating one in URNs, and may be named so or so.
		if id, ok := strings.CutPrefix(u, "do:reservedip:"); ok {
			u = urn("floatingip", id)
		}
		if strings.Count(u, ":") < 2 {
			return nil, badRequest("resource URN %q is invalid", u)
		}
		if _, ok := known[u]; !ok {
			return nil, &refusal{http.StatusNotFound, "not_found", "resource " + u + " not found"}
		}
	}
	for _, u := range in.Resources {
		if id, ok := strings.CutPrefix(u, "do:reservedip:"); ok {
			u = urn("floatingip", id)
		}
		q.c.forgetResource(u)
		p.assigned[u] = time.Now()
		all = append(all, q.c.resourceView(u, p.assigned[u], "assigned"))
	}
	return obj{"resources": all}, nil
}
