"""What becomes of specs: nothing here needs root, a lab or the suite."""
import io
import json
import sys
import tarfile
import tempfile
import unittest
from pathlib import Path

sys.dont_write_bytecode = True
ROOT = Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(ROOT / "conformance"), str(ROOT / "lab")]

from kit import document, images, labs, outcome, rounds, specs  # noqa: E402
from kit.outcome import FAILED, PASSED, SKIPPED, Outcome  # noqa: E402
from kit.results import Results  # noqa: E402
from kit.surroundings import Zones  # noqa: E402
from kuryrlab.failure import Failure  # noqa: E402

BASIC = "[sig-network] Services should serve a basic endpoint from pods [Conformance]"
UPDATED = "[sig-network] Services should be updated after adding or deleting ports"
SCTP = "[sig-network] Networking should function: sctp [Feature:SCTPConnectivity]"
DISRUPTIVE = "[sig-network] Services should work after restarting apiserver [Disruptive]"
POLICY = "[sig-network] Netpol NetworkPolicy between server and client should work"
STORAGE = "[sig-storage] Volumes should be mountable [Conformance]"
EVERY = [STORAGE, UPDATED, BASIC, POLICY, SCTP, DISRUPTIVE]


def report(*found: tuple) -> list:
    """Return a report as the suite writes it: (text, state, message, seconds) of each spec."""
    told = [{"ContainerHierarchyTexts": [name.split(" ", 2)[0], name.split(" ", 2)[1]], "LeafNodeText": name.split(" ", 2)[2], "LeafNodeType": "It", "State": state,
             "RunTime": seconds * 10**9, **({"Failure": {"Message": said}} if said else {})} for name, state, said, seconds in found]
    return [{"SpecReports": [{"ContainerHierarchyTexts": None, "LeafNodeText": "", "LeafNodeType": "SynchronizedBeforeSuite", "State": "passed"}, *told]}]


def entry(contains: str, number: int, reason: str = "kernel", why: str = "so it is") -> str:
    return f'[[exception]]\ncontains = "{contains}"\nspecs = {number}\nreason = "{reason}"\nwhy = "{why}"\n'


def larger(contains: str, number: int, nodes: object = 6, why: str = "so many") -> str:
    return f'[[larger]]\ncontains = "{contains}"\nspecs = {number}\nnodes = {nodes}\nwhy = "{why}"\n'


class SpecsTest(unittest.TestCase):
    def test_the_group_is_taken_but_for_policies(self):
        self.assertEqual(specs.taken(EVERY), sorted([UPDATED, BASIC, SCTP, DISRUPTIVE]))
        self.assertEqual(specs.about_policies(EVERY), [POLICY])

    def test_a_report_of_a_dry_run_lists_them(self):
        self.assertEqual(specs.of_report(report((BASIC, "passed", "", 0), (SCTP, "skipped", "", 0))), [BASIC, SCTP])

    def test_those_that_break_things_run_alone(self):
        self.assertEqual([one for one in EVERY if specs.runs_alone(one)], [DISRUPTIVE])

    def test_what_takes_long_comes_late(self):
        slow, slowest = f"{UPDATED} [Slow]", "[sig-network] LoadBalancers should not have connectivity disruption during rolling update [Slow]"
        self.assertEqual(sorted([slowest, slow, UPDATED, BASIC], key=specs.turn), [BASIC, UPDATED, slow, slowest])

    def test_a_focus_fits_its_spec_alone(self):
        import re
        pattern = re.compile(specs.focus([BASIC])[0].partition("=")[2])
        self.assertTrue(pattern.search(f"Kubernetes e2e suite {BASIC}"))
        self.assertFalse(pattern.search(f"Kubernetes e2e suite {BASIC} [Slow]"))
        self.assertFalse(pattern.search(BASIC.replace("[Conformance]", "C")))

    def test_the_committed_list_can_be_read(self):
        with self.assertRaises(Failure) as failed:
            specs.exceptions(specs.EXCEPTIONS.read_text(), [])
        # With no specs nothing but the numbers may be wrong.
        told = str(failed.exception).partition(": ")[2].split("; ")
        self.assertTrue(all(" is in 0 specs, and `specs` says " in one for one in told), told)


class ExceptionsTest(unittest.TestCase):
    def refused(self, listed: str) -> str:
        with self.assertRaises(Failure) as failed:
            specs.exceptions(listed, specs.taken(EVERY))
        return str(failed.exception)

    def test_an_entry_finds_its_specs(self):
        found = specs.exceptions(entry("SCTPConnectivity", 1), specs.taken(EVERY))
        self.assertEqual([(one.specs, one.reason) for one in found], [((SCTP,), "kernel")])

    def test_another_number_of_specs_is_refused(self):
        self.assertIn("is in 1 specs, and `specs` says 2", self.refused(entry("SCTPConnectivity", 2)))
        self.assertIn("is in 0 specs", self.refused(entry("gone with the new version", 1)))

    def test_conformance_is_never_left_out(self):
        self.assertIn("is a Conformance spec", self.refused(entry("basic endpoint", 1)))

    def test_a_reason_is_one_of_those_that_count(self):
        self.assertIn("the reason 'flaky' is none of", self.refused(entry("SCTPConnectivity", 1, reason="flaky")))
        self.assertIn("no `why`", self.refused(entry("SCTPConnectivity", 1, why="")))

    def test_a_spec_is_left_out_once(self):
        self.assertIn("is listed twice", self.refused(entry("SCTPConnectivity", 1) + entry("sctp", 1)))

    def test_what_needs_more_nodes_is_not_left_out(self):
        listed, taken = entry("SCTPConnectivity", 1) + larger("adding or deleting ports", 1), specs.taken(EVERY)
        self.assertEqual(specs.larger(listed, taken), {UPDATED: 6})
        self.assertEqual([one.specs for one in specs.exceptions(listed, taken)], [(SCTP,)])

    def test_a_larger_lab_is_one_that_the_lab_can_be(self):
        for nodes in (2, 9, '"six"'):
            self.assertIn("are not more than 2 and at most 8", self.refused(larger("adding or deleting ports", 1, nodes)))
        self.assertEqual(specs.larger(larger("adding or deleting ports", 1, 3), specs.taken(EVERY)), {UPDATED: 3})

    def test_an_entry_for_a_larger_lab_is_held_to_the_same_rules(self):
        self.assertIn("is in 0 specs, and `specs` says 1", self.refused(larger("gone with the new version", 1)))
        self.assertIn("no `why`", self.refused(larger("adding or deleting ports", 1, why="")))
        self.assertIn("is listed twice", self.refused(entry("SCTPConnectivity", 1) + larger("sctp", 1)))


class LabsTest(unittest.TestCase):
    def test_what_needs_more_nodes_runs_on_a_lab_of_its_own(self):
        needs = {UPDATED: 3, DISRUPTIVE: 6}
        self.assertEqual(labs.shares([BASIC, UPDATED, SCTP], needs), [labs.Share(2, (BASIC, SCTP)), labs.Share(6, (UPDATED,))])

    def test_no_lab_is_made_for_nothing(self):
        self.assertEqual(labs.shares([UPDATED], {UPDATED: 6}), [labs.Share(6, (UPDATED,))])
        self.assertEqual(labs.shares([BASIC], {UPDATED: 6}), [labs.Share(2, (BASIC,))])
        self.assertEqual(labs.shares([BASIC], {}), [labs.Share(2, (BASIC,))])
        self.assertEqual(labs.shares([], {UPDATED: 6}), [])

    def test_a_lab_runs_that_for_which_it_has_enough_nodes(self):
        needs = {UPDATED: 3, DISRUPTIVE: 6}
        for nodes, found in ((1, ()), (2, (BASIC,)), (3, (BASIC, UPDATED)), (5, (BASIC, UPDATED)), (6, (BASIC, UPDATED, DISRUPTIVE))):
            self.assertEqual(labs.enough([BASIC, UPDATED, DISRUPTIVE], needs, nodes), found)


class ZonesTest(unittest.TestCase):
    def test_nodes_are_in_zones_in_turns(self):
        nodes = [f"node{number}" for number in range(1, 7)]
        self.assertEqual(list(Zones.shared_out(nodes, 3).values()), ["zone1", "zone2", "zone3"] * 2)
        self.assertEqual(Zones.shared_out(nodes[:2], 3), {"node1": "zone1", "node2": "zone2"})
        self.assertEqual(set(Zones.shared_out(nodes, 1).values()), {"zone1"})


class ResultsTest(unittest.TestCase):
    def test_a_run_on_a_larger_lab_adds_to_one_that_is_kept(self):
        # As it was written before labs of several sizes were used: without `nodes` in outcomes.
        kept = {"run": {"nodes": 2, "kinds": "ovs", "runs": 1, "parallel": 3}, "outcomes": [{"spec": BASIC, "state": PASSED, "seconds": 1.5, "said": "", "remark": ""}]}
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "results.json"
            file.write_text(json.dumps(kept))
            results = Results.read(file)
            self.assertEqual(results.passed(), {BASIC})
            results.begin([BASIC, UPDATED], date="2026-11-22")
            results.on(6, {"ovs", "nested-vlan"})
            results.outcomes[UPDATED] = Outcome(UPDATED, PASSED, 3.0, nodes=6)
            file.write_text(results.text())
            again = Results.read(file)
        self.assertEqual(again, results)
        self.assertEqual(again.run, {"nodes": 2, "kinds": "nested-vlan, ovs", "runs": 2, "parallel": 3, "date": "2026-11-22"})
        self.assertEqual([(one.spec, one.nodes) for one in again.outcomes.values()], [(BASIC, None), (UPDATED, 6)])

    def test_a_run_on_two_labs_is_one(self):
        results = Results.read(Path("/nowhere/results.json"))
        results.begin([BASIC])
        results.on(2, {"ovs"})
        results.on(6, {"ovs"})
        self.assertEqual(results.run, {"nodes": 2, "kinds": "ovs", "runs": 1})

    def test_what_the_suite_has_no_more_is_forgotten(self):
        results = Results({}, {SCTP: Outcome(SCTP, PASSED, 1)})
        results.begin([BASIC])
        self.assertEqual(results.passed(), set())


class OutcomeTest(unittest.TestCase):
    def test_what_was_not_chosen_or_says_nothing_is_missing(self):
        found = outcome.of_report(report((BASIC, "passed", "", 12), (UPDATED, "skipped", "", 0), (SCTP, "failed", "no", 1)), [BASIC, UPDATED])
        self.assertEqual(found, {BASIC: Outcome(BASIC, PASSED, 12.0)})

    def test_an_outcome_knows_how_large_the_lab_was(self):
        self.assertEqual(outcome.of_report(report((BASIC, "passed", "", 12)), [BASIC], 6), {BASIC: Outcome(BASIC, PASSED, 12.0, nodes=6)})

    def test_states_of_the_suite(self):
        cases = (("failed", "lost\n  it", FAILED, "lost it"), ("timedout", "", FAILED, "timedout"), ("panicked", "nil", FAILED, "nil"), ("interrupted", "", FAILED, "interrupted"),
                 ("skipped", "needs 3 nodes", SKIPPED, "needs 3 nodes"))
        for state, said, wanted, told in cases:
            one = outcome.of_report(report((BASIC, state, said, 1)), [BASIC])[BASIC]
            self.assertEqual((one.state, one.said), (wanted, told))

    def test_results_can_be_read_again(self):
        one = {BASIC: Outcome(BASIC, FAILED, 1.5, "why", "again")}
        self.assertEqual(outcome.from_json(outcome.as_json(one)), one)

    def test_only_what_passed_or_is_listed_is_good(self):
        wanted, left_out = specs.taken(EVERY), specs.exceptions(entry("SCTPConnectivity", 1), specs.taken(EVERY))
        found = {BASIC: Outcome(BASIC, PASSED, 1), UPDATED: Outcome(UPDATED, SKIPPED, 1, "not here"), SCTP: Outcome(SCTP, FAILED, 1)}
        self.assertEqual(outcome.problems(wanted, left_out, {}, found), [f"skipped: {UPDATED}: not here", f"did not run: {DISRUPTIVE}"])

    def test_what_needs_more_nodes_than_there_were_did_not_run(self):
        self.assertEqual(outcome.problems([BASIC], [], {BASIC: 6}, {}), [f"did not run: {BASIC}: needs 6 nodes"])
        self.assertEqual(outcome.problems([BASIC], [], {BASIC: 6}, {BASIC: Outcome(BASIC, PASSED, 1)}), [])


class RoundsTest(unittest.TestCase):
    def test_parts_are_small_and_nothing_is_lost(self):
        for number in (0, 1, 5, 10, 11, 190):
            for workers in (1, 2):
                some = [str(one) for one in range(number)]
                found = rounds.parts(some, workers)
                self.assertEqual([one for part in found for one in part], some)
                self.assertTrue(all(0 < len(part) <= rounds.TOGETHER for part in found))
        self.assertEqual(rounds.parts(["a", "b", "c"], 1, 2), [["a", "b"], ["c"]])

    def test_others_run_beside_what_takes_long(self):
        slow, slowest = f"{UPDATED} [Slow]", "[sig-network] LoadBalancers should not have connectivity disruption during rolling update [Slow]"
        self.assertEqual(rounds.parts([BASIC, UPDATED, slow, slow, slow, slowest], 2, 8), [[slowest], [BASIC], [UPDATED], [slow, slow], [slow]])
        self.assertEqual(rounds.parts([BASIC, slow, slowest], 1), [[BASIC, slow, slowest]])

    def test_what_failed_while_the_switch_crashed_runs_again(self):
        told, crashed = [], iter([0, 1])

        class Suite(rounds.Rounds):
            calls = []

            def call(self, some):
                self.calls.append(some)
                state = FAILED if len(self.calls) == 1 else PASSED
                return {one: Outcome(one, PASSED if one == BASIC else state, 1) for one in some}

        with tempfile.TemporaryDirectory() as folder:
            run = Suite(None, Path(folder), Path(folder), lambda: next(crashed), told.append)
            run.fairly([BASIC, UPDATED])
        self.assertEqual(run.calls, [[BASIC, UPDATED], [UPDATED]])
        self.assertEqual([(one.state, one.remark) for one in told], [(PASSED, ""), (PASSED, rounds.CRASHED)])

    def test_nothing_runs_again_once_it_is_to_end(self):
        class Suite(rounds.Rounds):
            calls = 0

            def call(self, some):
                self.calls += 1
                self.stop()
                return {}

        with tempfile.TemporaryDirectory() as folder:
            crashed = iter([0, 1])
            run = Suite(None, Path(folder), Path(folder), lambda: next(crashed), lambda _: None)
            run.fairly([BASIC])
        self.assertEqual(run.calls, 1)


class ImagesTest(unittest.TestCase):
    def test_a_layer_has_files_folders_and_links_but_no_documentation(self):
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder)
            (root / "usr/bin").mkdir(parents=True)
            (root / "usr/share/doc").mkdir(parents=True)
            (root / "tmp").mkdir()
            (root / "usr/share/doc/x").write_text("x")
            (root / "usr/bin/dig").write_text("#!")
            (root / "usr/bin/dig").chmod(0o755)
            (root / "bin").symlink_to("usr/bin")
            with tarfile.open(fileobj=io.BytesIO(images.layer(root))) as archive:
                found = {one.name: (one.type, one.mode) for one in archive.getmembers()}
        self.assertEqual(found["usr/bin/dig"], (tarfile.REGTYPE, 0o755))
        self.assertEqual(found["bin"][0], tarfile.SYMTYPE)
        self.assertEqual(found["tmp"], (tarfile.DIRTYPE, 0o1777))
        self.assertNotIn("usr/share", found)


class DocumentTest(unittest.TestCase):
    def test_counts_and_rows(self):
        wanted, left_out = specs.taken(EVERY), specs.exceptions(entry("SCTPConnectivity", 1), specs.taken(EVERY))
        found = {BASIC: Outcome(BASIC, PASSED, 12.4, remark=rounds.CRASHED), UPDATED: Outcome(UPDATED, FAILED, 3, "no answer")}
        run = {"date": "2026-11-21", "kubernetes": "v1.36.3", "nodes": 2, "kinds": "ovs", "cores": 2, "kernel": "6.18", "parallel": 1}
        text = document.markdown(run, wanted, left_out, 50, found)
        for line in ("| Conformance | 1 | 1 | 0 | 0 | 0 |", "| others | 3 | 0 | 1 | 1 | 1 |", "50 specs about network policies",
                     f"| Services should serve a basic endpoint from pods [Conformance] | passed, {rounds.CRASHED} | 12 |",
                     "| Services should be updated after adding or deleting ports | **failed**: no answer | 3 |", "**did not run**"):
            self.assertIn(line, text)

    def test_what_ran_on_a_larger_lab_says_so(self):
        left_out = specs.exceptions(entry("SCTPConnectivity", 1), specs.taken(EVERY))
        found = {BASIC: Outcome(BASIC, PASSED, 12, nodes=2), SCTP: Outcome(SCTP, FAILED, 1, nodes=3), UPDATED: Outcome(UPDATED, PASSED, 3, nodes=6), DISRUPTIVE: Outcome(DISRUPTIVE, PASSED, 3)}
        run = {"date": "2026-11-21", "kubernetes": "v1.36.3", "nodes": 2, "kinds": "ovs", "cores": 2, "kernel": "6.18", "parallel": 1}
        text = document.markdown(run, [BASIC, UPDATED, SCTP, DISRUPTIVE], left_out, 50, found)
        for line in ("; 2 nodes (ovs), 6 for 1 of the specs, 2 cores", "basic endpoint from pods [Conformance] | passed | 12 |", "deleting ports | passed, on 6 nodes | 3 |",
                     "apiserver [Disruptive] | passed | 3 |"):
            self.assertIn(line, text)

    def test_only_what_stands_between_the_marks_is_replaced(self):
        before = f"a\n{document.BEGIN}\nold\n{document.END}\nb\n"
        self.assertEqual(document.into(before, "new"), f"a\n{document.BEGIN}\n\nnew\n{document.END}\nb\n")


if __name__ == "__main__":
    unittest.main()
