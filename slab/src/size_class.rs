//! Size classes: four to a doubling, from 16 bytes to 32 KiB.
//!
//! Handed to by [`kmalloc`](crate::kmalloc).

use std::alloc::Layout;

/// Number of classes.
pub(crate) const CLASSES: usize = 40;

const fn strides() -> [u32; CLASSES] {
    let mut s = [0; CLASSES];
    let (mut i, mut size) = (0, 16u32);
    while i < CLASSES {
        s[i] = size;
        size += if size < 128 { 16 } else { (1u32 << (31 - size.leading_zeros())) / 4 };
        i += 1;
    }
    s
}

/// Bytes of each class, ascending.
pub(crate) const STRIDES: [u32; CLASSES] = strides();
const _: () = assert!(STRIDES[CLASSES - 1] == 32 << 10);

/// Smallest class that holds `16 * i` bytes.
const BY_SIZE: [u8; 2049] = {
    let mut t = [0u8; 2049];
    let (mut i, mut class) = (0, 0);
    while i < t.len() {
        if (i * 16) as u32 > STRIDES[class] {
            class += 1;
        }
        t[i] = class as u8;
        i += 1;
    }
    t
};

/// The class for a layout; `None`: too large, or too strongly aligned.
#[inline(always)]
pub(crate) fn class_of(layout: Layout) -> Option<usize> {
    let (size, align) = (layout.size(), layout.align());
    if size > 32 << 10 || align > 32 << 10 {
        return None;
    }
    let class = BY_SIZE[size.div_ceil(16)] as usize;
    if align <= 16 { Some(class) } else { class_aligned(size, align) }
}

/// Slabs begin at multiples of 64 KiB, so an object is aligned to whatever divides its class's stride.
fn class_aligned(size: usize, align: usize) -> Option<usize> {
    let least = BY_SIZE[size.max(align).div_ceil(16)] as usize;
    (least..CLASSES).find(|&c| (STRIDES[c] as usize).is_multiple_of(align))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_layout_fits_its_class() {
        for size in 0..=32 << 10 {
            for align in [1usize, 8, 16, 32, 64, 256, 4096, 32768] {
                let layout = Layout::from_size_align(size, align).unwrap();
                let stride = STRIDES[class_of(layout).unwrap()] as usize;
                assert!(stride >= size && stride.is_multiple_of(align), "{size} {align} -> {stride}");
            }
        }
        assert!(class_of(Layout::from_size_align((32 << 10) + 1, 1).unwrap()).is_none());
        assert!(class_of(Layout::from_size_align(1, 65536).unwrap()).is_none());
    }

    #[test]
    fn waste_is_bounded() {
        for size in 129usize..=32 << 10 {
            let stride = STRIDES[class_of(Layout::from_size_align(size, 1).unwrap()).unwrap()] as usize;
            assert!(stride * 4 <= size * 5 + 64, "{size} -> {stride}");
        }
    }
}
