// SPDX-License-Identifier: Apache-2.0

// Package bpf has the kernel side of nstrace: the C programs, the records that they send
// (lib/record.h), and the Go that bpf2go makes of both.
//
// The generated files are committed, so that Go alone suffices to build nstrace. `make generate`
// makes them again, and `make check-generated` fails if they are not up to date.
package bpf

//go:generate go tool bpf2go -go-package bpf -tags linux -target amd64,arm64 -type record_kind -type ns_kind -type call_via -type record_flag -type ns_record -type ns_refusal -type ns_limit -type refusal_flag -type sysctl_record -type destroy_record -type netdev_record -type pin_record -type pin_end_record -type tamper_record -type table_record -type own_key -type own_object -type task_ns -type pid_pair -type actor -type head -type who_record -type param_record -type caller -type fold -type fold_ref -type share -type share_owner -type ns_change -type counters -type ns_call -type pin_call -no-global-types Nstrace nstrace.c -- -I.. -Wall -Werror
//go:generate go tool bpf2go -go-package bpf -tags linux -target amd64,arm64 -type ns_row -type task_row -type file_row -type same_row -no-global-types Inventory inventory.c -- -I.. -Wall -Werror
