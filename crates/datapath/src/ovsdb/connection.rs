//! One connection to the database, from connecting to its end.
//!
//! Everything is bounded: connecting and writing by [`PATIENCE`]; a server that says nothing is asked for an echo and
//! given up when it does not answer; calls in flight by the queue's length.

use std::{collections::BTreeMap, io, sync::Arc, time::Duration};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{UnixStream, unix::OwnedReadHalf, unix::OwnedWriteHalf},
    sync::{mpsc, watch},
    time::{self, Instant, MissedTickBehavior},
};

use super::{
    Call, DATABASE, OvsdbConfig, QUEUE, SwitchState,
    rows::Tables,
    switch_start,
    wire::{Framer, garbled},
};
use crate::error::{Error, Result, SocketStep};

/// Bound for connecting, for writing one message, and for the first answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often the pidfile is looked at and idle connections are thought about.
const TICK: Duration = Duration::from_secs(1);
/// How often the switch is asked whether it lives although its files say so.
const CRASH_LOOK: Duration = Duration::from_secs(3);
/// Silence after which the server is asked whether it is there, and twice which it is given up.
const IDLE: Duration = Duration::from_secs(10);
const READ: usize = 64 * 1024;

/// Name of our monitor and id of the call that asks for it; calls for others count from 1.
const MONITOR: &str = "kuryr";
const MONITOR_CALL: u64 = 0;
const ECHO_CALL: &str = "echo";

/// Connects and stays until the connection fails; `Ok` when the last handle is gone.
pub(super) async fn run(
    config: &OvsdbConfig,
    publish: &watch::Sender<Arc<SwitchState>>,
    calls: &mut mpsc::Receiver<Call>,
) -> Result<()> {
    let (read, write) = connect(config).await?.into_split();
    let mut connection = Connection {
        config,
        publish,
        read,
        write,
        framer: Framer::default(),
        tables: Tables::default(),
        monitoring: false,
        pending: BTreeMap::new(),
        answered: Vec::new(),
        crashed: None,
        looked_for_crash: Instant::now(),
        last_call: MONITOR_CALL,
        heard: Instant::now(),
    };
    connection
        .call(MONITOR_CALL.into(), "monitor_cond", &json!([DATABASE, MONITOR, Tables::monitored()]))
        .await?;
    connection.serve(calls).await
}

async fn connect(config: &OvsdbConfig) -> Result<UnixStream> {
    let failed =
        |source| Error::OvsdbConnection { step: SocketStep::Open, socket: config.socket.clone(), source };
    time::timeout(PATIENCE, UnixStream::connect(&config.socket))
        .await
        .map_err(|_| Error::OvsdbSilent { waited: PATIENCE })?
        .map_err(failed)
}

#[derive(Debug)]
struct Connection<'a> {
    config: &'a OvsdbConfig,
    publish: &'a watch::Sender<Arc<SwitchState>>,
    read: OwnedReadHalf,
    write: OwnedWriteHalf,
    framer: Framer,
    tables: Tables,
    monitoring: bool,
    pending: BTreeMap<u64, Call>,
    /// Answers that are not passed on yet.
    answered: Vec<(Call, Result<Value>)>,
    /// The run of ovs-vswitchd that was found to have ended without removing its files.
    crashed: Option<super::SwitchStart>,
    looked_for_crash: Instant,
    last_call: u64,
    heard: Instant,
}

impl Connection<'_> {
    async fn serve(&mut self, calls: &mut mpsc::Receiver<Call>) -> Result<()> {
        let mut ticks = time::interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut bytes = vec![0; READ];
        loop {
            tokio::select! {
                read = self.read.read(&mut bytes) => {
                    let read = read.map_err(|source| self.failed(SocketStep::Receive, source))?;
                    self.hear(bytes.get(..read).unwrap_or_default()).await?;
                }
                call = calls.recv(), if self.monitoring && self.pending.len() < QUEUE => match call {
                    Some(call) => self.pass_on(call).await?,
                    None => return Ok(()),
                },
                _ = ticks.tick() => self.tick(calls.is_closed()).await?,
            }
            if calls.is_closed() && calls.is_empty() {
                return Ok(());
            }
        }
    }

    async fn hear(&mut self, bytes: &[u8]) -> Result<()> {
        if bytes.is_empty() {
            return Err(self.failed(SocketStep::Receive, io::ErrorKind::UnexpectedEof.into()));
        }
        self.heard = Instant::now();
        self.framer.push(bytes);
        let mut changed = false;
        while let Some(message) = self.framer.next()? {
            changed |= self.handle(message).await?;
        }
        // Once for all that came together: ovn-controller installs many ports at a time.
        if changed && self.monitoring {
            self.show().await;
        }
        // After the rows: the server tells what a transaction changed before it answers, and whoever is answered looks.
        for (call, result) in self.answered.drain(..) {
            // Nobody may be waiting for it any more.
            let _ = call.reply.send(result);
        }
        Ok(())
    }

    /// Takes a message in and tells whether rows changed.
    async fn handle(&mut self, mut message: Value) -> Result<bool> {
        let id = message["id"].take();
        let method = message["method"].as_str().map(str::to_owned);
        match method.as_deref() {
            Some("update2") => {
                self.tables.update(&message["params"][1])?;
                Ok(true)
            }
            Some("echo") => {
                self.send(&json!({"id": id, "result": message["params"], "error": null})).await?;
                Ok(false)
            }
            // A monitor that the server took back ends with the connection, and begins anew with the next.
            Some("monitor_canceled") => Err(garbled("the monitor was taken back")),
            Some(_) => Ok(false),
            None => self.answer(&id, message),
        }
    }

    fn answer(&mut self, id: &Value, mut message: Value) -> Result<bool> {
        let result = match message["error"].take() {
            Value::Null => Ok(message["result"].take()),
            error => Err(refused(&error)),
        };
        match id.as_u64() {
            Some(MONITOR_CALL) => {
                self.tables.update(&result?)?;
                self.monitoring = true;
                Ok(true)
            }
            Some(number) => {
                self.answered.extend(self.pending.remove(&number).map(|call| (call, result)));
                Ok(false)
            }
            None => Ok(false),
        }
    }

    async fn pass_on(&mut self, call: Call) -> Result<()> {
        self.last_call += 1;
        let number = self.last_call;
        let (method, params) = (call.method, call.params.clone());
        self.pending.insert(number, call);
        self.call(number.into(), method, &params).await
    }

    async fn tick(&mut self, ending: bool) -> Result<()> {
        self.pending.retain(|_, call| !call.reply.is_closed());
        let silence = self.heard.elapsed();
        if silence > IDLE * 2 || (!self.monitoring && silence > PATIENCE) {
            return Err(Error::OvsdbSilent { waited: silence });
        }
        if silence > IDLE && !ending {
            self.call(ECHO_CALL.into(), "echo", &json!([])).await?;
        }
        if self.monitoring {
            self.look_for_crash().await;
            let start = self.switch_start().await;
            if self.publish.borrow().start != start {
                self.show().await;
            }
        }
        Ok(())
    }

    async fn show(&self) {
        let state =
            SwitchState { start: self.switch_start().await, ..self.tables.state(&self.config.bridge) };
        self.publish.send_if_modified(|published| {
            let changed = **published != state;
            if changed {
                *published = Arc::new(state);
            }
            changed
        });
    }

    /// Now and then only: each question is a connection to the switch.
    async fn look_for_crash(&mut self) {
        if self.looked_for_crash.elapsed() < CRASH_LOOK {
            return;
        }
        let crashed = super::has_crashed(self.config).await;
        self.crashed = if crashed { switch_start(self.config).await } else { None };
        self.looked_for_crash = Instant::now();
    }

    async fn switch_start(&self) -> Option<super::SwitchStart> {
        switch_start(self.config).await.filter(|start| self.crashed != Some(*start))
    }

    async fn call(&mut self, id: Value, method: &str, params: &Value) -> Result<()> {
        self.send(&json!({"id": id, "method": method, "params": params})).await
    }

    async fn send(&mut self, message: &Value) -> Result<()> {
        let text = message.to_string();
        time::timeout(PATIENCE, self.write.write_all(text.as_bytes()))
            .await
            .map_err(|_| Error::OvsdbSilent { waited: PATIENCE })?
            .map_err(|source| self.failed(SocketStep::Send, source))
    }

    fn failed(&self, step: SocketStep, source: io::Error) -> Error {
        Error::OvsdbConnection { step, socket: self.config.socket.clone(), source }
    }
}

/// An error of a call as a whole: a text, or an object like those of operations.
fn refused(error: &Value) -> Error {
    let name = error.as_str().or_else(|| error["error"].as_str());
    Error::OvsdbRefused {
        error: name.map_or_else(|| error.to_string(), str::to_owned),
        details: error["details"].as_str().map(str::to_owned),
    }
}
