// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"strings"

	"github.com/olekukonko/tablewriter"
	"github.com/olekukonko/tablewriter/renderer"
	"github.com/olekukonko/tablewriter/tw"
	"github.com/spf13/cobra"

	"github.com/nstrace/nstrace/internal/config"
	"github.com/nstrace/nstrace/internal/confine"
	"github.com/nstrace/nstrace/internal/history"
	"github.com/nstrace/nstrace/internal/resolver"
	"github.com/nstrace/nstrace/output"
	"github.com/nstrace/nstrace/tracer"
)

func newCheck() *cobra.Command {
	var format, backend, db, file string
	var verbose bool
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Report what this host supports and how each observation attaches",
		Long: `Attach all BPF programs as a run does and detach them at once. Report whether nstrace works
on this host, and in one sentence each what it cannot see. With --verbose, also report what
the host supports, how each observation attaches, and which privileges nstrace keeps. Ask the
recorder of the database, if one runs, how it is, which needs root or its user. The
exit status is 3 if nstrace cannot run on this host.

With --config, check a configuration file instead, and print what nstrace record would use.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := oneOf("--output", format, []string{"table", "json"}); err != nil {
				return err
			}
			if err := oneOf("--backend", backend, tracer.Backends()); err != nil {
				return err
			}
			if file != "" {
				return checkConfig(file)
			}
			report, err := tracer.Check(tracer.Options{Backend: tracer.Backend(backend), Notify: warn})
			if err != nil && len(report.Capabilities) == 0 {
				return err
			}
			recorder, recorderErr := history.AskState(cmd.Context(), db)
			var text bytes.Buffer
			if format == "json" {
				err = errors.Join(err, json.NewEncoder(&text).Encode(&hostReport{report, confinement(), recorder}))
			} else {
				err = errors.Join(err, writeReport(&text, report, err, output.TerminalWidth(os.Stdout), verbose))
				fmt.Fprintln(&text, output.Fold(describeRecorder(recorder, recorderErr, db), foldWidth(output.TerminalWidth(os.Stdout)), ""))
			}
			_, werr := os.Stdout.Write(text.Bytes())
			return errors.Join(err, werr)
		},
	}
	registerDB(cmd.Flags(), &db)
	cmd.Flags().StringVarP(&format, "output", "o", "table", "output format: table or json")
	cmd.Flags().BoolVarP(&verbose, "verbose", "v", false, "also show what the host supports, all hooks, and the privileges that nstrace keeps")
	cmd.Flags().StringVar(&file, "config", "", "check this configuration file, without a name "+config.Path+" and conf.d, and print what it comes to")
	optionalValue(cmd.Flags(), "config", config.Path, nil)
	cmd.Flags().StringVar(&backend, "backend", "auto", "how to attach: "+strings.Join(tracer.Backends(), ", "))
	return cmd
}

// A hostReport is what nstrace check reports.
type hostReport struct {
	*tracer.Report
	Confinement *confine.Report `json:"confinement"`        // of the processes that trace
	Recorder    *history.State  `json:"recorder,omitempty"` // of the history, nil if none answers
}

// describeRecorder says in one line how the recorder of a history is.
func describeRecorder(st *history.State, err error, db string) string {
	switch {
	case err == nil:
		return flatten(fmt.Sprintf("A recorder (process %d, %s) writes to %s, %s.", st.PID, st.Version, db, describeState(st, location())))
	case errors.Is(err, history.ErrNoRecorder):
		return fmt.Sprintf("No recorder writes to %s.", db)
	}
	return flatten(fmt.Sprintf("Whether a recorder writes to %s is unknown: %v.", db, err))
}

// newTable returns a table without lines, for reports.
func newTable(w io.Writer, header ...string) *tablewriter.Table {
	t := tablewriter.NewTable(w,
		tablewriter.WithRenderer(renderer.NewBlueprint(tw.Rendition{
			Borders: tw.BorderNone,
			Settings: tw.Settings{
				Lines:      tw.LinesNone,
				Separators: tw.SeparatorsNone,
			},
		})),
		tablewriter.WithHeaderAlignment(tw.AlignLeft),
		tablewriter.WithRowAlignment(tw.AlignLeft),
		tablewriter.WithPadding(tw.Padding{Right: "  ", Overwrite: true}),
	)
	t.Header(header)
	return t
}

// foldWidth returns the width of lines for output.Fold. Without a terminal, each gap has a line.
func foldWidth(terminal int) int {
	if terminal <= 0 {
		return math.MaxInt
	}
	return terminal
}

// writeReport writes the verdict first, and then each gap as a sentence. err is why nstrace cannot run.
func writeReport(w io.Writer, r *tracer.Report, err error, width int, verbose bool) error {
	width = foldWidth(width)
	verdict := "Here, nstrace works, and sees everything."
	switch {
	case err != nil:
		verdict = "Here, nstrace cannot run: stderr says why."
	case !r.Complete:
		verdict = "Here, nstrace works, but does not see everything:"
	}
	fmt.Fprintln(w, output.Fold(verdict, width, ""))
	for _, missing := range r.Missing {
		fmt.Fprintln(w, output.Fold("- "+gap(missing), width, "  "))
	}
	if !verbose {
		if len(r.Observations) > 0 {
			fmt.Fprintln(w, output.Fold(fmt.Sprintf("Linux %s %s. See nstrace check --verbose for all hooks.", r.Kernel, r.Arch), width, ""))
		}
		return nil
	}
	fmt.Fprintf(w, "\nLinux %s %s\n\n", r.Kernel, r.Arch)
	for _, c := range r.Capabilities {
		has := "yes"
		if !c.OK {
			has = "no"
		}
		fmt.Fprintln(w, output.Fold(fmt.Sprintf("%-8s %-4s %s", c.Name, has, c.Detail), width, strings.Repeat(" ", 14)))
	}
	if len(r.Observations) == 0 {
		return nil
	}
	fmt.Fprintln(w)
	t := newTable(w, "observation", "attached by", "hooks")
	for _, o := range r.Observations {
		if err := t.Append(o.Name, o.Backend, strings.Join(o.Hooks, "\n")); err != nil {
			return err
		}
	}
	if err := t.Render(); err != nil {
		return err
	}
	writeConfinement(w, confinement(), width)
	return nil
}

// observed are the observations in the words of people.
var observed = map[string]string{
	"clone": "clone(2)", "unshare": "unshare(2)", "setns": "setns(2)", "destroy": "the ends of namespaces",
	"pin": "pins of namespaces", "unpin": "ends of pins", "sysctl": "writes to parameters",
	"netconf": "changes of devices' parameters by the kernel", "open": "refused opens of parameters", "hostname": "sethostname(2) and setdomainname(2)",
	"exec": "execve(2)", "tamper": "tampering with nstrace", "netdev": "moves of network devices",
}

// gap returns a line of tracer.Report.Missing as a sentence.
func gap(missing string) string {
	if rest, ok := strings.CutPrefix(missing, "not seen without "); ok {
		privilege, what, _ := strings.Cut(rest, ": ")
		return "Without " + privilege + ", nstrace does not see " + what + "."
	}
	names, what, ok := strings.Cut(missing, ": ")
	if !ok {
		return missing + "."
	}
	var all []string
	for name := range strings.SplitSeq(names, ", ") {
		if plain := observed[name]; plain != "" {
			name = plain
		}
		all = append(all, name)
	}
	if why, ok := strings.CutPrefix(what, "all of it: "); ok {
		why, _, _ = strings.Cut(why, ": ") // -v shows the rest
		why = strings.TrimPrefix(why, "all of it is seen ")
		return "nstrace sees no " + strings.Join(all, " and no ") + ": " + why + "."
	}
	return "Of " + strings.Join(all, ", ") + ", nstrace does not see " + what + "."
}

// confinement says what processes that trace keep here.
func confinement() *confine.Report {
	r := confine.Describe()
	_, err := resolver.FreeUser()
	if r.ResolverUser = err == nil; err != nil {
		r.Lacking = append(r.Lacking, err.Error())
	}
	return r
}

// writeConfinement says what a process that traces keeps.
func writeConfinement(w io.Writer, r *confine.Report, width int) {
	fmt.Fprintln(w, "\nWhile it traces, nstrace keeps only these capabilities:")
	for _, k := range r.Keeps {
		fmt.Fprintln(w, output.Fold(fmt.Sprintf("%-20s to %s", k.Capability, k.For()), width, strings.Repeat(" ", 24)))
	}
	fmt.Fprintln(w, output.Fold("It cannot "+strings.Join(r.Refused, ", ")+".", width, ""))
	own := ""
	if r.ResolverUser {
		own = ", and runs as a user of its own"
	}
	fmt.Fprintln(w, output.Fold("Its resolver, which looks up names, keeps no capability"+own+".", width, ""))
	for _, lacking := range r.Lacking {
		fmt.Fprintln(w, output.Fold("Not here: "+lacking+".", width, ""))
	}
}
