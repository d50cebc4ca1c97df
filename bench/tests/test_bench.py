"""What becomes of samples: nothing here needs root or a lab."""
import ipaddress
import statistics
import sys
import unittest
from pathlib import Path

sys.dont_write_bytecode = True
ROOT = Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(ROOT / "bench"), str(ROOT / "e2e")]

from harness.expect import percentile  # noqa: E402
from kit import following, many, phases, picture, rounds, tables  # noqa: E402


def call(pod: str, at: float, ms: float, code: int = 0, command: str = "DEL", plugin: str = "kuryr-cni", namespace: str = rounds.NAMESPACE) -> dict:
    return {"plugin": plugin, "command": command, "at": at, "ms": ms, "exit": code, "pod": f"IgnoreUnknown=1;K8S_POD_NAMESPACE={namespace};K8S_POD_NAME={pod}"}


class CallsTest(unittest.TestCase):
    def of(self, *calls: dict) -> tuple:
        return rounds.of_pods(list(calls), "kuryr-cni", "DEL", {"a", "b"}, 10)

    def test_the_first_call_for_each_pod_counts(self):
        self.assertEqual(self.of(call("a", 13, 1), call("a", 11, 7), call("b", 12, 8)), ([7, 8], 0))

    def test_calls_of_others_do_not_count(self):
        foreign = [call("earlier", 11, 1), call("a", 9, 1), call("a", 11, 1, plugin="ptp"), call("a", 11, 1, command="ADD"), call("a", 11, 1, namespace="other")]
        self.assertEqual(self.of(*foreign), ([], 0))

    def test_a_name_that_only_begins_alike_is_another_pod(self):
        self.assertEqual(self.of(call("a1", 11, 5), call("a", 12, 6)), ([6], 0))

    def test_a_failed_call_is_told_and_what_follows_it_is_not_the_first(self):
        self.assertEqual(self.of(call("a", 11, 1, code=1), call("a", 12, 2)), ([], 1))


class PhasesTest(unittest.TestCase):
    def log(self, *messages: tuple[float, str]) -> str:
        quoted = [(1000 + at, text.replace('"', '\\"')) for at, text in messages]
        return "\n".join(f'time="1970-01-01T00:16:{at - 960:012.9f}Z" level=info msg="{text}"' for at, text in quoted)

    def pod(self, name: str, sandbox: str, namespace: str = rounds.NAMESPACE) -> list[tuple[float, str]]:
        metadata = f"&PodSandboxMetadata{{Name:{name},Uid:u,Namespace:{namespace},Attempt:0,}}"
        return [(0.1, f"RunPodSandbox for {metadata}"), (0.3, f'RunPodSandbox for {metadata} returns sandbox id "{sandbox}"'),
                (0.4, f'CreateContainer within sandbox "{sandbox}" for &ContainerMetadata{{Name:c,Attempt:0,}} returns container id "c{sandbox}"'),
                (0.5, f'StartContainer for "c{sandbox}"'), (0.6, f'StartContainer for "c{sandbox}" returns successfully')]

    def test_the_parts_are_all_of_the_start(self):
        text = self.log(*self.pod("p", "1"), *self.pod("q", "2", "kube-system")) + "\nsomething else"
        runtime = phases.of_runtime(text, rounds.NAMESPACE)
        self.assertEqual(list(runtime), ["p"])
        found = phases.of_pods({"p": 1000.0}, {"p": 1000.7}, {"p": (1000.15, 1000.2)}, runtime)
        self.assertEqual([round(values[0]) for values in found.values()], [150, 50, 100, 300, 100])

    def test_a_pod_of_which_something_is_not_known_does_not_count(self):
        runtime = phases.of_runtime(self.log(*self.pod("p", "1")[:3]), rounds.NAMESPACE)
        found = phases.of_pods({"p": 1000.0}, {"p": 1000.7}, {"p": (1000.15, 1000.2)}, runtime)
        self.assertEqual(sum(found.values(), []), [])


class OrderTest(unittest.TestCase):
    def test_who_came_first_comes_last_in_the_next_round(self):
        some = rounds.Rounds.__new__(rounds.Rounds)
        some.plugins = ["a", "b", "c"]
        self.assertEqual([some.in_order(number) for number in range(3)], [["a", "b", "c"], ["c", "b", "a"], ["a", "b", "c"]])


class FiguresTest(unittest.TestCase):
    def test_percentiles_interpolate(self):
        for values in ([3.0], [1.0, 2.0], [5.0, 1.0, 3.0], list(range(40))):
            self.assertEqual(percentile(values, 0.5), statistics.median(values))
        self.assertAlmostEqual(percentile(range(101), 0.99), 99)
        self.assertLess(percentile(range(40), 0.99), 39, "p99 of 40 is not the greatest")

    def test_of_a_kernel_only_its_version_is_told(self):
        self.assertEqual([tables.numbers(name) for name in ("6.1.0-42-amd64", "6.18.44-x-1", "6.18-rc1")], ["6.1.0", "6.18.44", "6.18"])

    def test_calls_beyond_the_pods_are_left_out(self):
        result = {"settings": {"rounds": 2, "serial": 2, "bursts": [3], "cold": 1}, "series": {"x": {"serial_del": [1.0] * 5, "serial_add": [1.0] * 4, "burst3_del": [1.0] * 6}}}
        self.assertEqual(tables.left_out(result), ["- x: `serial_del` is left out: 5 calls for 4 pods."])
        self.assertEqual(set(result["series"]["x"]), {"serial_add", "burst3_del"})


class FollowingTest(unittest.TestCase):
    samples = {"direct4": [1e-5], "service4": [1.05e-5], "direct6": [1e-5], "service6": [1.05e-5]}
    common = {"machine": {"date": "2026-11-21", "nodes": 2, "cores": 2, "kernel": "6.18.44", "load": [0.5, 1.5]}, "settings": {"sizes": [1], "endpoints": 10}, "failures": []}

    def result(self, **changed) -> dict:
        memory = {"node1": {"now": 10.0, "most": 11.0, "maps": [{"name": "type 1, 20 -> 16 bytes", "max": 65536, "mib": 5.0}]}}
        kuryr = {"connects": {"1": self.samples}, "quiet": [0.01], "busy": [0.02, 0.03], "created": [0.04], "churn": 19.6, "empty": memory, "full": memory, "after": memory, "started": memory}
        return {"kuryr": self.common | kuryr | changed}

    def all_parts(self) -> dict:
        """Return what a run of all parts has found: sizes are numbers before they were written, and words when they are read again."""
        proxied = {"connects": {1: self.samples}, "quiet": [1.0], "busy": [2.0], "created": [3.0], "churn": 20.0, "began": {1: 0.5}, "memory": {"now": 60.0, "most": 70.0}}
        one = {"seconds": 1.0, "changes": 1, "more_seconds": 0.5, "more_changes": 2}
        octavia = {"kuryr": [one], "stepwise": [one | {"seconds": 20.0, "changes": 25, "more_changes": 20}]}
        return self.result() | {"kube-proxy": self.common | proxied, "octavia": self.common | octavia}

    def test_what_is_as_it_should_be_is_no_loss(self):
        self.assertNotIn("not 100 ms", following.markdown(self.result()))
        self.assertIn("| kuryr | 1 | 20 other slices change per second | 2 | 25.0 ms | 29.9 ms | 30.0 ms |", following.markdown(self.result()))

    def test_losses_are_told(self):
        late, slow = self.result(busy=[0.2]), {"direct4": [1e-5], "service4": [2e-5], "direct6": [1e-5], "service6": [1e-5]}
        self.assertIn("p99 of following under churn is 200 ms, not 100 ms", following.markdown(late))
        self.assertIn("p99 of a new Service under churn is 300 ms, not 100 ms", following.markdown(self.result(created=[0.3])))
        self.assertIn("| kuryr | 1 | a new Service, 20 other slices change per second | 1 | 40.0 ms |", following.markdown(self.result()))
        self.assertIn("connecting by IPv4 takes 2.00 times", following.markdown(self.result(connects={"10000": slow})))
        self.assertIn("- Not measured: octavia.", following.markdown(self.result()))

    def test_each_part_can_be_told_alone(self):
        every = self.all_parts()
        for parts in (["kuryr"], ["kube-proxy"], ["octavia"], list(every)):
            self.assertIn("### Losses", following.markdown({part: every[part] for part in parts}))
        self.assertIn("until all of it is ACTIVE | one call after the other | 1 | 25 | 20.0 s | 20.0 s |", following.markdown(every))
        self.assertIn("RSS 60 MiB, at most 70 MiB", following.markdown(every))
        self.assertNotIn("Not measured", following.markdown(every))

    def test_a_picture_shows_each_row(self):
        rows = list(following.rows(self.all_parts()))
        self.assertEqual(len({title for title, _, _ in rows}), 2 + 4 + 4)
        self.assertEqual(picture.svg(rows).count('text-anchor="end"'), len(rows))

    def test_endpoints_of_the_crowd_differ(self):
        seen = [address for number in range(3000) for addresses in many.background(number, 10).values() for address in addresses]
        self.assertEqual(len(set(seen)), len(seen))

    def test_ten_endpoints_of_ten_thousand_services_have_addresses(self):
        for number in (0, 6553, 9999):
            for addresses in many.background(number, 10).values():
                self.assertEqual([str(ipaddress.ip_address(address)) for address in addresses], addresses)


if __name__ == "__main__":
    unittest.main()
