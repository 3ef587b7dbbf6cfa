// SPDX-License-Identifier: Apache-2.0

package history_test

import (
	"os"
	"strings"
	"testing"

	"github.com/nstrace/nstrace/internal/history"
)

// docs/history.md documents every table and column.
func TestTablesAreDocumented(t *testing.T) {
	text, err := os.ReadFile("../../docs/history.md")
	if err != nil {
		t.Fatal(err)
	}
	rows := map[string]string{}
	for l := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(l, "| `"); ok {
			table, row, _ := strings.Cut(rest, "`")
			rows[table] = row
		}
	}
	path := recorded(t, 1, history.Options{})
	columns := shell(t, path, "SELECT m.name || ' ' || c.name FROM sqlite_schema m JOIN pragma_table_info(m.name) c WHERE m.type = 'table'")
	n := 0
	for l := range strings.Lines(columns) {
		table, column, _ := strings.Cut(strings.TrimSpace(l), " ")
		if strings.HasPrefix(table, "sqlite_") {
			continue
		}
		n++
		if !strings.Contains(rows[table], "`"+column+"`") {
			t.Errorf("%s.%s is not documented", table, column)
		}
	}
	if n < 50 {
		t.Errorf("only %d columns seen", n)
	}
}
