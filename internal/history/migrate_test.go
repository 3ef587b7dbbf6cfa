// SPDX-License-Identifier: Apache-2.0

package history_test

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nstrace/nstrace/internal/history"
)

var update = flag.Bool("update", false, "write the database of the current version to testdata")

// TestOlderVersions opens a database of each released version. Recording migrates it, its chain is
// complete, and its export is the same as before. So neither the tables nor the lines under the
// hashes can change by accident.
func TestOlderVersions(t *testing.T) {
	oneGoroutine(t)
	present := filepath.Join("testdata", fmt.Sprintf("v%d.db", history.SchemaVersion))
	if *update {
		r := create(t, history.Options{Path: present, Host: "guest", BootID: "00000000-0000-0000-0000-000000000000", Version: "test"})
		for i, e := range captured(t) {
			if i%3 > 0 { // two runs, and events without run_id as older versions have them
				e.RunID = runIDs[i%3-1]
			}
			if err := r.Append(e); err != nil {
				t.Fatal(err)
			}
		}
		if err := r.Close(); err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command("sqlite3", present, "PRAGMA journal_mode = DELETE; PRAGMA page_size = 512; VACUUM;")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v %s", err, out)
		}
		if err := os.Remove(present + "-lock"); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(strings.TrimSuffix(present, ".db")+".jsonl", export(t, present), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	const segment = 20
	defer history.SetSegment(history.SetSegment(segment))
	for v := 1; v <= history.SchemaVersion; v++ {
		t.Run(fmt.Sprint(v), func(t *testing.T) {
			name := filepath.Join("testdata", fmt.Sprintf("v%d", v))
			file, err := os.ReadFile(name + ".db")
			if err != nil {
				t.Fatal(err)
			}
			want, err := os.ReadFile(name + ".jsonl")
			if err != nil {
				t.Fatal(err)
			}
			path := filepath.Join(t.TempDir(), "history.db")
			if err := os.WriteFile(path, file, 0o600); err != nil {
				t.Fatal(err)
			}
			if v >= 3 {
				if got := export(t, path); !bytes.Equal(got, want) {
					t.Error("the export without migration differs")
				}
			}
			r := create(t, history.Options{Path: path})
			if p := r.Previous(); p == nil || p.Host != "guest" || p.Version != "test" {
				t.Errorf("the run that made it: %+v", p)
			}
			awaitSegments(t, path, segment)
			if err := r.Close(); err != nil {
				t.Fatal(err)
			}
			if v := verify(t, path); len(v.Problems) > 0 || v.Events == 0 {
				t.Errorf("%+v", v)
			}
			if got := export(t, path); !bytes.Equal(got, want) {
				t.Error("the export differs")
			}
			checkLists(t, path)
			again := filepath.Join(t.TempDir(), "again.db")
			if _, err := history.Import(context.Background(), again, bytes.NewReader(want)); err != nil {
				t.Error(err)
			}
		})
	}
}

// awaitSegments waits until the events of an older version are in segments. The recorder adds them
// while it has nothing else to do.
func awaitSegments(t *testing.T, path string, size int64) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(5 * time.Millisecond) {
		_, behind, err := open(t, path).Segments()
		if err != nil {
			t.Fatal(err)
		}
		if behind < size {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d events are in no segment", behind)
		}
	}
}
