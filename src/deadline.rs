//! One deadline for a whole operation: all its waits share one end.

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
    /// Creates a deadline `span` from now.
    #[must_use]
    pub fn after(span: Duration) -> Self {
        let now = Instant::now();
        // If the span overflows the clock, a year is as good.
        let end = now.checked_add(span).unwrap_or_else(|| now + Duration::from_secs(31_536_000));
        Self { end }
    }

    /// Returns the remaining time; zero once the deadline has passed.
    #[must_use]
    pub fn remaining(&self) -> Duration {
        self.end.saturating_duration_since(Instant::now())
    }

    /// Returns true if the deadline has passed.
    #[must_use]
    pub fn passed(&self) -> bool {
        self.remaining().is_zero()
    }

    /// Returns the earlier of this deadline and one `span` from now, for a step of the operation.
    #[must_use]
    pub fn at_most(&self, span: Duration) -> Self {
        Self { end: self.end.min(Self::after(span).end) }
    }

    /// Returns the deadline at half of the remaining time, for a step that must leave time for the next.
    #[must_use]
    pub fn half(&self) -> Self {
        self.at_most(self.remaining() / 2)
    }

    /// Runs work without a deadline of its own on another thread, and yields its items as they come. The last item is
    /// an error if the work is not done in time, or no thread can be started. A thread that hangs is left alone and
    /// ends with the process.
    pub fn bound<I>(&self, work: I) -> impl Iterator<Item = Result<I::Item, TimedOut>> + use<I>
    where
        I: Iterator<Item: Send> + Send + 'static,
    {
        let (tell, told) = mpsc::channel();
        // Stops once the receiver is gone: it is too late then.
        let work = move || drop(work.map(Some).chain([None]).map(|item| tell.send(item)).find(Result::is_err));
        // If the thread can't start, the sender is dropped and the receiver gets `TimedOut`.
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

    /// Returns this deadline, extended by `span`.
    #[must_use]
    pub fn and(&self, span: Duration) -> Self {
        Self { end: self.end.checked_add(span).unwrap_or(self.end) }
    }

    /// Returns the remaining time as a poll(2) timeout, rounded up to milliseconds so that a wait never spins.
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
