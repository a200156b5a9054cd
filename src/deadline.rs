//! One deadline for a whole operation: however many waits it is made of, they share one end.

use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use nix::poll::PollTimeout;

/// The moment at which an operation gives up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deadline {
    end: Instant,
}

/// Some work wasn't done by its deadline.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it was not done in time")]
pub struct TimedOut;

impl Deadline {
    /// A deadline `span` from now.
    #[must_use]
    pub fn after(span: Duration) -> Self {
        let now = Instant::now();
        // A span that overflows the clock is no bound at all; a year is as good.
        let end = now.checked_add(span).unwrap_or_else(|| now + Duration::from_secs(31_536_000));
        Self { end }
    }

    /// The time left; zero once the deadline has passed.
    #[must_use]
    pub fn remaining(&self) -> Duration {
        self.end.saturating_duration_since(Instant::now())
    }

    /// Whether the deadline has passed.
    #[must_use]
    pub fn passed(&self) -> bool {
        self.remaining().is_zero()
    }

    /// The earlier of this deadline and one `span` from now: a step inside the whole.
    #[must_use]
    pub fn at_most(&self, span: Duration) -> Self {
        Self { end: self.end.min(Self::after(span).end) }
    }

    /// Returns the moment when half of the time that is left has passed, for a step after which there must be time for what comes
    /// next.
    #[must_use]
    pub fn half(&self) -> Self {
        self.at_most(self.remaining() / 2)
    }

    /// Does some work whose calls know no deadline, on a thread of its own, and gives what it yields as it does. The last item
    /// is an error if the work is not done in time, or no thread can be had; the thread is left where it hangs then, and
    /// ends with the process.
    pub fn bound<I>(&self, work: I) -> impl Iterator<Item = Result<I::Item, TimedOut>> + use<I>
    where
        I: Iterator<Item: Send> + Send + 'static,
    {
        let (tell, told) = mpsc::channel();
        // Where nobody hears of it any more, it is too late.
        let work = move || drop(work.map(Some).chain([None]).map(|item| tell.send(item)).find(Result::is_err));
        // Without a thread there is nobody to tell, and that is heard.
        drop(thread::Builder::new().spawn(work));
        let (deadline, mut ended) = (*self, false);
        std::iter::from_fn(move || {
            if ended {
                return None;
            }
            let next = told.recv_timeout(deadline.remaining()).map_err(|_| TimedOut);
            ended = !matches!(next, Ok(Some(_)));
            next.transpose()
        })
    }

    /// This deadline, put off by `span`.
    #[must_use]
    pub fn and(&self, span: Duration) -> Self {
        Self { end: self.end.checked_add(span).unwrap_or(self.end) }
    }

    /// The time left as a poll(2) timeout, rounded up to whole milliseconds so that a wait never spins.
    #[must_use]
    pub fn poll_timeout(&self) -> PollTimeout {
        let millis = self.remaining().as_nanos().div_ceil(1_000_000);
        PollTimeout::try_from(i32::try_from(millis).unwrap_or(i32::MAX)).unwrap_or(PollTimeout::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_of_nothing_has_passed() {
        let deadline = Deadline::after(Duration::ZERO);
        assert!(deadline.passed());
        assert_eq!(deadline.poll_timeout(), PollTimeout::ZERO);
    }

    #[test]
    fn an_endless_span_is_bounded() {
        assert!(Deadline::after(Duration::MAX).remaining() >= Duration::from_secs(31_535_000));
    }

    #[test]
    fn work_is_waited_for_until_the_deadline_and_no_longer() {
        let first = |number: &u32| {
            if *number > 1 {
                thread::sleep(Duration::from_secs(60))
            }
        };
        let soon = Deadline::after(Duration::from_millis(20));
        assert_eq!(soon.bound((1..4).inspect(first)).collect::<Vec<_>>(), [Ok(1), Err(TimedOut)]);
        assert_eq!(Deadline::after(Duration::from_secs(20)).bound(1..4).collect::<Vec<_>>(), [Ok(1), Ok(2), Ok(3)]);
    }

    #[test]
    fn a_step_never_outlasts_the_whole() {
        let whole = Deadline::after(Duration::from_secs(1));
        assert_eq!(whole.at_most(Duration::from_secs(9)), whole);
        assert!(whole.at_most(Duration::from_millis(1)).remaining() <= Duration::from_millis(1));
        assert!(whole.and(Duration::from_secs(9)).remaining() > Duration::from_secs(9));
    }
}
