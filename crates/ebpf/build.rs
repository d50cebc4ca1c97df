//! Compiles each `programs/NAME.bpf.c` with clang into an object that the crate embeds.
//!
//! Needs clang (any version from 11 on, also as `clang-NN`) and libbpf's headers. `llvm-strip` is used if it is
//! there: it takes the debug sections away and keeps BTF.
//!
//! Environment: `CLANG` and `LLVM_STRIP` name other tools.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

/// Each is one object.
const PROGRAMS: [&str; 3] = ["joint", "service", "sockets"];
/// What they include of ours.
const HEADERS: [&str; 3] = ["address", "joint", "service"];
/// Newest first, so that a machine with several gets the best.
const VERSIONS: std::ops::RangeInclusive<u32> = 11..=30;

fn main() -> ExitCode {
    for name in PROGRAMS {
        println!("cargo::rerun-if-changed={}", source(name));
    }
    for name in HEADERS {
        println!("cargo::rerun-if-changed=programs/{name}.h");
    }
    for variable in ["CLANG", "LLVM_STRIP"] {
        println!("cargo::rerun-if-env-changed={variable}");
    }
    match build() {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            for line in why.lines() {
                println!("cargo::error={line}");
            }
            ExitCode::FAILURE
        }
    }
}

fn build() -> Result<(), String> {
    let clang = tool("CLANG", "clang").ok_or(
        "the eBPF programs need clang to compile and none was found (tried clang and clang-11 to clang-30); \
         on Debian: apt-get install clang libbpf-dev; or set CLANG",
    )?;
    let out = env::var_os("OUT_DIR").ok_or("OUT_DIR is not set: run this by cargo")?;
    let strip = tool("LLVM_STRIP", "llvm-strip");
    for name in PROGRAMS {
        let object = Path::new(&out).join(format!("{name}.bpf.o"));
        compile(&clang, &source(name), &object)?;
        if let Some(strip) = &strip {
            run(Command::new(strip).arg("--strip-debug").arg(&object))?;
        }
    }
    Ok(())
}

fn source(name: &str) -> String {
    format!("programs/{name}.bpf.c")
}

fn compile(clang: &str, source: &str, object: &Path) -> Result<(), String> {
    let mut command = Command::new(clang);
    command.args(["-O2", "-g", "-target", "bpf", "-mcpu=v3", "-Wall", "-Wextra", "-Werror"]);
    if let Some(headers) = multiarch_headers() {
        command.arg("-idirafter").arg(headers);
    }
    command.args(["-c", source, "-o"]).arg(object);
    run(&mut command).map_err(|why| {
        if why.contains("bpf/bpf_helpers.h") {
            format!("the eBPF programs need libbpf's headers; on Debian: apt-get install libbpf-dev\n{why}")
        } else {
            why
        }
    })
}

/// Debian keeps `asm/types.h` where clang looks for it on the host's target only.
fn multiarch_headers() -> Option<PathBuf> {
    let arch = env::var("CARGO_CFG_TARGET_ARCH").ok()?;
    let headers = PathBuf::from(format!("/usr/include/{arch}-linux-gnu"));
    headers.is_dir().then_some(headers)
}

fn tool(variable: &str, name: &str) -> Option<String> {
    if let Ok(named) = env::var(variable) {
        return Some(named);
    }
    let versioned = VERSIONS.rev().map(|version| format!("{name}-{version}"));
    std::iter::once(name.to_owned()).chain(versioned).find(|tool| in_path(tool))
}

fn in_path(tool: &str) -> bool {
    env::var_os("PATH")
        .is_some_and(|path| env::split_paths(&path).any(|folder| fs::metadata(folder.join(tool)).is_ok()))
}

fn run(command: &mut Command) -> Result<(), String> {
    let output = command.output().map_err(|error| format!("cannot run {command:?}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{command:?} failed: {}", String::from_utf8_lossy(&output.stderr)))
}
