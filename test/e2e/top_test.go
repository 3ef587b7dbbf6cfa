// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nstrace/nstrace/event"
)

// A pane is a terminal of tmux with a shell in it.
type pane struct {
	*testing.T
	socket string
	marks  int
}

// openPane starts tmux with one pane of 80x24.
func openPane(t *testing.T) *pane {
	t.Helper()
	anyKernel(t)
	if _, err := exec.LookPath("tmux"); err != nil {
		if os.Getenv("NSTRACE_E2E_HELPERS") != "" {
			t.Skip("there is no tmux in guests")
		}
		t.Fatal("tmux is missing: install tmux")
	}
	p := &pane{T: t, socket: filepath.Join(t.TempDir(), "tmux")}
	p.tmux("-f", "/dev/null", "new-session", "-d", "-x", "80", "-y", "24", "-e", "PS1=$ ", "-e", "LC_ALL=C.UTF-8", "bash", "--norc", "--noprofile")
	t.Cleanup(func() { p.tmux("kill-server") })
	p.await("$")
	return p
}

func (p *pane) tmux(args ...string) string {
	p.Helper()
	return output(p, "tmux", append([]string{"-u", "-S", p.socket}, args...)...)
}

// keys presses keys, by their names in tmux.
func (p *pane) keys(names ...string) {
	p.Helper()
	p.tmux(append([]string{"send-keys"}, names...)...)
}

// write types a text.
func (p *pane) write(text string) {
	p.Helper()
	p.tmux("send-keys", "-l", text)
}

// screen returns what is on the screen.
func (p *pane) screen() string {
	p.Helper()
	return p.tmux("capture-pane", "-p")
}

// awaitThat waits until the screen is as done wants it, and returns it.
func (p *pane) awaitThat(what string, done func(screen string) bool) string {
	p.Helper()
	for limit := time.Now().Add(patience); ; time.Sleep(50 * time.Millisecond) { // tmux does not tell when a screen changes
		screen := p.screen()
		if done(screen) {
			return screen
		}
		if time.Now().After(limit) {
			p.Fatalf("no %s after %v:\n%s", what, patience, screen)
		}
	}
}

func (p *pane) await(text string) string {
	p.Helper()
	return p.awaitThat(strconv.Quote(text), func(s string) bool { return strings.Contains(s, text) })
}

// awaitLine waits for a line of the screen, and returns what the expression's groups match.
func (p *pane) awaitLine(expr string) []string {
	p.Helper()
	re := regexp.MustCompile("(?m)^" + expr + "$")
	return re.FindStringSubmatch(p.awaitThat(expr, func(s string) bool { return re.MatchString(trimmed(s)) }))
}

func trimmed(screen string) string { return regexp.MustCompile(`(?m) +$`).ReplaceAllString(screen, "") }

// sh runs a command in the shell of the pane, and returns the line that it prints.
func (p *pane) sh(command string) string {
	p.Helper()
	p.marks++
	p.write(fmt.Sprintf(`clear; echo "<%d:$(%s)>"`, p.marks, command))
	p.keys("Enter")
	re := regexp.MustCompile(fmt.Sprintf(`(?ms)^<%d:(.*)>$`, p.marks))
	screen := p.awaitThat("answer of "+command, func(s string) bool { return re.MatchString(trimmed(s)) })
	return re.FindStringSubmatch(trimmed(screen))[1]
}

// modes returns the modes of the terminal that programs change.
func (p *pane) modes() string {
	p.Helper()
	return strings.ReplaceAll(p.sh("stty -g"), "\n", "") + " " + p.tmux("display-message", "-p", "alternate #{alternate_on} cursor #{cursor_flag} keypad #{keypad_flag}")
}

// top starts nstrace top and waits for its first inventory. It returns the process that the shell
// started.
func (p *pane) top(flags string) int {
	p.Helper()
	p.write("clear; " + nstraceBin + " top " + flags + "; status=$?")
	p.keys("Enter")
	p.awaitLine(`nstrace top  \d+ namespaces?  .*`)
	shell := strings.TrimSpace(p.tmux("display-message", "-p", "#{pane_pid}"))
	children := strings.Fields(readFile(p, fmt.Sprintf("/proc/%s/task/%s/children", shell, shell)))
	if len(children) != 1 {
		p.Fatalf("the shell has the children %v", children)
	}
	pid, err := strconv.Atoi(children[0])
	if err != nil {
		p.Fatal(err)
	}
	return pid
}

// view returns the process that the one of top started, which draws.
func (p *pane) view(pid int) int {
	p.Helper()
	var views []int
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	if err != nil {
		p.Fatal(err)
	}
	for _, task := range tasks {
		for _, child := range strings.Fields(readFile(p, task)) {
			n, err := strconv.Atoi(child)
			if err != nil {
				p.Fatal(err)
			}
			views = append(views, n)
		}
	}
	if len(views) != 1 {
		p.Fatalf("nstrace top has the children %v", views)
	}
	return views[0]
}

// pages scrolls through the page of a namespace, which begins with a line, and returns all of it.
func (p *pane) pages(begin string) string {
	p.Helper()
	last := regexp.MustCompile(`(?m)^lines (\d+)-(\d+) of (\d+) `)
	var all strings.Builder
	seen := "0"
	screen := p.awaitThat(begin, func(s string) bool { return strings.Contains(s, "\n"+begin) && last.MatchString(s) })
	for {
		at := last.FindStringSubmatch(screen)
		all.WriteString(screen)
		if seen = at[2]; seen == at[3] {
			return all.String()
		}
		p.keys("PageDown")
		screen = p.awaitThat("next lines", func(s string) bool {
			at := last.FindStringSubmatch(s)
			return at != nil && at[2] != seen
		})
	}
}

// TestTopHistory has a namespace that was made before nstrace top started: its age and its creator come
// from the history.
func TestTopHistory(t *testing.T) {
	t.Parallel()
	p := openPane(t)
	db := filepath.Join(t.TempDir(), "history.db")
	rec := startStream(t, "record", "--db", db, "--runtime-socket", "none", "-t", "net")
	rec.awaitStart(t)
	name := fmt.Sprintf("nsold-%d", os.Getpid())
	output(t, "ip", "netns", "add", name)
	t.Cleanup(func() { _ = exec.Command("ip", "netns", "del", name).Run() })
	var st unix.Stat_t
	if err := unix.Stat("/run/netns/"+name, &st); err != nil {
		t.Fatal(err)
	}
	rec.await(t, "creation", func(all []*emitted) bool {
		return slices.ContainsFunc(all, func(e *emitted) bool {
			return e.Type == event.NamespaceCreate && e.Namespace != nil && uint64(e.Namespace.ID) == st.Ino
		})
	})
	rec.interrupt(t)
	p.top("-e sysctl --db " + db)
	p.write("/" + name)
	p.awaitLine(fmt.Sprintf(`net +%d  %s +0 +[\d.]+ +\d+[sm]`, st.Ino, name))
	p.tmux("resize-window", "-x", "120", "-y", "24")
	p.awaitLine(fmt.Sprintf(`net +%d  %s +0 +[\d.]+ +\d+[sm]  ip\[\d+\]`, st.Ino, name))
	p.tmux("resize-window", "-x", "80", "-y", "24")
	p.keys("Enter", "Enter")
	page := p.pages(fmt.Sprintf("net namespace %d %s", st.Ino, name))
	for _, want := range []string{"  made ", " ago) by ip[", "LATEST EVENTS", "create"} {
		if !strings.Contains(page, want) {
			t.Errorf("no %q in the page:\n%s", want, page)
		}
	}
	p.keys("q")
	p.awaitThat("list", func(s string) bool { return strings.HasPrefix(s, "nstrace top") })
	p.keys("Escape")
	p.awaitLine(`nstrace top  \d+ namespaces  .*`)
	p.keys("q")
	p.awaitThat("prompt", func(s string) bool { return strings.HasSuffix(strings.TrimSpace(s), "$") })
	if got := p.sh("echo $status"); got != "0" {
		t.Errorf("exit status %s", got)
	}
	if got := p.sh(nstraceBin + " top --db /nonexistent/x.db 2>&1 >/dev/tty; echo $?"); !strings.Contains(got, "--db: ") || !strings.HasSuffix(got, "\n1") {
		t.Errorf("without that history: %q", got)
	}
}

// TestTop looks at a network namespace in nstrace top, from its creation to its end.
func TestTop(t *testing.T) {
	t.Parallel()
	p := openPane(t)
	before := p.modes()
	name := fmt.Sprintf("nstop-%d", os.Getpid())
	// Without the storms of other tests.
	p.top(`--filter 'type == "namespace.destroy" || sysctl.name == "net.ipv4.ip_forward" || any(process.args, # contains "` + name + `")'`)
	p.write("/" + name)
	p.await("no namespace matches")

	output(t, "ip", "netns", "add", name)
	t.Cleanup(func() { _ = exec.Command("ip", "netns", "del", name).Run() })
	var st unix.Stat_t
	if err := unix.Stat("/run/netns/"+name, &st); err != nil {
		t.Fatal(err)
	}
	row := fmt.Sprintf(`net +%d  %s +`, st.Ino, name)
	p.awaitLine(row + `0 +[\d.]+ +\d+[sm]`) // top has seen when it was made
	p.keys("C-u")                           // an event can come before its namespace has a name
	p.write(fmt.Sprint(st.Ino))
	p.awaitLine(fmt.Sprintf(`\d\d:\d\d:\d\d\.\d{3}  create   net %d .*ip\[\d+\]`, st.Ino))
	p.awaitLine(`nstrace top  1 of \d+ namespaces  \d+ events?  .*/s`)

	sleeper := exec.Command("ip", "netns", "exec", name, "sleep", "infinity")
	if err := sleeper.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = sleeper.Process.Kill()
		_ = sleeper.Wait()
	})
	p.awaitLine(fmt.Sprintf(`%s1 +[\d.]+  sleep\[%d\] +\d+[sm]`, row, sleeper.Process.Pid))
	p.keys("Enter", "Enter") // keep the filter, show the namespace
	p.awaitLine(fmt.Sprintf("net %d", st.Ino))
	page := p.pages(fmt.Sprintf("net namespace %d %s", st.Ino, name))
	want := output(t, nstraceBin, "show", fmt.Sprint(st.Ino))
	for _, part := range append(regexp.MustCompile(`(?m)^[A-Z][A-Z' ]+`).FindAllString(want, -1),
		"/run/netns/"+name, fmt.Sprintf("  %d ", sleeper.Process.Pid), "sleep infinity", "by ip[") {
		if !strings.Contains(page, part) {
			t.Errorf("no %q in the page:\n%s\nnstrace show:\n%s", part, page, want)
		}
	}
	p.keys("Escape")
	p.await("OLDEST PROCESS")

	output(t, "ip", "netns", "exec", name, "sysctl", "-qw", "net.ipv4.ip_forward=1")
	p.awaitLine(`.*  sysctl   net\.ipv4\.ip_forw.*0 → 1 .*`)
	p.keys("Escape") // the filter ends
	p.awaitLine(`nstrace top  \d+ namespaces  .*`)
	p.keys("<", "<") // by owner
	p.await("OWNER↑")
	p.keys("r")
	p.await("OWNER↓")
	p.keys("?")
	p.await("sort by the column")
	p.keys("q")
	p.await("OWNER↓")

	for _, size := range []struct{ width, height int }{{120, 40}, {20, 5}, {80, 24}} {
		p.tmux("resize-window", "-x", strconv.Itoa(size.width), "-y", strconv.Itoa(size.height))
		footer := "? help  / filter  Enter details  < > r sort  q quit"
		footer = footer[:min(len(footer), size.width)]
		screen := p.awaitThat(fmt.Sprint("screen of ", size), func(s string) bool {
			lines := strings.Split(strings.TrimSuffix(s, "\n"), "\n")
			return len(lines) == size.height && strings.HasPrefix(lines[0], "nstrace top") && strings.TrimRight(lines[size.height-1], " ") == footer
		})
		if strings.Contains(screen, "OLDEST PROCESS") != (size.width >= 80) {
			t.Errorf("%v:\n%s", size, screen)
		}
	}

	p.keys("C-z")
	p.await("Stopped")
	if got := p.modes(); got != before {
		t.Errorf("while it is stopped: %s, want %s", got, before)
	}
	p.write("fg; status=$?")
	p.keys("Enter")
	p.await("OWNER↓")
	p.write("/" + name)
	p.keys("Enter")
	p.awaitLine(row + `1 .*`)
	_ = sleeper.Process.Kill()
	_ = sleeper.Wait()
	output(t, "ip", "netns", "del", name)
	p.await("no namespace matches")
	p.awaitLine(fmt.Sprintf(`.*  destroy  net %d .*`, st.Ino))

	p.keys("q")
	p.awaitThat("prompt", func(s string) bool { return strings.HasSuffix(strings.TrimSpace(s), "$") })
	if got := p.sh("echo $status"); got != "0" {
		t.Errorf("exit status %s", got)
	}
	if got := p.modes(); got != before {
		t.Errorf("afterwards: %s, want %s", got, before)
	}
}

// TestTopSignals ends and stops nstrace top by signals. The shell finds its terminal as it was.
func TestTopSignals(t *testing.T) {
	long(t)
	t.Parallel()
	p := openPane(t)
	before := p.modes()
	for _, c := range []struct {
		signal syscall.Signal
		view   bool // to the process that draws, otherwise to the one that the shell started
		status string
		text   string
	}{
		{syscall.SIGTERM, false, "0", ""},
		{syscall.SIGHUP, false, "0", ""},
		{syscall.SIGINT, false, "0", ""},
		{syscall.SIGTERM, true, "0", ""},
		{syscall.SIGQUIT, false, "1", "nstrace: the view ended unexpectedly with exit status 2"},
		{syscall.SIGKILL, true, "1", "nstrace: the view was ended by SIGKILL (killed)"},
		{syscall.SIGSEGV, true, "1", "nstrace: the view ended unexpectedly with exit status 2"},
	} {
		pid := p.top("-e sysctl")
		if c.view {
			pid = p.view(pid)
		}
		if err := syscall.Kill(pid, c.signal); err != nil {
			t.Fatal(err)
		}
		screen := p.awaitThat("prompt", func(s string) bool {
			return strings.HasSuffix(strings.TrimSpace(s), "$") && !strings.Contains(s, "OLDEST PROCESS") && strings.Contains(s, c.text)
		})
		if c.text == "" && strings.Contains(screen, "nstrace:") {
			t.Errorf("%v:\n%s", c.signal, screen)
		}
		if got := p.sh("echo $status"); got != c.status {
			t.Errorf("%v: exit status %s, want %s", c.signal, got, c.status)
		}
		if got := p.modes(); got != before {
			t.Errorf("%v: %s, want %s", c.signal, got, before)
		}
	}

	pid := p.top("-e sysctl")
	for range 3 {
		if err := syscall.Kill(pid, syscall.SIGTSTP); err != nil {
			t.Fatal(err)
		}
		p.await("Stopped")
		if got := p.modes(); got != before {
			t.Errorf("while it is stopped: %s, want %s", got, before)
		}
		p.write("fg")
		p.keys("Enter")
		p.await("OLDEST PROCESS")
	}
	p.keys("C-c")
	p.awaitThat("prompt", func(s string) bool { return strings.HasSuffix(strings.TrimSpace(s), "$") })
	if got := p.modes(); got != before {
		t.Errorf("afterwards: %s, want %s", got, before)
	}
}

// TestTopRefuses checks what nstrace top says where it cannot run.
func TestTopRefuses(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ args, text string }{
		{"top", "nstrace: top: standard input is not a terminal: want a terminal for both input and output\n"},
		{"top -t nets", "nstrace: --ns-type: invalid value \"nets\" (did you mean \"net\"?): want one of mnt, net, ipc, user, pid, uts, cgroup, time\n"},
		{"top x", "nstrace: nstrace top: unexpected argument \"x\": want none\n"},
	} {
		cmd := exec.Command(nstraceBin, strings.Fields(c.args)...)
		text, _ := cmd.CombinedOutput()
		if status := exitStatus(cmd.ProcessState); status != 2 || string(text) != c.text {
			t.Errorf("%s: status %d, %q, want 2, %q", c.args, status, text, c.text)
		}
	}

	p := openPane(t)
	p.tmux("resize-window", "-x", "400")
	asNobody := "setpriv --reuid 65534 --regid 65534 --clear-groups --inh-caps=-all " + nstraceBin
	stream := p.sh(asNobody + " 2>&1; echo $?")
	if got := p.sh(asNobody + " top 2>&1 >/dev/tty; echo $?"); got != stream || !strings.HasSuffix(got, "\n3") {
		t.Errorf("nstrace top says %q, nstrace %q", got, stream)
	}
	if got := p.sh(nstraceBin + " top 2>&1; echo $?"); got != "nstrace: top: standard output is not a terminal: want a terminal for both input and output\n2" {
		t.Errorf("with a pipe: %q", got)
	}
}
