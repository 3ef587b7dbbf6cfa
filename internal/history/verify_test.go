// SPDX-License-Identifier: Apache-2.0

package history_test

import (
	"bytes"
	"context"
	"errors"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nstrace/nstrace/internal/history"
)

// recorded records n events of a storm.
func recorded(t testing.TB, n int, o history.Options) string {
	t.Helper()
	if o.Path == "" {
		o.Path = filepath.Join(t.TempDir(), "history.db")
	}
	r := create(t, o)
	s := newStorm(t)
	for range n {
		if err := r.Append(s.next()); err != nil {
			t.Fatal(err)
		}
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	return o.Path
}

// shell runs a script in the sqlite3 shell, like another program that has the file.
func shell(t *testing.T, path, script string) string {
	t.Helper()
	cmd := exec.Command("sqlite3", path)
	cmd.Stdin = strings.NewReader(script)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("sqlite3: %v\n%s", err, out)
	}
	return string(out)
}

func verify(t *testing.T, path string) *history.Verification {
	t.Helper()
	v, err := open(t, path).Verify(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func TestVerify(t *testing.T) {
	oneGoroutine(t)
	if _, err := exec.LookPath("sqlite3"); err != nil {
		t.Skip("no sqlite3 shell")
	}
	for _, tt := range []struct {
		name, script string
		id, to       int64
	}{
		{"nothing", ``, 0, 0},
		{"a value", `UPDATE event SET new = '1' WHERE id = 123`, 123, 0},
		{"the time", `UPDATE event SET time = time - 1 WHERE id = 299`, 299, 0},
		{"who", `UPDATE process SET comm = 'cron' WHERE id = (SELECT process FROM event WHERE id = 110)`, 110, 0},
		{"a hash", `UPDATE event SET hash = zeroblob(32) WHERE id = 77`, 77, 0},
		{"a lost row", `DELETE FROM process WHERE id = (SELECT process FROM event WHERE id = 110)`, 110, 0},
		{"removed", `DELETE FROM event WHERE id BETWEEN 100 AND 102`, 100, 102},
		{"the first removed", `DELETE FROM event WHERE id < 10`, 1, 9},
		{"the last removed", `DELETE FROM event WHERE id > 290`, 291, 300},
		{"two swapped", `UPDATE event SET id = 100000 WHERE id = 5; UPDATE event SET id = 5 WHERE id = 6; UPDATE event SET id = 6 WHERE id = 100000`, 5, 0},
		// In the first segment, the 7th event is the only one about the 7th parameter.
		{"a value in a list", `UPDATE parameter_list SET events = CAST(substr(events, 1, length(events) - 1) || '9' AS BLOB) WHERE id = (1 << 32) + 7`, 7, 0},
		{"a list removed", `DELETE FROM parameter_list WHERE id = (1 << 32) + 7`, 7, 0},
		{"another's list", `UPDATE parameter_list SET events = (SELECT events FROM parameter_list WHERE id = (1 << 32) + 5) WHERE id = (1 << 32) + 7`, 5, 0},
		{"a list cut", `UPDATE namespace_list SET events = substr(events, 1, length(events) - 1) WHERE id = (1 << 32) + 3`, 99, 0},
		{"a list added", `INSERT INTO namespace_list SELECT (1 << 32) + 100000, events FROM namespace_list WHERE id = (1 << 32) + 3`, 3, 0},
		{"no list", `UPDATE parameter_list SET events = x'ff' WHERE id = (2 << 32) + 7`, 129, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			path := recorded(t, 300, history.Options{})
			shell(t, path, tt.script)
			v := verify(t, path)
			if tt.id == 0 {
				if len(v.Problems) > 0 || v.Events != 300 || v.First != 1 || v.Last != 300 {
					t.Fatalf("%+v", v)
				}
				return
			}
			if len(v.Problems) == 0 || v.Problems[0].ID != tt.id || v.Problems[0].To != tt.to {
				t.Fatalf("want event %d to %d: %+v", tt.id, tt.to, v.Problems)
			}
			t.Log(v.Problems[0])
		})
	}
}

func export(t testing.TB, path string) []byte {
	t.Helper()
	var out bytes.Buffer
	if _, err := open(t, path).Export(context.Background(), &out); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func TestExportComesBackWhole(t *testing.T) {
	from := recorded(t, 2500, history.Options{})
	text := export(t, from)
	to := filepath.Join(t.TempDir(), "again.db")
	n, err := history.Import(context.Background(), to, bytes.NewReader(text))
	if err != nil || n != 2500 {
		t.Fatal(n, err)
	}
	v, w := verify(t, from), verify(t, to)
	if len(w.Problems) > 0 || v.Head != w.Head || v.Last != w.Last {
		t.Errorf("got %+v, want %+v", w, v)
	}
	if !bytes.Equal(export(t, to), text) {
		t.Error("the export differs")
	}
	// Recording continues after it.
	r := create(t, history.Options{Path: to})
	if err := r.Append(captured(t)[0]); err != nil {
		t.Fatal(err)
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	if w := verify(t, to); len(w.Problems) > 0 || w.Last != 2501 {
		t.Errorf("%+v", w)
	}
	// The same export cannot be imported twice.
	if _, err := history.Import(context.Background(), to, bytes.NewReader(text)); err == nil || !strings.Contains(err.Error(), "does not end where") {
		t.Error("imported twice: ", err)
	}
}

func TestBrokenExportIsRefused(t *testing.T) {
	text := export(t, recorded(t, 300, history.Options{}))
	lines := bytes.SplitAfter(text, []byte("\n"))
	for _, tt := range []struct {
		name string
		line int
		edit func([][]byte) [][]byte
	}{
		{"a line is missing", 100, func(l [][]byte) [][]byte { return append(l[:99:99], l[100:]...) }},
		{"a value", 50, func(l [][]byte) [][]byte {
			l[49] = bytes.Replace(l[49], []byte(`"comm":"`), []byte(`"comm":"x`), 1)
			return l
		}},
		{"a hash", 7, func(l [][]byte) [][]byte {
			l[6] = bytes.Replace(l[6], []byte(`"hash":"`), []byte(`"hash":"00`), 1)
			return l
		}},
		{"no JSON", 3, func(l [][]byte) [][]byte { l[2] = []byte("{\n"); return l }},
		{"a line of the stream", 9, func(l [][]byte) [][]byte {
			l[8] = append(l[8][:bytes.LastIndex(l[8], []byte(`,"history"`))], "}\n"...)
			return l
		}},
		{"a field that is not known", 20, func(l [][]byte) [][]byte {
			l[19] = append([]byte(`{"new_field":1,`), l[19][1:]...)
			return l
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var all [][]byte
			for _, l := range lines {
				all = append(all, bytes.Clone(l))
			}
			to := filepath.Join(t.TempDir(), "again.db")
			_, err := history.Import(context.Background(), to, bytes.NewReader(bytes.Join(tt.edit(all), nil)))
			var bad *history.ImportError
			if !errors.As(err, &bad) || bad.Line != tt.line {
				t.Fatalf("want line %d: %v", tt.line, err)
			}
			t.Log(err)
			if _, err := history.Open(to); err == nil {
				t.Error("a database was created")
			}
		})
	}
}

// Retention drops the oldest events in steps. The chain of the others is complete, blame still
// knows the last write to each value in effect, and the file stops growing.
func TestRetention(t *testing.T) {
	oneGoroutine(t)
	o := history.Options{Path: filepath.Join(t.TempDir(), "history.db"), KeepSize: 1 << 20}
	r := create(t, o)
	s := newStorm(t)
	first := s.next()
	name := first.Sysctl.Name + ".once"
	first.Sysctl.Name, first.Sysctl.Namespace = name, nil // belongs to the host, so it is in effect
	want := line(first)
	if err := r.Append(first); err != nil {
		t.Fatal(err)
	}
	for range 20_000 {
		if err := r.Append(s.next()); err != nil {
			t.Fatal(err)
		}
	}
	for deadline := time.Now().Add(time.Minute); ; {
		if err := r.Sync(); err != nil {
			t.Fatal(err)
		}
		v := verify(t, o.Path)
		if len(v.Problems) > 0 {
			t.Fatal(v.Problems)
		}
		if v.Events < 12_000 && v.Dropped > 8_000 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("not dropped: %+v", v)
		}
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	if v := verify(t, o.Path); v.Dropped+v.Events != 20_001 || v.Last != 20_001 || len(v.Problems) > 0 {
		t.Errorf("%+v", v)
	}
	found := false
	for w, err := range open(t, o.Path).LastWrites(context.Background(), func(n string) bool { return n == name }) {
		if err != nil {
			t.Fatal(err)
		}
		found = true
		if w.ID != 1 || w.Writes != 1 || line(w.Event) != want {
			t.Errorf("%+v", w)
		}
	}
	if !found {
		t.Error("the last write is gone")
	}
	// Its export begins in the middle and can be imported.
	to := filepath.Join(t.TempDir(), "again.db")
	if _, err := history.Import(context.Background(), to, bytes.NewReader(export(t, o.Path))); err != nil {
		t.Fatal(err)
	}
	if a, b := verify(t, o.Path), verify(t, to); len(b.Problems) > 0 || a.Head != b.Head || a.First != b.First {
		t.Errorf("%+v", b)
	}
}
