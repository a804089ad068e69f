//! [`Elapse`]: waiting for a grace period without a thread, as a future.
//!
//! Users `.await` a [`Cookie`](crate::Cookie); hands a waker to the domain's `watch`, and wakes the worker, which drives.

use crate::cookie::Cookie;
use crate::domain::Flavour;
use crate::flavour::Memb;
use crate::source::Source;
use crate::watch::Key;
use quietus_kvfree::GracePeriods;
use std::fmt;
use std::future::{Future, IntoFuture};
use std::pin::Pin;
use std::task::{Context, Poll};

/// The future of a [`Cookie`]: ready when its grace period has ended.
///
/// It belongs to no executor and starts no thread: the domain's worker drives the grace period and wakes the task, once;
/// in a domain without workers [`tick`](crate::Domain::tick) does. Dropping it takes it off the list. Polling costs a lock that is held for
/// a map's insertion, and allocates.
///
/// A task that keeps a guard of the same domain over the `.await` waits for itself. On executors with several threads that does not
/// compile, since a guard is not `Send`:
///
/// ```compile_fail
/// fn spawn(_: impl Future<Output = ()> + Send) {}
/// spawn(async {
///     let guard = quietus::pin();
///     quietus::Domain::global().cookie().await;
///     drop(guard);
/// });
/// ```
///
/// ```
/// fn spawn(_: impl Future<Output = ()> + Send) {}
/// spawn(async {
///     drop(quietus::pin());
///     quietus::Domain::global().cookie().await;
/// });
/// ```
///
/// Elsewhere it is reported as any stall is ([`Builder::on_stall`](crate::Builder::on_stall)).
///
/// While a task waits beside a long section the domain's worker looks each millisecond, also for a task that is never polled again. In a
/// fork's child a task that was waiting has to be polled once more.
#[must_use = "a future does nothing unless it is polled"]
pub struct Elapse<'d, F: Flavour = Memb> {
    cookie: Cookie<'d, F>,
    key: Option<Key>,
}

impl<'d, F: Flavour> IntoFuture for Cookie<'d, F> {
    type Output = ();
    type IntoFuture = Elapse<'d, F>;
    fn into_future(self) -> Elapse<'d, F> {
        Elapse { cookie: self, key: None }
    }
}

impl<F: Flavour> Elapse<'_, F> {
    fn is_over(&self) -> bool {
        let domain = self.cookie.domain();
        // Without a worker somebody has to push: whoever asks.
        if domain.kvfree().has_worker() { domain.source().poll(self.cookie.number()) } else { self.cookie.is_elapsed() }
    }

    fn forget(&mut self) {
        if let Some(key) = self.key.take() {
            self.cookie.domain().source().watch().forget(key);
        }
    }
}

impl<F: Flavour> Future for Elapse<'_, F> {
    type Output = ();
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if !self.is_over() {
            let domain = self.cookie.domain();
            let number = self.cookie.number().0;
            let (key, first) = domain.source().watch().register(number, self.key, cx.waker().clone());
            self.key = Some(key);
            if first {
                // Even if there is nothing to wait for any more: others that have come after us rely on it.
                domain.kvfree().attend();
            }
            // Again: whoever has ended the grace period meanwhile did not know of us.
            if !self.is_over() {
                return Poll::Pending;
            }
        }
        self.forget();
        Poll::Ready(())
    }
}

impl<F: Flavour> Drop for Elapse<'_, F> {
    fn drop(&mut self) {
        self.forget();
    }
}

impl<F: Flavour> fmt::Debug for Elapse<'_, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Elapse").field(&self.cookie).finish()
    }
}
