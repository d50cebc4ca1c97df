//! Tasks that a process cannot do without: watches, servers, loops.
//!
//! A task that panics ends alone, and nobody notices: a controller whose watch has ended would go on to hold the Lease and do
//! nothing. Whoever runs tasks ends as a whole when one of them panics, and is started again.

use tokio::task::JoinSet;

/// Waits until one of `tasks` panics, which has told on standard error what and where. Those that end are left to end;
/// for use beside what the process waits for anyway.
pub async fn first_panic(tasks: &mut JoinSet<()>) {
    while let Some(ended) = tasks.join_next().await {
        if ended.is_err_and(|error| error.is_panic()) {
            return;
        }
    }
    std::future::pending().await
}

#[cfg(test)]
mod tests {
    use std::{future::pending, time::Duration};

    use tokio::time::timeout;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_panic_is_noticed_and_an_end_is_not() {
        let mut tasks = JoinSet::new();
        tasks.spawn(async {});
        tasks.spawn(pending());
        assert!(timeout(Duration::from_secs(9), first_panic(&mut tasks)).await.is_err());
        tasks.spawn(async { panic!("for the test") });
        first_panic(&mut tasks).await;
        tasks.shutdown().await;
        assert!(timeout(Duration::from_secs(9), first_panic(&mut tasks)).await.is_err());
    }
}
