// SPDX-License-Identifier: Apache-2.0

//go:build race

package history_test

const raced = true
