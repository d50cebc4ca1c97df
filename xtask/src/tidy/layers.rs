//! Arrows between rooms point only downwards.
//!
//! | layer | rooms |
//! |---|---|
//! | 3 loops | controller, agent, cni, ctl |
//! | 2 worlds | openstack, kubernetes, datapath, ebpf, process |
//! | 1 decisions | planning |
//! | 0 vocabulary | types, api, conf, ebpf-maps, telemetry |
//! | beside | testkit, sim, xtask: they may see every room, no room may need them outside its tests |
//!
//! Each package names its layer in `[package.metadata.room]`; this file holds that and the dependencies
//! against the plan. Dependencies for tests only are free, except that they may not reach upwards.

use std::{collections::BTreeMap, path::Path, process::Command};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::Finding;

const RULE: &str = "layers";

/// Where each room belongs.
const PLAN: &[(&str, Layer)] = &[
    ("types", Layer::Number(0)),
    ("api", Layer::Number(0)),
    ("conf", Layer::Number(0)),
    ("ebpf-maps", Layer::Number(0)),
    ("telemetry", Layer::Number(0)),
    ("planning", Layer::Number(1)),
    ("openstack", Layer::Number(2)),
    ("kubernetes", Layer::Number(2)),
    ("datapath", Layer::Number(2)),
    ("ebpf", Layer::Number(2)),
    ("process", Layer::Number(2)),
    ("controller", Layer::Number(3)),
    ("agent", Layer::Number(3)),
    ("cni", Layer::Number(3)),
    ("ctl", Layer::Number(3)),
    ("testkit", Layer::Beside),
    ("sim", Layer::Beside),
    ("xtask", Layer::Beside),
];

/// Arrows within one layer that are meant.
const WITHIN_A_LAYER: &[(&str, &str)] =
    &[("api", "types"), ("conf", "types"), ("telemetry", "types"), ("datapath", "ebpf"), ("sim", "testkit")];

/// Arrows that point downwards and are forbidden all the same, with the reason.
const FORBIDDEN: &[(&str, &str, &str)] = &[
    ("openstack", "planning", "a world decides nothing"),
    ("kubernetes", "planning", "a world decides nothing"),
    ("datapath", "planning", "a world decides nothing"),
    ("ebpf", "planning", "a world decides nothing"),
    ("process", "planning", "a world decides nothing"),
    ("openstack", "api", "the cloud's client knows nothing of Kubernetes"),
    ("planning", "conf", "a decision is given its settings"),
    ("planning", "telemetry", "decisions report by what they return"),
    ("agent", "openstack", "nodes hold no OpenStack credentials"),
    ("cni", "openstack", "nodes hold no OpenStack credentials"),
    ("controller", "datapath", "the controller touches no node"),
    ("controller", "ebpf", "the controller touches no node"),
    ("ctl", "datapath", "the operator's tool touches no node"),
];

/// Rooms that may need only the rooms named here.
const ONLY: &[(&str, &[&str])] = &[("cni", &["types", "api"]), ("ebpf-maps", &[])];

/// A package of the workspace as `cargo metadata` describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Room {
    /// Package name without the project's prefix.
    name: String,
    /// Path of its manifest from the root.
    manifest: String,
    /// What `[package.metadata.room]` says.
    layer: Option<Layer>,
    /// Rooms it needs, to run or to build.
    needs: Vec<String>,
    /// Rooms that only its tests need.
    tests_need: Vec<String>,
}

/// The height of a room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Layer {
    Number(u64),
    Beside,
}

/// Asks `cargo` for the packages of the workspace.
///
/// # Errors
/// `cargo metadata` fails or prints something else than its documented format.
pub(crate) fn describe(root: &Path) -> Result<Vec<Room>> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--format-version=1", "--offline"])
        .current_dir(root)
        .output()
        .context("cargo metadata")?;
    ensure!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).context("output of cargo metadata")?;
    parse(&metadata).context("cargo metadata without packages")
}

fn parse(metadata: &Value) -> Option<Vec<Room>> {
    let root = metadata["workspace_root"].as_str()?;
    metadata["packages"].as_array()?.iter().map(|package| room(package, root)).collect()
}

fn room(package: &Value, root: &str) -> Option<Room> {
    let manifest = package["manifest_path"].as_str()?;
    let layer = &package["metadata"]["room"]["layer"];
    let mut room = Room {
        name: short(package["name"].as_str()?).to_owned(),
        manifest: manifest.strip_prefix(root).unwrap_or(manifest).trim_start_matches('/').to_owned(),
        layer: layer.as_u64().map(Layer::Number).or_else(|| (layer == "beside").then_some(Layer::Beside)),
        needs: Vec::new(),
        tests_need: Vec::new(),
    };
    for dependency in package["dependencies"].as_array()? {
        // Only packages of this workspace come by path.
        if dependency["path"].is_string() {
            let list = if dependency["kind"] == "dev" { &mut room.tests_need } else { &mut room.needs };
            list.push(short(dependency["name"].as_str()?).to_owned());
        }
    }
    Some(room)
}

fn short(package: &str) -> &str {
    package.strip_prefix("kuryr-").unwrap_or(package)
}

/// Holds every room and every arrow against the plan.
pub(crate) fn check(rooms: &[Room]) -> Vec<Finding> {
    let plan: BTreeMap<&str, Layer> = PLAN.iter().copied().collect();
    rooms.iter().flat_map(|room| check_room(room, &plan)).collect()
}

fn check_room(room: &Room, plan: &BTreeMap<&str, Layer>) -> Vec<Finding> {
    let finding = |what: String| Finding::new(&room.manifest, 0, RULE, what);
    let Some(&planned) = plan.get(room.name.as_str()) else {
        let what = format!("room `{}` has no place: add it to PLAN in xtask/src/tidy/layers.rs", room.name);
        return vec![finding(what)];
    };
    let mut findings = Vec::new();
    if room.layer != Some(planned) {
        let written = match planned {
            Layer::Number(number) => number.to_string(),
            Layer::Beside => "\"beside\"".to_owned(),
        };
        findings.push(finding(format!("write `layer = {written}` under [package.metadata.room]")));
    }
    let for_tests = room.tests_need.iter().map(|need| (need, true));
    let arrows = room.needs.iter().map(|need| (need, false)).chain(for_tests);
    findings.extend(
        arrows
            .filter(|(need, _)| **need != room.name)
            .filter_map(|(need, tests)| Some((need, objection(&room.name, planned, need, tests, plan)?)))
            .map(|(need, why)| finding(format!("drop the dependency on `{need}`: {why}"))),
    );
    findings
}

/// What speaks against the arrow from `room` to `need`, if anything.
fn objection(
    room: &str,
    layer: Layer,
    need: &str,
    only_tests: bool,
    plan: &BTreeMap<&str, Layer>,
) -> Option<String> {
    let Layer::Number(height) = layer else { return None };
    match plan.get(need).copied()? {
        Layer::Beside if only_tests => return None,
        Layer::Beside => return Some("only tests may need it".to_owned()),
        Layer::Number(below) if below > height => {
            return Some(format!("it is on layer {below}, this room on {height}"));
        }
        Layer::Number(same) if same == height && !WITHIN_A_LAYER.contains(&(room, need)) => {
            return Some(format!("both are on layer {same}"));
        }
        Layer::Number(_) => {}
    }
    if only_tests {
        return None;
    }
    if let Some((_, only)) = ONLY.iter().find(|(name, _)| *name == room) {
        return (!only.contains(&need)).then(|| format!("this room may need only {only:?}"));
    }
    let forbidden = FORBIDDEN.iter().find(|(from, to, _)| (*from, *to) == (room, need));
    forbidden.map(|(_, _, why)| (*why).to_owned())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check_arrow(room: &str, layer: u64, need: &str, kind: Option<&str>, expect: &[&str]) {
        let metadata = json!({
            "workspace_root": "/w",
            "packages": [{
                "name": format!("kuryr-{room}"),
                "manifest_path": format!("/w/crates/{room}/Cargo.toml"),
                "metadata": {"room": {"layer": layer}},
                "dependencies": [
                    {"name": format!("kuryr-{need}"), "kind": kind, "path": "/w/crates/x"},
                    {"name": "tokio", "kind": null},
                ],
            }],
        });
        let rooms = parse(&metadata).unwrap();
        let got: Vec<String> = check(&rooms).iter().map(|f| format!("{}: {}", f.path, f.what)).collect();
        let manifest = format!("crates/{room}/Cargo.toml");
        let expect: Vec<String> = expect.iter().map(|what| format!("{manifest}: {what}")).collect();
        assert_eq!(got, expect, "{room} -> {need}");
    }

    #[test]
    fn arrows_point_downwards() {
        let upwards = "drop the dependency on `openstack`: it is on layer 2, this room on 1";
        let sideways = "drop the dependency on `kubernetes`: both are on layer 2";
        let credentials = "drop the dependency on `openstack`: nodes hold no OpenStack credentials";
        let world = "drop the dependency on `planning`: a world decides nothing";
        let only = "drop the dependency on `telemetry`: this room may need only [\"types\", \"api\"]";
        let tests = "drop the dependency on `testkit`: only tests may need it";
        check_arrow("controller", 3, "openstack", None, &[]);
        check_arrow("datapath", 2, "ebpf", None, &[]);
        check_arrow("datapath", 2, "ebpf-maps", None, &[]);
        check_arrow("api", 0, "types", None, &[]);
        check_arrow("planning", 1, "testkit", Some("dev"), &[]);
        check_arrow("openstack", 2, "planning", Some("dev"), &[]);
        check_arrow("planning", 1, "openstack", None, &[upwards]);
        check_arrow("planning", 1, "openstack", Some("dev"), &[upwards]);
        check_arrow("openstack", 2, "kubernetes", None, &[sideways]);
        check_arrow("datapath", 2, "planning", None, &[world]);
        check_arrow("agent", 3, "openstack", None, &[credentials]);
        check_arrow("agent", 3, "openstack", Some("build"), &[credentials]);
        check_arrow("cni", 3, "telemetry", None, &[only]);
        check_arrow("controller", 3, "testkit", None, &[tests]);
    }

    #[test]
    fn the_layer_is_written_down_and_every_room_has_a_place() {
        check_arrow("planning", 3, "types", None, &["write `layer = 1` under [package.metadata.room]"]);
        let place = "room `attic` has no place: add it to PLAN in xtask/src/tidy/layers.rs";
        check_arrow("attic", 0, "types", None, &[place]);
    }
}
