// SPDX-License-Identifier: Apache-2.0

package declared

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// A file counts alone whatever its name is, even for a program that does not read files of that name.
func TestFile(t *testing.T) {
	for _, name := range []string{"/x/a.conf", "/etc/sysctl.conf", "/x/.a.conf"} {
		c := File(name, "vm.swappiness = 1\n# x\nvm/swappiness=2\nnet.ipv4.conf.*.rp_filter = 1\n-kernel.x\n")
		for _, p := range Programs() {
			r := c.By(p, "vm.swappiness")
			if w := r.Winner(); w == nil || *w.Value != "2" || w.Where() != name+":3" || !c.Declares(p) {
				t.Errorf("%s by %s: %+v", name, p, r)
			}
			r = c.By(p, "net.ipv4.conf.eth0.rp_filter")
			if w := r.Winner(); w == nil || *w.Value != "1" {
				t.Errorf("%s by %s: %+v", name, p, r)
			}
		}
	}
	if c := File("a", "# nothing\n-vm.swappiness\n"); c.Declares(Systemd) || c.Declares(Procps) {
		t.Error("a file without a value declares one")
	}
}

// TestWatch changes files in each of the ways that count.
func TestWatch(t *testing.T) {
	root := write(t, map[string]string{"etc/sysctl.d/a.conf": "vm.swappiness = 1", "etc/hosts": "x"})
	w := NewWatch(Options{Root: root})
	defer w.Close()
	next := func(what string, do func() error) {
		t.Helper()
		if err := do(); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		if err := w.Next(ctx); err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	in := func(name string) string { return filepath.Join(root, name) }
	put := func(name, text string) func() error {
		return func() error { return os.WriteFile(in(name), []byte(text), 0o600) }
	}
	next("a change", put("etc/sysctl.d/a.conf", "vm.swappiness = 12"))
	next("a new file", put("etc/sysctl.d/b.conf", ""))
	next("a new name", func() error { return os.Rename(in("etc/sysctl.d/b.conf"), in("etc/sysctl.d/c.conf")) })
	next("the end of a file", func() error { return os.Remove(in("etc/sysctl.d/c.conf")) })
	next("sysctl.conf", put("etc/sysctl.conf", ""))
	next("a new folder", func() error { return os.MkdirAll(in("run/sysctl.d"), 0o700) })
	next("a file in it", put("run/sysctl.d/d.conf", ""))

	ctx, cancel := context.WithCancel(t.Context())
	none := make(chan error, 1)
	go func() { none <- w.Next(ctx) }()
	if err := put("etc/hosts", "another file")(); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-none:
		t.Errorf("another file of /etc: %v", err)
	case <-time.After(50 * time.Millisecond):
	}
	cancel()
	if err := <-none; err == nil {
		t.Error("Next does not end with its context")
	}
}
