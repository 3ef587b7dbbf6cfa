// SPDX-License-Identifier: Apache-2.0

package attribution

// Source is what a statement about a container or pod rests on.
type Source string

// Sources.
const (
	FromCgroup    Source = "cgroup"    // the name of its cgroup, which the kernel gave with the event
	FromRuntime   Source = "runtime"   // its runtime's API, asked for the id that the cgroup's name has
	FromNamespace Source = "namespace" // who made the namespace, or lives in it
)

// Container is a container. ID is there in any case; Name and Image only once its
// runtime has told them. It is never changed, but replaced by one that knows more.
type Container struct {
	ID      string `json:"id"`
	Name    string `json:"name,omitempty"`
	Image   string `json:"image,omitempty"`
	Runtime string `json:"runtime,omitempty"`
	Source  Source `json:"source"`

	// UserID is whose service manager it runs below, in digits, "" for the host's.
	UserID string `json:"-"`
}

// Pod is a Kubernetes pod. It is never changed.
type Pod struct {
	Name      string `json:"name,omitempty"`
	Namespace string `json:"namespace,omitempty"` // Kubernetes', not the kernel's
	UID       string `json:"uid,omitempty"`
	Source    Source `json:"source"`
}

// Owner is whose a namespace is. It is never changed.
type Owner struct {
	Container *Container `json:"container,omitempty"`
	Pod       *Pod       `json:"pod,omitempty"`
	Unit      string     `json:"unit,omitempty"`
	Source    Source     `json:"source"`
}
