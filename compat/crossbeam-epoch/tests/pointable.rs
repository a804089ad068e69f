//! A program's own [`Pointable`]: in a file of its own, because it keeps the compiler from guessing that a pointee has a size.

use crossbeam_epoch::{Owned, Pointable};

#[test]
fn pointables_of_ones_own() {
    /// A number that its own address carries: nothing is allocated.
    struct Number([u64]);
    static ONES: [u64; 4] = [1; 4];
    impl Pointable for Number {
        const ALIGN: usize = 8;
        type Init = ();
        unsafe fn init((): ()) -> usize {
            std::ptr::from_ref(&ONES).expose_provenance()
        }
        unsafe fn deref<'a>(ptr: usize) -> &'a Self {
            let ones: *const [u64; 4] = std::ptr::with_exposed_provenance(ptr);
            // SAFETY: the static above, as a slice; `Number` is laid out as its only field.
            unsafe { &*(std::ptr::slice_from_raw_parts(ones.cast::<u64>(), 4) as *const Number) }
        }
        unsafe fn deref_mut<'a>(_: usize) -> &'a mut Self {
            unreachable!("nobody writes to it")
        }
        unsafe fn drop(_: usize) {}
    }
    let owned = Owned::<Number>::init(());
    assert_eq!(owned.0.iter().sum::<u64>(), 4);
}
