//go:build linux

package digitalocean

import (
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"time"
)

// domain is a DNS zone. It is kept and answered by the API; nothing resolves it.
type domain struct {
	name    string
	created time.Time
	records []*record
}

// record is a DNS record.
type record struct {
	ID       int    `json:"id"`
	Type     string `json:"type"`
	Name     string `json:"name"`
	Data     string `json:"data"`
	Priority *int   `json:"priority"`
	Port     *int   `json:"port"`
	TTL      int    `json:"ttl"`
	Weight   *int   `json:"weight"`
	Flags    *int   `json:"flags"`
	Tag      string `json:"tag,omitempty"`
}

func (d *domain) view() obj {
	var zone strings.Builder
	fmt.Fprintf(&zone, "$ORIGIN %s.\n$TTL 1800\n", d.name)
	for _, r := range d.records {
		name := r.Name + "." + d.name + "."
		if r.Name == "@" {
			name = d.name + "."
		}
		fmt.Fprintf(&zone, "%s %d IN %s %s\n", name, r.TTL, r.Type, r.Data)
	}
	return obj{"name": d.name, "ttl": 1800, "zone_file": zone.String()}
}

// domain is the one in the path.
func (q *request) domain() (*domain, error) {
	i := slices.IndexFunc(q.c.domains, func(d *domain) bool { return d.name == strings.ToLower(q.PathValue("domain")) })
	if i < 0 {
		return nil, notFound()
	}
	return q.c.domains[i], nil
}

func listDomains(q *request) (any, error) {
	var all []obj
	for _, d := range q.c.domains {
		all = append(all, d.view())
	}
	return q.page("domains", all)
}

var domainName = regexp.MustCompile(`^([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z]{2,}$`)

func createDomain(q *request) (any, error) {
	var in struct {
		Name string
		IP   string `json:"ip_address"`
	}
	if err := q.decode(&in); err != nil {
		return nil, err
	}
	in.Name = strings.ToLower(in.Name)
	if !domainName.MatchString(in.Name) {
		return nil, unprocessable("Name is invalid")
	}
	if slices.ContainsFunc(q.c.domains, func(d *domain) bool { return d.name == in.Name }) {
		return nil, unprocessable("Name already exists")
	}
	d := &domain{name: in.Name, created: time.Now()}
	for _, ns := range []string{"ns1.digitalocean.com", "ns2.digitalocean.com", "ns3.digitalocean.com"} {
		d.records = append(d.records, &record{ID: q.c.id(), Type: "NS", Name: "@", Data: ns, TTL: 1800})
	}
	if in.IP != "" {
		r := &record{Type: "A", Name: "@", Data: in.IP, TTL: 1800}
		if err := r.judge(); err != nil {
			return nil, err
		}
		r.ID = q.c.id()
		d.records = append(d.records, r)
	}
	q.c.domains = append(q.c.domains, d)
	return obj{"domain": d.view()}, nil
}

func getDomain(q *request) (any, error) {
	d, err := q.domain()
	if err != nil {
		return nil, err
	}
	return obj{"domain": d.view()}, nil
}

func deleteDomain(q *request) (any, error) {
	d, err := q.domain()
	if err != nil {
		return nil, err
	}
	q.c.domains = slices.DeleteFunc(q.c.domains, func(o *domain) bool { return o == d })
	q.c.forgetResource(urn("domain", d.name))
	return nil, nil
}

var recordTypes = []string{"A", "AAAA", "CAA", "CNAME", "MX", "NS", "SOA", "SRV", "TXT"}

func (r *record) judge() error {
	if !slices.Contains(recordTypes, r.Type) {
		return unprocessable("Type is not included in the list")
	}
	if r.Data == "" {
		return unprocessable("Data can't be blank")
	}
	if r.Type == "A" || r.Type == "AAAA" {
		if a, err := netip.ParseAddr(r.Data); err != nil || a.Is4() != (r.Type == "A") {
			return unprocessable("Data needs to be an IP address of the type %s", r.Type)
		}
	}
	if r.TTL != 0 && r.TTL < 30 {
		return unprocessable("Ttl must be at least 30")
	}
	return nil
}

func listRecords(q *request) (any, error) {
	d, err := q.domain()
	if err != nil {
		return nil, err
	}
	name, kind := q.URL.Query().Get("name"), q.URL.Query().Get("type")
	var all []obj
	for _, r := range d.records {
		full := r.Name + "." + d.name
		if r.Name == "@" {
			full = d.name
		}
		if (name == "" || name == full) && (kind == "" || kind == r.Type) {
			all = append(all, r.view())
		}
	}
	return q.page("domain_records", all)
}

func (r *record) view() obj {
	v := obj{"id": r.ID, "type": r.Type, "name": r.Name, "data": r.Data, "priority": nil, "port": nil, "ttl": r.TTL, "weight": nil, "flags": nil, "tag": nil}
	if r.Type == "MX" || r.Type == "SRV" {
		v["priority"] = r.Priority
	}
	if r.Type == "SRV" {
		v["port"], v["weight"] = r.Port, r.Weight
	}
	if r.Type == "CAA" {
		v["flags"], v["tag"] = r.Flags, r.Tag
	}
	return v
}

func createRecord(q *request) (any, error) {
	d, err := q.domain()
	if err != nil {
		return nil, err
	}
	var r record
	if err := q.decode(&r); err != nil {
		return nil, err
	}
	if r.Name == "" {
		return nil, unprocessable("Name can't be blank")
	}
	if err := r.judge(); err != nil {
		return nil, err
	}
	if r.TTL == 0 {
		r.TTL = 1800
	}
	r.ID = q.c.id()
	d.records = append(d.records, &r)
	return obj{"domain_record": r.view()}, nil
}

// record is the one in the path.
func (q *request) record() (*domain, *record, error) {
	d, err := q.domain()
	if err != nil {
		return nil, nil, err
	}
	id, err := q.number("record")
	if err != nil {
		return nil, nil, err
	}
	for _, r := range d.records {
		if r.ID == id {
			return d, r, nil
		}
	}
	return nil, nil, notFound()
}

func getRecord(q *request) (any, error) {
	_, r, err := q.record()
	if err != nil {
		return nil, err
	}
	return obj{"domain_record": r.view()}, nil
}

// updateRecord is PUT and PATCH: what is not given stays.
func updateRecord(q *request) (any, error) {
	_, r, err := q.record()
	if err != nil {
		return nil, err
	}
	in := *r
	if err := q.decode(&in); err != nil {
		return nil, err
	}
	in.ID = r.ID
	if in.TTL == 0 {
		in.TTL = r.TTL
	}
	if err := in.judge(); err != nil {
		return nil, err
	}
	*r = in
	return obj{"domain_record": r.view()}, nil
}

func deleteRecord(q *request) (any, error) {
	d, r, err := q.record()
	if err != nil {
		return nil, err
	}
	d.records = slices.DeleteFunc(d.records, func(o *record) bool { return o == r })
	return nil, nil
}
