// SPDX-License-Identifier: Apache-2.0

package docs

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// TestCompletion completes words in a bash without the package bash-completion.
func TestCompletion(t *testing.T) {
	bash, err := exec.LookPath("bash")
	if err != nil {
		t.Skip("no bash")
	}
	// compopt works only while bash itself completes.
	const script = `compopt() { :; }; source <(nstrace completion bash) && __start_nstrace && printf '%s\n' "${COMPREPLY[@]}"`
	for line, want := range map[string][]string{
		"nstrace blam":                              {"blame"},
		"nstrace history --ns-type net,u":           {"net,user", "net,uts"},
		"nstrace -e sysctl.write,netdev.":           {"sysctl.write,netdev.move"},
		"nstrace blame kernel.osty":                 {"kernel.ostype"},
		"nstrace history sysctl vm.swapp":           {"vm.swappiness"},
		"nstrace --sysctl kernel.osty":              {"kernel.ostype"},
		"nstrace --user roo":                        {"root"},
		"nstrace blame --sort -":                    nil,
		"nstrace list --color=nev":                  {"never"},
		"nstrace history --sysctl vm.swappiness,ke": {"vm.swappiness,kernel."},
	} {
		cmd := exec.Command(bash, "--norc", "--noprofile", "-c", script)
		cmd.Env = append(os.Environ(), "PATH="+filepath.Dir(program)+":"+os.Getenv("PATH"), "COMP_LINE="+line, "COMP_POINT="+strconv.Itoa(len(line)), "COMP_TYPE=9")
		out, err := cmd.CombinedOutput()
		var got []string
		for _, word := range strings.Fields(string(out)) {
			if !strings.HasPrefix(word, "(") {
				got = append(got, strings.ReplaceAll(word, `\`, "")) // quoted for the command line
			}
		}
		if err != nil || len(want) > 0 && strings.Join(got, " ") != strings.Join(want, " ") {
			t.Errorf("%s: %v, %q, want %q", line, err, out, want)
		}
	}
}

// TestManual checks that the manual page has its sections, and that man can show it.
func TestManual(t *testing.T) {
	out, err := exec.Command(program, "man").Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, section := range []string{"READING THE TABLE", "EXIT STATUS", "FILES", "SEE ALSO"} {
		if strings.Count(string(out), "\n.SH "+section+"\n") != 1 {
			t.Errorf("no section %s", section)
		}
	}
	if strings.Contains(string(out), "In the table:") {
		t.Error("the table is explained twice")
	}
}
