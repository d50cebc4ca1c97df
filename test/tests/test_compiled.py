"""What `test/compiled.py` keeps of a checkout, and what another one gets of it."""
import os
import sys
import tempfile
import unittest
from pathlib import Path
from unittest import mock

sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import compiled  # noqa: E402

THEIRS = ("debug/.fingerprint/serde-11aa/lib-serde", "debug/build/ring-22bb/out/ring.a", "debug/deps/libserde-11aa.rlib", "debug/deps/libring-33cc.rmeta")
OURS = ("debug/.fingerprint/kuryr-cni-44dd/bin", "debug/deps/kuryr_cni-44dd", "debug/deps/kuryr_cni-44dd.d", "debug/kuryr-cni", "debug/deps/stranger-55ee.d")
UNITS = ("debug/.fingerprint/ring-22bb/run", "debug/.fingerprint/ring-33cc/lib-ring")


class CompiledTest(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        cache = mock.patch.dict(os.environ, XDG_CACHE_HOME=str(self.folder / "cache"))
        cache.start()
        self.addCleanup(cache.stop)
        for call, answer in (("members", lambda root: {"kuryr-cni"}), ("name", lambda root: (root / "Cargo.lock").read_text())):
            patch = mock.patch.object(compiled, call, answer)
            patch.start()
            self.addCleanup(patch.stop)

    def checkout(self, name: str, lock: str, files: tuple = ()) -> Path:
        root = self.folder / name
        root.mkdir()
        (root / "Cargo.lock").write_text(lock)
        for file in files:
            path = root / "target" / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{name} {file}")
        return root

    def files(self, root: Path) -> dict[str, str]:
        found = (path for path in (root / "target").rglob("*") if path.is_file())
        return {str(path.relative_to(root / "target")): path.read_text() for path in found}

    def test_a_fresh_checkout_gets_what_others_wrote_and_nothing_of_ours(self):
        compiled.keep(self.checkout("one", "a", THEIRS + OURS + UNITS))
        two = self.checkout("two", "a")
        compiled.restore(two)
        self.assertEqual(self.files(two), {file: f"one {file}" for file in THEIRS + UNITS})

    def test_what_is_there_already_stays_and_other_inputs_get_nothing(self):
        compiled.keep(self.checkout("one", "a", THEIRS + UNITS))
        begun, other = self.checkout("two", "a", ("debug/deps/x",)), self.checkout("three", "b")
        compiled.restore(begun)
        compiled.restore(other)
        self.assertEqual(list(self.files(begun)), ["debug/deps/x"])
        self.assertEqual(self.files(other), {})

    def test_only_the_profile_that_is_complete_is_kept(self):
        release = tuple(file.replace("debug", "release") for file in THEIRS + UNITS)
        compiled.keep(self.checkout("one", "a", THEIRS + UNITS + release), "release")
        two = self.checkout("two", "a")
        compiled.restore(two)
        self.assertEqual(set(self.files(two)), set(release))

    def test_two_sets_are_kept_and_nothing_half(self):
        for age, lock in ((3, "a"), (2, "b"), (1, "c")):
            compiled.keep(self.checkout(lock, lock, THEIRS + UNITS))
            os.utime(compiled.cache() / lock, (10_000 - age, 10_000 - age))
        compiled.keep(self.checkout("again", "c", THEIRS))
        self.assertEqual({path.name for path in compiled.cache().rglob("*") if path.parent == compiled.cache()}, {"b", "c"})
        self.assertEqual([path for path in compiled.cache().rglob(".half-*")], [])

    def test_inputs_are_versions_features_and_profiles_but_not_which_package_of_ours_wants_what(self):
        root = self.checkout("one", "")
        registry = 'source = "registry"\nname = "serde"\nversion = "1.0.0"\n'

        def crates(ours: str, version: str = registry, features: str = "a", opt: int = 3) -> list:
            (root / "Cargo.lock").write_text(f'[[package]]\nname = "kuryr-cni"\nversion = "0.1.0"\ndependencies = [{ours}]\n[[package]]\n{version}')
            (root / "Cargo.toml").write_text(f'[workspace.dependencies]\nserde = {{ version = "1", features = ["{features}"] }}\n[profile.release]\nopt-level = {opt}\n')
            return compiled.crates(root)
        same = crates("")
        self.assertEqual(crates('"serde"'), same)
        for other in (crates("", registry.replace("1.0.0", "1.0.1")), crates("", features="b"), crates("", opt=2)):
            self.assertNotEqual(other, same)


if __name__ == "__main__":
    unittest.main()
