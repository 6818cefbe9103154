package main

import (
	"strings"
	"testing"
)

func TestParseTarget(t *testing.T) {
	for spec, want := range map[string]target{
		"local:":                    {kind: "local"},
		"local":                     {kind: "local"},
		"docker://web_1":            {kind: "docker", host: "web_1"},
		"image:web@production":      {kind: "image", host: "web@production"},
		"image:./a b.tar":           {kind: "image", host: "./a b.tar"},
		"image:oci:dir:tag":         {kind: "image", host: "oci:dir:tag"},
		"image:docker://debian:12":  {kind: "image", host: "docker://debian:12"},
		"web1":                      {kind: "ssh", host: "web1"},
		"admin@web1":                {kind: "ssh", host: "web1", user: "admin"},
		"a@corp@web1":               {kind: "ssh", host: "web1", user: "a@corp"},
		"::1":                       {kind: "ssh", host: "::1"},
		"ssh://web1":                {kind: "ssh", host: "web1"},
		"ssh://web1/":               {kind: "ssh", host: "web1"},
		"ssh://admin@web1:2222":     {kind: "ssh", host: "web1", user: "admin", port: 2222},
		"ssh://root@[fe80::1]:22":   {kind: "ssh", host: "fe80::1", user: "root", port: 22},
		"ssh://[::1]":               {kind: "ssh", host: "::1"},
		"ssh://corp%5Cadmin@web1":   {kind: "ssh", host: "web1", user: `corp\admin`},
		"winrm://Administrator@win": {kind: "winrm", host: "win", user: "Administrator"},
	} {
		want.name = spec
		if have, err := parseTarget(spec); err != nil || have != want {
			t.Errorf("%s: %+v, %v", spec, have, err)
		}
	}
	for spec, want := range map[string]string{
		"":                        "empty",
		"-oProxyCommand=x":        "begins like an option",
		"ssh://-oProxyCommand=x":  "is no host",
		"ssh://":                  "names no host",
		"ssh://@web":              "no user's name",
		"ssh://web:0":             "is no port",
		"ssh://web:http":          "is no port",
		"ssh://web/etc":           "is no host",
		"ssh://u%zz@web":          "%25",
		"ssh://root:geheim@web":   "has a password in it",
		"winrm://root:geheim@web": "has a password in it",
		"web:22":                  "ssh://web:22",
		"dcoker://x":              `mean "docker"`,
		"shh://x":                 `mean "ssh"`,
		"s3://x":                  "There are ssh://",
		"imgae:web":               `mean "image"`,
		"docker:web":              "docker://",
		"docker://":               "which container",
		"image:":                  "which image",
		"image://web":             "image:web",
		"local://x":               `"local:"`,
		"web\x1b[2J":              "control characters",
	} {
		have, err := parseTarget(spec)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %+v, %v", spec, have, err)
		} else if strings.Contains(err.Error(), "geheim") || strings.Contains(err.Error(), "\x1b") {
			t.Errorf("%q: the error shows it: %v", spec, err)
		}
	}
	if _, err := parseTargets([]string{"web:1", "x://", "a", "a"}); err == nil || strings.Count(err.Error(), "\n") != 2 {
		t.Errorf("of three that are wrong: %v", err)
	}
}
