//! The CNI configuration list, by which the runtime finds the plugin.
//!
//! Written when the agent is ready for the first time: before, a runtime that finds it would call pods' failures instead
//! of calling the node not ready. It stays through restarts of the agent, and is brought up to date when its content is
//! another. An operator's `kuryr.conflist.template` beside it is used instead of our own, as upstream has it: so other
//! plugins are chained.
//!
//! `cniVersion` is 1.0.0, the newest that containerd 1.6 speaks.

use std::{
    fs, io,
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use kuryr_api::names;
use kuryr_kubernetes::Outcome;
use serde_json::{Value, json};

use crate::{
    error::{Error, Result},
    wiring::World,
};

/// Name of an operator's own list; upstream's.
const TEMPLATE: &str = "kuryr.conflist.template";
const VERSION: &str = "1.0.0";
/// The runtime and people read it; it holds no secrets.
const MODE: u32 = 0o644;

/// Writes the list once pods can be wired.
pub(crate) async fn reconcile(world: &World) -> Result<Outcome> {
    if world.sandboxes.status().is_err() {
        return Ok(Outcome::Done);
    }
    let config = &world.config;
    let (folder, own) = (config.cni_conf_dir.clone(), own(&config.socket, config.add_within));
    let result = world.kernel.blocking("write the CNI configuration", move || write(&folder, own)).await?;
    if let Some(path) = result? {
        tracing::info!(path = %path.display(), "wrote the CNI configuration");
    }
    world.memory().conflist_written = true;
    Ok(Outcome::Done)
}

/// Writes the list into `folder` unless it is there; tells the path if it was written.
fn write(folder: &Path, own: Vec<u8>) -> Result<Option<PathBuf>> {
    let path = folder.join(names::CNI_CONFLIST);
    let failed = |step, path: &Path| {
        let path = path.to_owned();
        move |source| Error::File { step, path, source }
    };
    let content = match fs::read(folder.join(TEMPLATE)) {
        Ok(template) => template,
        Err(error) if error.kind() == io::ErrorKind::NotFound => own,
        Err(error) => return Err(failed("read", &folder.join(TEMPLATE))(error)),
    };
    if fs::read(&path).is_ok_and(|present| present == content) {
        return Ok(None);
    }
    fs::create_dir_all(folder).map_err(failed("make", folder))?;
    // Not `.conflist`: runtimes read every file that ends so.
    let beside = folder.join(format!(".{}.new", names::CNI_CONFLIST));
    let mut options = fs::OpenOptions::new();
    let mut file = options
        .create(true)
        .write(true)
        .truncate(true)
        .mode(MODE)
        .open(&beside)
        .map_err(failed("write", &beside))?;
    file.write_all(&content).and_then(|()| file.sync_all()).map_err(failed("write", &beside))?;
    fs::rename(&beside, &path).map_err(failed("publish", &path))?;
    Ok(Some(path))
}

fn own(socket: &Path, add_within: Duration) -> Vec<u8> {
    let list: Value = json!({
        "cniVersion": VERSION,
        "name": "kuryr",
        "plugins": [{ "type": names::CNI_PLUGIN, "agentSocket": socket, "agentTimeout": add_within.as_secs() }],
    });
    format!("{list:#}\n").into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn written_once_and_brought_up_to_date() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().join("net.d");
        let own = |socket| own(Path::new(socket), Duration::from_secs(60));
        let socket = "/run/kuryr/agent.sock";
        let path = write(&folder, own(socket)).unwrap().unwrap();
        let list: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        assert_eq!(
            list["plugins"][0],
            json!({"type": "kuryr-cni", "agentSocket": socket, "agentTimeout": 60})
        );
        assert_eq!(write(&folder, own(socket)).unwrap(), None);
        assert!(write(&folder, own("/other.sock")).unwrap().is_some());
        fs::write(folder.join(TEMPLATE), "{\"mine\":1}").unwrap();
        assert!(write(&folder, own(socket)).unwrap().is_some());
        assert_eq!(fs::read(&path).unwrap(), b"{\"mine\":1}");
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 2, "nothing is left beside");
    }
}
