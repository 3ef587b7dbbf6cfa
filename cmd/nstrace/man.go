// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

func newMan() *cobra.Command {
	return &cobra.Command{
		Use:   "man [COMMAND]",
		Short: "Print the manual page in the format of man(1): nstrace man | man -l -",
		RunE: func(cmd *cobra.Command, args []string) error {
			page := cmd.Root()
			if len(args) > 0 {
				found, rest, err := page.Find(args)
				if err != nil || len(rest) > 0 {
					return usagef("man: unknown command %q: see nstrace --help", args[0])
				}
				page = found
			}
			_, err := cmd.OutOrStdout().Write(manPage(page))
			return err
		},
	}
}

// manPage returns the manual page of a command, as man(7) describes the format. It keeps the lines of the
// help, which have columns. The package doc of cobra would read that as Markdown, and its parser of Markdown
// takes a quarter of the start of nstrace, whatever the command.
func manPage(cmd *cobra.Command) []byte {
	const section = "(8)"
	name := func(c *cobra.Command) string { return strings.ReplaceAll(c.CommandPath(), " ", "-") }
	var b bytes.Buffer
	line := func(macro, text string) { fmt.Fprintf(&b, "%s %s\n", macro, roffText(text)) }
	lines := func(text string) { fmt.Fprintf(&b, ".nf\n%s\n.fi\n", roffText(strings.TrimSpace(text))) }
	fmt.Fprintf(&b, ".nh\n.TH %q 8 \"\" %q\n", strings.ToUpper(name(cmd)), "nstrace "+buildVersion())
	fmt.Fprintf(&b, ".SH NAME\n%s \\- %s\n", roffText(name(cmd)), roffText(cmd.Short))
	b.WriteString(".SH SYNOPSIS\n")
	line(".B", cmd.UseLine())
	if long, _, _ := strings.Cut(cmd.Long, "\n\n"+tableTitle); long != "" { // the table has a section of its own
		b.WriteString(".SH DESCRIPTION\n")
		lines(long)
	}
	option := func(f *pflag.Flag) {
		if f.Hidden || f.Deprecated != "" {
			return
		}
		kind, usage := pflag.UnquoteUsage(f)
		text := "--" + f.Name
		if f.Shorthand != "" {
			text = "-" + f.Shorthand + ", " + text
		}
		b.WriteString(".TP\n")
		line(".B", strings.TrimSpace(text+" "+kind))
		if f.DefValue != "" && f.DefValue != "[]" && f.DefValue != "false" {
			usage += " (default " + f.DefValue + ")"
		}
		b.WriteString(roffText(usage) + "\n")
	}
	cmd.InitDefaultHelpFlag()
	b.WriteString(".SH OPTIONS\n")
	cmd.LocalFlags().VisitAll(option)
	cmd.InheritedFlags().VisitAll(option)
	if cmd.Example != "" {
		b.WriteString(".SH EXAMPLES\n")
		lines(cmd.Example)
	}
	if !cmd.HasParent() {
		manSection(&b, "READING THE TABLE", tableMeanings)
		fmt.Fprintf(&b, ".PP\n%s\n", roffText(colorMeanings))
	}
	manSection(&b, "EXIT STATUS", exitMeanings)
	manSection(&b, "FILES", fileMeanings)
	var others []string
	if cmd.HasParent() {
		others = append(others, name(cmd.Parent())+section)
	}
	for _, c := range cmd.Commands() {
		if c.IsAvailableCommand() && !c.IsAdditionalHelpTopicCommand() {
			others = append(others, name(c)+section)
		}
	}
	if len(others) > 0 {
		b.WriteString(".SH SEE ALSO\n" + roffText(strings.Join(others, ", ")) + "\n")
	}
	return b.Bytes()
}

func manSection(b *bytes.Buffer, title string, all []meaning) {
	fmt.Fprintf(b, ".SH %s\n", title)
	for _, m := range all {
		fmt.Fprintf(b, ".TP\n%s\n%s\n", roffText(m.what), roffText(m.means))
	}
}

// roffText escapes text: a backslash, a minus sign that is no hyphen, characters beyond ASCII, and a dot or a quote at the beginning of
// a line, where they would begin a request.
func roffText(text string) string {
	text = strings.NewReplacer(`\`, `\e`, "-", `\-`, "→", `\(->`, "×", `\(mu`).Replace(text)
	lines := strings.Split(text, "\n")
	for i, l := range lines {
		if strings.HasPrefix(l, ".") || strings.HasPrefix(l, "'") {
			lines[i] = `\&` + l
		}
	}
	return strings.Join(lines, "\n")
}
