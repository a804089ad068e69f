//! A lock-free stack (Treiber's) for crossbeam-epoch, by its documentation alone: it knows nothing of quietus.
//!
//! `ci/embed.sh` builds it as a program of its own, with the patch and without. Four threads push and pop; every value must come out once.

use crossbeam_epoch::{self as epoch, Atomic, Owned};
use std::mem::ManuallyDrop;
use std::sync::atomic::{
    AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
};
use std::{ptr, thread};

struct Node<T> {
    /// Taken out by whoever pops the node.
    value: ManuallyDrop<T>,
    next: Atomic<Node<T>>,
}

/// A stack that any thread may push to and pop from.
struct Stack<T> {
    head: Atomic<Node<T>>,
}

impl<T> Stack<T> {
    fn push(&self, value: T) {
        let guard = epoch::pin();
        let mut node = Owned::new(Node { value: ManuallyDrop::new(value), next: Atomic::null() });
        loop {
            let head = self.head.load(Relaxed, &guard);
            node.next.store(head, Relaxed);
            match self.head.compare_exchange_weak(head, node, Release, Relaxed, &guard) {
                Ok(_) => return,
                Err(failed) => node = failed.new,
            }
        }
    }

    fn pop(&self) -> Option<T> {
        let guard = epoch::pin();
        loop {
            let head = self.head.load(Acquire, &guard);
            // SAFETY: loaded with Acquire, and destroyed after this section at the earliest.
            let node = unsafe { head.as_ref() }?;
            let next = node.next.load(Relaxed, &guard);
            if self.head.compare_exchange_weak(head, next, Relaxed, Relaxed, &guard).is_ok() {
                // SAFETY: unlinked by us alone, who take the value; the node is freed without it.
                unsafe {
                    guard.defer_destroy(head);
                    return Some(ManuallyDrop::into_inner(ptr::read(&node.value)));
                }
            }
        }
    }
}

impl<T> Drop for Stack<T> {
    fn drop(&mut self) {
        while self.pop().is_some() {}
    }
}

fn main() {
    const THREADS: u64 = 4;
    const EACH: u64 = 50_000;
    let stack = Stack { head: Atomic::null() };
    let (popped, sum) = (AtomicU64::new(0), AtomicU64::new(0));
    thread::scope(|s| {
        for t in 0..THREADS {
            let (stack, popped, sum) = (&stack, &popped, &sum);
            s.spawn(move || {
                for i in 0..EACH {
                    stack.push(Box::new(t * EACH + i));
                    if i % 2 == 1 {
                        for value in [stack.pop(), stack.pop()].into_iter().flatten() {
                            popped.fetch_add(1, Relaxed);
                            sum.fetch_add(*value, Relaxed);
                        }
                    }
                }
            });
        }
    });
    while let Some(value) = stack.pop() {
        popped.fetch_add(1, Relaxed);
        sum.fetch_add(*value, Relaxed);
    }
    let n = THREADS * EACH;
    assert_eq!((popped.into_inner(), sum.into_inner()), (n, n * (n - 1) / 2));
    println!("{n} values came out once each");
}
