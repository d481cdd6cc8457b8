//! Long jobs beside requests: reading a configuration of ten thousand routes, freeing the one before.
//!
//! Promises: a job takes only time that nothing else on its processor wants, so that no request waits for it; where a
//! processor never rests, somebody who waits for the result gets it all the same. Refuses to know: what the jobs are.
//!
//! A thread under SCHED_IDLE (sched(7)) gives its processor up to whatever wakes there, at once; an ordinary one, however nice, may
//! end its slice of a millisecond or more first. Others may have to wait long for what such a thread holds, so no job may
//! hold a lock.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread;
use std::time::Duration;

use thread_priority::unix::{
    NormalThreadSchedulePolicy, ThreadSchedulePolicy, set_thread_priority_and_policy,
    thread_native_id,
};
use tokio::sync::oneshot;
use tokio::task::{JoinError, spawn_blocking};

/// A job that has no result after so long is begun a second time, where it gets its share.
const PATIENCE: Duration = Duration::from_millis(500);
/// Jobs that may wait; further ones go to ordinary threads at once.
const QUEUE: usize = 4;

type Job = Box<dyn FnOnce() + Send>;

/// The way to the thread that does long jobs; it ends with the last of them.
#[derive(Clone, Debug)]
pub(crate) struct Background(SyncSender<Job>);

impl Background {
    /// Starts the thread. Where none can be started, or SCHED_IDLE is not allowed, jobs go to the runtime's.
    pub(crate) fn start() -> Self {
        let (sender, jobs) = sync_channel(QUEUE);
        let started = thread::Builder::new().name("background".into()).spawn(|| work(jobs));
        if let Err(error) = started {
            tracing::warn!(target: "process", %error, "long jobs share the ordinary threads");
        }
        Self(sender)
    }

    /// Does a job that may be begun twice.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        job: impl Fn() -> T + Send + Sync + 'static,
    ) -> Result<T, JoinError> {
        let (reply, mut answer) = oneshot::channel();
        let job = Arc::new(job);
        let again = job.clone();
        let quiet = move || {
            if !reply.is_closed() {
                // It may be done by now.
                let _ = reply.send(job());
            }
        };
        let ordinary = move || spawn_blocking(move || again());
        if self.0.try_send(Box::new(quiet)).is_err() {
            return ordinary().await;
        }
        match tokio::time::timeout(PATIENCE, &mut answer).await {
            Ok(Ok(done)) => Ok(done),
            // The thread has ended.
            Ok(Err(_)) => ordinary().await,
            Err(_) => tokio::select! {
                Ok(done) = answer => Ok(done),
                done = ordinary() => done,
            },
        }
    }

    /// Frees what takes long to free. Never waits.
    pub(crate) fn free<T: Send + 'static>(&self, what: T) {
        let job: Job = Box::new(move || drop(what));
        if let Err(TrySendError::Full(job) | TrySendError::Disconnected(job)) = self.0.try_send(job)
        {
            spawn_blocking(job);
        }
    }
}

fn work(jobs: Receiver<Job>) {
    let idle = ThreadSchedulePolicy::Normal(NormalThreadSchedulePolicy::Idle);
    let least = thread_priority::ThreadPriority::Min;
    if let Err(error) = set_thread_priority_and_policy(thread_native_id(), least, idle) {
        tracing::warn!(target: "process", ?error, "long jobs share the ordinary threads");
        return;
    }
    for job in jobs {
        job();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
    use std::sync::mpsc::channel;

    use thread_priority::unix::thread_schedule_policy;

    use super::*;

    /// Keeps the thread busy until the sender is gone.
    fn occupy(background: &Background) -> std::sync::mpsc::Sender<()> {
        let (busy, until) = channel::<()>();
        let job: Job = Box::new(move || until.iter().for_each(drop));
        assert!(background.0.try_send(job).is_ok(), "there is room");
        busy
    }

    #[test]
    fn jobs_yield_to_whatever_wakes() {
        let (tell, heard) = channel();
        let job: Job = Box::new(move || drop(tell.send(thread_schedule_policy())));
        assert!(Background::start().0.try_send(job).is_ok(), "there is room");
        // A busy machine may let it wait long.
        let policy = heard.recv_timeout(Duration::from_secs(60)).expect("it runs");
        let idle = ThreadSchedulePolicy::Normal(NormalThreadSchedulePolicy::Idle);
        assert_eq!(policy.expect("known"), idle);
    }

    #[tokio::test]
    async fn a_thread_that_gets_no_time_holds_nobody_up() {
        let background = Background::start();
        let busy = occupy(&background);
        let begun = Arc::new(AtomicU32::new(0));
        let count = begun.clone();
        let done = background.run(move || count.fetch_add(1, SeqCst)).await;
        assert_eq!(done.expect("done by another"), 0);
        drop(busy);
        background.run(|| ()).await.expect("the thread is back");
        assert_eq!(begun.load(SeqCst), 1, "nobody waits for it any more");
    }

    #[tokio::test]
    async fn a_job_that_panics_takes_none_with_it() {
        let background = Background::start();
        let failed = background.run(|| assert_eq!(1, 2, "on purpose")).await;
        assert!(failed.is_err_and(|error| error.is_panic()));
        assert_eq!(background.run(|| 7).await.expect("done"), 7);
    }

    #[tokio::test]
    async fn what_has_no_room_in_the_queue_is_done_elsewhere() {
        let background = Background::start();
        let busy = occupy(&background);
        let (freed, all) = channel();
        struct Witness(std::sync::mpsc::Sender<()>);
        impl Drop for Witness {
            fn drop(&mut self) {
                let _ = self.0.send(());
            }
        }
        for _ in 0..3 * QUEUE {
            background.free(Witness(freed.clone()));
        }
        assert_eq!(background.run(|| 7).await.expect("done"), 7);
        drop((busy, freed));
        assert_eq!(all.into_iter().count(), 3 * QUEUE);
    }
}
