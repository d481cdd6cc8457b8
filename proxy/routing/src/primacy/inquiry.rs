//! Somebody waits for news of an endpoint.

use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

/// Lets whoever asks an endpoint now and then how far it is be called to ask sooner. How much sooner is for that one to
/// say.
#[derive(Debug, Default)]
pub struct Inquiry {
    wanted: AtomicBool,
    waker: Mutex<Option<Waker>>,
}

impl Inquiry {
    /// A request waits for news. Costs one load where that was said already.
    pub fn want(&self) {
        if self.wanted.load(SeqCst) || self.wanted.swap(true, SeqCst) {
            return;
        }
        let waker = self.waker.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Ready once some is wanted since the last time that this was ready; for one task.
    pub fn poll_wanted(&self, cx: &mut Context<'_>) -> Poll<()> {
        *self.waker.lock().unwrap_or_else(PoisonError::into_inner) = Some(cx.waker().clone());
        // After the waker is there: whoever comes in between either finds it or is seen here.
        if self.wanted.swap(false, SeqCst) { Poll::Ready(()) } else { Poll::Pending }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::AtomicUsize;
    use std::task::Wake;

    use super::*;

    #[derive(Default)]
    struct Calls(AtomicUsize);

    impl Wake for Calls {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, SeqCst);
        }
    }

    #[test]
    fn however_many_want_it_calls_once_until_it_is_heard() {
        let (inquiry, calls) = (Inquiry::default(), Arc::new(Calls::default()));
        let waker = Waker::from(calls.clone());
        let mut cx = Context::from_waker(&waker);
        assert!(inquiry.poll_wanted(&mut cx).is_pending());
        (0..3).for_each(|_| inquiry.want());
        assert_eq!(calls.0.load(SeqCst), 1);
        assert!(inquiry.poll_wanted(&mut cx).is_ready());
        assert!(inquiry.poll_wanted(&mut cx).is_pending(), "nobody has wanted it since");
        inquiry.want();
        assert_eq!(calls.0.load(SeqCst), 2);
    }

    #[test]
    fn what_is_wanted_before_anybody_listens_is_not_lost() {
        let inquiry = Inquiry::default();
        inquiry.want();
        let mut cx = Context::from_waker(Waker::noop());
        assert!(inquiry.poll_wanted(&mut cx).is_ready());
    }
}
