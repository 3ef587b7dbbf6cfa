// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/nstrace/nstrace/internal/procfs"
)

// completable are the names that completion offers. Others come from users, and can mean something to a shell.
var completable = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.@%+/-]*$`)

// maxCompletions is how many names completion offers at most.
const maxCompletions = 5000

// A completion returns the values that begin with what was typed. more says that another part of the same word
// can follow.
type completion func(typed string) (values []string, more bool)

// complete registers the values of a flag for shell completion.
func complete(cmd *cobra.Command, flag string, values []string) {
	completeBy(cmd, flag, func(string) ([]string, bool) { return values, false })
}

// completeBy registers the completion of a flag. The values of a list are separated by commas.
func completeBy(cmd *cobra.Command, flag string, values completion) {
	f := cmd.Flag(flag)
	list := f != nil && f.Value.Type() == "stringSlice"
	// The only error is an unknown flag.
	_ = cmd.RegisterFlagCompletionFunc(flag, func(_ *cobra.Command, _ []string, typed string) ([]string, cobra.ShellCompDirective) {
		before := ""
		if i := strings.LastIndexByte(typed, ','); list && i >= 0 {
			before, typed = typed[:i+1], typed[i+1:]
		}
		return offer(values, before, typed)
	})
}

// completeArgs registers the completion of up to n arguments, of any number if n is 0.
func completeArgs(cmd *cobra.Command, n int, values completion) {
	cmd.ValidArgsFunction = func(_ *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective) {
		if n > 0 && len(args) >= n {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return offer(values, "", typed)
	}
}

// offer returns what shells show. before stands before typed in the same word.
func offer(values completion, before, typed string) (all []string, directive cobra.ShellCompDirective) {
	found, more := values(typed)
	for _, v := range found {
		if strings.HasPrefix(v, typed) && !slices.Contains(strings.Split(before, ","), v) && len(all) < maxCompletions {
			all = append(all, before+v)
		}
	}
	directive = cobra.ShellCompDirectiveNoFileComp
	if more {
		directive |= cobra.ShellCompDirectiveNoSpace
	}
	return all, directive
}

// namesIn returns those of some names that completion can offer, each once.
func namesIn(names []string) []string {
	slices.Sort(names)
	return slices.DeleteFunc(slices.Compact(names), func(name string) bool { return !completable.MatchString(name) })
}

// netnsNames completes names of network namespaces.
func netnsNames(string) (names []string, more bool) {
	for _, dir := range procfs.NetnsDirs {
		entries, _ := os.ReadDir(dir) // most hosts lack some
		for _, e := range entries {
			names = append(names, e.Name())
		}
	}
	return namesIn(names), false
}

// userNames completes names of users.
func userNames(string) (names []string, more bool) {
	f, err := os.Open("/etc/passwd")
	if err != nil {
		return nil, false
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan() && len(names) < maxCompletions; {
		name, _, _ := strings.Cut(lines.Text(), ":")
		names = append(names, name)
	}
	return namesIn(names), false
}

// commandNames completes the command names of processes.
func commandNames(string) (names []string, more bool) {
	pids, err := procfs.PIDs()
	if err != nil {
		return nil, false
	}
	for _, pid := range pids[:min(len(pids), maxCompletions)] {
		if comm, err := os.ReadFile("/proc/" + strconv.FormatUint(uint64(pid), 10) + "/comm"); err == nil {
			names = append(names, strings.TrimSuffix(string(comm), "\n"))
		}
	}
	return namesIn(names), false
}

// parameterParts completes the name of a parameter up to its next dot.
func parameterParts(typed string) (parts []string, more bool) {
	names, _ := parameterNames() // those that there was time for
	for _, name := range names {
		if !strings.HasPrefix(name, typed) {
			continue
		}
		if i := strings.IndexByte(name[len(typed):], '.'); i >= 0 {
			name = name[:len(typed)+i+1]
		}
		parts = append(parts, name)
	}
	parts = namesIn(parts)
	return parts, slices.ContainsFunc(parts, func(p string) bool { return strings.HasSuffix(p, ".") })
}

// programs completes programs of PATH.
func programs(typed string) (names []string, more bool) {
	for _, dir := range filepath.SplitList(os.Getenv("PATH")) {
		entries, _ := os.ReadDir(dir)
		for _, e := range entries {
			if strings.HasPrefix(e.Name(), typed) && !e.IsDir() {
				names = append(names, e.Name())
			}
		}
	}
	return namesIn(names), false
}

// bashFunctions stand for the functions of the package bash-completion that cobra's script calls, where that is
// not installed.
const bashFunctions = `# For hosts without the package bash-completion.
if ! declare -F _get_comp_words_by_ref >/dev/null 2>&1; then
    _get_comp_words_by_ref() {
        local line=${COMP_LINE:0:COMP_POINT}
        read -ra words <<<"$line"
        if [[ $line == *[[:space:]] ]]; then
            words+=("")
        fi
        cword=$((${#words[@]} - 1))
        cur=${words[cword]}
        prev=${words[cword > 0 ? cword - 1 : 0]}
    }
fi
if ! declare -F __ltrim_colon_completions >/dev/null 2>&1; then
    __ltrim_colon_completions() {
        if [[ $1 == *:* && $COMP_WORDBREAKS == *:* ]]; then
            local before=${1%"${1##*:}"} i=${#COMPREPLY[@]}
            while ((i-- > 0)); do
                COMPREPLY[i]=${COMPREPLY[i]#"$before"}
            done
        fi
    }
fi

`

// addCompletion adds cobra's command completion, whose script for bash then needs no other package.
func addCompletion(root *cobra.Command) {
	root.InitDefaultCompletionCmd()
	bash, _, err := root.Find([]string{"completion", "bash"})
	if err != nil || bash.RunE == nil {
		return
	}
	script := bash.RunE
	bash.RunE = func(cmd *cobra.Command, args []string) error {
		if _, err := fmt.Fprint(cmd.OutOrStdout(), bashFunctions); err != nil {
			return err
		}
		return script(cmd, args)
	}
}
