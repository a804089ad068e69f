//! One posting list: a header and, behind it, the numbers of the files that hold the word, in order.
//!
//! Written once by `update`, before it is published; read by `query` and by the next `update`; checked by both.
//!
//! # Layout
//! `Header` (16 bytes), then `len` numbers of 4 bytes. The length in the header is what the memory is freed by.

use std::alloc::Layout;
use std::ptr::NonNull;
use std::slice;

use super::Fault;

/// What stands before the entries.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(crate) struct Header {
    /// The word this list belongs to.
    pub(crate) word: u32,
    /// One more than that of the list it replaced, also across a time without any list.
    pub(crate) generation: u32,
    /// How many entries follow.
    pub(crate) len: u32,
    /// A fold over all the rest.
    pub(crate) checksum: u32,
}

/// The memory a list of `len` entries takes.
pub(crate) fn layout(len: usize) -> Layout {
    let size = size_of::<Header>() + len * size_of::<u32>();
    Layout::from_size_align(size, 8).expect("a list shorter than the address space")
}

/// What the next list is: the old one with a file more or less, or a first one.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Draft<'a> {
    /// The entries before the place of the change.
    pub(crate) before: &'a [u32],
    /// The file that comes in between, if one does.
    pub(crate) added: Option<u32>,
    /// The entries after it.
    pub(crate) after: &'a [u32],
}

impl<'a> Draft<'a> {
    /// `old` with `file` put in; `None` if it is there already.
    pub(crate) fn with(old: &'a [u32], file: u32) -> Option<Draft<'a>> {
        let at = old.binary_search(&file).err()?;
        Some(Draft { before: &old[..at], added: Some(file), after: &old[at..] })
    }

    /// `old` with `file` taken out; `None` if it is not there.
    pub(crate) fn without(old: &'a [u32], file: u32) -> Option<Draft<'a>> {
        let at = old.binary_search(&file).ok()?;
        Some(Draft { before: &old[..at], added: None, after: &old[at + 1..] })
    }

    /// These entries, unchanged.
    pub(crate) fn of(entries: &'a [u32]) -> Draft<'a> {
        Draft { before: entries, added: None, after: &[] }
    }

    /// How many entries the list will have.
    pub(crate) fn len(&self) -> usize {
        self.before.len() + usize::from(self.added.is_some()) + self.after.len()
    }

    /// Writes the list into fresh memory.
    ///
    /// # Safety
    /// 1. `memory` is valid for writes of `layout(self.len())` and nobody else uses it.
    /// 2. It does not overlap the slices of this draft.
    pub(crate) unsafe fn write(&self, memory: NonNull<u8>, word: u32, generation: u32) -> NonNull<Header> {
        let header = memory.cast::<Header>();
        let len = self.len();
        // SAFETY: the three parts together are `len` entries, and by (1) there is room for them behind the header; (2).
        let entries = unsafe {
            let mut to = header.add(1).cast::<u32>();
            to.copy_from_nonoverlapping(NonNull::from(self.before).cast(), self.before.len());
            to = to.add(self.before.len());
            if let Some(file) = self.added {
                to.write(file);
                to = to.add(1);
            }
            to.copy_from_nonoverlapping(NonNull::from(self.after).cast(), self.after.len());
            slice::from_raw_parts(header.add(1).cast::<u32>().as_ptr(), len)
        };
        let checksum = checksum(word, generation, entries);
        // SAFETY: (1).
        unsafe { header.write(Header { word, generation, len: len as u32, checksum }) };
        header
    }
}

/// A list that somebody may read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct List<'g> {
    header: Header,
    /// Where the entries are.
    entries: &'g [u32],
}

impl<'g> List<'g> {
    /// Looks at a list and checks its header: the word, and that there can be as many entries as it says.
    ///
    /// # Safety
    /// 1. `list` was written by [`Draft::write`].
    /// 2. It is not freed during `'g`. (If it is freed all the same, which is what the checks are for, it must still be
    ///    mapped memory.)
    pub(crate) unsafe fn open(list: NonNull<Header>, word: u32, files: u32) -> Result<List<'g>, Fault> {
        // SAFETY: written by (1), and whole by (2).
        let header = unsafe { list.read() };
        if header.word != word {
            return Err(Fault::Word { asked: word, found: header.word });
        }
        if header.len == 0 || header.len > files {
            return Err(Fault::Length { word, len: header.len });
        }
        // SAFETY: by (1) `len` entries stand behind the header; (2), and nobody changes a list.
        let entries = unsafe { slice::from_raw_parts(list.add(1).cast::<u32>().as_ptr(), header.len as usize) };
        Ok(List { header, entries })
    }

    /// Walks the whole list and compares it with its checksum.
    pub(crate) fn check(&self) -> Result<(), Fault> {
        let Header { word, generation, checksum: written, .. } = self.header;
        if checksum(word, generation, self.entries) == written {
            Ok(())
        } else {
            Err(Fault::Checksum { word, generation })
        }
    }

    /// The files, in order.
    pub(crate) fn entries(&self) -> &'g [u32] {
        self.entries
    }

    /// How often the word's list has been replaced.
    pub(crate) fn generation(&self) -> u32 {
        self.header.generation
    }
}

/// How many files stand in both lists. Without a branch on what it compares: natural text cannot be predicted.
pub(crate) fn count_common(a: &[u32], b: &[u32]) -> usize {
    let (mut i, mut j, mut common) = (0, 0, 0);
    while i < a.len() && j < b.len() {
        let (x, y) = (a[i], b[j]);
        common += usize::from(x == y);
        i += usize::from(x <= y);
        j += usize::from(y <= x);
    }
    common
}

/// Folds word, generation, length and every entry. Four folds side by side, so that walking a list is bound by its
/// memory and not by one chain of multiplications.
fn checksum(word: u32, generation: u32, entries: &[u32]) -> u32 {
    const ODD: u32 = 0x9e37_79b1;
    let step = |fold: u32, entry: u32| (fold.rotate_left(5) ^ entry).wrapping_mul(ODD);
    let mut folds = [word ^ 0x5bd1_e995, generation ^ 0x1b87_3593, entries.len() as u32 ^ 0xcc9e_2d51, 0x85eb_ca6b];
    let mut fours = entries.chunks_exact(4);
    for four in &mut fours {
        for (fold, &entry) in folds.iter_mut().zip(four) {
            *fold = step(*fold, entry);
        }
    }
    let rest = fours.remainder().iter().fold(folds[0], |fold, &entry| step(fold, entry));
    folds[1..].iter().fold(rest, |fold, &other| step(fold, other))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(draft: Draft<'_>, word: u32, generation: u32) -> (Vec<u64>, NonNull<Header>) {
        let mut memory = vec![0_u64; layout(draft.len()).size().div_ceil(8)];
        let start = NonNull::new(memory.as_mut_ptr()).expect("a vector's memory").cast();
        // SAFETY: 1. The vector is as large as the layout says, and this function's. 2. It is apart from the draft.
        let header = unsafe { draft.write(start, word, generation) };
        (memory, header)
    }

    #[test]
    fn a_list_reads_as_it_was_written() {
        for len in [1, 3, 4, 5, 100] {
            let entries: Vec<u32> = (0..len).map(|n| n * 3).collect();
            let (_memory, header) = written(Draft::of(&entries), 7, 9);
            // SAFETY: 1. Just written. 2. The memory is held.
            let list = unsafe { List::open(header, 7, 1000) }.expect("a good header");
            assert_eq!((list.entries(), list.generation()), (entries.as_slice(), 9));
            assert_eq!(list.check(), Ok(()));
        }
    }

    #[test]
    fn every_changed_byte_is_seen() {
        let entries: Vec<u32> = (0..9).map(|n| n * 5).collect();
        let (mut memory, header) = written(Draft::of(&entries), 3, 1);
        for at in 0..layout(entries.len()).size() {
            let (place, bit) = (at / 8, 1_u64 << (at % 8 * 8));
            memory[place] ^= bit;
            // SAFETY: 1. Written but for one bit; 9 files at most, so a wrong length is refused or lies inside the memory.
            // 2. The memory is held.
            let seen = unsafe { List::open(header, 3, 9) }.and_then(|list| list.check());
            assert!(seen.is_err(), "byte {at} changed and nobody saw");
            memory[place] ^= bit;
        }
    }

    #[test]
    fn poison_is_seen() {
        let (mut memory, header) = written(Draft::of(&[1, 2, 3]), 3, 1);
        memory.fill(0xa5a5_a5a5_a5a5_a5a5);
        // SAFETY: 1. Overwritten, but still numbers; the wrong word is refused. 2. The memory is held.
        let seen = unsafe { List::open(header, 3, 9) }.map(|list| list.check());
        assert_eq!(seen.err(), Some(Fault::Word { asked: 3, found: 0xa5a5_a5a5 }));
    }

    #[test]
    fn drafts_put_in_and_take_out() {
        let old = [2, 4, 6];
        let made = |draft: Draft<'_>| {
            let (_memory, header) = written(draft, 0, 0);
            // SAFETY: 1. Just written. 2. The memory is held.
            let list = unsafe { List::open(header, 0, 10) }.expect("a good header");
            assert_eq!(list.check(), Ok(()));
            list.entries().to_vec()
        };
        assert_eq!(made(Draft::with(&old, 5).expect("new")), [2, 4, 5, 6]);
        assert_eq!(made(Draft::with(&old, 1).expect("new")), [1, 2, 4, 6]);
        assert_eq!(made(Draft::with(&[], 1).expect("new")), [1]);
        assert_eq!(made(Draft::without(&old, 6).expect("there")), [2, 4]);
        assert!(Draft::with(&old, 4).is_none() && Draft::without(&old, 5).is_none());
    }

    #[test]
    fn common_files() {
        assert_eq!(count_common(&[1, 3, 5, 7], &[2, 3, 4, 7, 9]), 2);
        assert_eq!(count_common(&[1], &[]), 0);
        assert_eq!(count_common(&[1, 2, 3], &[1, 2, 3]), 3);
    }
}
