//! The timing wrapper as a process, around a plugin that is a shell script.

use std::{
    fs::{self, File, Permissions},
    os::unix::fs::PermissionsExt,
    process::Command,
};

#[test]
fn passes_everything_through_and_writes_one_line() {
    let directory = tempfile::tempdir().unwrap();
    let bin = directory.path().join("bin");
    fs::create_dir(&bin).unwrap();
    let plugin = bin.join("ptp");
    fs::copy(env!("CARGO_BIN_EXE_cni-timed"), &plugin).unwrap();
    let real = bin.join("ptp.real");
    fs::write(&real, "#!/bin/sh\ncat\nexit 3\n").unwrap();
    fs::set_permissions(&real, Permissions::from_mode(0o755)).unwrap();
    let input = directory.path().join("input");
    fs::write(&input, "the configuration").unwrap();
    let output = Command::new(&plugin)
        .stdin(File::open(input).unwrap())
        .env("CNI_COMMAND", "ADD")
        .env("CNI_ARGS", "K8S_POD_NAMESPACE=a;K8S_POD_NAME=b")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(3));
    assert_eq!(output.stdout, b"the configuration");
    let log = fs::read_to_string(directory.path().join("cni-timings.jsonl")).unwrap();
    let line: serde_json::Value = serde_json::from_str(log.trim_end()).unwrap();
    assert_eq!((&line["verb"], &line["pod"], &line["exit"]), (&"ADD".into(), &"a/b".into(), &3.into()));
}
