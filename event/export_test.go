// SPDX-License-Identifier: Apache-2.0

package event

// EachString is eachString for the tests.
var EachString = eachString
