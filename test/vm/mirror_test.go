// SPDX-License-Identifier: Apache-2.0

package vm

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
)

// A mirror shows tests that run elsewhere as subtests of a test here, while they run.
type mirror struct {
	t          *testing.T
	nodes      map[string]*node // the tests that run, by name
	tests      int
	failed     bool
	unfinished bool
}

type node struct {
	name     string
	t        *testing.T    // nil if the host's -run leaves the test out
	outcome  chan string   // the outcome to end it with
	returned chan struct{} // closed when it has ended here
}

// event is what go tool test2json prints.
type event struct {
	Action string
	Test   string
	Output string
}

func newMirror(t *testing.T) *mirror {
	return &mirror{t: t, nodes: make(map[string]*node)}
}

func (m *mirror) follow(r io.Reader) error {
	lines := bufio.NewReader(r)
	for {
		line, err := lines.ReadBytes('\n')
		if err == io.EOF && len(line) == 0 {
			return nil
		}
		if err != nil {
			return err
		}
		var ev event
		if err := json.Unmarshal(line, &ev); err != nil {
			return fmt.Errorf("%w: %q", err, line)
		}
		m.handle(&ev)
	}
}

func (m *mirror) handle(ev *event) {
	n := m.nodes[ev.Test]
	switch ev.Action {
	case "run":
		m.tests++
		m.start(ev.Test)
	case "output":
		if !m.framing(ev) {
			t, _ := m.reporter(n)
			io.WriteString(t.Output(), strings.TrimPrefix(ev.Output, "    "))
		}
	case "pass", "fail", "skip":
		if n != nil {
			m.end(n, ev.Action)
		}
	}
}

// framing reports whether a line is one that the testing package prints around a test's own output.
// The testing package here prints such lines again.
func (m *mirror) framing(ev *event) bool {
	if ev.Test == "" {
		return ev.Output == "PASS\n" || ev.Output == "FAIL\n"
	}
	line := strings.TrimLeft(ev.Output, " ")
	for _, prefix := range []string{"=== RUN   ", "=== PAUSE ", "=== CONT  ", "=== NAME  ", "--- PASS: ", "--- FAIL: ", "--- SKIP: "} {
		if rest, ok := strings.CutPrefix(line, prefix); ok {
			return strings.HasPrefix(rest, ev.Test)
		}
	}
	return false
}

// reporter returns the test here that stands for n, or for the nearest test around it.
func (m *mirror) reporter(n *node) (t *testing.T, exact bool) {
	if n != nil && n.t != nil {
		return n.t, true
	}
	if n != nil {
		for name := n.name; name != ""; {
			name, _ = cutLast(name)
			if up := m.nodes[name]; up != nil && up.t != nil {
				return up.t, false
			}
		}
	}
	return m.t, n == nil
}

func cutLast(name string) (before, after string) {
	if i := strings.LastIndexByte(name, '/'); i >= 0 {
		return name[:i], name[i+1:]
	}
	return "", name
}

func (m *mirror) start(name string) {
	n := &node{name: name, outcome: make(chan string), returned: make(chan struct{})}
	parent, rel := m.t, name
	// A subtest's own name can contain slashes, so its parent is not simply the part before the
	// last one.
	for up, _ := cutLast(name); up != ""; up, _ = cutLast(up) {
		if p := m.nodes[up]; p != nil {
			parent, rel = p.t, name[len(up)+1:]
			break
		}
	}
	m.nodes[name] = n
	if parent == nil {
		close(n.returned)
		return
	}
	// Run returns only when the test is over, and tests can run in parallel.
	running := make(chan *testing.T, 1)
	go func() {
		defer close(n.returned)
		parent.Run(rel, func(t *testing.T) {
			running <- t
			switch <-n.outcome {
			case "fail":
				t.Fail()
			case "skip":
				t.SkipNow()
			}
		})
	}()
	select {
	case n.t = <-running:
	case <-n.returned:
	}
}

func (m *mirror) end(n *node, outcome string) {
	if outcome == "fail" {
		m.failed = true
	}
	if n.t != nil {
		n.outcome <- outcome
	} else if outcome == "fail" {
		t, _ := m.reporter(n)
		t.Errorf("%s failed in the guest", n.name)
	}
	<-n.returned
	delete(m.nodes, n.name)
}

// close ends the tests whose end was never reported, the innermost first.
func (m *mirror) close() {
	names := make([]string, 0, len(m.nodes))
	for name := range m.nodes {
		names = append(names, name)
	}
	slices.SortFunc(names, func(a, b string) int { return len(b) - len(a) })
	for _, name := range names {
		m.unfinished = true
		n := m.nodes[name]
		t, _ := m.reporter(n)
		t.Errorf("the guest ended while %s ran", name)
		m.end(n, "fail")
	}
}
