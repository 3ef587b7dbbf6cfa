// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nstrace/nstrace/internal/history"
)

// A mistake on the command line is one line that says what nstrace accepts, with exit status 2. An
// error of the database has status 1.
func TestHistoryMistakes(t *testing.T) {
	db := filepath.Join(t.TempDir(), "history.db")
	r, err := history.Create(history.Options{Path: db})
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	missing := filepath.Join(t.TempDir(), "missing.db")
	for _, tt := range []struct {
		args  string
		usage bool
		want  string
	}{
		{"history --since soon --db " + db, true, "--since: invalid time \"soon\": want for example"},
		{"history --until 25:00 --db " + db, true, "--until:"},
		{"history --since now --until yesterday --db " + db, true, "before --since"},
		{"history --grep ( --db " + db, true, "--grep:"},
		{"history --follow --reverse --db " + db, true, "--follow"},
		{"history --event sysctl.wrote --db " + db, true, "did you mean \"sysctl.write\""},
		{"history sysct net --db " + db, true, "did you mean \"sysctl\""},
		{"history sysctl --db " + db, true, "want one parameter name"},
		{"history ns --db " + db, true, "want one namespace"},
		{"history import --db " + db, true, "want one file"},
		{"history --db " + missing, false, "nstrace record creates it"},
		{"history import " + missing + " --db " + db, false, "no such file"},
		{"blame [ --db " + db, true, "glob"},
		{"blame --output xml --db " + db, true, "--output"},
		{"blame --netns web --all-netns --db " + db, true, "cannot be used together"},
		{"blame --db " + missing, false, "nstrace record creates it"},
		{"record --keep forever --db " + db, true, "--keep: invalid value \"forever\": want a time with a unit"},
		{"record --keep-size 1KiB --db " + db, true, "--keep-size"},
		{"record --db /no/such/folder/x.db", true, "there is no folder \"/no/such/folder\""},
		{"record --db " + db + " -O /no/such/folder/x", true, "--output-file: there is no folder"},
		{"record --db " + db + "/x.db", true, "is not a folder"},
		{"history import " + db + " --db /no/such/folder/x.db", true, "--db: there is no folder \"/no/such/folder\""},
		{"help foo", true, "help: unknown command \"foo\": see"},
		{"help histroy", true, "did you mean \"history\""},
		{"help history sysctll", true, "did you mean \"sysctl\""},
		{"record x --db " + db, true, "unexpected argument \"x\""},
	} {
		root := newRoot(commandsFor(nil)...)
		root.SetArgs(strings.Fields(tt.args))
		err := root.Execute()
		var usage usageError
		if err == nil || !strings.Contains(err.Error(), tt.want) || errors.As(err, &usage) != tt.usage {
			t.Errorf("%s: %v (a mistake: %v), want %q", tt.args, err, errors.As(err, &usage), tt.want)
		}
	}
}
