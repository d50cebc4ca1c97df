//go:build programs

// What Services are compared with: kube-proxy of the version that the lab runs. Nothing here is ever compiled; it keeps what it needs in go.mod.
package proxy

import (
	_ "k8s.io/kubernetes/cmd/kube-proxy"
)
