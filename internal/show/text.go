// SPDX-License-Identifier: Apache-2.0

package show

import (
	"context"
	"errors"
	"io"
	"strings"

	"github.com/nstrace/nstrace/internal/inventory"
	"github.com/nstrace/nstrace/internal/resolve"
	"github.com/nstrace/nstrace/output"
)

// Write writes the page of a target as text. It reads the command lines and dates that it needs. Behind the
// page, incomplete gets a line for each thing that is missing.
func Write(ctx context.Context, to io.Writer, page *output.Page, o Options, w *output.PageWriter, incomplete func(string)) error {
	if err := o.complete(ctx, page); err != nil {
		return err
	}
	for _, line := range page.Incomplete {
		incomplete("not shown: " + line)
	}
	return w.WriteText(to, page)
}

// WriteJSON writes the page of a target as JSON.
func WriteJSON(ctx context.Context, to io.Writer, page *output.Page, o Options, w *output.PageWriter) error {
	if err := o.complete(ctx, page); err != nil {
		return err
	}
	return w.WriteJSON(to, page)
}

// complete adds to a page what only its namespaces need.
func (o *Options) complete(ctx context.Context, page *output.Page) error {
	var shown []*inventory.Namespace
	for _, d := range page.Namespaces {
		shown = append(shown, d.Namespace)
		o.Inventory.ReadCommands(ctx, d.Processes)
	}
	if o.History != nil {
		if err := Date(ctx, o.History, o.Inventory, shown); err != nil {
			return err
		}
	}
	page.Incomplete = append(o.Inventory.Incomplete, page.Incomplete...)
	return nil
}

// Text returns what nstrace show prints of a namespace. What is missing follows.
func Text(ctx context.Context, n *inventory.Namespace, o Options, w *output.PageWriter) (string, error) {
	o.Resolver = resolve.New(o.Inventory, nil)
	page, err := Collect(ctx, o.Resolver.Target(n), o)
	if err != nil {
		return "", err
	}
	var text, missing strings.Builder
	err = Write(ctx, &text, page, o, w, func(line string) { missing.WriteString(output.Escape(line) + "\n") })
	if missing.Len() > 0 {
		text.WriteString("\n" + missing.String())
	}
	return text.String(), errors.Join(err, ctx.Err())
}
