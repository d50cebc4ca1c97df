"""What becomes of samples: nothing here needs root or a lab."""
import statistics
import sys
import unittest
from pathlib import Path

sys.dont_write_bytecode = True
ROOT = Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(ROOT / "bench"), str(ROOT / "e2e")]

from harness.expect import percentile  # noqa: E402
from kit import rounds, tables  # noqa: E402


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


if __name__ == "__main__":
    unittest.main()
