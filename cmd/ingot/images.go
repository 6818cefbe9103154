package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/user"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/ingotbuild/ingot/registry"
)

// withRegistry parses the flags and runs f with the registry open.
func withRegistry(ctx context.Context, c *cli, args []string, least, most int, f func(store *registry.SQLite, rest []string, asJSON bool) error) int {
	fs := c.flags()
	asJSON := fs.Bool("json", false, "write JSON")
	rest, err := c.parse(fs, args, least, most)
	if err != nil {
		return code(err)
	}
	store, err := openRegistry(ctx)
	if err != nil {
		return c.fail(err)
	}
	defer store.Close()
	if err := f(store, rest, *asJSON); err != nil {
		return c.fail(err)
	}
	return exitOK
}

func (c *cli) json(v any) error {
	e := json.NewEncoder(c.out)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

func imagesVerb() verb {
	return verb{
		name: "images", args: "[IMAGE]", short: "List images, or the versions of one",
		run: func(ctx context.Context, c *cli, args []string) int {
			return withRegistry(ctx, c, args, 0, 1, func(s *registry.SQLite, rest []string, asJSON bool) error {
				if len(rest) == 1 {
					return c.listVersions(ctx, s, rest[0], asJSON)
				}
				images, err := s.Images(ctx)
				if err != nil {
					return err
				}
				if asJSON {
					return c.json(images)
				}
				if len(images) == 0 {
					fmt.Fprintln(c.out, "No images yet: `ingot build TEMPLATE` bakes one.")
					return nil
				}
				w := tabwriter.NewWriter(c.out, 0, 4, 2, ' ', 0)
				fmt.Fprintln(w, "IMAGE\tLATEST\tVERSIONS\tCHANNELS")
				for _, i := range images {
					var ch []string
					for _, x := range i.Channels {
						ch = append(ch, fmt.Sprintf("%s=v%d", x.Name, x.Version))
					}
					fmt.Fprintf(w, "%s\tv%d\t%d\t%s\n", i.Name, i.Latest, i.Versions, strings.Join(ch, " "))
				}
				return w.Flush()
			})
		},
	}
}

func (c *cli) listVersions(ctx context.Context, s *registry.SQLite, image string, asJSON bool) error {
	vs, err := s.Versions(ctx, image)
	if err != nil {
		return err
	}
	if asJSON {
		return c.json(vs)
	}
	chans, err := s.Channels(ctx, image)
	if err != nil {
		return err
	}
	w := tabwriter.NewWriter(c.out, 0, 4, 2, ' ', 0)
	fmt.Fprintln(w, "VERSION\tSTATUS\tCREATED\tCHANNELS\tARTIFACT")
	for _, v := range vs {
		var ch []string
		for _, x := range chans {
			if x.Version == v.Number {
				ch = append(ch, x.Name)
			}
		}
		id := ""
		if len(v.Artifacts) > 0 {
			id = v.Artifacts[0].ExternalID
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", v.Ref(), v.Status, v.Created.Local().Format(time.DateTime), strings.Join(ch, " "), id)
	}
	return w.Flush()
}

func showVerb() verb {
	return verb{
		name: "show", args: "IMAGE[@VERSION|@CHANNEL]", short: "Show one version: where it is, what proved it, which channels name it",
		run: func(ctx context.Context, c *cli, args []string) int {
			return withRegistry(ctx, c, args, 1, 1, func(s *registry.SQLite, rest []string, asJSON bool) error {
				ref, err := registry.ParseRef(rest[0])
				if err != nil {
					return err
				}
				v, err := s.Resolve(ctx, ref)
				if err != nil {
					return err
				}
				if asJSON {
					return c.json(v)
				}
				chans, err := s.Channels(ctx, v.Image)
				if err != nil {
					return err
				}
				fmt.Fprintf(c.out, "%s\n  status    %s\n  created   %s\n  template  %s\n", v.Ref(), v.Status, v.Created.Local().Format(time.DateTime), v.Template)
				for _, x := range chans {
					if x.Version == v.Number {
						fmt.Fprintf(c.out, "  channel   %s, since %s\n", x.Name, x.Since.Local().Format(time.DateTime))
					}
				}
				for _, a := range v.Artifacts {
					where := strings.TrimSuffix(a.Platform+"/"+a.Region, "/")
					fmt.Fprintf(c.out, "  artifact  %-12s %s\n", where, a.ExternalID)
					if a.Location != "" && a.Location != a.ExternalID {
						fmt.Fprintf(c.out, "            %-12s %s\n", "", a.Location)
					}
				}
				for _, line := range specLines(v.SpecSummary) {
					fmt.Fprintf(c.out, "  spec      %s\n", line)
				}
				return nil
			})
		},
	}
}

func specLines(raw json.RawMessage) []string {
	var reports []struct {
		Spec    string `json:"spec"`
		After   string `json:"after"`
		Results []struct {
			Status string `json:"status"`
		} `json:"results"`
	}
	if len(raw) == 0 || json.Unmarshal(raw, &reports) != nil {
		return nil
	}
	var out []string
	for _, r := range reports {
		n := map[string]int{}
		for _, x := range r.Results {
			n[x.Status]++
		}
		name := r.Spec
		if r.After != "" {
			name += " after " + r.After
		}
		line := fmt.Sprintf("%s: %d passed, %d skipped", name, n["pass"], n["skip"])
		if w := n["waived"]; w > 0 {
			line += fmt.Sprintf(", %d waived", w)
		}
		out = append(out, line)
	}
	return out
}

func promoteVerb() verb {
	return verb{
		name: "promote", args: "IMAGE[@VERSION|@CHANNEL] CHANNEL", short: "Point a channel at a version",
		long: "`ingot promote web@v2 production` makes v2 what production runs next; `ingot promote web@staging production` takes what staging has.",
		run: func(ctx context.Context, c *cli, args []string) int {
			fs := c.flags()
			reason := fs.String("reason", "", "`text` that goes into the history")
			actor := fs.String("actor", defaultActor(), "`name` of who promotes")
			force := fs.Bool("force", false, "promote a version that is not ready")
			rest, err := c.parse(fs, args, 2, 2)
			if err != nil {
				return code(err)
			}
			store, err := openRegistry(ctx)
			if err != nil {
				return c.fail(err)
			}
			defer store.Close()
			ref, err := registry.ParseRef(rest[0])
			if err != nil {
				return c.fail(err)
			}
			v, err := store.Resolve(ctx, ref)
			if err != nil {
				return c.fail(err)
			}
			chans, err := store.Channels(ctx, v.Image)
			if err != nil {
				return c.fail(err)
			}
			p := registry.Promotion{Image: v.Image, Channel: rest[1], Version: v.Number, Force: *force, Actor: *actor, Reason: *reason}
			for _, x := range chans {
				if x.Name == rest[1] {
					p.Rev = x.Rev
				}
			}
			e, err := store.Promote(ctx, p)
			switch {
			case errors.Is(err, registry.ErrAlreadyThere):
				fmt.Fprintf(c.out, "%s is at v%d already.\n", v.Image+"@"+rest[1], v.Number)
				return exitOK
			case err != nil:
				return c.fail(err)
			}
			from := "new"
			if e.From > 0 {
				from = fmt.Sprintf("was v%d", e.From)
			}
			fmt.Fprintf(c.out, "%s@%s is v%d (%s).\n", v.Image, e.Channel, e.To, from)
			return exitOK
		},
	}
}

func defaultActor() string {
	if u, err := user.Current(); err == nil {
		host, _ := os.Hostname()
		return u.Username + "@" + host
	}
	return "unknown"
}

func historyVerb() verb {
	return verb{
		name: "history", args: "IMAGE", short: "Show how an image's channels have moved",
		run: func(ctx context.Context, c *cli, args []string) int {
			return withRegistry(ctx, c, args, 1, 1, func(s *registry.SQLite, rest []string, asJSON bool) error {
				hist, err := s.History(ctx, rest[0])
				if err != nil {
					return err
				}
				if err := s.VerifyHistory(ctx, rest[0]); err != nil {
					return fmt.Errorf("this history cannot be trusted: %w", err)
				}
				if asJSON {
					return c.json(hist)
				}
				w := tabwriter.NewWriter(c.out, 0, 4, 2, ' ', 0)
				fmt.Fprintln(w, "WHEN\tCHANNEL\tFROM\tTO\tWHO\tWHY")
				for _, e := range hist {
					from := "-"
					if e.From > 0 {
						from = fmt.Sprintf("v%d", e.From)
					}
					fmt.Fprintf(w, "%s\t%s\t%s\tv%d\t%s\t%s\n", e.At.Local().Format(time.DateTime), e.Channel, from, e.To, e.Actor, e.Reason)
				}
				return w.Flush()
			})
		},
	}
}
