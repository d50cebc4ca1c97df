"""How `test/run` counts what programs print."""
import importlib.machinery
import importlib.util
import sys
import unittest
from pathlib import Path

sys.dont_write_bytecode = True
RUN = Path(__file__).resolve().parent.parent / "run"
loader = importlib.machinery.SourceFileLoader("run_of_tests", str(RUN))
run = importlib.util.module_from_spec(importlib.util.spec_from_loader("run_of_tests", loader))
loader.exec_module(run)

NONE, SOME, BAD = (f"test result: {word}. {p} passed; {f} failed; 0 ignored\n" for word, p, f in (("ok", 0, 0), ("ok", 3, 0), ("FAILED", 2, 1)))


class CountsTest(unittest.TestCase):
    def test_a_test_program_that_ran_nothing_has_failed(self):
        for text in ("", "running nothing", NONE, NONE + NONE):
            self.assertEqual(run.cargo_summary(text), (0, 1), text)
        self.assertEqual(run.cargo_summary(NONE + SOME), (3, 0))
        self.assertEqual(run.cargo_summary(SOME + BAD), (5, 1))

    def test_tests_in_a_guest_are_there_by_these_names(self):
        for (package, target), (_, names) in run.IN_GUEST.items():
            source = (run.ROOT / "crates" / package / "tests" / f"{target}.rs").read_text()
            for name in names:
                self.assertRegex(source, rf"#\[test\]\nfn {name}\(\)", "one that is not there would not be missed")

    def test_one_that_is_known_to_be_empty_must_say_so(self):
        self.assertEqual(run.programs_summary(NONE), (0, 0))
        self.assertEqual(run.programs_summary(""), (0, 1))

    def test_python_that_ran_nothing_has_failed(self):
        self.assertEqual(run.unittest_summary("Ran 0 tests in 0.000s\n\nOK\n"), (0, 1))
        self.assertEqual(run.unittest_summary("ImportError"), (0, 1))
        self.assertEqual(run.unittest_summary("Ran 7 tests in 0.1s\n\nFAILED (failures=1, errors=2)\n"), (4, 3))

    def test_scenarios_that_say_nothing_have_failed(self):
        self.assertEqual(run.summary(""), (0, 1))
        self.assertEqual(run.summary("0 passed, 0 failed\n"), (0, 1))
        self.assertEqual(run.summary("4 passed, 0 failed\n"), (4, 0))

    def test_what_failed_is_named_first_few_of_it(self):
        text = "ok 1\nfailed: first-pod: pings: lost\ntest joint::far ... FAILED\ntest joint::near ... ok\nFAIL: test_x (a.B)\n1 passed, 2 failed\n"
        self.assertEqual(run.named(text), ["    first-pod: pings: lost", "    test joint::far ... FAILED", "    FAIL: test_x (a.B)"])
        self.assertEqual(len(run.named("failed: x\n" * 50)), run.NAMED_LINES)


if __name__ == "__main__":
    unittest.main()
