//! What all targets share: seeds to begin with, and a bound to allocations.

use std::alloc::{GlobalAlloc, Layout, System};
use std::fs;
use std::path::Path;

use replication::fuzz::{Target, target};

/// Fuzzes a target of `replication::fuzz`.
#[macro_export]
macro_rules! target {
    ($name:literal) => {
        libfuzzer_sys::fuzz_target!(
            init: $crate::plant($name),
            |bytes: &[u8]| ($crate::named($name).run)(bytes)
        );
    };
}

pub fn named(name: &str) -> Target {
    target(name).expect("a target of this name")
}

/// Puts the seeds into the corpus, the first folder among the arguments, before libFuzzer reads it.
pub fn plant(name: &str) {
    let mut folders = std::env::args().skip(1).filter(|argument| Path::new(argument).is_dir());
    let Some(folder) = folders.next() else { return };
    for (number, seed) in (named(name).seeds)().into_iter().enumerate() {
        fs::write(format!("{folder}/seed-{number}"), seed).expect("a seed");
    }
}

/// No input is as long as 1 MiB: what asks for more than this at once believes what it is told.
const BYTES_AT_ONCE_MAX: usize = 64 << 20;

struct Bounded;

// SAFETY: the system's allocator does the work.
unsafe impl GlobalAlloc for Bounded {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        check(layout.size());
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        check(layout.size());
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, place: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        check(size);
        unsafe { System.realloc(place, layout, size) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        unsafe { System.dealloc(place, layout) }
    }
}

fn check(size: usize) {
    if size > BYTES_AT_ONCE_MAX {
        // Formatting would allocate.
        std::process::abort();
    }
}

#[global_allocator]
static ALLOCATOR: Bounded = Bounded;
