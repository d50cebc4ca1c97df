"""The lab's parts that can be tested without a lab: nothing here needs root, starts a daemon or downloads anything."""

import ipaddress
import os
import subprocess
import sys
import tempfile
import threading
import time
import unittest
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from kuryrlab import (  # noqa: E402
    cache,
    commands,
    debian,
    doctor,
    golang,
    kuryr,
    pki,
    places,
    processes,
    rights,
    settings,
    status,
    steps,
    vm,
)
from kuryrlab.failure import Failure, tail  # noqa: E402
from kuryrlab.lab import Lab  # noqa: E402


class Scratch(unittest.TestCase):
    """A test with a directory of its own."""

    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        steps.stopping.clear()
        self.addCleanup(steps.stopping.clear)

    def lab(self, name: str = "kuryr") -> settings.Settings:
        return settings.Settings(name, self.folder / "cache", self.folder / "states")


class SettingsTest(Scratch):
    def test_names(self):
        for name in ("kuryr", "t2", "a"):
            self.lab(name)
        for name in ("", "2t", "Kuryr", "too-long", "abcdefghi", "a/b", "a b"):
            with self.assertRaises(ValueError, msg=name):
                self.lab(name)

    def test_two_labs_share_no_name_or_path(self):
        one, two = self.lab("a"), self.lab("b")
        for of in (lambda s: s.state, lambda s: s.run, lambda s: s.cgroup, lambda s: s.netns("cp"), lambda s: s.lock):
            self.assertNotEqual(of(one), of(two))

    def test_fixed_lan_addresses_are_outside_of_what_neutron_allocates(self):
        fixed = [settings.CONTROL4, settings.EXTERNAL4, settings.CONTROL6, settings.EXTERNAL6]
        fixed += [a for n in range(1, settings.MAXIMUM_NODES + 1) for a in lan(settings.Node(n))]
        self.assertEqual(len(set(fixed)), len(fixed))
        for address in map(ipaddress.ip_address, fixed):
            first, last = map(
                ipaddress.ip_address, settings.EXTERNAL_POOL4 if address.version == 4 else settings.EXTERNAL_POOL6
            )
            self.assertIn(
                address, ipaddress.ip_network(settings.LAN4_CIDR if address.version == 4 else settings.LAN6_CIDR)
            )
            self.assertFalse(first <= address <= last, address)

    def test_networks_do_not_overlap(self):
        cidrs = [
            settings.LAN4_CIDR,
            settings.PODS4_CIDR,
            settings.SERVICES4_CIDR,
            settings.LAN6_CIDR,
            settings.PODS6_CIDR,
            settings.SERVICES6_CIDR,
        ]
        networks = [ipaddress.ip_network(c) for c in cidrs]
        for i, a in enumerate(networks):
            for b in networks[i + 1 :]:
                self.assertFalse(a.version == b.version and a.overlaps(b), (a, b))

    def test_xdg_directories(self):
        with mock.patch.dict(os.environ, {"XDG_CACHE_HOME": "/c", "XDG_STATE_HOME": "relative", "HOME": "/h"}):
            self.assertEqual(settings.home("XDG_CACHE_HOME", ".cache"), Path("/c"))
            self.assertEqual(settings.home("XDG_STATE_HOME", ".local/state"), Path("/h/.local/state"))

    def test_options_survive(self):
        file = self.folder / "deep" / "options.json"
        self.assertEqual(settings.Options.load(file), settings.Options())
        settings.Options(amphora=True, cni="ptp").save(file)
        self.assertEqual(settings.Options.load(file), settings.Options(amphora=True, cni="ptp"))
        file.write_text('{"cni": "ptp", "of_a_newer_lab": 1}')
        self.assertEqual(settings.Options.load(file), settings.Options(cni="ptp"))

    def test_sockets_have_short_paths(self):
        longest = self.lab("abcdefgh").node_run(settings.Node(1)) / "containerd.sock.ttrpc"
        self.assertLess(len(str(longest)), 100)

    def test_hostnames_are_not_node_names(self):
        lab = self.lab()
        for n in lab.nodes:
            self.assertNotEqual(n.hostname, n.name)
            self.assertEqual(lab.node(n.name), n)

    def test_places(self):
        for word, place in (("cp", "cp"), ("CP", "cp"), ("external", "ext"), ("node2", "node2"), ("server", "server")):
            self.assertEqual(self.lab().place(word), place)
        for word in ("node3", "hv1"):
            with self.assertRaises(KeyError):
                self.lab().place(word)


class NodesTest(Scratch):
    def lab_of(self, nodes: str) -> settings.Settings:
        lab = self.lab()
        lab.options.nodes = settings.kinds(nodes)
        return lab

    def test_kinds(self):
        self.assertEqual(settings.kinds("ovs, nested-vlan"), "ovs,nested-vlan")
        for text in ("", "ovs,", "vm", "ovs,ovs;ovs", ",".join(["ovs"] * (settings.MAXIMUM_NODES + 1))):
            with self.assertRaises(ValueError, msg=text):
                settings.kinds(text)

    def test_who_is_there(self):
        for nodes, chassis, server, user in (
            ("ovs,ovs", ["node1", "node2"], "node2", "kuryr"),
            ("ovs,nested-vlan", ["node1", "hv1"], "hv1", "kuryr"),
            ("nested-vlan,ovs", ["node2", "hv1"], "hv1", "kuryr"),
            ("nested-vlan,nested-vlan", ["hv1"], "hv1", "kuryr-nested"),
            ("nested-macvlan", ["hv1"], "hv1", "kuryr-nested"),
            ("ovs,ovs,nested-vlan,nested-macvlan", ["node1", "node2", "hv1"], "hv1", "kuryr"),
        ):
            lab = self.lab_of(nodes)
            self.assertEqual([c.name for c in lab.chassis], chassis, nodes)
            self.assertEqual((lab.server_chassis.name, lab.user), (server, user), nodes)
            self.assertEqual(len(set(lab.places)), len(lab.places))
            self.assertEqual([n.kind for n in lab.nodes], nodes.split(","))

    def test_no_two_machines_share_a_name_or_an_address(self):
        lab = self.lab_of(",".join([settings.OVS] * (settings.MAXIMUM_NODES - 1) + [settings.NESTED_VLAN]))
        for what in (lambda m: m.name, lambda m: m.prefix, lambda m: m.tunnel4, lambda m: m.hostname):
            self.assertEqual(len({what(m) for m in lab.chassis}), len(lab.chassis))
        self.assertEqual({c.uplink for c in lab.nodes}, {"lan0", "eth0"})

    def test_a_node_among_the_pods_has_an_address_there(self):
        lab = self.lab_of("nested-macvlan,nested-vlan,nested-macvlan")
        for n in lab.nodes:
            pods = settings.PODS4_CIDR if n.kind == settings.NESTED_MACVLAN else settings.LAN4_CIDR
            self.assertIn(ipaddress.ip_address(n.lan4), ipaddress.ip_network(pods))
            pods = settings.PODS6_CIDR if n.kind == settings.NESTED_MACVLAN else settings.LAN6_CIDR
            self.assertIn(ipaddress.ip_address(n.lan6), ipaddress.ip_network(pods))
        self.assertEqual(len({n.lan4 for n in lab.nodes} | {n.lan6 for n in lab.nodes}), 6)

    def test_status_expects_a_switch_only_where_one_is(self):
        lab = self.lab_of("ovs,nested-vlan")
        names = status.expected(Lab(lab))
        self.assertEqual(len(set(names)), len(names))
        self.assertEqual([n for n in names if n.endswith("-vswitchd")], ["node1-vswitchd", "hv1-vswitchd"])
        self.assertEqual([n for n in names if n.endswith("-kubelet")], ["node1-kubelet", "node2-kubelet"])

    def test_nodes_are_chosen_once(self):
        lab = SimpleNamespace(settings=self.lab_of("ovs,ovs"))
        commands.choose_once(lab, "nodes", "ovs,nested-vlan")
        self.assertEqual(lab.settings.options.nodes, "ovs,nested-vlan")
        lab.settings.options.save(lab.settings.options_file)
        commands.choose_once(lab, "nodes", None)
        commands.choose_once(lab, "nodes", "ovs,nested-vlan")
        with self.assertRaises(Failure) as raised:
            commands.choose_once(lab, "nodes", "ovs,ovs")
        self.assertIn("reset", raised.exception.fix)

    def test_a_tap_fits_into_the_name_of_an_interface(self):
        for n in self.lab_of(",".join([settings.NESTED_VLAN] * settings.MAXIMUM_NODES)).nodes:
            self.assertLessEqual(len(vm.Vm(n.name, settings.Hypervisor(1), "", "", 1500).tap), 15)

    def test_memory_grows_with_machines(self):
        needed = [
            doctor.memory_needed(self.lab_of(nodes)) for nodes in ("ovs", "ovs,ovs", "ovs,nested-vlan", "ovs,ovs,ovs")
        ]
        self.assertEqual(needed[0], needed[1])
        self.assertTrue(needed[1] < needed[2] < needed[3], needed)

    def test_only_an_agent_beside_a_switch_is_told_where_it_is(self):
        for kind, told in ((settings.OVS, True), (settings.NESTED_VLAN, False)):
            machine = SimpleNamespace(
                n=settings.Node(1, kind),
                settings=settings.Settings("x"),
                state=Path("/s"),
                run=Path("/r"),
                cni_configuration=Path("/c"),
            )
            told_of_node = kuryr.paths_of_node(machine)
            self.assertEqual("ovsdb_connection" in told_of_node, told, kind)
            self.assertIn("/kuryr-lab-x/node1\n", told_of_node)


class Ml2OvsTest(Scratch):
    def lab_with(self, **options) -> settings.Settings:
        lab = self.lab()
        lab.options = settings.Options(**{"ml2": "ovs", **options})
        return lab

    def test_what_does_not_go_together(self):
        for options, word in (
            ({}, None),
            ({"subnets": "shared"}, None),
            ({"nodes": "ovs,nested-vlan"}, "trunk"),
            ({"nodes": "nested-macvlan,ovs"}, None),
            ({"ml2": "ovn", "nodes": "nested-macvlan,ovs"}, "--ml2 ovs"),
            ({"subnets": "shared-slaac"}, "SLAAC"),
            ({"amphora": True}, "Octavia"),
            ({"ml2": "ovn", "nodes": "nested-vlan", "subnets": "slaac", "amphora": True}, None),
            ({"firewall": "iptables"}, None),
            ({"ml2": "ovn", "firewall": "iptables"}, "--ml2 ovs"),
        ):
            problem = self.lab_with(**options).options.contradiction()
            self.assertEqual(problem is None, word is None, options)
            self.assertIn(word or "", problem or "", options)

    def test_its_processes_are_agents_and_no_ovn(self):
        lab = self.lab_with()
        names = status.expected(Lab(lab))
        self.assertEqual(len(set(names)), len(names))
        self.assertFalse([name for name in names if "ovn" in name or "octavia" in name])
        for agent in ("node1-neutron-agent", "node2-neutron-agent", "hv1-neutron-agent", "hv1-l3-agent", "rabbitmq"):
            self.assertIn(agent, names)
        self.assertEqual(lab.server_chassis.name, "hv1", "a reboot of a node disturbs neither router nor server")

    def test_an_agent_says_the_host_that_ovs_says(self):
        lab = Lab(self.lab_with())
        for chassis in lab.settings.chassis:
            text = lab.switches.configuration(chassis)
            self.assertIn(f"host = {chassis.hostname}\n", text)
            self.assertIn(f"local_ip = {chassis.tunnel4}\n", text)
            self.assertEqual(lab.switches.identity(chassis)["hostname"], chassis.hostname)

    def test_nodes_filter_as_asked_for(self):
        for firewall, node, hypervisor in (("native", "openvswitch", "openvswitch"), ("iptables", "iptables_hybrid", "openvswitch")):
            lab = Lab(self.lab_with(firewall=firewall))
            for chassis in lab.settings.chassis:
                driver = hypervisor if chassis in lab.settings.hypervisors else node
                self.assertIn(f"firewall_driver = {driver}\n", lab.switches.configuration(chassis))

    def test_memory(self):
        self.assertGreater(doctor.memory_needed(self.lab_with()), doctor.memory_needed(self.lab_with(ml2="ovn")) + 1000)


def lan(n: settings.Node) -> tuple[str, str]:
    """Return the addresses of a node on the LAN."""
    return n.lan4, n.lan6


class RecordTest(Scratch):
    def record(self, **other) -> processes.Record:
        values = {
            "name": "x",
            "pid": os.getpid(),
            "start": processes.start_time(os.getpid()),
            "boot": processes.boot_id(),
            "log": "",
            "command": [],
        }
        return processes.Record(**{**values, **other})

    def test_alive_is_this_very_process(self):
        self.assertTrue(self.record().alive())
        self.assertFalse(self.record(start=self.record().start + 1).alive(), "a reused number")
        self.assertFalse(self.record(boot="another").alive(), "a reboot")

    def test_start_time_reads_any_process_name(self):
        (self.folder / "7").mkdir()
        for name, state, expected in (("sleep", "S", 4242), ("a) R 1 (b", "R", 4242), ("gone", "Z", None)):
            (self.folder / "7" / "stat").write_text(f"7 ({name}) {state} " + " ".join(["0"] * 18) + " 4242 0 0\n")
            self.assertEqual(processes.start_time(7, str(self.folder)), expected, name)
        self.assertIsNone(processes.start_time(8, str(self.folder)))

    def daemons(self) -> processes.Processes:
        lab = self.lab()
        with mock.patch.object(settings.Settings, "run", self.folder / "run"):
            return processes.Processes(lab)

    def test_stop_ends_only_what_the_record_means(self):
        daemons = self.daemons()
        daemons.folder.mkdir(parents=True)
        child = subprocess.Popen(["sleep", "60"], start_new_session=True)
        self.addCleanup(child.wait)
        self.addCleanup(child.kill)
        threading.Thread(target=child.wait, daemon=True).start()
        record = self.record(pid=child.pid, start=processes.start_time(child.pid))
        file = daemons.folder / "x.json"

        def write(start: int) -> None:
            file.write_text(processes.json.dumps({**record.__dict__, "start": start}))

        write(record.start - 1)  # the number was reused: somebody else's process
        self.assertFalse(daemons.stop("x"))
        self.assertIsNotNone(processes.start_time(child.pid))
        self.assertFalse(file.exists())
        write(record.start)
        self.assertEqual(daemons.pid("x"), child.pid)
        self.assertTrue(daemons.stop("x"))
        self.assertIsNone(processes.start_time(child.pid))
        self.assertFalse(daemons.stop("x"), "stopping twice is fine")

    def test_broken_records_mean_nothing(self):
        daemons = self.daemons()
        daemons.folder.mkdir(parents=True)
        for text in ("", "{", '{"name": "x"}', "[]"):
            (daemons.folder / "x.json").write_text(text)
            self.assertIsNone(daemons.read("x"), text)
            self.assertFalse(daemons.alive("x"))


class DoctorTest(Scratch):
    def test_decisions(self):
        for check, good in (
            (doctor.memory(4000, 4000, False, False), True),
            (doctor.memory(3999, 4000, False, False), False),
            (doctor.memory(4000, 4000, False, True), False),
            (doctor.memory(10, 4000, True, False), True),
            (doctor.disk("cache", 100, 100, Path("/c")), True),
            (doctor.disk("cache", 99, 100, Path("/c")), False),
            (doctor.python_version((3, 11)), True),
            (doctor.python_version((3, 10)), False),
            (doctor.merged_usr(self.folder), False),
            (doctor.names(self.lab("zz"), False, {"zz-cp"}), False),
            (doctor.names(self.lab("zz"), True, {"zz-cp"}), True),
            (doctor.names(self.lab("zz"), False, {"yy-cp"}), True),
        ):
            self.assertEqual(check.fix == "", good, check)

    def test_refusal_names_figure_and_fix(self):
        check = doctor.memory(1234, 4321, False, False)
        self.assertIn("1234", check.found)
        self.assertIn("4321", check.fix)

    def test_meminfo(self):
        self.assertEqual(doctor.meminfo("MemTotal: 9999999 kB\nMemAvailable:    2048000 kB\n"), 2000)

    def test_downloads_are_told_and_no_reason_to_refuse(self):
        missing = cache.Entry("Kubernetes", self.folder / "k", lambda p: None, minutes=8, download=400)
        check = doctor.downloads([missing])
        self.assertIn("400 MB", check.found)
        self.assertEqual(check.fix, "")
        self.assertIn("offline", doctor.downloads([]).found)

    def test_free_space_of_a_directory_that_is_not_there_yet(self):
        self.assertGreater(doctor.free_mb(self.folder / "a" / "b"), 0)


class PkiTest(Scratch):
    def test_a_certificate_that_was_begun_is_made_again(self):
        """An openssl that is ended while it writes leaves an empty file behind."""
        of = pki.Pki(self.lab(), self.folder)
        of.folder.mkdir(parents=True)
        written, ended = "certificate", True

        def openssl(*words: str) -> None:
            out = of.folder / words[-1]
            last = ended and out.name.startswith("node2-serving.crt")
            out.write_text("" if last else written)
            if last:
                raise KeyboardInterrupt

        with mock.patch.object(of, "openssl", openssl):
            with self.assertRaises(KeyboardInterrupt):
                of.create()
            ended = False
            of.create()
        made = {p.name: p.read_text() for p in of.folder.glob("*.crt")}
        self.assertIn("node2-serving.crt", made)
        self.assertEqual(set(made.values()), {written})


class CacheTest(Scratch):
    def test_built_once_and_again_after_an_interruption(self):
        built = []

        def build(path: Path) -> None:
            built.append(sorted(p.name for p in path.iterdir()))
            (path / "half").touch()
            if len(built) == 1:
                raise Failure("interrupted")

        entry = cache.Entry("thing", self.folder / "thing-1", build)
        with self.assertRaises(Failure):
            entry.make()
        self.assertFalse(entry.ready())
        entry.make()
        entry.make()
        self.assertEqual(built, [[], []], "the second build starts from nothing, a third is not needed")

    def test_digest_depends_on_every_part(self):
        file = self.folder / "f"
        file.write_text("1")
        first = cache.digest("a", "b", file)
        self.assertNotEqual(first, cache.digest("ab", "", file))
        file.write_text("2")
        self.assertNotEqual(first, cache.digest("a", "b", file))

    def test_a_failing_command_shows_the_end_of_its_log(self):
        with self.assertRaises(Failure) as raised:
            cache.execute(["sh", "-c", "echo the reason; exit 3"], self.folder / "log", what="it failed")
        self.assertIn("it failed", raised.exception.text())
        self.assertIn("the reason", raised.exception.text())


    def test_a_lock_that_another_holds_is_waited_for_only_so_long(self):
        lock = self.folder / "lock"
        with cache.locked(lock), self.assertRaises(Failure) as raised, cache.locked(lock, seconds=0.2):
            pass
        self.assertIn(str(lock), raised.exception.text())

    def test_a_lock_is_taken_when_it_is_free(self):
        lock, order = self.folder / "lock", []
        held, free = threading.Event(), threading.Event()

        def hold():
            with cache.locked(lock):
                held.set()
                free.wait(10)
                order.append("first")

        other = threading.Thread(target=hold)
        other.start()
        held.wait(10)
        free.set()
        with cache.locked(lock, seconds=10):
            order.append("second")
        other.join()
        self.assertEqual(order, ["first", "second"])

    def test_a_command_that_does_not_end_is_ended(self):
        child = subprocess.Popen(["sh", "-c", "trap '' TERM; while :; do sleep 0.1; done"])
        with self.assertRaises(Failure) as raised, mock.patch.object(cache, "END_SECONDS", 0.3):
            cache.finished(child, seconds=0.3)
        self.assertIn("no end after", str(raised.exception))
        self.assertIsNotNone(child.poll())


class DebianTest(Scratch):
    def check(self, files: dict, expected: list[str]) -> None:
        for name, text in files.items():
            (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
            (self.folder / name).write_text(text)
        self.assertEqual(debian.sources(str(self.folder)).splitlines(), expected)

    def test_one_line_sources_of_the_machine(self):
        self.check(
            {
                "sources.list": "# a mirror\ndeb http://mirror/debian bookworm main contrib\n"
                "deb-src http://mirror/debian bookworm main\n"
                "deb [signed-by=/k] http://mirror/security bookworm-security main\n"
                "deb http://mirror/debian trixie main\n"
            },
            [
                "deb http://mirror/debian bookworm main contrib",
                "deb [signed-by=/k] http://mirror/security bookworm-security main",
            ],
        )

    def test_deb822_sources_of_the_machine(self):
        self.check(
            {
                "sources.list.d/debian.sources": "Types: deb deb-src\n# comment\n"
                "URIs: http://mirror/debian\nSuites: bookworm bookworm-updates\nComponents: main\n"
                "Signed-By: /k.gpg\n\nTypes: deb\nURIs: http://other/\nSuites: nodistro\nComponents: main\n\n"
                "Enabled: no\nTypes: deb\nURIs: http://off/\nSuites: bookworm\nComponents: main\n"
            },
            [
                "deb [signed-by=/k.gpg] http://mirror/debian bookworm main",
                "deb [signed-by=/k.gpg] http://mirror/debian bookworm-updates main",
            ],
        )

    def test_another_release_keeps_its_mirror(self):
        with mock.patch.object(debian.os.path, "exists", return_value=False):
            self.assertIn(f"deb {debian.DEFAULT_MIRROR} bookworm main", debian.sources(str(self.folder)))

    def test_a_key_inside_the_file_is_left_to_the_machines_trust(self):
        self.check(
            {
                "sources.list.d/d.sources": "Types: deb\nURIs: http://m/debian\nSuites: bookworm\n"
                "Components: main\nSigned-By:\n -----BEGIN\n x\n"
            },
            ["deb http://m/debian bookworm main"],
        )


class StepsTest(Scratch):
    def run_steps(self, graph: list[steps.Step]) -> list[str]:
        said: list[str] = []
        steps.run(graph, SimpleNamespace(say=said.append))
        return said

    def test_order_follows_needs(self):
        done: list[str] = []
        make = lambda name, *needs: steps.Step(name, lambda: done.append(name), needs)  # noqa: E731
        self.run_steps([make("c", "a", "b"), make("b", "a"), make("a"), make("d")])
        self.assertLess(done.index("a"), done.index("b"))
        self.assertLess(done.index("b"), done.index("c"))
        self.assertEqual(sorted(done), ["a", "b", "c", "d"])

    def test_nothing_starts_after_a_failure(self):
        def fail():
            raise Failure("broken", fix="mend it")

        ran: list[str] = []
        said: list[str] = []
        with self.assertRaises(Failure):
            steps.run(
                [steps.Step("a", fail), steps.Step("b", lambda: ran.append("b"), ("a",))],
                SimpleNamespace(say=said.append),
            )
        self.assertEqual(ran, [])
        self.assertIn("mend it", said[0])

    def test_waiting_ends_with_the_process(self):
        with self.assertRaises(Failure) as raised:
            steps.until("x is ready", lambda: False, 60, alive=lambda: False)
        self.assertIn("ended", raised.exception.what)

    def test_endpoints_that_are_not_there_yet_are_waited_for(self):
        answers = iter([OSError("refused"), ValueError("half an answer"), "here"])

        def probe():
            answer = next(answers)
            if isinstance(answer, Exception):
                raise answer
            return answer

        self.assertEqual(steps.until("x", probe, 60, every=0), "here")


    def test_ctrl_c_ends_what_runs_starts_nothing_new_and_the_next_run_goes_on(self):
        names = ("one", "two", "three", "four")
        for point in range(len(names)):
            done, begun = [], threading.Event()

            def action(name: str, point=point, done=done, begun=begun):
                if name in done:
                    return None  # as `up` does: what is there is left alone
                if name == names[point]:
                    begun.set()
                    time.sleep(0.05)
                done.append(name)
                return ""

            graph = [
                steps.Step(name, lambda name=name: action(name), names[:index][-1:]) for index, name in enumerate(names)
            ]
            wait, interrupted = steps.wait, []

            def wait_or_interrupt(*words, begun=begun, wait=wait, interrupted=interrupted, **more):
                if begun.is_set() and not interrupted:
                    interrupted.append(True)
                    raise KeyboardInterrupt
                return wait(*words, **{**more, "timeout": 0.01})

            with mock.patch.object(steps, "wait", wait_or_interrupt), self.assertRaises(KeyboardInterrupt):
                steps.run(graph, SimpleNamespace(say=lambda line: None))
            self.assertEqual(done, list(names[: point + 1]), "what had begun came to its end, nothing else began")
            steps.stopping.clear()  # the next command is another process
            steps.run(graph, SimpleNamespace(say=lambda line: None))
            self.assertEqual(done, list(names), "each was done once")


class PurgeTest(Scratch):
    def test_purge_takes_every_lab_and_the_cache_and_nothing_beside_them(self):
        variables = {"XDG_CACHE_HOME": str(self.folder / "cache"), "XDG_STATE_HOME": str(self.folder / "state")}
        ended = []
        with (
            mock.patch.dict(os.environ, variables),
            mock.patch.object(commands.downs, "down", lambda lab: ended.append(lab.settings.name)),
        ):
            for name in ("a", "b"):
                state = settings.Settings(name).state
                (state / "log").mkdir(parents=True)
                settings.Settings(name).options_file.write_text("{}")
            lab = Lab(settings.Settings("kuryr"))
            (lab.settings.cache / "thing-1").mkdir(parents=True)
            neighbours = [lab.settings.cache.parent / "other", lab.settings.states.parent / "other"]
            for neighbour in neighbours:
                neighbour.mkdir()
            commands.purge(lab, None)
            self.assertEqual(sorted(ended), ["a", "b"])
            self.assertFalse(lab.settings.cache.exists() or lab.settings.states.exists())
            self.assertTrue(all(neighbour.exists() for neighbour in neighbours))


class RightsTest(Scratch):
    SECRET = {"https_proxy": "http://user:sesame@proxy:3128", "PIP_INDEX_URL": "https://user:sesame@index/simple"}

    def test_what_is_kept(self):
        found = rights.kept({**self.SECRET, "ALL_PROXY": "x", "GOPRIVATE": "y", "LD_PRELOAD": "z", "OS_PASSWORD": "p"})
        self.assertEqual(set(found), {*self.SECRET, "ALL_PROXY", "GOPRIVATE"})

    def test_values_are_in_no_command_line_and_arrive(self):
        words = rights.with_variables(["sh", "-c", 'echo "$https_proxy $PIP_INDEX_URL"'], self.SECRET, [])
        file = Path(words[3])
        self.addCleanup(file.unlink, missing_ok=True)
        self.assertNotIn("sesame", " ".join(words))
        self.assertEqual(file.stat().st_mode & 0o777, 0o600)
        done = subprocess.run(words, capture_output=True, text=True, check=True)
        self.assertEqual(done.stdout.split(), list(self.SECRET.values()))
        self.assertFalse(file.exists(), "the file is for one run")

    def test_root_is_reached_by_sudo_with_nothing_of_the_environment_in_the_words(self):
        with (
            mock.patch.dict(os.environ, self.SECRET),
            mock.patch.object(os, "geteuid", return_value=1000),
            mock.patch.object(rights.shutil, "which", return_value="/usr/bin/sudo"),
            mock.patch.object(os, "execvp") as replaced,
        ):
            rights.become_root(["lab", "up"])
        words = replaced.call_args[0][1]
        self.addCleanup(Path(words[4]).unlink, missing_ok=True)
        self.assertEqual((words[0], words[-2:]), ("sudo", ["lab", "up"]))
        self.assertNotIn("sesame", " ".join(words))

    def test_flags_of_the_users_go_are_kept(self):
        with mock.patch.dict(os.environ, {"GOFLAGS": "-mod=mod"}):
            self.assertEqual(golang.environment(self.lab())["GOFLAGS"], "-mod=mod -modcacherw")


class PlacesTest(Scratch):
    def test_environment_is_clean(self):
        with mock.patch.dict(os.environ, {"http_proxy": "http://p", "OS_PASSWORD": "s", "KUBECONFIG": "/x"}):
            env = places.environment(self.lab(), {"A": "1"})
        self.assertEqual(set(env), {"PATH", "HOME", "LANG", "TMPDIR", "A"})

    def test_command_enters_everything_and_ends_with_the_program(self):
        place = places.on_node(self.lab(), settings.Node(1), holder=77).with_usr(Path("/tree"))
        words = places.command(place, ["prog", 1], {"A": "b c"})
        self.assertEqual(words[-3:], ["A=b c", "prog", "1"])
        self.assertIn("--net=/run/netns/kuryr-node1", words)
        self.assertIn("--mount=/proc/77/ns/mnt", words)
        self.assertIn("--uts=/proc/77/ns/uts", words, "a pod on the host network has the node's host name")
        script = next(w for w in words if "mount --bind" in w)
        self.assertIn("/tree/usr /usr", script)
        self.assertLess(
            script.index("make-private"), script.index("--bind"), "the node's other processes keep their /usr"
        )

    def test_control_plane_needs_no_mounts(self):
        self.assertNotIn("unshare", places.command(places.control(self.lab()), ["x"], {}))


class SmallThingsTest(Scratch):
    def test_go_versions(self):
        for version, good in (
            ("go1.26.0", True),
            ("go1.27.3", True),
            ("go2.0", True),
            ("go1.25.9", False),
            ("devel", False),
            ("", False),
        ):
            self.assertEqual(golang.recent(version), good, version)

    def test_agents_get_no_openstack_credentials(self):
        facts = {"project": "p", "pods_v4": "s4", "pods_v6": "s6", "external_network": "e"}
        pki = SimpleNamespace(file=lambda name: Path("/pki", name))
        lab = SimpleNamespace(settings=self.lab(), kubernetes=SimpleNamespace(pki=pki))
        full = kuryr.configuration(lab, Path("/token"), facts)
        self.assertIn("password", full)
        agents = kuryr.without_credentials(full)
        self.assertNotIn("password", agents)
        self.assertNotIn("[neutron]", agents)
        for section in ("[kubernetes]", "[neutron_defaults]", "[vif_pool]"):
            self.assertIn(section, agents)

    def test_a_token_stays_while_the_api_server_is_away(self):
        lab = SimpleNamespace(settings=self.lab(), processes=SimpleNamespace(alive=lambda name: name != "kube-apiserver"))
        parts = kuryr.Kuryr(lab)
        parts.folder.mkdir(parents=True)
        kept = parts.folder / "node1.token"
        kept.write_text("before")
        self.assertEqual(parts.token("node1", kuryr.AGENT_ACCOUNT, settings.Node(1)), kept)
        self.assertEqual(kept.read_text(), "before")

    def test_tail_of_a_long_log(self):
        file = self.folder / "log"
        file.write_text("".join(f"line {i}\n" for i in range(50000)))
        self.assertEqual(tail(file, 2), ["line 49998", "line 49999"])

    def test_every_command_parses(self):
        parser = commands.build_parser()
        for line in (
            "up --amphora --cni ptp",
            "up --nodes ovs,nested-vlan --subnets shared-slaac",
            "up --ml2 ovs --firewall iptables",
            "down",
            "status",
            "logs",
            "logs neutron -n",
            "shell node1",
            "run node1 -- ip addr",
            "kubectl get pods -A",
            "openstack port list",
            "env",
            "fetch",
            "reset",
            "purge",
            "doctor",
            "kuryr start node1",
            "kuryr kill node2",
            "kuryr restart --bin /x",
            "guest -- uname -r",
            "guest --file /x --seconds 9 -- /run/guest/x",
            "node stop node1",
            "neutron stop",
            "apiserver start",
        ):
            self.assertTrue(callable(parser.parse_args(["--name", "t2"] + line.split()).action), line)


if __name__ == "__main__":
    unittest.main()
