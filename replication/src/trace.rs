//! Spans of what takes time, for whoever listens to them. Their names and fields are in the operator's guide.

use tracing::{Instrument, Span};

use crate::error::Result;

/// A span of this name, with its fields. Those that are `Empty` are to be recorded within. Numbers are `i64`, as
/// OpenTelemetry's are; others would be told as text.
macro_rules! span {
    ($name:literal $(, $($fields:tt)*)?) => {
        tracing::info_span!(
            $name,
            otel.status_code = tracing::field::Empty,
            otel.status_description = tracing::field::Empty,
            $($($fields)*)?
        )
    };
}
pub(crate) use span;

/// Works within a span of [`span!`], which tells the error that it ends with.
pub fn within<T>(span: Span, work: impl Future<Output = Result<T>>) -> impl Future<Output = Result<T>> {
    // On the heap: whoever waits for it would have room for it several times.
    let work = Box::pin(work).instrument(span.clone());
    async move {
        let result = work.await;
        if let Err(error) = &result {
            span.record("otel.status_code", "ERROR");
            span.record("otel.status_description", tracing::field::display(error));
        }
        result
    }
}
