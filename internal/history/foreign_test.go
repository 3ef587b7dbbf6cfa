// SPDX-License-Identifier: Apache-2.0

package history_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"zombiezen.com/go/sqlite"
	"zombiezen.com/go/sqlite/sqlitex"

	"github.com/nstrace/nstrace/internal/history"
)

// change runs a script on a database, like another program that has the file.
func change(t *testing.T, path, script string) {
	t.Helper()
	conn, err := sqlite.OpenConn(path, sqlite.OpenReadWrite)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	for _, statement := range strings.Split(script, ";;") {
		if err := sqlitex.ExecuteTransient(conn, statement, nil); err != nil {
			t.Fatalf("%s: %v", statement, err)
		}
	}
}

// number returns the result of a query.
func number(t *testing.T, path, query string) (n int64) {
	t.Helper()
	conn, err := sqlite.OpenConn(path, sqlite.OpenReadOnly)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := sqlitex.ExecuteTransient(conn, query, &sqlitex.ExecOptions{ResultFunc: func(stmt *sqlite.Stmt) error {
		n = stmt.ColumnInt64(0)
		return nil
	}}); err != nil {
		t.Fatal(err)
	}
	return n
}

// within fails the test if do does not return within a minute.
func within(t *testing.T, what string, do func()) {
	t.Helper()
	done := make(chan struct{})
	go func() { defer close(done); do() }()
	select {
	case <-done:
	case <-time.After(time.Minute):
		t.Fatalf("%s does not end", what)
	}
}

// copied returns a copy of a database in testdata.
func copied(t *testing.T, version int) string {
	t.Helper()
	file, err := os.ReadFile(filepath.Join("testdata", fmt.Sprintf("v%d.db", version)))
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "history.db")
	if err := os.WriteFile(path, file, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// Every function that opens a database rejects one with other tables than nstrace makes: with one
// line, at once, and without a change to it.
func TestOtherTablesAreRefused(t *testing.T) {
	const endless = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c)"
	for _, tt := range []struct{ name, script, want string }{
		{"an endless view", `DROP VIEW events;; ALTER TABLE event RENAME TO event_;; CREATE VIEW event AS ` + endless + ` SELECT event_.* FROM event_, c WHERE x < 0`, "table event is a view"},
		{"a huge view", `DROP VIEW events;; ALTER TABLE text RENAME TO text_;; CREATE VIEW text AS SELECT id, hex(zeroblob(450000000)) AS value FROM text_`, "table text is a view"},
		{"another view", `DROP VIEW events;; CREATE VIEW events AS ` + endless + ` SELECT x AS id FROM c`, "view events differs from the one that nstrace makes"},
		{"a trigger", `CREATE TRIGGER t AFTER INSERT ON run BEGIN DELETE FROM event; END`, "unexpected trigger t"},
		{"an index", `CREATE INDEX "a` + "\x1b" + `[2J" ON event (parameter, time)`, `unexpected index "a\x1b[2J"`},
		{"a virtual table", `CREATE VIRTUAL TABLE extra USING fts5(x)`, "unexpected table extra"},
		{"a column", `ALTER TABLE last_write ADD COLUMN more TEXT`, "table last_write differs from the one that nstrace makes"},
		{"a computed column", `ALTER TABLE snapshot ADD COLUMN more AS (hex(zeroblob(450000000)))`, "table snapshot differs from the one that nstrace makes"},
		{"no table", `DROP TABLE last_write`, "table last_write is missing"},
		{"no tables", `DROP VIEW events;; DROP TABLE last_write;; DROP TABLE batch`, " is missing"},
		{"a negative version", `PRAGMA user_version = -1`, "not a database that nstrace wrote"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for version := 1; version <= history.SchemaVersion; version++ {
				path := copied(t, version)
				change(t, path, tt.script)
				before, err := os.ReadFile(path)
				if err != nil {
					t.Fatal(err)
				}
				for _, opens := range []struct {
					what string
					open func() error
				}{
					{"Open", func() error {
						db, err := history.Open(path)
						if err == nil {
							db.Close()
						}
						return err
					}},
					{"Create", func() error {
						r, err := history.Create(history.Options{Path: path})
						if err == nil {
							r.Close()
						}
						return err
					}},
					{"Import", func() error {
						_, err := history.Import(context.Background(), path, strings.NewReader(""))
						return err
					}},
				} {
					within(t, opens.what, func() {
						err := opens.open()
						if !errors.Is(err, history.ErrNotHistory) || !strings.Contains(err.Error(), tt.want) || strings.ContainsAny(err.Error(), "\n\x1b") || !strings.HasPrefix(err.Error(), path+": ") {
							t.Errorf("%s of version %d: %v", opens.what, version, err)
						}
					})
				}
				if after, err := os.ReadFile(path); err != nil || !bytes.Equal(before, after) {
					t.Errorf("version %d was changed: %v", version, err)
				}
			}
		})
	}
}

// The tables that ANALYZE makes are allowed.
func TestAnalyzed(t *testing.T) {
	path := recorded(t, 300, history.Options{})
	change(t, path, "ANALYZE")
	if v := verify(t, path); len(v.Problems) > 0 || v.Events != 300 {
		t.Errorf("%+v", v)
	}
	if err := create(t, history.Options{Path: path}).Close(); err != nil {
		t.Error(err)
	}
}

// An open DB checks the tables again after another program has changed them.
func TestTablesChangeMeanwhile(t *testing.T) {
	path := recorded(t, 300, history.Options{})
	db := open(t, path)
	find(t, db, history.Query{})
	change(t, path, "VACUUM") // does not change the tables
	find(t, db, history.Query{})
	change(t, path, `DROP VIEW events;; ALTER TABLE text RENAME TO text_;; CREATE VIEW text AS SELECT id, value FROM text_`)
	for _, err := range db.Events(context.Background(), history.Query{}) {
		if !errors.Is(err, history.ErrNotHistory) {
			t.Errorf("%v", err)
		}
		break
	}
	for _, err := range db.LastWrites(context.Background(), nil) {
		if !errors.Is(err, history.ErrNotHistory) {
			t.Errorf("%v", err)
		}
	}
	if _, err := db.Verify(context.Background()); !errors.Is(err, history.ErrNotHistory) {
		t.Errorf("%v", err)
	}
}

// A value that is longer than nstrace writes is not read.
func TestLongValue(t *testing.T) {
	const limit = 1 << 18
	defer history.SetMaxValue(history.SetMaxValue(limit))
	for name, script := range map[string]string{
		"a text":   "UPDATE text SET value = hex(zeroblob(%d))",
		"a line":   "UPDATE event SET line = hex(zeroblob(%d)) WHERE id = 7",
		"a hash":   "UPDATE event SET hash = hex(zeroblob(%d)) WHERE id = 7",
		"a writer": "UPDATE last_write SET line = hex(zeroblob(%d))",
	} {
		t.Run(name, func(t *testing.T) {
			path := recorded(t, 10, history.Options{})
			change(t, path, fmt.Sprintf(script, limit/2+1)+" ;; PRAGMA wal_checkpoint(TRUNCATE)")
			db := open(t, path)
			var err error
			for _, err = range db.Events(context.Background(), history.Query{}) {
				if err != nil {
					break
				}
			}
			if name == "a writer" {
				for _, err = range db.LastWrites(context.Background(), nil) {
				}
			}
			if err == nil || !strings.Contains(err.Error(), "a value has more than 262144 bytes") {
				t.Errorf("%v", err)
			}
		})
	}
	// Such a snapshot is skipped, so that recording still works.
	path := recorded(t, 10, history.Options{})
	change(t, path, fmt.Sprintf("INSERT INTO snapshot VALUES ('drift', 2, 1, 1, zeroblob(%d))", limit+1))
	r := create(t, history.Options{Path: path})
	if _, ok := r.Snapshot("drift"); ok {
		t.Error("Snapshot returns a snapshot that is too long")
	}
	if err := r.PutSnapshot("drift", 2, make([]byte, limit)); err == nil || !strings.Contains(err.Error(), "too long") {
		t.Errorf("a snapshot that is too long was accepted: %v", err)
	}
	if err := r.PutSnapshot("drift", 2, make([]byte, limit/2)); err != nil {
		t.Error(err)
	}
	if s, ok, err := open(t, path).Snapshot("drift"); err != nil || !ok || len(s.Data) != limit/2 {
		t.Errorf("%v %v %d bytes", ok, err, len(s.Data))
	}
}

// A page of long values or texts has fewer events.
func TestLongPages(t *testing.T) {
	const each = 1 << 14
	defer history.SetPageBytes(history.SetPageBytes(16 * each))
	path := recorded(t, 300, history.Options{})
	change(t, path, fmt.Sprintf("UPDATE event SET new = CAST(zeroblob(%d) AS TEXT) WHERE id <= 100", each))
	db := open(t, path)
	events := 0
	for s, err := range db.Unchecked(history.Query{}) {
		if err != nil {
			t.Fatal(err)
		}
		if events++; s.ID != int64(events) {
			t.Fatalf("event %d comes after %d others", s.ID, events-1)
		}
		if held := db.Held(); held > 24*each {
			t.Fatalf("%d bytes are in memory for a page", held)
		}
	}
	if events != 300 {
		t.Errorf("%d events", events)
	}
	v, err := db.Verify(context.Background())
	if err != nil || v.Events != 300 {
		t.Errorf("%+v %v", v, err)
	}
	back := find(t, db, history.Query{Reverse: true})
	if len(back) != 300 || back[0].ID != 300 || back[299].ID != 1 {
		t.Errorf("%d events backwards", len(back))
	}
}

// A query without end stops with an error when its context ends.
func TestInterrupted(t *testing.T) {
	path := recorded(t, 10, history.Options{})
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	db, err := history.OpenContext(ctx, path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	within(t, "a query", func() {
		err := db.Endless(cancel)
		if !errors.Is(err, context.Canceled) {
			t.Errorf("%v", err)
		}
	})
	for _, err := range db.Events(context.Background(), history.Query{}) {
		if !errors.Is(err, context.Canceled) {
			t.Errorf("%v", err)
		}
	}
	for _, err := range db.LastWrites(context.Background(), nil) {
		if !errors.Is(err, context.Canceled) {
			t.Errorf("%v", err)
		}
	}
	if _, err := db.Verify(context.Background()); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	if _, err := history.OpenContext(ctx, path); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	to := filepath.Join(t.TempDir(), "to.db")
	if _, err := history.Import(ctx, to, strings.NewReader("")); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	if _, err := os.Stat(to); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("an import that was interrupted leaves a database: %v", err)
	}
}

// Rows that no nstrace writes are skipped and counted. The rows around them are returned. Export
// fails, and Verify reports each of these rows.
func TestRowsAreLeftOut(t *testing.T) {
	for _, tt := range []struct{ name, set string }{
		{"no sysctl", `line = '{"v":1,"type":"sysctl.write"}'`},
		{"another's object", `line = '{"v":1,"type":"sysctl.write","namespace":{"type":"net"}}'`},
		{"no JSON", `line = '{'`},
		{"null", `line = 'null'`},
		{"nothing", `line = ''`},
		{"a list", `line = '[]'`},
		{"a number for a string", `line = '{"type":1}'`},
		{"no type", `line = '{}'`},
		{"a type that is not known", `line = '{"type":"x"}'`},
		{"a short hash", `hash = x'00'`},
		{"a long hash", `hash = zeroblob(33)`},
		{"a lost origin", `origin = 1000000`},
		{"a lost process", `process = 1000000`},
		{"a lost parameter", `parameter = 1000000`},
		{"no parameter", `parameter = NULL`},
		{"text for a number", `kind = 'x'`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			path := recorded(t, 20, history.Options{})
			change(t, path, "UPDATE event SET "+tt.set+" WHERE id IN (7, 8, 9)")
			db := open(t, path)
			all := find(t, db, history.Query{})
			n, first := db.LeftOut()
			if len(all) != 17 || n != 3 || first == nil || !strings.HasPrefix(first.Error(), "event 7: ") || strings.Contains(first.Error(), "\n") {
				t.Errorf("%d events are there, %d left out: %v", len(all), n, first)
			}
			t.Log(first)
			for _, s := range all {
				if err := history.Check(s.Event); err != nil {
					t.Errorf("event %d: %v", s.ID, err)
				}
			}
			v, err := db.Verify(context.Background())
			if err != nil || len(v.Problems) == 0 || v.Problems[0].ID != 7 {
				t.Errorf("%+v %v", v, err)
			}
			if _, err := db.Export(context.Background(), &bytes.Buffer{}); tt.name == "no JSON" && (err == nil || !strings.Contains(err.Error(), "event 7: ")) {
				t.Errorf("Export succeeds: %v", err)
			}
			for w, err := range open(t, path).LastWrites(context.Background(), nil) {
				if err != nil || w.Event.Sysctl == nil || w.ID >= 7 && w.ID <= 9 {
					t.Errorf("%+v %v", w, err)
				}
			}
		})
	}
}

// The lines in last_write are checked as well.
func TestLastWritesAreLeftOut(t *testing.T) {
	for _, line := range []string{
		`{"v":1,"type":"sysctl.write"}`, `{"type":"namespace.create","namespace":{}}`, `{"type":"trace.gap","trace":{}}`, `{`, `null`, ``, `[]`, `"x"`, `{"type":"sysctl.drift","sysctl":{}}`,
	} {
		path := recorded(t, 20, history.Options{})
		change(t, path, "UPDATE last_write SET line = '"+line+"' WHERE event = (SELECT max(event) FROM last_write)")
		db := open(t, path)
		writes := 0
		for w, err := range db.LastWrites(context.Background(), nil) {
			if err != nil || w.Event == nil || w.Event.Sysctl == nil {
				t.Fatalf("%s: %+v %v", line, w, err)
			}
			writes++
		}
		if n, first := db.LeftOut(); n != 1 || first == nil || writes == 0 || !strings.HasPrefix(first.Error(), `the last write to "`) {
			t.Errorf("%s: %d are there, %d left out: %v", line, writes, n, first)
		}
	}
}

// Import rejects events that could not be read back.
func TestImportOfNoEvents(t *testing.T) {
	hash := strings.Repeat("0", 64)
	for _, line := range []string{`{"v":1,"type":"sysctl.write"`, `{"type":"x"`, `{"v":1,"type":"netdev.move"`} {
		text := line + `,"history":{"id":1,"prev":"` + hash + `","hash":"` + hash + `"}}` + "\n"
		_, err := history.Import(context.Background(), filepath.Join(t.TempDir(), "to.db"), strings.NewReader(text))
		var bad *history.ImportError
		if !errors.As(err, &bad) || bad.Line != 1 || !strings.Contains(err.Error(), "not an event: unknown type") && !strings.Contains(err.Error(), "not an event: a ") {
			t.Errorf("%s: %v", line, err)
		}
	}
	_, err := history.Import(context.Background(), filepath.Join(t.TempDir(), "to.db"), endlessLine{})
	var bad *history.ImportError
	if !errors.As(err, &bad) || bad.Line != 1 || !strings.Contains(err.Error(), "longer than any") {
		t.Errorf("a line without an end: %v", err)
	}
}

// TestImportLeavesNothing checks that an import that fails leaves no file of a new history behind.
func TestImportLeavesNothing(t *testing.T) {
	dir := t.TempDir()
	if _, err := history.Import(context.Background(), filepath.Join(dir, "to.db"), strings.NewReader("{}")); err == nil {
		t.Fatal("no error")
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("%v, %v", left, err)
	}
}

// An endlessLine is a line without an end.
type endlessLine struct{}

func (endlessLine) Read(b []byte) (int, error) {
	for i := range b {
		b[i] = 'x'
	}
	return len(b), nil
}

// mode returns the permissions of a file.
func mode(t *testing.T, path string) os.FileMode {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return info.Mode().Perm()
}

// Only the owner can read the files of a history, whichever function made them and whatever the
// umask.
func TestModes(t *testing.T) {
	dir := t.TempDir()
	text := export(t, recorded(t, 10, history.Options{}))
	for _, umask := range []int{0, 0o22, 0o77, 0o777} {
		check := func(path string, suffixes ...string) {
			t.Helper()
			for _, suffix := range append([]string{""}, suffixes...) {
				if m := mode(t, path+suffix); m != 0o600 {
					t.Errorf("umask %o: %s%s has the mode %o", umask, filepath.Base(path), suffix, m)
				}
			}
		}
		at := func(name string) string { return filepath.Join(dir, fmt.Sprintf("%o-%s", umask, name)) }
		link, target := at("link"), at("target")
		if err := os.Symlink(target, link); err != nil {
			t.Fatal(err)
		}
		corrupt := at("corrupt")
		recorded(t, 10, history.Options{Path: corrupt})
		spoil(t, corrupt, 0)
		moved := at("moved")

		before := unix.Umask(umask)
		defer unix.Umask(before)
		for _, path := range []string{at("record"), link} {
			r := create(t, history.Options{Path: path})
			check(path, "-lock")
			check(strings.ReplaceAll(path, link, target), "-wal", "-shm")
			if err := r.Close(); err != nil {
				t.Fatal(err)
			}
		}
		for _, path := range []string{at("import"), at("link2")} {
			if path == at("link2") {
				if err := os.Symlink(at("target2"), path); err != nil {
					t.Fatal(err)
				}
			}
			in := &looking{in: bytes.NewReader(text), look: func() {
				check(path, "-lock")
				if path == at("import") {
					check(path, "-wal", "-shm")
				}
			}}
			if _, err := history.Import(context.Background(), path, in); err != nil {
				t.Fatal(err)
			}
			check(path)
			if !in.looked {
				t.Error("look was not called")
			}
		}
		r := create(t, history.Options{Path: corrupt})
		aside, err := filepath.Glob(corrupt + ".corrupt-*")
		if err != nil || len(aside) == 0 {
			t.Fatalf("%v %v", aside, err)
		}
		check(corrupt, "-wal", "-shm", "-lock")
		check(aside[0])
		if err := r.Close(); err != nil {
			t.Fatal(err)
		}
		// The new database after somebody moved the old one.
		r = create(t, history.Options{Path: moved})
		if err := os.Rename(moved, moved+".old"); err != nil {
			t.Fatal(err)
		}
		if err := r.Append(captured(t)[0]); err != nil {
			t.Fatal(err)
		}
		if err := r.Sync(); err != nil {
			t.Fatal(err)
		}
		check(moved, "-wal", "-shm", "-lock")
		if err := r.Close(); err != nil {
			t.Fatal(err)
		}
		unix.Umask(before)
	}
}

// looking calls look when it is read for the first time.
type looking struct {
	in     *bytes.Reader
	look   func()
	looked bool
}

func (l *looking) Read(b []byte) (int, error) {
	if !l.looked {
		l.looked = true
		l.look()
	}
	return l.in.Read(b)
}

// The entries after the maximum length of a list only refer to rows.
func TestLongList(t *testing.T) {
	oneGoroutine(t)
	const segment = 200
	defer history.SetSegment(history.SetSegment(segment))
	defer history.SetMaxList(history.SetMaxList(500))
	path := filepath.Join(t.TempDir(), "history.db")
	r := create(t, history.Options{Path: path})
	for _, e := range varied(t, 500) {
		if err := r.Append(e); err != nil {
			t.Fatal(err)
		}
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	if v := verify(t, path); len(v.Problems) > 0 || v.Events != 500 {
		t.Errorf("%+v", v)
	}
	if n, _, err := open(t, path).Segments(); err != nil || n == 0 {
		t.Fatalf("%d segments: %v", n, err)
	}
	checkLists(t, path)
	if longest := number(t, path, "SELECT max(length(events)) FROM parameter_list"); longest > 500+3*segment {
		t.Errorf("a list has %d bytes", longest)
	}
	// Verify still notices a missing row.
	change(t, path, "DELETE FROM event WHERE id = 150")
	if v := verify(t, path); len(v.Problems) == 0 {
		t.Error("a missing row is not reported")
	}
}

// A list with ids out of order is damaged.
func TestEventTwiceInList(t *testing.T) {
	if _, err := history.ReadList([]byte{3, 1, 3}); err == nil {
		t.Error("a list can contain an event twice")
	}
	if _, err := history.ReadList([]byte{3, 3, 3}); err != nil {
		t.Error(err)
	}
}

// FuzzLine reads events whose line is any text.
func FuzzLine(f *testing.F) {
	events, err := capturedIn("../../tracer/testdata")
	if err != nil {
		f.Fatal(err)
	}
	for _, e := range events[:min(50, len(events))] {
		f.Add(line(e))
	}
	f.Add(`{"v":1,"type":"sysctl.write"}`)
	f.Add(`{"type":"sysctl.drift","sysctl":{"namespace":{}},"between":{}}`)
	f.Add(`null`)
	path := filepath.Join(f.TempDir(), "history.db")
	r := create(f, history.Options{Path: path})
	for range 2 {
		if err := r.Append(events[0]); err != nil {
			f.Fatal(err)
		}
	}
	if err := r.Close(); err != nil {
		f.Fatal(err)
	}
	conn, err := sqlite.OpenConn(path, sqlite.OpenReadWrite)
	if err != nil {
		f.Fatal(err)
	}
	defer conn.Close()
	f.Fuzz(func(t *testing.T, text string) {
		for _, set := range []string{
			"UPDATE event SET line = ?1 WHERE id = 1",
			"INSERT OR REPLACE INTO parameter VALUES (1, 'x', 'x')",
			"INSERT OR REPLACE INTO last_write VALUES (1, 0, 1, 1, 1, ?1)",
		} {
			o := &sqlitex.ExecOptions{}
			if strings.Contains(set, "?") {
				o.Args = []any{text}
			}
			if err := sqlitex.Execute(conn, set, o); err != nil {
				t.Fatal(err)
			}
		}
		db := open(t, path)
		if all := find(t, db, history.Query{}); len(all) == 0 || all[len(all)-1].ID != 2 {
			t.Errorf("%q: %d events", text, len(all))
		}
		for w, err := range db.LastWrites(context.Background(), nil) {
			if err != nil || w.Event.Sysctl == nil {
				t.Errorf("%q: %+v %v", text, w, err)
			}
		}
		if _, err := db.Verify(context.Background()); err != nil {
			t.Errorf("%q: %v", text, err)
		}
	})
}

// TestReadForeignFolder reads a database in a folder of somebody else, who also put links there. Reading
// neither follows them nor makes a file.
func TestReadForeignFolder(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root, to make files of somebody else")
	}
	from := recorded(t, 10, history.Options{})
	data, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name string
		mode os.FileMode
		want string // why it is not trusted
	}{{"theirs", 0o755, "it belongs to user 54321"}, {"sticky", 0o777 | os.ModeSticky, ""}} {
		dir := filepath.Join(t.TempDir(), tt.name)
		path, target := filepath.Join(dir, "history.db"), filepath.Join(t.TempDir(), "made")
		if err := errors.Join(os.Mkdir(dir, 0o700), os.Chmod(dir, tt.mode), os.WriteFile(path, data, 0o600)); err != nil {
			t.Fatal(err)
		}
		if tt.name == "theirs" {
			if err := errors.Join(os.Chown(dir, 54321, 54321), os.Chown(path, 54321, 54321)); err != nil {
				t.Fatal(err)
			}
		}
		for _, links := range []bool{false, true} {
			if links {
				for _, suffix := range []string{"-wal", "-shm", "-journal"} {
					if err := errors.Join(os.Symlink(target, path+suffix), os.Lchown(path+suffix, 54321, 54321)); err != nil {
						t.Fatal(err)
					}
				}
			}
			db := open(t, path)
			if v, err := db.Verify(context.Background()); err != nil || v.Events != 10 || len(v.Problems) > 0 {
				t.Errorf("%s: %+v %v", tt.name, v, err)
			}
			if why := db.Untrusted(); why != tt.want && (!links || why == "") {
				t.Errorf("%s, links %v: %q", tt.name, links, why)
			}
			if _, err := os.Lstat(target); err == nil {
				t.Errorf("%s: a file was made through a link", tt.name)
			}
			if left, err := filepath.Glob(path + "-*"); err != nil || !links && len(left) > 0 {
				t.Errorf("%s: %v was made: %v", tt.name, left, err)
			}
		}
	}
	if why := open(t, from).Untrusted(); why != "" {
		t.Errorf("an own database: %q", why)
	}
}

// TestNoRegularFile opens what is not a file. A pipe has no other end.
func TestNoRegularFile(t *testing.T) {
	pipe := filepath.Join(t.TempDir(), "pipe")
	if err := unix.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 2)
	go func() {
		_, err := history.Open(pipe)
		done <- err
		_, err = history.Create(history.Options{Path: pipe})
		done <- err
	}()
	for range 2 {
		select {
		case err := <-done:
			if !errors.Is(err, history.ErrNotHistory) {
				t.Errorf("%v", err)
			}
		case <-time.After(time.Minute):
			t.Fatal("it waits for the pipe")
		}
	}
}

// TestLongTexts has rows with long texts, to which many events refer.
func TestLongTexts(t *testing.T) {
	const limit = 1 << 12
	defer history.SetMaxText(history.SetMaxText(limit))
	for name, script := range map[string]string{
		"values":    "UPDATE event SET old = hex(zeroblob(%d))",
		"lines":     "UPDATE event SET line = hex(zeroblob(%d))",
		"processes": "UPDATE text SET value = hex(zeroblob(%d))",
		"names":     "UPDATE parameter SET path = id || hex(zeroblob(%d))",
	} {
		path := recorded(t, 10, history.Options{})
		change(t, path, fmt.Sprintf(script, limit/2+1))
		db := open(t, path)
		left := find(t, db, history.Query{})
		if n, first := db.LeftOut(); n == 0 || int(n)+len(left) != 10 || !strings.Contains(first.Error(), "longer than any") {
			t.Errorf("%s: %d rows are left out, %d are not: %v", name, n, len(left), first)
		}
	}
	// All last writes together have a limit, too.
	path := recorded(t, 500, history.Options{})
	defer history.SetMaxHeld(history.SetMaxHeld(limit))
	var err error
	for _, err = range open(t, path).LastWrites(context.Background(), nil) {
	}
	if !errors.Is(err, history.ErrNotHistory) {
		t.Errorf("%v", err)
	}
}

// TestManyBrokenAnchors has more broken anchors than Verify reports.
func TestManyBrokenAnchors(t *testing.T) {
	path := recorded(t, 10, history.Options{})
	change(t, path, "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c WHERE x < 5000) INSERT INTO anchor SELECT NULL, x, x'00', 0, 7, '', 0, x'00' FROM c")
	if n := len(verify(t, path).Problems); n == 0 || n > history.MaxProblems+1 {
		t.Errorf("%d problems", n)
	}
}
