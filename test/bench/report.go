// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"math"
	"slices"
	"strings"
)

// report has the results of a run. -json prints it.
type report struct {
	Kernel string  `json:"kernel"`
	CPUs   int     `json:"cpus"`
	Rounds int     `json:"rounds"`
	Slices int     `json:"slices"`
	Scale  float64 `json:"scale"`

	Itself       *itself          `json:"itself,omitempty"`
	Subjects     []string         `json:"subjects,omitempty"` // except nothing
	Workloads    []row            `json:"workloads,omitempty"`
	Instructions string           `json:"instructions,omitempty"` // why they were not counted
	Losses       []losses         `json:"losses,omitempty"`
	Storm        []stormRow       `json:"storm,omitempty"`
	Soak         *soak            `json:"soak,omitempty"`
	History      *historyResult   `json:"history,omitempty"`
	Inventory    *inventoryResult `json:"inventory,omitempty"`
	LeftOut      []leftOut        `json:"left_out,omitempty"`
	NotAlone     bool             `json:"not_alone,omitempty"` // other programs also traced this host
}

type leftOut struct {
	What string `json:"what"`
	Why  string `json:"why"`
}

// row is a workload's line in the tables.
type row struct {
	Workload     string            `json:"workload"`
	NS           spread            `json:"ns"`           // of one turn, with nothing attached
	Ratios       map[string]spread `json:"ratios"`       // by subject; nothing's is about itself
	Count        spread            `json:"instructions"` // of one turn, with nothing attached
	Instructions map[string]spread `json:"instruction_ratios,omitempty"`
}

// losses has what a subject lost, by its own count, in all turns.
type losses struct {
	Subject string `json:"subject"`
	Lost    uint64 `json:"lost"`
	Of      uint64 `json:"of,omitempty"` // 0: unknown
	Unit    string `json:"unit"`
}

// spread is a summary of values.
type spread struct {
	Median float64 `json:"median"`
	Min    float64 `json:"min"`
	Max    float64 `json:"max"`
}

func summarize(v []float64) spread {
	if len(v) == 0 {
		return spread{}
	}
	return spread{median(v), slices.Min(v), slices.Max(v)}
}

func (s spread) String() string {
	return fmt.Sprintf("%.2f (%.2f to %.2f)", s.Median, s.Min, s.Max)
}

// precise is String for values that hardly vary.
func (s spread) precise() string {
	return fmt.Sprintf("%.3f (%.3f to %.3f)", s.Median, s.Min, s.Max)
}

func median(v []float64) float64 {
	v = slices.Clone(v)
	slices.Sort(v)
	if n := len(v); n%2 == 0 {
		return (v[n/2-1] + v[n/2]) / 2
	}
	return v[len(v)/2]
}

func (r *report) heading() string {
	return fmt.Sprintf("Linux %s, %s\n", r.Kernel, plural(r.CPUs, "CPU"))
}

func (r *report) itselfTable() string {
	i := r.Itself
	return "\n" + table(func(line func(...any)) {
		line("binary", fmt.Sprintf("%.1f MiB", i.Binary))
		line("start to first event", fmt.Sprintf("%.0f ms (%.0f to %.0f)", i.Start.Median, i.Start.Min, i.Start.Max))
		if i.Crowd > 0 {
			line(fmt.Sprintf("the same among %d processes", i.Crowd), fmt.Sprintf("%.0f ms (%.0f to %.0f)", i.Crowded.Median, i.Crowded.Min, i.Crowded.Max))
		}
		line("resident memory at idle", fmt.Sprintf("%.1f MiB", i.RSS))
		line("CPU at idle", fmt.Sprintf("%.3f %%", i.IdleCPU))
	})
}

func (r *report) historyTable() string {
	h := r.History
	ms := func(s spread) string { return fmt.Sprintf("%.0f ms (%.0f to %.0f)", s.Median, s.Min, s.Max) }
	return "\n" + table(func(line func(...any)) {
		line(fmt.Sprintf("history of %d events", h.Events), number(h.PerSecond)+" a second")
		line("CPU of an event", fmt.Sprintf("%.1f µs", h.CPU))
		line("on disk", fmt.Sprintf("%.0f bytes an event", h.Bytes))
		line(fmt.Sprintf("blame, %d parameters", h.Parameters), ms(h.Blame.Cold))
		line("the same again", ms(h.Blame.Again))
		line("CPU of it", ms(h.Blame.CPU))
		line(fmt.Sprintf("history sysctl, %d writes", h.Writes), ms(h.Parameter.Cold))
		line("the same again", ms(h.Parameter.Again))
		line("CPU of it", ms(h.Parameter.CPU))
		line("explain of this parameter", ms(h.Explain.Cold))
		line("the same again", ms(h.Explain.Again))
		line("CPU of it", ms(h.Explain.CPU))
		line(fmt.Sprintf("diff --declared, %d parameters in %d files", declaredParameters, declaredFiles), ms(h.Diff.Cold))
		line("the same again", ms(h.Diff.Again))
		line("CPU of it", ms(h.Diff.CPU))
	})
}

func (r *report) workloadTable() string {
	var b strings.Builder
	fmt.Fprintf(&b, "\nTime of one turn: %s of %s each, scale %g; medians, smallest and largest; ratios to nothing attached.\n\n",
		plural(r.Rounds, "round"), plural(r.Slices, "slice"), r.Scale)
	b.WriteString(table(func(line func(...any)) {
		heads := []any{"", "nothing, ns", ""}
		for _, s := range r.Subjects {
			heads = append(heads, s)
		}
		line(heads...)
		for _, w := range r.Workloads {
			own := w.Ratios[nothing]
			cells := []any{w.Workload, number(w.NS.Median), fmt.Sprintf("(%.2f to %.2f)", own.Min, own.Max)}
			for _, s := range r.Subjects {
				cells = append(cells, w.Ratios[s])
			}
			line(cells...)
		}
	}))
	b.WriteString("\n")
	if r.Instructions != "" {
		fmt.Fprintf(&b, "Instructions: not available: %s.\n", r.Instructions)
	} else {
		fmt.Fprintf(&b, "Instructions of one turn, kernel and user space; ratios to nothing attached.\n\n")
		b.WriteString(table(func(line func(...any)) {
			heads := []any{"", "nothing"}
			for _, s := range r.Subjects {
				heads = append(heads, s)
			}
			line(heads...)
			for _, w := range r.Workloads {
				cells := []any{w.Workload, number(w.Count.Median)}
				for _, s := range r.Subjects {
					cells = append(cells, w.Instructions[s].precise())
				}
				line(cells...)
			}
		}))
		b.WriteString("\n")
	}
	for _, k := range r.Losses {
		if k.Of > 0 {
			fmt.Fprintf(&b, "Lost by %s, by its own count: %d of %d %s (%.2f %%).\n", k.Subject, k.Lost, k.Of, k.Unit, 100*float64(k.Lost)/float64(k.Of))
		} else {
			fmt.Fprintf(&b, "Lost by %s, by its own count: %d %s.\n", k.Subject, k.Lost, k.Unit)
		}
	}
	return b.String()
}

func (r *report) stormTable() string {
	if len(r.Storm) == 0 {
		return ""
	}
	// nstrace can print totals that are not always there.
	words := []string{"seen", "written", "filtered", "lost"}
	for _, s := range r.Storm {
		for w := range s.Totals {
			if !slices.Contains(words, w) && w != "events" && w != "event" {
				words = append(words, w)
			}
		}
	}
	first := r.Storm[0]
	var b strings.Builder
	fmt.Fprintf(&b, "\nStorm: %.1f s of writes to a parameter, %s values, JSON to /dev/null.\n\n", first.Seconds, first.Values)
	b.WriteString(table(func(line func(...any)) {
		heads := []any{"writers", "backend", "alone/s", "traced/s", "ratio", "per write", "writes"}
		for _, w := range words {
			heads = append(heads, w)
		}
		line(append(heads, "lost %", "CPU/event", "accounted for")...)
		for _, s := range r.Storm {
			cells := []any{s.Writers, s.Backend, number(s.Alone.Median), number(s.Traced.Median),
				spread{s.Alone.Median / s.Traced.Median, s.Alone.Median / s.Traced.Max, s.Alone.Median / s.Traced.Min},
				fmt.Sprintf("%+.2f µs", s.PerWrite), s.Writes}
			for _, w := range words {
				cells = append(cells, s.Totals[w])
			}
			line(append(cells, fmt.Sprintf("%.1f", s.LostPercent), fmt.Sprintf("%.2f µs", s.CPUPerEvent),
				s.Counted.String())...)
		}
	}))
	for _, s := range r.Storm {
		if l := s.Backlog; l != nil {
			fmt.Fprintf(&b, "\nnstrace %s, stopped during the storm and then alone with %d writes in a ring of %s: %.2f µs of CPU each, %s a second on one CPU.\n",
				s.Backend, l.Events, backlogRing, l.CPUPerEvent, number(1e6/l.CPUPerEvent))
		}
	}
	return b.String()
}

func (r *report) soakTable() string {
	s := r.Soak
	return fmt.Sprintf("\nSoak: %d processes, each with a write to a parameter, %d with a namespace of its own, in %.1f s.\n\n",
		s.Processes, s.Namespaces, s.Seconds) +
		table(func(line func(...any)) {
			line("resident memory before", fmt.Sprintf("%.1f MiB", s.Before))
			line("resident memory after", fmt.Sprintf("%.1f MiB", s.After))
			line("resident memory at most", fmt.Sprintf("%.1f MiB", s.Peak))
			for _, w := range []string{"seen", "lost"} {
				line(w, s.Totals[w])
			}
			line("CPU for each event", fmt.Sprintf("%.2f µs", s.CPUPerEvent))
		})
}

// footnotes returns what is missing from the results, and what is wrong with them.
func (r *report) footnotes() string {
	var b strings.Builder
	b.WriteString("\n")
	if r.NotAlone {
		b.WriteString("Other programs traced this host while bench had nothing attached: the ratios are too small.\n")
	}
	for _, l := range r.LeftOut {
		fmt.Fprintf(&b, "Left out: %s: %s\n", l.What, l.Why)
	}
	return b.String()
}

// table aligns the first column left and all others right.
func table(fill func(line func(...any))) string {
	var rows [][]string
	var widths []int
	fill(func(cells ...any) {
		var line []string
		for i, c := range cells {
			s := fmt.Sprint(c)
			if i == len(widths) {
				widths = append(widths, 0)
			}
			widths[i] = max(widths[i], len([]rune(s)))
			line = append(line, s)
		}
		rows = append(rows, line)
	})
	var b strings.Builder
	for _, line := range rows {
		var out strings.Builder
		for i, s := range line {
			if i == 0 {
				fmt.Fprintf(&out, "%-*s", widths[i], s)
			} else {
				fmt.Fprintf(&out, "  %*s", widths[i], s)
			}
		}
		b.WriteString(strings.TrimRight(out.String(), " ") + "\n")
	}
	return b.String()
}

// number returns the significant digits of a number of unknown size.
func number(v float64) string {
	if v < 100 {
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.0f", math.Round(v))
}

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
