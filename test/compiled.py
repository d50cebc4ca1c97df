#!/usr/bin/env python3
"""Third-party crates, compiled once for all checkouts of a user.

    test/compiled.py restore           give a fresh checkout what an earlier one compiled
    test/compiled.py keep [PROFILE]    keep what this one compiled, unless that was done

Only what belongs to crates from the registry is kept, a folder per set of inputs: which crates in which versions and with which
features, profiles, the compiler and its flags. A package of ours may ask for more features than another did: Cargo looks at
whatever is restored as at its own, and what does not fit is compiled again. It runs as the builder.
"""
import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# Sets of inputs that are kept: the present one, and one to go back to.
MOST = 2
FOLDERS = (".fingerprint", "build", "deps")
# Where Cargo puts what a profile compiles: the profile's own folder, or one below that of a target.
DEPTHS = ("*/.fingerprint", "*/*/.fingerprint")
FLAGS = ("RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS")


def cache() -> Path:
    """Return the folder that holds all sets."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "kuryr-build"


def name(root: Path) -> str:
    """Return the name of the set for the inputs of this checkout."""
    digest = hashlib.sha256()
    compiler = subprocess.run(["rustc", "-vV"], stdout=subprocess.PIPE, check=True, timeout=120, cwd=root).stdout
    flags = [os.environ.get(flag, "").encode() for flag in FLAGS]
    inputs = json.dumps(crates(root), sort_keys=True).encode()
    for part in (compiler, *flags, inputs):
        digest.update(hashlib.sha256(part).digest())
    return digest.hexdigest()[:12]


def crates(root: Path) -> list:
    """Return what of a checkout says how crates of the registry are compiled."""
    lock = tomllib.loads((root / "Cargo.lock").read_text())
    manifest = tomllib.loads((root / "Cargo.toml").read_text())
    versions = sorted([package["name"], package["version"]] for package in lock["package"] if "source" in package)
    return [versions, manifest["workspace"].get("dependencies"), manifest.get("profile")]


def members(root: Path) -> set[str]:
    """Return the names of the packages that are compiled from the checkout itself."""
    words = ["cargo", "metadata", "--no-deps", "--offline", "--format-version", "1"]
    told = subprocess.run(words, stdout=subprocess.PIPE, check=True, timeout=120, cwd=root).stdout
    return {package["name"] for package in json.loads(told)["packages"]}


def profiles(target: Path) -> list[Path]:
    """Return the folders of profiles, relative to the target folder."""
    return sorted({path.parent.relative_to(target) for depth in DEPTHS for path in target.glob(depth)})


def third_party(profile: Path, own: set[str]) -> list[Path]:
    """Return what a profile has of crates from the registry, relative to its folder: each unit has a hash of its own in all its names."""
    units = [path.name.rpartition("-") for path in (profile / ".fingerprint").iterdir()]
    hashes = {unit for package, _, unit in units if package not in own}
    of_unit = lambda path: path.name.split(".")[0].rpartition("-")[2] in hashes  # noqa: E731
    return [path.relative_to(profile) for folder in FOLDERS if (profile / folder).is_dir() for path in (profile / folder).iterdir() if of_unit(path)]


def copy(source: Path, target: Path, names: list[Path]) -> None:
    """Copy into a folder that appears whole or not at all; somebody else may have been first."""
    target.parent.mkdir(parents=True, exist_ok=True)
    half = Path(tempfile.mkdtemp(prefix=".half-", dir=target.parent))
    try:
        half.chmod(0o755)
        for path in names:
            (half / path).parent.mkdir(parents=True, exist_ok=True)
            whole = shutil.copytree if (source / path).is_dir() else shutil.copy2
            whole(source / path, half / path)
        if not target.exists():
            half.rename(target)
    finally:
        shutil.rmtree(half, ignore_errors=True)


def restore(root: Path) -> None:
    """Fill the profiles that this checkout has not compiled anything in."""
    kept, target = cache() / name(root), root / "target"
    for profile in profiles(kept):
        if not (target / profile).exists():
            copy(kept / profile, target / profile, [path.relative_to(kept / profile) for path in (kept / profile).glob("*/*")])
            print(f"crates of the registry, profile {profile}: compiled by an earlier checkout")
    if kept.exists():
        os.utime(kept)


def keep(root: Path, only: str | None = None) -> None:
    """Keep profiles that are not kept, and no more sets than `MOST`."""
    kept, target = cache() / name(root), root / "target"
    own = members(root)
    for profile in profiles(target):
        if only in (None, str(profile)) and not (kept / profile).exists():
            copy(target / profile, kept / profile, third_party(target / profile, own))
    sets = sorted((path for path in cache().iterdir() if path.is_dir()), key=lambda path: path.stat().st_mtime, reverse=True)
    for old in sets[MOST:]:
        shutil.rmtree(old, ignore_errors=True)


def main() -> None:
    """Do what is asked; a disk that is full costs time and nothing else."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("restore", "keep"))
    parser.add_argument("profile", nargs="?", help="keep no other; all if none is named")
    asked = parser.parse_args()
    try:
        restore(ROOT) if asked.what == "restore" else keep(ROOT, asked.profile)
    except OSError as error:
        print(f"compiled crates are not shared: {error}")


if __name__ == "__main__":
    main()
