//! Traces: what happened to pods, and when.
//!
//! A text file. Lines that begin with `#` tell where it comes from. `nodes NAME...` names the nodes; every other line is
//! a time in milliseconds, never decreasing, and what happened then:
//!
//! | line | what |
//! |---|---|
//! | `count` | pods are counted from here on; what comes before makes the state in which it begins |
//! | `deployment NAME REPLICAS STEP` | a Deployment is made or changed; a rollout replaces STEP pods at once |
//! | `rollout NAME` | its template changed |
//! | `job NAME PARALLELISM COMPLETIONS` | a Job is made |
//! | `pod POD WORKLOAD` | a pod is made, without a node |
//! | `node POD NODE` | it is scheduled |
//! | `add POD` | the runtime asks for its network |
//! | `going POD` | somebody deletes it |
//! | `ended POD` | its containers ended for good |
//! | `del POD` | the runtime gives its network back |
//! | `gone POD` | its object is removed |

use std::collections::BTreeSet;

use kuryr_planning::{demand::forecast::Controller, pool::Millis};

/// What happened.
#[derive(Debug, Clone, Default)]
pub(crate) struct Trace {
    /// Names of the nodes.
    pub(crate) nodes: Vec<String>,
    /// In order of time.
    pub(crate) events: Vec<(Millis, Event)>,
}

/// One thing that happened; see the module.
#[derive(Debug, Clone)]
#[allow(missing_docs, reason = "the table of the module says it")]
pub(crate) enum Event {
    Count,
    Workload { name: String, kind: Kind },
    Rollout { name: String },
    Pod { name: String, workload: String },
    Scheduled { pod: String, node: String },
    Add { pod: String },
    Going { pod: String },
    Ended { pod: String },
    Del { pod: String },
    Gone { pod: String },
}

/// What a workload asks for.
#[derive(Debug, Clone, Copy)]
#[allow(missing_docs, reason = "the table of the module says it")]
pub(crate) enum Kind {
    Deployment { replicas: usize, step: usize },
    Job { parallelism: usize, completions: usize },
}

/// What was made of a workload.
#[derive(Debug, Default)]
pub(crate) struct Made<'a> {
    /// What it asks for; a pod without workload has none.
    pub(crate) kind: Option<Kind>,
    /// Pods of the present template.
    pub(crate) current: BTreeSet<&'a str>,
    /// Pods that are neither going nor ended.
    pub(crate) alive: BTreeSet<&'a str>,
    /// Pods that were.
    pub(crate) all: BTreeSet<&'a str>,
    /// Pods that succeeded.
    pub(crate) succeeded: usize,
}

impl Kind {
    /// As the forecast takes it.
    pub(crate) fn controller(self, made: &Made<'_>) -> Controller {
        match self {
            Self::Deployment { replicas, step } => Controller::Deployment {
                replicas,
                current: made.current.len(),
                current_wanted: replicas,
                step,
                is_halted: false,
                is_refused: false,
            },
            Self::Job { parallelism, completions } => Controller::Job {
                parallelism,
                completions: Some(completions),
                succeeded: made.succeeded,
                pods: made.alive.len(),
                is_suspended: false,
            },
        }
    }
}

impl Event {
    /// The pod it is about, if it is on a node.
    pub(crate) fn pod(&self) -> Option<&str> {
        match self {
            Self::Scheduled { pod, .. }
            | Self::Add { pod }
            | Self::Going { pod }
            | Self::Ended { pod }
            | Self::Del { pod }
            | Self::Gone { pod } => Some(pod),
            Self::Count | Self::Workload { .. } | Self::Rollout { .. } | Self::Pod { .. } => None,
        }
    }

    fn read(words: &[&str]) -> Option<Self> {
        let number = |text: &str| text.parse::<usize>().ok();
        let text = |text: &str| text.to_owned();
        Some(match *words {
            ["count"] => Self::Count,
            ["deployment", name, replicas, step] => {
                let kind = Kind::Deployment { replicas: number(replicas)?, step: number(step)? };
                Self::Workload { name: text(name), kind }
            }
            ["job", name, parallelism, completions] => {
                let kind = Kind::Job { parallelism: number(parallelism)?, completions: number(completions)? };
                Self::Workload { name: text(name), kind }
            }
            ["rollout", name] => Self::Rollout { name: text(name) },
            ["pod", name, workload] => Self::Pod { name: text(name), workload: text(workload) },
            ["node", pod, node] => Self::Scheduled { pod: text(pod), node: text(node) },
            ["add", pod] => Self::Add { pod: text(pod) },
            ["going", pod] => Self::Going { pod: text(pod) },
            ["ended", pod] => Self::Ended { pod: text(pod) },
            ["del", pod] => Self::Del { pod: text(pod) },
            ["gone", pod] => Self::Gone { pod: text(pod) },
            _ => return None,
        })
    }
}

impl Trace {
    /// Lets everything happen so many times as fast; waits of more than a minute stay as they are.
    pub(crate) fn hurry(&mut self, times: Millis) {
        let (mut before, mut now) = (0, 0);
        for (at, _) in &mut self.events {
            let wait = *at - before;
            now += if wait > 60_000 { wait } else { wait / times };
            (before, *at) = (*at, now);
        }
    }

    /// Reads a trace.
    ///
    /// # Errors
    /// The number of the line that is none.
    pub(crate) fn read(text: &str) -> Result<Self, String> {
        let mut trace = Self::default();
        for (index, line) in text.lines().enumerate() {
            let words: Vec<&str> = line.split_whitespace().collect();
            match words.as_slice() {
                [] => {}
                [first, ..] if first.starts_with('#') => {}
                ["nodes", nodes @ ..] => trace.nodes = nodes.iter().map(|name| (*name).to_owned()).collect(),
                [at, event @ ..] => {
                    let known = at.parse().ok().zip(Event::read(event));
                    let last = trace.events.last().map_or(0, |(at, _)| *at);
                    let known = known.filter(|(at, _)| *at >= last);
                    trace.events.push(known.ok_or_else(|| format!("line {}: {line}", index + 1))?);
                }
            }
        }
        Ok(trace)
    }
}
