//! Places where tests let the program die, as a crash would: between a write
//! and the one that makes it count. Only builds of tests have them.

/// Aborts if `TRIBUTARY_FAILPOINT` is this `name`, or `name:n` and this is the
/// n-th time.
#[cfg(feature = "failpoints")]
pub fn reach(name: &str) {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    static WANTED: OnceLock<Option<(String, AtomicU64)>> = OnceLock::new();
    let wanted = WANTED.get_or_init(|| {
        let text = std::env::var("TRIBUTARY_FAILPOINT").ok()?;
        let (name, times) = text.split_once(':').unwrap_or((&text, "1"));
        Some((name.to_owned(), AtomicU64::new(times.parse().ok()?)))
    });
    let Some((_, left)) = wanted.as_ref().filter(|(wanted, _)| wanted == name) else {
        return;
    };
    if left.fetch_sub(1, Ordering::Relaxed) == 1 {
        tracing::warn!(failpoint = name, "aborting, as a test wants it");
        std::process::abort();
    }
}

#[cfg(not(feature = "failpoints"))]
#[inline]
pub fn reach(_: &str) {}
