// SPDX-License-Identifier: Apache-2.0

// Package cri has the messages of the Container Runtime Interface of Kubernetes, as far as nstrace reads
// them. k8s.io/cri-api has all of them, and needs gRPC, which makes a program four megabytes larger.
package cri

//go:generate sh generate

// Service is the path of the service of containers and pods. The name of a method follows it.
const Service = "/runtime.v1.RuntimeService/"
