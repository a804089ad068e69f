//! Restartable sequences: per-CPU pops and pushes that cost no atomic instruction (x86-64 Linux, glibc ≥ 2.35).
//!
//! Nothing else in the workspace knows assembly. [`percpu`](crate::percpu) calls the operations here first and takes the
//! try-lock form when they report failure; [`percpu::stop`](crate::percpu) is the remote side.
//!
//! The kernel restarts the instructions between labels 3 and 4 at the abort handler (5) whenever the thread is preempted,
//! migrated or signalled between them. The last of them is the one store that commits; everything before it either reads, or
//! writes where only the owner of the commit looks.
//!
//! # Layout
//! `base` points to CPU 0's region of the word area; regions are `1 << REGION_SHIFT` bytes apart. A region has its stop flag at
//! `STOP_OFFSET`; the word at a `word` offset holds two block numbers, low and high; a
//! number is the block's offset in the array of blocks. A block is a page: length (u32 at 0),
//! capacity (u32 at 8), next (u32 at 12), fill (u64 at 16: slots in use, weight), slots from 64. Lengths are 32 bits wide on purpose: 16-bit
//! ones cost twice as much on Zen 4.
//!
//! # Ordering
//! x86-64 stores are releases and loads acquires; the sequences are opaque to the compiler (no `nomem`). Pair **R**: the stop
//! flag is read inside the section, after `rseq_cs` was set; the remote side stores it, then issues a membarrier that
//! restarts every section of that CPU, then edits.

use crate::percpu::{REGION_SHIFT, STOP_OFFSET};
use std::arch::asm;
use std::ffi::CStr;
use std::sync::atomic::{
    AtomicIsize, AtomicPtr, AtomicU8, AtomicU32,
    Ordering::{Acquire, Relaxed, Release},
};

/// What the sequences need, together in one cache line. Written once, before `offset` becomes non-zero. The sections read the
/// others by their offsets, 8, 16 and 24.
#[repr(C, align(64))]
struct Params {
    /// Offset of the thread's `struct rseq` from the thread pointer; 0 = not in use.
    offset: AtomicIsize,
    base: AtomicPtr<u8>,
    blocks: AtomicPtr<u8>,
    cpus: AtomicU32,
}

const _: () = assert!(std::mem::offset_of!(Params, base) == 8 && std::mem::offset_of!(Params, cpus) == 24);
const _: () = assert!(std::mem::offset_of!(Params, blocks) == 16);

static PARAMS: Params = Params {
    offset: AtomicIsize::new(0),
    base: AtomicPtr::new(std::ptr::null_mut()),
    blocks: AtomicPtr::new(std::ptr::null_mut()),
    cpus: AtomicU32::new(0),
};
/// Does the kernel take `FLAG_CPU` (5.10)? Else every fence reaches all CPUs.
static ONE_CPU: AtomicU8 = AtomicU8::new(0);

const PRIVATE_EXPEDITED_RSEQ: libc::c_long = 1 << 7;
const REGISTER_PRIVATE_EXPEDITED_RSEQ: libc::c_long = 1 << 8;
const FLAG_CPU: libc::c_long = 1;

fn membarrier(command: libc::c_long, flags: libc::c_long, cpu: libc::c_long) -> libc::c_long {
    // SAFETY: membarrier(2) takes three integers and touches no memory of ours.
    unsafe { libc::syscall(libc::SYS_membarrier, command, flags, cpu) }
}

fn symbol(name: &CStr) -> *const u8 {
    // SAFETY: looks a name up among the loaded objects; `name` ends with a zero.
    unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()).cast_const().cast() }
}

/// Can sequences be used in this process? Looks and registers; does not switch them on.
pub(crate) fn detect() -> Result<isize, &'static str> {
    let (offset, size) = (symbol(c"__rseq_offset"), symbol(c"__rseq_size"));
    if offset.is_null() || size.is_null() {
        return Err("this C library does not register restartable sequences (glibc 2.35 or newer does)");
    }
    // SAFETY: glibc declares `extern const unsigned int __rseq_size` and `extern const ptrdiff_t __rseq_offset`.
    let (offset, size) = unsafe { (*offset.cast::<isize>(), *size.cast::<u32>()) };
    if size == 0 || offset == 0 {
        return Err("registration is switched off or refused (glibc.pthread.rseq=0, valgrind, gVisor, old kernel)");
    }
    if membarrier(REGISTER_PRIVATE_EXPEDITED_RSEQ, 0, 0) != 0 {
        return Err("membarrier does not restart sequences here (kernel 5.10 or newer does; seccomp may forbid it)");
    }
    if membarrier(PRIVATE_EXPEDITED_RSEQ, FLAG_CPU, 0) == 0 {
        // Relaxed: stored before the first word was handed out.
        ONE_CPU.store(1, Relaxed);
    } else if membarrier(PRIVATE_EXPEDITED_RSEQ, 0, 0) != 0 {
        return Err("membarrier refuses to restart sequences");
    }
    Ok(offset)
}

/// Switches the sequences on, for the rest of the process's life.
pub(crate) fn enable(offset: isize, base: *mut u8, blocks: *mut u8, cpus: u32) {
    // Relaxed: published by the offset below.
    PARAMS.base.store(base, Relaxed);
    PARAMS.blocks.store(blocks, Relaxed);
    PARAMS.cpus.store(cpus, Relaxed);
    // Release: whoever sees the offset sees the rest (x86 loads are acquires, and each operation loads it first).
    PARAMS.offset.store(offset, Release);
}

/// Restarts every section now running on `cpu` (all CPUs: `None`). False when the kernel refused: nothing may be edited then.
pub(crate) fn restart(cpu: Option<u32>) -> bool {
    match cpu {
        // Relaxed: stored before the first word was handed out.
        Some(cpu) if ONE_CPU.load(Relaxed) == 1 => {
            membarrier(PRIVATE_EXPEDITED_RSEQ, FLAG_CPU, libc::c_long::from(cpu)) == 0
                // Some kernels answer a CPU that is not online with an error; it has no section to restart.
                || membarrier(PRIVATE_EXPEDITED_RSEQ, 0, 0) == 0
        }
        _ => membarrier(PRIVATE_EXPEDITED_RSEQ, 0, 0) == 0,
    }
}

/// The CPU that this thread's sequences would run on now; `None`: sequences are off, or this thread is not registered.
pub(crate) fn cpu() -> Option<u32> {
    // Acquire: pairs with `enable`.
    let offset = PARAMS.offset.load(Acquire);
    if offset == 0 {
        return None;
    }
    let id: u32;
    // SAFETY: a non-zero offset is glibc's, so fs:[offset + 4] is this thread's `rseq.cpu_id`.
    unsafe { asm!("mov {id:e}, fs:[{o} + 4]", id = out(reg) id, o = in(reg) offset, options(nostack, readonly)) };
    // Relaxed: the offset above was acquired.
    (id < PARAMS.cpus.load(Relaxed)).then_some(id)
}

/// One restartable section: `{t}` is the CPU's region once the body begins. The body's last instruction is the commit: label 4
/// stands right behind it, and nothing may stand between, or a restart would do the operation twice.
macro_rules! section {
    ($first:literal, $out_of_range:literal, $($body:literal),* ; $($operands:tt)*) => {
        asm!(
            // struct rseq_cs { version, flags, start_ip, post_commit_offset, abort_ip }
            ".pushsection __rseq_cs, \"aw\"", ".balign 32", "77:", ".long 0, 0", ".quad 3f, 4f - 3f, 5f", ".popsection",
            // The abort handler stands out of line, with glibc's signature right before its label.
            ".subsection 1", ".byte 0x0f, 0xb9, 0x3d", ".long 0x53053053", "5:", "jmp 2f", ".previous",
            "2:", "lea {t}, [rip + 77b]", "mov fs:[{o} + 8], {t}",
            "3:", $first, "mov {t:e}, fs:[{o} + 4]",
            "cmp {t:e}, dword ptr [rip + {params} + 24]", $out_of_range,
            "shl {t}, {shift}", "add {t}, qword ptr [rip + {params} + 8]",
            $($body,)*
            "4:",
            shift = const REGION_SHIFT, stop = const STOP_OFFSET, params = sym PARAMS, $($operands)*
        )
    };
}

/// Takes the newest pointer of the low block of this CPU's `word`; null: empty, stopped, or sequences cannot be used.
#[inline(always)]
pub(crate) fn pop(word: u32) -> *mut u8 {
    // Acquire: pairs with `enable`.
    let offset = PARAMS.offset.load(Acquire);
    if offset == 0 {
        return std::ptr::null_mut();
    }
    let (item, next): (*mut u8, *mut u8);
    // SAFETY: offset, base, blocks and cpus belong together (`enable`); the block in an installed word is touched only by
    // sections of its CPU, or by the remote side after `restart` (R). The length is below the capacity, so the slot exists.
    unsafe {
        section!("xor {r:e}, {r:e}", "jae 4f",
            "cmp dword ptr [{t} + {stop}], 0", "jne 4f",
            "mov {b:e}, dword ptr [{t} + {w}]", "add {b}, qword ptr [rip + {params} + 16]",
            "mov {t:e}, dword ptr [{b}]", "sub {t:e}, 1", "js 4f",
            "mov {r}, [{b} + {t}*8 + 64]",
            "mov {next}, [{b} + {t}*8 + 56]",
            "mov dword ptr [{b}], {t:e}"; // commit
            next = out(reg) next,
            t = out(reg) _, b = out(reg) _, r = out(reg) item,
            o = in(reg) offset, w = in(reg) u64::from(word),  options(nostack));
        asm!("prefetchw [{next}]", next = in(reg) next, options(nostack, preserves_flags, readonly));
    }
    item
}

/// Puts a free object into the low block of this CPU's `word`; false: full, stopped, or sequences cannot be used.
#[inline(always)]
pub(crate) fn push(word: u32, item: *mut u8) -> bool {
    // Acquire: pairs with `enable`.
    let offset = PARAMS.offset.load(Acquire);
    if offset == 0 {
        return false;
    }
    // SAFETY: as in `pop`; the slot written is beyond the length until the commit.
    unsafe {
        section!("", "jae {no}",
            "cmp dword ptr [{t} + {stop}], 0", "jne {no}",
            "mov {b:e}, dword ptr [{t} + {w}]", "add {b}, qword ptr [rip + {params} + 16]",
            "mov {t:e}, dword ptr [{b}]", "cmp {t:e}, dword ptr [{b} + 8]", "jae {no}",
            "mov [{b} + {t}*8 + 64], {i}", "add {t:e}, 1",
            "mov dword ptr [{b}], {t:e}"; // commit
            t = out(reg) _, b = out(reg) _, i = in(reg) item,
            o = in(reg) offset, w = in(reg) u64::from(word),  no = label { return false; }, options(nostack));
    }
    true
}

/// Takes up to `most` pointers, the newest, of the low block of this CPU's `word` at once; how many. They are copied to `out` before the
/// commit, sixteen bytes at a time: a restart copies again.
///
/// # Safety
/// 1. `most` pointers can be written at `out`.
#[inline(always)]
pub(crate) unsafe fn pop_run(word: u32, out: *mut *mut u8, most: u64) -> u32 {
    // Acquire: pairs with `enable`.
    let offset = PARAMS.offset.load(Acquire);
    if offset == 0 || most == 0 {
        return 0;
    }
    let taken: u64;
    // SAFETY: as in `pop`; by (1) the copies are the caller's memory, and no more than the length are read.
    unsafe {
        section!("xor {k:e}, {k:e}", "jae 4f",
            "cmp dword ptr [{t} + {stop}], 0", "jne 4f",
            "mov {b:e}, dword ptr [{t} + {w}]", "add {b}, qword ptr [rip + {params} + 16]",
            "mov {t:e}, dword ptr [{b}]", "test {t:e}, {t:e}", "jz 4f",
            "mov {k}, {most}", "cmp {k}, {t}", "cmova {k}, {t}",
            "sub {t}, {k}", "lea {from}, [{b} + {t}*8 + 64]",
            "mov {c}, {k}", "test {c:l}, 1", "jz 7f",
            "mov {v}, [{from} + {c}*8 - 8]", "mov [{out} + {c}*8 - 8], {v}", "sub {c}, 1", "jz 8f",
            "7:", "movups {x}, [{from} + {c}*8 - 16]", "movups [{out} + {c}*8 - 16], {x}", "sub {c}, 2", "jnz 7b",
            "8:", "mov dword ptr [{b}], {t:e}"; // commit
            t = out(reg) _, b = out(reg) _, k = out(reg) taken, c = out(reg) _, from = out(reg) _, v = out(reg) _,
            x = out(xmm_reg) _, out = in(reg) out, most = in(reg) most,
            o = in(reg) offset, w = in(reg) u64::from(word),  options(nostack));
    }
    taken as u32
}

/// Puts the first of `most` free objects, as many as there is room for, into the low block of this CPU's `word` at once; how many.
///
/// # Safety
/// 1. `most` pointers can be read at `items`.
#[inline(always)]
pub(crate) unsafe fn push_run(word: u32, items: *const *mut u8, most: u64) -> u32 {
    // Acquire: pairs with `enable`.
    let offset = PARAMS.offset.load(Acquire);
    if offset == 0 || most == 0 {
        return 0;
    }
    let put: u64;
    // SAFETY: as in `push`; the slots written are beyond the length until the commit, and below the capacity.
    unsafe {
        section!("xor {k:e}, {k:e}", "jae 4f",
            "cmp dword ptr [{t} + {stop}], 0", "jne 4f",
            "mov {b:e}, dword ptr [{t} + {w}]", "add {b}, qword ptr [rip + {params} + 16]",
            "mov {t:e}, dword ptr [{b}]", "mov {c:e}, dword ptr [{b} + 8]", "sub {c}, {t}", "jbe 4f",
            "mov {k}, {most}", "cmp {k}, {c}", "cmova {k}, {c}",
            "lea {to}, [{b} + {t}*8 + 64]", "add {t}, {k}",
            "mov {c}, {k}", "test {c:l}, 1", "jz 7f",
            "mov {v}, [{items} + {c}*8 - 8]", "mov [{to} + {c}*8 - 8], {v}", "sub {c}, 1", "jz 8f",
            "7:", "movups {x}, [{items} + {c}*8 - 16]", "movups [{to} + {c}*8 - 16], {x}", "sub {c}, 2", "jnz 7b",
            "8:", "mov dword ptr [{b}], {t:e}"; // commit
            t = out(reg) _, b = out(reg) _, k = out(reg) put, c = out(reg) _, to = out(reg) _, v = out(reg) _,
            x = out(xmm_reg) _, items = in(reg) items, most = in(reg) most,
            o = in(reg) offset, w = in(reg) u64::from(word),  options(nostack));
    }
    put as u32
}

/// Puts a retired pointer with its weight into the low block of this CPU's `word`: length and weight are one commit.
#[inline(always)]
pub(crate) fn retire(word: u32, item: *mut u8, weight: u32) -> bool {
    // Acquire: pairs with `enable`.
    let offset = PARAMS.offset.load(Acquire);
    if offset == 0 {
        return false;
    }
    // SAFETY: as in `push`.
    unsafe {
        section!("", "jae {no}",
            "cmp dword ptr [{t} + {stop}], 0", "jne {no}",
            "mov {b:e}, dword ptr [{t} + {w}]", "add {b}, qword ptr [rip + {params} + 16]",
            "mov {t}, [{b} + 16]", "mov {n:e}, {t:e}", "cmp {n:e}, dword ptr [{b} + 8]", "jae {no}",
            "mov [{b} + {n}*8 + 64], {i}", "add {t}, {inc}",
            "mov [{b} + 16], {t}"; // commit
            t = out(reg) _, b = out(reg) _, n = out(reg) _, i = in(reg) item, inc = in(reg) 1 | u64::from(weight) << 32,
            o = in(reg) offset, w = in(reg) u64::from(word),  no = label { return false; }, options(nostack));
    }
    true
}

/// The same for a pair of words (pointer, function): two slots, one commit. The block's capacity must be even.
#[inline(always)]
pub(crate) fn retire_pair(word: u32, first: *mut u8, second: *mut u8, weight: u32) -> bool {
    // Acquire: pairs with `enable`.
    let offset = PARAMS.offset.load(Acquire);
    if offset == 0 {
        return false;
    }
    // SAFETY: as in `push`; an even capacity above an even length leaves room for both.
    unsafe {
        section!("", "jae {no}",
            "cmp dword ptr [{t} + {stop}], 0", "jne {no}",
            "mov {b:e}, dword ptr [{t} + {w}]", "add {b}, qword ptr [rip + {params} + 16]",
            "mov {t}, [{b} + 16]", "mov {n:e}, {t:e}", "cmp {n:e}, dword ptr [{b} + 8]", "jae {no}",
            "mov [{b} + {n}*8 + 64], {i}", "mov [{b} + {n}*8 + 72], {k}", "add {t}, {inc}",
            "mov [{b} + 16], {t}"; // commit
            t = out(reg) _, b = out(reg) _, n = out(reg) _, i = in(reg) first, k = in(reg) second,
            inc = in(reg) 2 | u64::from(weight) << 32,
            o = in(reg) offset, w = in(reg) u64::from(word),  no = label { return false; }, options(nostack));
    }
    true
}

/// Replaces this CPU's `word`, if it is `old`, by `new`.
pub(crate) fn exchange(word: u32, old: u64, new: u64) -> bool {
    // Acquire: pairs with `enable`.
    let offset = PARAMS.offset.load(Acquire);
    if offset == 0 {
        return false;
    }
    // SAFETY: as in `pop`; whoever sees true owns what `old` named and `new` does not.
    unsafe {
        section!("", "jae {no}",
            "cmp dword ptr [{t} + {stop}], 0", "jne {no}",
            "cmp [{t} + {w}], {old}", "jne {no}",
            "mov [{t} + {w}], {new}"; // commit
            t = out(reg) _, old = in(reg) old, new = in(reg) new,
            o = in(reg) offset, w = in(reg) u64::from(word),  no = label { return false; }, options(nostack));
    }
    true
}

/// Closes the open block of this CPU's `word` `{open, closed}`, if it is `old`: the word becomes `{fresh, open}`, and
/// `open.next` = `closed`. Closing and publishing are one commit.
pub(crate) fn close(word: u32, old: u64, fresh: u32) -> bool {
    // Acquire: pairs with `enable`.
    let offset = PARAMS.offset.load(Acquire);
    if offset == 0 {
        return false;
    }
    let new = u64::from(fresh) | old << 32;
    // SAFETY: as in `exchange`; `next` of the open block is written inside the section, so only while it is installed here.
    unsafe {
        section!("", "jae {no}",
            "cmp dword ptr [{t} + {stop}], 0", "jne {no}",
            "mov {b}, [{t} + {w}]", "cmp {b}, {old}", "jne {no}",
            "mov {b:e}, {b:e}", "add {b}, qword ptr [rip + {params} + 16]", "mov dword ptr [{b} + 12], {closed:e}",
            "mov [{t} + {w}], {new}"; // commit
            t = out(reg) _, b = out(reg) _, old = in(reg) old, new = in(reg) new, closed = in(reg) old >> 32,
            o = in(reg) offset, w = in(reg) u64::from(word),  no = label { return false; }, options(nostack));
    }
    true
}
