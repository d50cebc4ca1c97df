"""A node: a namespace with containerd and kubelet in it, and what a machine has for itself around them.

The node has a mount namespace with a /run, /var, /sys and /sys/fs/bpf of its own, kept by a process that only sleeps
(`nodeN`). So two kubelets do not meet in their fixed paths, nothing of the machine's own container runtime is seen or
touched, pinned eBPF objects of two nodes stay apart, and everything mounted goes away with that process. The Debian
tree covers /usr only for containerd and what it starts.
"""

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

from . import cgroups, debian, image, nested, places, settings as s, whole
from .failure import Failure
from .kubernetes import Kubernetes
from .network import Network
from .ovs import Switches
from .processes import Processes
from .settings import Node, Settings
from .steps import until
from .wire import request

DISABLED = [
    "io.containerd.snapshotter.v1." + name for name in ("btrfs", "zfs", "aufs", "devmapper", "blockfile", "erofs")
] + [
    "io.containerd.nri.v1.nri",
    "io.containerd.internal.v1.opt",
    "io.containerd.tracing.processor.v1.otlp",
    "io.containerd.internal.v1.tracing",
]
KUBELET_PORT, HEALTH_PORT = 10250, 10248

# $1 scratch directory, $2 file that says "done", $3 the lab's state, $4 the lab's cache, $5 the node's state
MOUNTS = r"""
mount -t tmpfs -o mode=755 kuryr-lab "$1"
for d in kuryr-lab mount netns lock containerd var/upper var/work keep/states keep/cache keep/cgroup; do
  mkdir -p "$1/$d"
done
mount --bind /run/kuryr-lab "$1/kuryr-lab"
mount --bind "$3" "$1/keep/states"
mount --bind "$4" "$1/keep/cache"
mount --rbind /sys/fs/cgroup "$1/keep/cgroup"
mount --no-mtab --move "$1" /run
mount -t overlay kuryr-lab -o lowerdir=/var,upperdir=/run/var/upper,workdir=/run/var/work /var
mount --bind /run/keep/states "$3"
mount --bind /run/keep/cache "$4"
for d in /var/lib/kubelet /var/lib/cni /var/log/containers /var/log/pods; do
  mkdir -p $d
  mount -t tmpfs -o mode=755 kuryr-lab $d
done
mount -t sysfs sysfs /sys
mount --rbind /run/keep/cgroup /sys/fs/cgroup
umount --lazy /run/keep/states /run/keep/cache /run/keep/cgroup
mount -t bpf bpf /sys/fs/bpf
mount --bind /run/netns /run/netns
mount --bind "$5" "$5"
mount --make-rshared /
echo "$6" > /proc/sys/kernel/hostname
touch "$2"
exec sleep infinity
"""


class NodeMachine:
    """One node of a lab."""

    def __init__(
        self,
        n: Node,
        settings: Settings,
        processes: Processes,
        root: Path,
        cni_programs: Path,
        network: Network,
        switches: Switches,
        kubernetes: Kubernetes,
    ):
        self.n, self.settings, self.processes, self.root, self.cni_programs = n, settings, processes, root, cni_programs
        self.network, self.switches, self.kubernetes = network, switches, kubernetes
        self.state, self.run = settings.node_state(n), settings.node_run(n)

    @property
    def socket(self) -> Path:
        """containerd's socket."""
        return self.run / "containerd.sock"

    @property
    def cni_configuration(self) -> Path:
        return self.state / "cni" / "net.d"

    @property
    def cni_binaries(self) -> Path:
        return self.state / "cni" / "bin"

    @property
    def cni_times(self) -> Path:
        """A JSON line per call of a timed plugin, see lab/cni/timed.go."""
        return self.state / "cni" / "times.jsonl"

    def install_timed(self, name: str, plugin: Path) -> None:
        """Install a plugin such that each call is timed; replaced by renaming, since it may be running."""
        for source, target in (
            (plugin, self.cni_binaries / "real" / name),
            (self.cni_programs / "cni-timed", self.cni_binaries / name),
        ):
            target.parent.mkdir(exist_ok=True)
            new = target.with_name(f".{name}.new")
            shutil.copy(source, new)
            new.chmod(0o755)
            new.replace(target)

    def place(self, leaf: str = cgroups.DAEMONS_LEAF) -> places.Place:
        """Return the place of a process on this node, which must be up."""
        holder = self.processes.pid(self.n.name)
        if holder is None:
            raise Failure(f"{self.n.name} is not running", fix=f"lab node start {self.n.name}")
        return places.on_node(self.settings, self.n, leaf, holder)

    def boot(self) -> str | None:
        """Make namespace, links and mounts."""
        made = self.network.machine_up(self.n)
        for folder in (
            self.state / "kubelet",
            self.state / "containerd",
            self.state / "manifests",
            self.state / "pods",
            self.cni_configuration,
            self.cni_binaries,
            self.state / "scratch",
            self.run,
        ):
            folder.mkdir(parents=True, exist_ok=True)
        for plugin in (self.root / "usr/lib/cni").iterdir():
            if not (link := self.cni_binaries / plugin.name).is_symlink() and not link.exists():
                link.symlink_to(plugin)
        mounted = self.run / "mounted"
        if not self.processes.alive(self.n.name):
            mounted.unlink(missing_ok=True)
            bare = places.on_node(self.settings, self.n)
            self.processes.start(
                self.n.name,
                bare,
                [
                    "unshare",
                    "--uts",
                    "--mount",
                    "--propagation",
                    "slave",
                    "/bin/sh",
                    "-ec",
                    MOUNTS,
                    "sh",
                    self.state / "scratch",
                    mounted,
                    self.settings.states,
                    self.settings.cache,
                    self.state,
                    self.n.name,
                ],
            )
        self.processes.wait(self.n.name, mounted.exists, 90)
        return made

    def start(self) -> str | None:
        """Start containerd and kubelet and wait until the Node object exists."""
        self.configure_cni()
        place = self.place()
        (self.state / "containerd.toml").write_text(self.containerd_configuration())
        started = self.processes.start(
            f"{self.n.name}-containerd",
            place.with_usr(self.root),
            ["/usr/bin/containerd", "--config", self.state / "containerd.toml"],
        )
        self.processes.wait(f"{self.n.name}-containerd", lambda: self.ctr("version"), 120)
        archive = self.state / "image.tar"
        self.import_image(s.IMAGE, lambda: image.write(archive, self.root / "usr/bin/busybox"), archive)
        (self.state / "kubelet.yaml").write_text(self.kubelet_configuration())
        started |= self.processes.start(
            f"{self.n.name}-kubelet",
            place,
            [
                self.kubernetes.binaries / "kubelet",
                f"--config={self.state}/kubelet.yaml",
                f"--kubeconfig={self.kubernetes.pki.file(self.n.name + '.kubeconfig')}",
                f"--root-dir={self.state}/kubelet",
                f"--cert-dir={self.state}/kubelet/pki",
                f"--hostname-override={self.n.name}",
                f"--node-ip={self.n.lan4},{self.n.lan6}",
                "--v=2",
            ]
            # As whoever installs the node would say it.
            + ([f"--node-labels={nested.MODE_LABEL}={self.n.kind}"] if self.n.kind == s.NESTED_MACVLAN else []),
        )
        self.processes.wait(f"{self.n.name}-kubelet", self.registered, 240)
        return f"containerd and kubelet of {self.n.name}" if started else None

    def registered(self) -> bool:
        """Tell whether the kubelet is healthy and its Node object has the addresses of this node."""
        if (
            request(
                self.settings.netns(self.n.name), "GET", f"http://127.0.0.1:{HEALTH_PORT}/healthz", timeout=5
            ).status
            != 200
        ):
            return False
        node = self.kubernetes.call("GET", f"/api/v1/nodes/{self.n.name}", accept=(404,))
        return bool(node) and any(a["address"] == self.n.lan6 for a in node["status"].get("addresses", []))

    def ready(self) -> bool:
        """Tell whether Kubernetes calls the node ready."""
        node = self.kubernetes.call("GET", f"/api/v1/nodes/{self.n.name}", accept=(404,))
        return bool(node) and any(
            c["type"] == "Ready" and c["status"] == "True" for c in node["status"].get("conditions", [])
        )

    def ctr(self, *words: str) -> str:
        """Run ctr against this node's containerd."""
        done = subprocess.run(
            debian.tool(self.root, "ctr") + ["-a", str(self.socket), "-n", "k8s.io"] + list(words),
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise OSError(f"ctr {words[0]}: {done.stderr.strip()}")
        return done.stdout

    def import_image(self, name: str, write: Callable[[], None], archive: Path) -> None:
        """Give containerd an image that it has not yet; `write` makes its archive."""
        if name in self.ctr("images", "ls", "-q").split():
            return
        write()
        try:
            self.ctr("images", "import", str(archive))
        except OSError as e:
            raise Failure(str(e), self.processes.log(f"{self.n.name}-containerd")) from e

    def configure_cni(self) -> None:
        """With the option `--cni ptp`, give each node a plain local network, the floor of measurements; otherwise leave
        it to Kuryr.
        """
        ours = self.cni_configuration / "10-ptp.conflist"
        if self.settings.options.cni != "ptp":
            ours.unlink(missing_ok=True)
            return
        # IPv4 only: with IPv6 the plugin would wait for duplicate address detection, which is no floor.
        pods = s.ptp_pods(self.n)
        self.install_timed("ptp", self.root / "usr/lib/cni/ptp")
        ipam = {"type": "host-local", "dataDir": f"{self.state}/cni/addresses", "ranges": [[{"subnet": pods}]]}
        ipam["routes"] = [{"dst": "0.0.0.0/0"}]
        ptp = {"type": "ptp", "ipMasq": False, "mtu": 1500, "ipam": ipam}
        whole.write(ours, json.dumps({"cniVersion": "1.0.0", "name": "ptp", "plugins": [ptp]}) + "\n")
        self.network.ip("cp", [f"route replace {pods} via {self.n.lan4}"])

    def containerd_configuration(self) -> str:
        return f"""version = 2
root = "{self.state}/containerd"
state = "{self.run}/containerd"
disabled_plugins = [{", ".join(f'"{d}"' for d in DISABLED)}]
oom_score = 0
[grpc]
  address = "{self.socket}"
[ttrpc]
  address = "{self.socket}.ttrpc"
[metrics]
  address = "127.0.0.1:1338"
  grpc_histogram = true
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{s.IMAGE}"
  stream_server_address = "127.0.0.1"
  stream_server_port = "0"
  disable_apparmor = true
  restrict_oom_score_adj = {"false" if may_lower_oom_score() else "true"}
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{self.cni_binaries}"
    conf_dir = "{self.cni_configuration}"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        BinaryName = "/usr/sbin/runc"
        Root = "{self.run}/runc"
        SystemdCgroup = false
"""

    def kubelet_configuration(self) -> str:
        pki = self.kubernetes.pki.file
        return f"""apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
address: "::"
port: {KUBELET_PORT}
healthzBindAddress: 127.0.0.1
healthzPort: {HEALTH_PORT}
readOnlyPort: 0
authentication: {{anonymous: {{enabled: false}}, webhook: {{enabled: true}}, x509: {{clientCAFile: {pki("ca.crt")}}}}}
authorization: {{mode: Webhook}}
tlsCertFile: {pki(self.n.name + "-serving.crt")}
tlsPrivateKeyFile: {pki(self.n.name + "-serving.key")}
containerRuntimeEndpoint: unix://{self.socket}
cgroupDriver: cgroupfs
cgroupRoot: /{self.settings.node_cgroup(self.n)}
cgroupsPerQOS: true
enforceNodeAllocatable: []
failCgroupV1: false
failSwapOn: false
localStorageCapacityIsolation: false
makeIPTablesUtilChains: false
enableDebuggingHandlers: true
resolvConf: ""
clusterDomain: cluster.local
clusterDNS: ["{s.DNS4}", "{s.DNS6}"]
volumePluginDir: {self.state}/kubelet/volumeplugins
staticPodPath: {self.state}/manifests
imageGCHighThresholdPercent: 100
imageGCLowThresholdPercent: 99
evictionHard: {{memory.available: 50Mi, nodefs.available: 1%, imagefs.available: 1%, nodefs.inodesFree: 1%}}
nodeStatusUpdateFrequency: 10s
syncFrequency: 10s
fileCheckFrequency: 20s
maxPods: 250
podPidsLimit: -1
registerNode: true
serializeImagePulls: false
registryPullQPS: 0
shutdownGracePeriod: 0s
containerLogMaxSize: 1Mi
podLogsDir: {self.state}/pods
"""

    def stop(self) -> None:
        """Switch the node off: no process, mount, pinned object or link of it is left; what is on its disk stays."""
        for name in ("kubelet", "containerd"):
            self.processes.stop(f"{self.n.name}-{name}", 3)
        if self.n.nested:
            nested.unplug(self.settings, self.n, self.network, self.switches)
        else:
            self.switches.stop_chassis(self.n)
        cgroups.kill(self.settings, self.n.name)
        for name in [
            name for name in self.processes.names() if name == self.n.name or name.startswith(self.n.name + "-")
        ]:
            self.processes.stop(name)
        for hierarchy in cgroups.hierarchies():
            cgroups.remove_tree(hierarchy / self.settings.node_cgroup(self.n) / "kubepods")
        self.network.delete_netns(self.n.name)
        for leftover in ("containerd", "runc"):
            shutil.rmtree(self.run / leftover, ignore_errors=True)


def may_lower_oom_score() -> bool:
    """Tell whether processes here may lower their OOM score; without that right every sandbox would fail to start."""
    done = subprocess.run(["/bin/sh", "-c", "echo -998 >/proc/self/oom_score_adj"], capture_output=True)
    return done.returncode == 0


def all_ready(machines: list[NodeMachine]) -> bool:
    """Tell whether every node is ready."""
    return all(m.ready() for m in machines)


def wait_ready(machines: list[NodeMachine], seconds: float = 240) -> str:
    """Wait until every node is ready."""
    until("nodes are ready", lambda: all_ready(machines), seconds, every=0.3)
    return "ready"
