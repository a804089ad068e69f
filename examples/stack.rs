//! A lock-free stack (Treiber's) with its own cache and its own domain: what a data structure on quietus looks like.
//!
//! `cargo run --release --example stack` pushes and pops from four threads and shows that every value came out once and every node
//! went back.

use quietus::slab::{Cache, SlabBox};
use quietus::{Atomic, Domain, Shared};
use std::mem::ManuallyDrop;
use std::ptr::NonNull;
use std::sync::atomic::{
    AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
};

struct Node<T> {
    /// Taken out by whoever pops the node; the node itself is retired without it.
    value: ManuallyDrop<T>,
    next: Atomic<Node<T>>,
}

// SAFETY: a node is shared, but its value is only ever touched by the one thread that pops it: `T: Send` is enough. (Without this
// line the `Atomic` inside would also ask for `T: Sync`.)
unsafe impl<T: Send> Send for Node<T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for Node<T> {}

/// A stack that any thread may push to and pop from.
pub struct Stack<T: Send> {
    head: Atomic<Node<T>>,
    nodes: Cache<Node<T>>,
    /// Last: dropping it frees what is still retired.
    domain: Domain,
}

impl<T: Send> Stack<T> {
    fn new() -> Self {
        Stack { head: Atomic::null(), nodes: Cache::new("stack"), domain: Domain::new() }
    }

    fn push(&self, value: T) {
        let node = SlabBox::into_raw(self.nodes.alloc(Node { value: ManuallyDrop::new(value), next: Atomic::null() }));
        // SAFETY: ours until it is published; freed only after it was popped.
        let (node, own) = unsafe { (Shared::from_raw(node), node.as_ref()) };
        let guard = self.domain.pin();
        let mut head = self.head.load(Relaxed, &guard);
        loop {
            own.next.store(head, Relaxed);
            match self.head.compare_exchange_weak(head, node, Release, Relaxed, &guard) {
                Ok(_) => return,
                Err(now) => head = now,
            }
        }
    }

    fn pop(&self) -> Option<T> {
        let guard = self.domain.pin();
        let mut head = self.head.load(Acquire, &guard);
        loop {
            // SAFETY: loaded with Acquire in this section, and retired to this domain when it is out of reach.
            let node = unsafe { head.as_ref() }?;
            let next = node.next.load(Relaxed, &guard);
            match self.head.compare_exchange_weak(head, next, Acquire, Acquire, &guard) {
                Ok(_) => {
                    // SAFETY: only the thread that unlinks a node takes its value.
                    let value = unsafe { std::ptr::read(&*node.value) };
                    // SAFETY: unlinked by us, from this cache; other sections of this domain may read `next` for a while.
                    unsafe { self.domain.retire_in(&self.nodes, NonNull::from(node)) };
                    return Some(value);
                }
                Err(now) => head = now,
            }
        }
    }
}

impl<T: Send> Drop for Stack<T> {
    fn drop(&mut self) {
        while self.pop().is_some() {}
    }
}

fn main() {
    const EACH: u64 = 200_000;
    let stack = Stack::new();
    let sum = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (stack, sum) = (&stack, &sum);
            scope.spawn(move || {
                for i in 0..EACH {
                    stack.push(Box::new(thread * EACH + i));
                    if let Some(value) = stack.pop() {
                        sum.fetch_add(*value, Relaxed);
                    }
                }
            });
        }
    });
    while let Some(value) = stack.pop() {
        sum.fetch_add(*value, Relaxed);
    }
    let n = 4 * EACH;
    assert_eq!(sum.into_inner(), n * (n - 1) / 2, "every value comes out once");
    stack.domain.barrier();
    let stats = stack.domain.stats();
    println!(
        "{n} values in and out; {} nodes retired, {} grace periods",
        stats.kvfree.queued_objects, stats.grace_periods
    );
    println!("pending {}, live nodes {}", stats.kvfree.pending_objects, stack.nodes.stats().live);
    assert_eq!((stats.kvfree.pending_objects, stack.nodes.stats().live), (0, 0));
}
