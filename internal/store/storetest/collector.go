// SPDX-License-Identifier: Apache-2.0

package storetest

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// A Collector is a running OpenTelemetry Collector with the manifest and the configuration of deploy/otel.
type Collector struct {
	Addr string // of OTLP/HTTP, port 4318
	t    *testing.T
	args []string
	env  []string
	cmd  *exec.Cmd
}

// StartCollector builds the Collector of the folder deploy, once for each manifest, and starts it for a store. Only one can
// run.
func StartCollector(t *testing.T, deploy string, store *Store) *Collector {
	t.Helper()
	cache, err := os.UserCacheDir()
	if err != nil {
		cache = os.TempDir()
	}
	deploy, err = filepath.Abs(deploy)
	if err != nil {
		t.Fatal(err)
	}
	manifest, err := os.ReadFile(filepath.Join(deploy, "builder.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(cache, "nstrace-test", "collector")
	binary := filepath.Join(dir, "nstrace-collector", "nstrace-collector")
	if built, err := os.ReadFile(filepath.Join(dir, "builder.yaml")); err != nil || string(built) != string(manifest) {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command("go", "run", "go.opentelemetry.io/collector/cmd/builder@v0.165.0", "--config="+filepath.Join(deploy, "builder.yaml"))
		cmd.Dir, cmd.Env = dir, append(os.Environ(), "GOFLAGS=")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("build the Collector: %v\n%s", err, out)
		}
		if err := os.WriteFile(filepath.Join(dir, "builder.yaml"), manifest, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	c := &Collector{
		Addr: "127.0.0.1:4318", t: t, args: []string{binary, "--config=" + filepath.Join(deploy, "collector.yaml")},
		env: append(os.Environ(), "STORE="+store.URL, "QUEUE="+t.TempDir()),
	}
	t.Cleanup(c.Kill)
	c.Run()
	return c
}

// Run starts the program again after Kill.
func (c *Collector) Run() {
	c.t.Helper()
	c.cmd = exec.Command(c.args[0], c.args[1:]...)
	c.cmd.Env = c.env
	if err := c.cmd.Start(); err != nil {
		c.t.Fatal(err)
	}
	Await(c.t, "the Collector to listen", func() bool {
		conn, err := net.Dial("tcp", c.Addr)
		if err != nil {
			return false
		}
		conn.Close()
		return true
	})
}

// Kill ends the program as a power cut does.
func (c *Collector) Kill() {
	if c.cmd != nil {
		_ = c.cmd.Process.Kill()
		_ = c.cmd.Wait()
		c.cmd = nil
	}
}

// PID returns the process id of the running program.
func (c *Collector) PID() int { return c.cmd.Process.Pid }
