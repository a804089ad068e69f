//! [`RcuHead`]: two words inside an object by which it can be queued when there is nothing else to queue it with.
//!
//! Users put one into their objects and say where ([`rcu_head!`](crate::rcu_head)); handed to [`linked`](crate::linked).
//!
//! The kernel's `struct rcu_head`. There it is what every callback is queued by; here objects go into blocks, and the head is
//! for `call_rcu` and for the last resort.

use crate::sync::AtomicPtr;
use std::marker::PhantomData;
use std::ptr::{NonNull, null_mut};

/// Room to queue the object it is in (`struct rcu_head`): 16 bytes. Nobody but this library touches what is inside.
#[derive(Debug, Default)]
#[repr(C)]
pub struct RcuHead {
    pub(crate) next: AtomicPtr<RcuHead>,
    pub(crate) callback: AtomicPtr<Callback>,
}

impl RcuHead {
    /// A head that is not queued.
    pub const fn new() -> Self {
        RcuHead { next: AtomicPtr::new(null_mut()), callback: AtomicPtr::new(null_mut()) }
    }
}

/// What is to be done with an object that was queued by its head, and how many bytes it counts against the budget.
#[derive(Debug, Clone, Copy)]
pub struct Callback {
    pub(crate) run: unsafe fn(NonNull<RcuHead>),
    pub(crate) bytes: usize,
}

impl Callback {
    /// `run` is called once with the object's head, after a grace period.
    pub const fn new(run: unsafe fn(NonNull<RcuHead>), bytes: usize) -> Self {
        Callback { run, bytes }
    }
}

/// A type with an [`RcuHead`] among its fields. Implemented by [`rcu_head!`](crate::rcu_head), which checks the field.
///
/// # Safety
/// 1. `OFFSET` is where in `Self` a field of type [`RcuHead`] begins, aligned, that nothing else uses.
#[diagnostic::on_unimplemented(
    message = "`{Self}` has no declared `RcuHead`: write `rcu_head!({Self}, field);` beside the struct"
)]
pub unsafe trait Linked: Sized {
    /// Bytes from the object's begin to its head.
    const OFFSET: usize;
}

/// Says where the [`RcuHead`] of a type is. Checked when it is compiled: the field exists, is an `RcuHead`, and is aligned.
///
/// ```
/// use quietus_kvfree::{RcuHead, rcu_head};
/// struct Node { value: u64, head: RcuHead }
/// rcu_head!(Node, head);
/// struct Pair<T> { value: T, head: RcuHead }
/// rcu_head!([T: Send] Pair<T>, head);
/// ```
///
/// ```compile_fail,E0308
/// use quietus_kvfree::rcu_head;
/// struct Node { value: u64, head: [usize; 2] }
/// rcu_head!(Node, head);
/// ```
///
/// ```compile_fail,E0308
/// use quietus_kvfree::{RcuHead, rcu_head};
/// struct Node { value: u64, head: Box<RcuHead> }
/// rcu_head!(Node, head);
/// ```
///
/// ```compile_fail,E0609
/// use quietus_kvfree::rcu_head;
/// struct Node { value: u64 }
/// rcu_head!(Node, head);
/// ```
#[macro_export]
macro_rules! rcu_head {
    ([$($generics:tt)*] $type:ty, $field:ident) => {
        // SAFETY: (1) checked right here: the field, its type, its alignment.
        unsafe impl<$($generics)*> $crate::Linked for $type {
            const OFFSET: usize = {
                // SAFETY: never called.
                let _is_a_head: unsafe fn(*const Self) -> *const $crate::RcuHead = |p| unsafe { &raw const (*p).$field };
                let offset = ::core::mem::offset_of!(Self, $field);
                assert!(offset % ::core::mem::align_of::<$crate::RcuHead>() == 0, "an RcuHead in a packed type");
                assert!(::core::mem::align_of::<Self>() >= ::core::mem::align_of::<$crate::RcuHead>());
                offset
            };
        }
    };
    ($type:ty, $field:ident) => { $crate::rcu_head!([] $type, $field); };
}

/// The head of an object.
///
/// # Safety
/// 1. `object` points to a `T`, or to where one was.
#[inline(always)]
pub(crate) unsafe fn head_of<T: Linked>(object: NonNull<T>) -> NonNull<RcuHead> {
    // SAFETY: by (1) and contract 1 of `Linked` this is inside the object.
    unsafe { object.byte_add(T::OFFSET).cast() }
}

/// The callbacks of objects that end as a whole.
pub(crate) struct Ends<T>(PhantomData<T>);

impl<T: Linked> Ends<T> {
    /// Drops and frees an object of the slab allocator.
    pub(crate) const SLAB: &'static Callback = &Callback::new(end_slab::<T>, size_of::<T>());
    /// Drops a Box.
    pub(crate) const BOX: &'static Callback = &Callback::new(end_box::<T>, size_of::<T>());
}

unsafe fn end_slab<T: Linked>(head: NonNull<RcuHead>) {
    // SAFETY: the head of a live T in slab memory (`Kvfree::retire_linked`).
    unsafe { crate::kvfree::drop_slab::<T>(head.byte_sub(T::OFFSET).as_ptr().cast()) }
}

unsafe fn end_box<T: Linked>(head: NonNull<RcuHead>) {
    // SAFETY: the head of a live T in a Box (`Kvfree::retire_linked_box`).
    unsafe { crate::kvfree::drop_box::<T>(head.byte_sub(T::OFFSET).as_ptr().cast()) }
}

/// Is `field` what [`rcu_head!`](crate::rcu_head) was told? For `kvfree_rcu!`; folds to nothing.
///
/// # Safety
/// 1. `field` gives the address of a field of `T`.
///
/// # Panics
/// When it is not.
#[doc(hidden)]
#[inline(always)]
pub unsafe fn check_field<T: Linked>(object: *mut T, field: impl FnOnce(*mut T) -> *mut RcuHead) {
    if !object.is_null() {
        assert_eq!(field(object).addr(), object.addr() + T::OFFSET, "not the field that rcu_head! named");
    }
}
