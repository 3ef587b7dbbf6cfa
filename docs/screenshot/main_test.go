// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/xml"
	"errors"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

func TestParse(t *testing.T) {
	got, err := parse("a \x1b[1mb\x1b[0m\r\n\r\n\x1b[1;31mc \u2192\x1b[0m d\r\n\x1b[1;37;41malarm\x1b[m")
	if err != nil {
		t.Fatal(err)
	}
	want := [][]span{
		{{"a ", style{}}, {"b", style{bold: true}}},
		{},
		{{"c \u2192", style{bold: true, fg: 31}}, {" d", style{}}},
		{{"alarm", style{bold: true, fg: 37, bg: 41}}},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("parse gives %+v, want %+v", got, want)
	}
}

func TestParseRefuses(t *testing.T) {
	for recording, want := range map[string]string{
		"ab\x1b[2J":     "byte 2: the escape sequence does not end in m",
		"ab\x1b[38;5m":  "byte 2: unexpected SGR code 38",
		"\x1b[?25hm":    `byte 0: unexpected escape sequence "?25h"`,
		"a\rb":          `byte 1: unexpected control character '\r'`,
		"a\x1b]0;t\x07": `byte 1: unexpected control character '\x1b'`,
		"a\xffb":        "byte 0: the text is not UTF-8",
	} {
		_, err := parse(recording)
		if err == nil || err.Error() != want {
			t.Errorf("parse(%q): %v, want %s", recording, err, want)
		}
	}
}

// The picture has the text of the recording, and each word in its column.
func TestPicture(t *testing.T) {
	lines, err := parse("ab  \x1b[1;31m<c> d\x1b[0m\r\n\x1b[41m!!\x1b[0m\r\n")
	if err != nil {
		t.Fatal(err)
	}
	for _, theme := range themes {
		svg := picture(lines, theme)
		for _, want := range []string{
			`<text x="16" y="29" textLength="15.6">ab</text>`,
			`<text x="47.2" y="29" textLength="23.4" fill="` + theme.colors[1] + `" font-weight="bold">&lt;c&gt;</text>`,
			`<text x="78.4" y="29" textLength="7.8" fill="` + theme.colors[1] + `" font-weight="bold">d</text>`,
			`<rect x="16" y="34" width="15.6" height="18" fill="` + theme.colors[1] + `"/>`,
			theme.background,
		} {
			if !strings.Contains(svg, want) {
				t.Errorf("%s: no %s in\n%s", theme.name, want, svg)
			}
		}
		if err := wellFormed(svg); err != nil {
			t.Errorf("%s: %v", theme.name, err)
		}
	}
}

func wellFormed(text string) error {
	d := xml.NewDecoder(strings.NewReader(text))
	for {
		if _, err := d.Token(); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
	}
}

// The committed pictures are those of the committed recording.
func TestPicturesAreCurrent(t *testing.T) {
	recording, err := os.ReadFile("recording")
	if err != nil {
		t.Fatal(err)
	}
	docs := t.TempDir()
	if err := os.Mkdir(filepath.Join(docs, "screenshot"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(docs, "screenshot", "recording"), recording, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := run(docs); err != nil {
		t.Fatal(err)
	}
	for _, theme := range themes {
		name := "screenshot-" + theme.name + ".svg"
		got, err := os.ReadFile(filepath.Join("..", name))
		if err != nil {
			t.Fatal(err)
		}
		want, err := os.ReadFile(filepath.Join(docs, name))
		if err != nil {
			t.Fatal(err)
		}
		if string(got) != string(want) {
			t.Errorf("docs/%s is stale: go run ./docs/screenshot makes it from docs/screenshot/recording", name)
		}
	}
}
