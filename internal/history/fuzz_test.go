// SPDX-License-Identifier: Apache-2.0

package history_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/nstrace/nstrace/internal/history"
)

// FuzzImport imports exports that somebody changed. A history that nstrace takes has the same export; otherwise there is
// no file afterwards.
func FuzzImport(f *testing.F) {
	whole := export(f, recorded(f, 3, history.Options{}))
	f.Add(whole)
	f.Add(whole[:len(whole)-20])
	f.Add(append(bytes.Clone(whole), whole...))
	f.Add([]byte(`{"v":1,"type":"sysctl.write","history":{"id":9223372036854775807,"hash":"","prev":""}}`))
	f.Add([]byte("null\n\n{}"))
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, text []byte) {
		path := filepath.Join(dir, "history.db")
		n, err := history.Import(context.Background(), path, bytes.NewReader(text))
		var bad *history.ImportError
		if err != nil && (!errors.As(err, &bad) || bad.Line < 1 || bad.Line > bytes.Count(text, []byte("\n"))+1) {
			t.Errorf("%q: %v", text, err)
		}
		if _, statErr := os.Stat(path); err != nil && statErr == nil {
			t.Errorf("%q: %v, but there is a file", text, err)
		} else if err == nil {
			got := export(t, path)
			if lines := bytes.Count(got, []byte("\n")); uint64(lines) != n {
				t.Errorf("%q: %d events, %d lines", text, n, lines)
			}
			again := filepath.Join(dir, "again.db")
			if n > 0 {
				if _, err := history.Import(context.Background(), again, bytes.NewReader(got)); err != nil || !bytes.Equal(export(t, again), got) {
					t.Errorf("%q: its export differs: %v", text, err)
				}
			}
		}
		files, _ := filepath.Glob(filepath.Join(dir, "*"))
		for _, file := range files {
			if err := os.Remove(file); err != nil {
				t.Error(err)
			}
		}
	})
}
