// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/internal/graph"
	"github.com/nstrace/nstrace/internal/inventory"
	"github.com/nstrace/nstrace/internal/safefile"
)

// graphFormats are the formats of nstrace graph, by the suffixes of files.
var graphFormats = map[string]string{
	".svg": "svg", ".dot": "dot", ".gv": "dot", ".mmd": "mermaid", ".mermaid": "mermaid", ".json": "json",
}

type graphFlags struct {
	inventoryFlags
	format string
	file   string
	fold   int
}

func newGraph() *cobra.Command {
	var f graphFlags
	cmd := &cobra.Command{
		Use:   "graph [flags]",
		Short: "Draw the network namespaces of the host and what connects them",
		Long: `Draw each network namespace as a box with its devices and addresses, and what connects
them as lines: veth pairs, bridges, VLANs, macvlans, VRFs, bonds, and hardware that was
moved away from the host. Resting the mouse on something shows more about it.

If there are many namespaces, the picture folds similar ones to one box. JSON always has
all of them.`,
		Example: `  nstrace graph > networks.svg
  nstrace graph -O networks.svg && xdg-open networks.svg
  nstrace graph --format dot | dot -Tpdf > networks.pdf
  nstrace graph --format json | jq '.links[] | select(.kind == "veth")'`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return f.graph(cmd.Context())
		},
	}
	fs := cmd.Flags()
	fs.SortFlags = false
	fs.StringVar(&f.format, "format", "", "svg, dot (Graphviz), mermaid or json (default: what the suffix of the file says, else svg)")
	fs.StringVarP(&f.file, "output-file", "O", "", "write to this file instead of standard output")
	fs.IntVar(&f.fold, "fold", graph.DefaultFold, "fold similar namespaces if there are more than this many (0: never)")
	f.register(cmd)
	complete(cmd, "format", graph.Formats())
	return cmd
}

func (f *graphFlags) graph(ctx context.Context) (err error) {
	format := f.format
	if format == "" {
		format = "svg"
		if f.file != "" && graphFormats[strings.ToLower(filepath.Ext(f.file))] != "" {
			format = graphFormats[strings.ToLower(filepath.Ext(f.file))]
		}
	}
	if err := oneOf("--format", format, graph.Formats()); err != nil {
		return err
	}
	if f.fold < 0 {
		return usagef("--fold: %d is negative: want a number of namespaces, or 0 to fold none", f.fold)
	}
	o, err := f.options()
	if err != nil {
		return err
	}
	o.Types = []event.NSType{event.NSTypeNet}
	ctx, cancel := interruptible(ctx)
	defer cancel()
	defer visit(ctx, f.db)()
	inv, err := inventory.Take(ctx, o)
	if err != nil {
		return interrupted(err)
	}
	if err := f.name(ctx, inv, inv.Namespaces()); err != nil {
		return err
	}
	g := graph.Take(ctx, inv)
	if err := ctx.Err(); err != nil {
		return interrupted(err)
	}
	out := io.Writer(os.Stdout)
	if f.file != "" {
		file, err := safefile.Open(f.file, os.O_WRONLY|os.O_CREATE|os.O_TRUNC)
		if err != nil {
			return noFolder(fmt.Errorf("--output-file: %w", err))
		}
		defer func() { err = errors.Join(err, file.Close()) }()
		out = file
	}
	buffered := bufio.NewWriter(out)
	return errors.Join(g.Write(buffered, format, f.fold), buffered.Flush())
}
