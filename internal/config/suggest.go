package config

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/hashicorp/hcl/v2"
)

// Suggest returns the candidate that word was most likely meant to be, or ""
// when none is near enough. Letter case does not count.
func Suggest(word string, candidates []string) string {
	// A third of the word may be wrong, so that short words do not match everything.
	limit := (len([]rune(word)) + 2) / 3
	best := ""
	for _, c := range candidates {
		d := distance(strings.ToLower(word), strings.ToLower(c))
		if c != "" && d <= limit && (best == "" || d < limit) {
			best, limit = c, d
		}
	}
	return best
}

// DidYouMean is Suggest as the end of a sentence: ` Did you mean "x"?`, or "".
func DidYouMean(word string, candidates []string) string {
	if s := Suggest(word, candidates); s != "" {
		return fmt.Sprintf(" Did you mean %q?", s)
	}
	return ""
}

// distance is the Damerau-Levenshtein distance (optimal string alignment): the
// insertions, deletions, replacements and swaps of neighbours between a and b.
func distance(a, b string) int {
	x, y := []rune(a), []rune(b)
	if len(x) > 100 || len(y) > 100 {
		return len(x) + len(y) // no name is that long; do not spend the time
	}
	var before []int
	last := make([]int, len(y)+1)
	for j := range last {
		last[j] = j
	}
	for i := range x {
		row := make([]int, len(y)+1)
		row[0] = i + 1
		for j := range y {
			cost := 1
			if x[i] == y[j] {
				cost = 0
			}
			row[j+1] = min(last[j+1]+1, row[j]+1, last[j]+cost)
			if i > 0 && j > 0 && x[i] == y[j-1] && x[i-1] == y[j] {
				row[j+1] = min(row[j+1], before[j-1]+1)
			}
		}
		before, last = last, row
	}
	return last[len(y)]
}

// Content reads a body by its schema, as body.Content does, and says for each
// name the schema does not have which one was probably meant.
func Content(body hcl.Body, schema *hcl.BodySchema) (*hcl.BodyContent, hcl.Diagnostics) {
	content, diags := body.Content(schema)
	return content, suggestAll(diags, schema)
}

// suggestAll replaces the library's hints, which name the first near name and
// not the nearest, and which use other words for JSON.
func suggestAll(diags hcl.Diagnostics, schema *hcl.BodySchema) hcl.Diagnostics {
	var attrs, blocks []string
	for _, a := range schema.Attributes {
		attrs = append(attrs, a.Name)
	}
	for _, b := range schema.Blocks {
		blocks = append(blocks, b.Type)
	}
	for _, d := range diags {
		name := firstQuoted(d.Detail)
		if name == "" || strings.Contains(d.Detail, "Did you mean to define") {
			continue
		}
		switch d.Summary {
		case "Unsupported argument":
			d.Detail = fmt.Sprintf("An argument named %q is not expected here.%s", name, DidYouMean(name, attrs))
		case "Unsupported block type":
			d.Detail = fmt.Sprintf("Blocks of type %q are not expected here.%s", name, DidYouMean(name, append(blocks, attrs...)))
		case "Extraneous JSON object property":
			d.Summary = "Unsupported argument"
			d.Detail = fmt.Sprintf("No argument or block type is named %q.%s", name, DidYouMean(name, append(attrs, blocks...)))
		}
	}
	return diags
}

func firstQuoted(s string) string {
	i := strings.IndexByte(s, '"')
	if i < 0 {
		return ""
	}
	q, err := strconv.QuotedPrefix(s[i:])
	if err != nil {
		return ""
	}
	name, _ := strconv.Unquote(q)
	return name
}
