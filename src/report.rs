//! How errors and sizes are shown to people.

use replication::error::Error;

/// Prints the error, its causes and, after a blank line, the hint.
pub fn print_error(error: &anyhow::Error) {
    eprintln!("error: {error}");
    for cause in error.chain().skip(1) {
        eprintln!("  caused by: {cause}");
    }
    if let Some(hint) = error.downcast_ref::<Error>().and_then(Error::hint) {
        eprintln!("\nhint: {hint}");
    }
}

/// `1.5 MiB`
pub fn bytes(bytes: u64) -> String {
    indicatif::BinaryBytes(bytes).to_string()
}
