// Every Kubernetes program of the lab in one binary: etcd, kube-apiserver, kube-controller-manager, kube-scheduler, kubelet, kubectl.
//
// The name it is called by chooses the program, as busybox does; so one build and one copy of the shared code serve all six.
package main

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"
	_ "time/tzdata"

	"github.com/spf13/cobra"
	"go.etcd.io/etcd/server/v3/embed"
	"k8s.io/component-base/cli"
	_ "k8s.io/component-base/logs/json/register"
	_ "k8s.io/component-base/metrics/prometheus/clientgo"
	_ "k8s.io/component-base/metrics/prometheus/version"
	kubectl "k8s.io/kubectl/pkg/cmd"
	apiserver "k8s.io/kubernetes/cmd/kube-apiserver/app"
	controllers "k8s.io/kubernetes/cmd/kube-controller-manager/app"
	scheduler "k8s.io/kubernetes/cmd/kube-scheduler/app"
	kubelet "k8s.io/kubernetes/cmd/kubelet/app"
)

const etcdStartTimeout = 60 * time.Second

func main() {
	programs := map[string]func() *cobra.Command{
		"etcd":                    newEtcdCommand,
		"kube-apiserver":          apiserver.NewAPIServerCommand,
		"kube-controller-manager": controllers.NewControllerManagerCommand,
		"kube-scheduler":          func() *cobra.Command { return scheduler.NewSchedulerCommand() },
		"kubelet":                 func() *cobra.Command { return kubelet.NewKubeletCommand(context.Background()) },
		"kubectl":                 kubectl.NewDefaultKubectlCommand,
	}
	program, known := programs[filepath.Base(os.Args[0])]
	if !known {
		fmt.Fprintf(os.Stderr, "%s: call this binary by the name of one of its programs\n", os.Args[0])
		os.Exit(2)
	}
	os.Exit(cli.Run(program()))
}

// newEtcdCommand is an etcd of one member without TLS and, since the lab's data is expendable, without fsync.
func newEtcdCommand() *cobra.Command {
	config := embed.NewConfig()
	var client, peer string
	command := &cobra.Command{
		Use:          "etcd",
		SilenceUsage: true,
		RunE: func(*cobra.Command, []string) error {
			clients, err := url.Parse(client)
			if err != nil {
				return err
			}
			peers, err := url.Parse(peer)
			if err != nil {
				return err
			}
			config.ListenClientUrls, config.AdvertiseClientUrls = []url.URL{*clients}, []url.URL{*clients}
			config.ListenPeerUrls, config.AdvertisePeerUrls = []url.URL{*peers}, []url.URL{*peers}
			config.InitialCluster = config.InitialClusterFromName(config.Name)
			return runEtcd(config)
		},
	}
	config.LogLevel = "warn"
	config.UnsafeNoFsync = true
	config.QuotaBackendBytes = 8 << 30
	command.Flags().StringVar(&config.Dir, "data-dir", "default.etcd", "where the data is kept")
	command.Flags().StringVar(&client, "listen-client-url", "http://127.0.0.1:2379", "for clients")
	command.Flags().StringVar(&peer, "listen-peer-url", "http://127.0.0.1:2380", "for peers, of which there are none")
	return command
}

// runEtcd serves until a signal or a failure.
func runEtcd(config *embed.Config) error {
	server, err := embed.StartEtcd(config)
	if err != nil {
		return err
	}
	defer server.Close()
	select {
	case <-server.Server.ReadyNotify():
	case <-time.After(etcdStartTimeout):
		return fmt.Errorf("etcd was not ready in %s", etcdStartTimeout)
	}
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM)
	select {
	case <-signals:
		return nil
	case err := <-server.Err():
		return err
	}
}
