// SPDX-License-Identifier: Apache-2.0

package blame

import (
	"context"
	"os"
	"strings"
	"testing"

	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/internal/history"
	"github.com/nstrace/nstrace/output"
)

// initials is a history that answers Initial itself.
type initials struct {
	History
	initial func(context.Context) (*string, error)
}

func (i initials) Initial(ctx context.Context, _, _ string) (*string, error) { return i.initial(ctx) }

// TestReset has a write of an earlier boot. The history says what the parameter was before.
func TestReset(t *testing.T) {
	const name = "vm.swappiness"
	b, err := os.ReadFile(event.SysctlPath(name))
	if err != nil {
		t.Skip(err)
	}
	now, other := strings.TrimSpace(string(b)), "199"
	for _, tt := range []struct {
		name     string
		recorded string
		initial  func(context.Context) (*string, error)
		want     output.State
	}{
		{"the value from before", other, func(context.Context) (*string, error) { return &now, nil }, output.Reset},
		{"another value", other, func(context.Context) (*string, error) { return &other, nil }, output.Rebooted},
		{"unknown", other, func(context.Context) (*string, error) { return nil, nil }, output.Rebooted},
		{"no time", other, func(ctx context.Context) (*string, error) { <-ctx.Done(); return nil, ctx.Err() }, output.Rebooted},
		{"the recorded value", now, func(context.Context) (*string, error) {
			t.Error("it reads the history without a need")
			return nil, nil
		}, output.Rebooted},
	} {
		path := historyOf(t, name, func(e *event.Event) { e.BootID, e.Sysctl.After = "b1", &tt.recorded })
		db, err := history.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		rows, err := Find(t.Context(), initials{db, tt.initial}, Options{})
		if err != nil || len(rows) != 1 || rows[0].State != tt.want {
			t.Errorf("%s: %+v %v, want %s", tt.name, rows, err, tt.want)
		}
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
