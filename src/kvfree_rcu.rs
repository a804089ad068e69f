//! `kvfree_rcu`, by the name and in the two forms that Linux has, for the global domain.
//!
//! Hands to [`Domain`](crate::Domain).

use crate::domain::Domain;

/// Frees an object of the slab allocator after a grace period of the global domain, dropping its value first; null is a no-op
/// (`kvfree_rcu(ptr)`, the form with one argument). A few nanoseconds; see [`Domain::retire`] for when it may wait.
///
/// ```
/// use quietus::slab::SlabBox;
/// let object = SlabBox::into_raw(SlabBox::new(7));
/// // SAFETY: in slab memory, and nobody else knows it.
/// unsafe { quietus::kvfree_rcu(object.as_ptr()) };
/// // SAFETY: null.
/// unsafe { quietus::kvfree_rcu(std::ptr::null_mut::<u64>()) };
/// ```
///
/// # Safety
/// 1. `object` is null, or as for [`Domain::retire`] of the global domain.
#[inline]
pub unsafe fn kvfree_rcu<T: Send>(object: *mut T) {
    // SAFETY: by (1).
    unsafe { Domain::global().kvfree_rcu(object) }
}

/// `kvfree_rcu!(ptr, field)`: as the function of that name, for objects with an [`RcuHead`](crate::kvfree::RcuHead) in `field`: never
/// waits, never fails. `kvfree_rcu!(ptr)` is the function; with `domain =>` in front, of another domain than the global one.
///
/// `ptr` is a `*mut T`, null or as for [`Domain::retire`] (of a `NonNull`, its `as_ptr()`): the call is as unsafe as that. [`rcu_head!`](crate::rcu_head) has named the field.
///
/// ```
/// use quietus::{Domain, kvfree::RcuHead, kvfree_rcu, rcu_head, slab::SlabBox};
/// struct Node { value: u64, head: RcuHead }
/// rcu_head!(Node, head);
/// let node = |value| SlabBox::into_raw(SlabBox::new(Node { value, head: RcuHead::new() })).as_ptr();
/// let domain = Domain::new();
/// // SAFETY: in slab memory, and nobody else knows them.
/// unsafe {
///     kvfree_rcu!(node(1), head);
///     kvfree_rcu!(domain => node(2), head);
///     kvfree_rcu!(node(3));
/// }
/// ```
///
/// ```compile_fail,E0308
/// # use quietus::{kvfree::RcuHead, kvfree_rcu, rcu_head, slab::SlabBox};
/// # struct Node { value: u64, head: RcuHead }
/// # rcu_head!(Node, head);
/// # let node = |value| SlabBox::into_raw(SlabBox::new(Node { value, head: RcuHead::new() })).as_ptr();
/// unsafe { kvfree_rcu!(node(1), value) };
/// ```
///
/// ```compile_fail,E0277
/// # use quietus::{kvfree::RcuHead, kvfree_rcu, slab::SlabBox};
/// # struct Node { value: u64, head: RcuHead }
/// # let node = |value| SlabBox::into_raw(SlabBox::new(Node { value, head: RcuHead::new() })).as_ptr();
/// unsafe { kvfree_rcu!(node(1), head) }; // nobody said `rcu_head!(Node, head)`
/// ```
#[macro_export]
macro_rules! kvfree_rcu {
    ($object:expr) => { $crate::kvfree_rcu($object) };
    ($object:expr, $field:ident) => { $crate::kvfree_rcu!($crate::Domain::global() => $object, $field) };
    ($domain:expr => $object:expr) => { $domain.kvfree_rcu($object) };
    ($domain:expr => $object:expr, $field:ident) => {{
        let object = $object;
        $crate::kvfree::check_field(object, |object| &raw mut (*object).$field);
        if let Some(object) = ::core::ptr::NonNull::new(object) {
            $domain.retire_linked(object);
        }
    }};
}
