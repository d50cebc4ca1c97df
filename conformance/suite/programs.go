//go:build programs

// What the suite is built from: Kubernetes' own end-to-end tests and the programs of the images that they run, of the version that the
// lab runs. Nothing here is ever compiled; it keeps what they need in go.mod.
package suite

import (
	_ "k8s.io/kubernetes/test/e2e"
	_ "k8s.io/kubernetes/test/images/agnhost"
	_ "k8s.io/kubernetes/test/images/regression-issue-74839"
)
