package config

import "testing"

func TestSuggest(t *testing.T) {
	candidates := []string{"environment_vars", "execute_command", "inline", "script", "scripts", "source", "name"}
	for word, want := range map[string]string{
		"inlien":          "inline",  // a swap
		"Inline":          "inline",  // letter case
		"script":          "script",  // itself before its neighbour
		"scrpits":         "scripts", // nearest, not first
		"enviroment_vars": "environment_vars",
		"destination":     "",
		"x":               "",
		"":                "",
	} {
		if got := Suggest(word, candidates); got != want {
			t.Errorf("Suggest(%q) = %q, want %q", word, got, want)
		}
	}
}

func TestDistance(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want int
	}{{"", "", 0}, {"", "abc", 3}, {"abc", "abc", 0}, {"abc", "acb", 1}, {"abc", "abd", 1}, {"abc", "ab", 1}, {"größe", "grösse", 2}, {"kitten", "sitting", 3}} {
		if got := distance(c.a, c.b); got != c.want {
			t.Errorf("distance(%q, %q) = %d, want %d", c.a, c.b, got, c.want)
		}
		if got := distance(c.b, c.a); got != c.want {
			t.Errorf("distance(%q, %q) = %d, want %d", c.b, c.a, got, c.want)
		}
	}
}
