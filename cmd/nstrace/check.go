// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/olekukonko/tablewriter"
	"github.com/olekukonko/tablewriter/renderer"
	"github.com/olekukonko/tablewriter/tw"
	"github.com/spf13/cobra"

	"github.com/nstrace/nstrace/internal/confine"
	"github.com/nstrace/nstrace/internal/resolver"
	"github.com/nstrace/nstrace/tracer"
)

func newCheck() *cobra.Command {
	var format, backend string
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Report what this host supports and how each observation attaches",
		Long: `Attach all BPF programs as a run does and detach them at once. Report what this host
supports, how each observation attaches, and what nstrace cannot see that way. The exit
status is 3 if nstrace cannot run on this host.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := oneOf("--output", format, []string{"table", "json"}); err != nil {
				return err
			}
			if err := oneOf("--backend", backend, tracer.Backends()); err != nil {
				return err
			}
			report, err := tracer.Check(tracer.Options{Backend: tracer.Backend(backend), Notify: notify})
			if err != nil && len(report.Capabilities) == 0 {
				return err
			}
			write := writeReport
			if format == "json" {
				write = func(w io.Writer, r *hostReport) error { return json.NewEncoder(w).Encode(r) }
			}
			if werr := write(os.Stdout, &hostReport{report, confinement()}); werr != nil {
				return werr
			}
			return err
		},
	}
	cmd.Flags().StringVarP(&format, "output", "o", "table", "output format: table or json")
	cmd.Flags().StringVar(&backend, "backend", "auto", "how to attach: "+strings.Join(tracer.Backends(), ", "))
	return cmd
}

// A hostReport is what nstrace check reports.
type hostReport struct {
	*tracer.Report
	Confinement *confine.Report `json:"confinement"` // of the processes that trace
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

func writeReport(w io.Writer, r *hostReport) error {
	if r.Complete {
		fmt.Fprintln(w, "Here, nstrace sees everything.")
	} else {
		fmt.Fprintln(w, "Here, nstrace does not see everything. Missing:")
		for _, missing := range r.Missing {
			fmt.Fprintf(w, "  %s\n", missing)
		}
	}
	fmt.Fprintf(w, "\nLinux %s %s\n\n", r.Kernel, r.Arch)
	t := newTable(w, "has", "", "detail")
	for _, c := range r.Capabilities {
		has := "yes"
		if !c.OK {
			has = "no"
		}
		if err := t.Append(c.Name, has, c.Detail); err != nil {
			return err
		}
	}
	if err := t.Render(); err != nil || len(r.Observations) == 0 {
		return err
	}
	fmt.Fprintln(w)
	t = newTable(w, "observation", "attached by", "hooks", "not seen")
	for _, o := range r.Observations {
		if err := t.Append(o.Name, o.Backend, strings.Join(o.Hooks, "\n"), strings.Join(o.Missing, "\n")); err != nil {
			return err
		}
	}
	if err := t.Render(); err != nil {
		return err
	}
	return writeConfinement(w, r.Confinement)
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
func writeConfinement(w io.Writer, r *confine.Report) error {
	fmt.Fprintln(w, "\nWhile it traces, nstrace keeps only these capabilities:")
	t := newTable(w, "keeps", "to")
	for _, k := range r.Keeps {
		if err := t.Append(k.Capability.String(), k.For()); err != nil {
			return err
		}
	}
	if err := t.Render(); err != nil {
		return err
	}
	fmt.Fprintf(w, "It cannot %s.\n", strings.Join(r.Refused, ", "))
	own := ""
	if r.ResolverUser {
		own = ", and runs as a user of its own"
	}
	fmt.Fprintf(w, "Its resolver, which looks up names, keeps no capability%s.\n", own)
	for _, lacking := range r.Lacking {
		fmt.Fprintf(w, "Not here: %s.\n", lacking)
	}
	return nil
}
