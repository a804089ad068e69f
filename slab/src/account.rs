//! Who pays for a cache's memory.
//!
//! Called by [`cache`](crate::cache) and [`chain`](crate::chain), outside the short locks.

/// Is told how much memory a cache holds: whole slabs, charged when they are taken, uncharged when they are given back. When a cache
/// is chained, each slab is charged to its parent's account and then uncharged from its own, once. (`memcg` charging.)
///
/// Both functions are called on slow paths of allocations and frees, in whatever thread those are in: they must not wait, allocate
/// from a cache, or end, flush or shrink one. What is charged is never less than what is held.
pub trait Account: Sync {
    /// The cache holds so many bytes more.
    fn charge(&self, bytes: usize);
    /// The cache holds so many bytes less.
    fn uncharge(&self, bytes: usize);
}
