//! Dates, times and intervals: from PostgreSQL's epoch, 2000-01-01, to the
//! lake's, 1970-01-01, and to text.

use std::fmt::Write;

use super::wire::{Reader, fixed};
use super::{DecodeError, Infinity};
use crate::schema::civil;

/// 1970-01-01 to 2000-01-01.
const EPOCH_DAYS: i32 = 10_957;
const EPOCH_MICROS: i64 = 946_684_800_000_000;

const DAY_MICROS: i64 = 86_400_000_000;
const HOUR_MICROS: i64 = 3_600_000_000;

/// 0001-01-01 and 9999-12-31 as days, and as the first and last microsecond.
const CLAMP_DAYS: (i32, i32) = (-719_162, 2_932_896);
const CLAMP_MICROS: (i64, i64) = (-62_135_596_800_000_000, 253_402_300_799_999_999);

/// Days since 1970-01-01, and whether the policy replaced the value.
pub(super) fn date(bytes: &[u8], policy: Infinity) -> Result<(Option<i32>, bool), DecodeError> {
    let days = i32::from_be_bytes(fixed(bytes, "date")?);
    match days {
        i32::MIN => unrepresentable("date", CLAMP_DAYS.0, policy),
        i32::MAX => unrepresentable("date", CLAMP_DAYS.1, policy),
        days => match days.checked_add(EPOCH_DAYS) {
            Some(days) => Ok((Some(days), false)),
            None => unrepresentable("date", CLAMP_DAYS.1, policy),
        },
    }
}

/// Microseconds since 1970-01-01, and whether the policy replaced the value.
pub(super) fn timestamp(bytes: &[u8], policy: Infinity) -> Result<(Option<i64>, bool), DecodeError> {
    let micros = i64::from_be_bytes(fixed(bytes, "timestamp")?);
    match micros {
        i64::MIN => unrepresentable("timestamp", CLAMP_MICROS.0, policy),
        i64::MAX => unrepresentable("timestamp", CLAMP_MICROS.1, policy),
        micros => match micros.checked_add(EPOCH_MICROS) {
            Some(micros) => Ok((Some(micros), false)),
            None => unrepresentable("timestamp", CLAMP_MICROS.1, policy),
        },
    }
}

fn unrepresentable<T>(what: &str, clamped: T, policy: Infinity) -> Result<(Option<T>, bool), DecodeError> {
    match policy {
        Infinity::Null => Ok((None, true)),
        Infinity::Clamp => Ok((Some(clamped), true)),
        Infinity::Error => Err(DecodeError::new(format!(
            "expected a finite {what} that fits the lake, found one that is infinite or out of range"
        ))),
    }
}

pub(super) fn write_date(bytes: &[u8], out: &mut String) -> Result<(), DecodeError> {
    match i32::from_be_bytes(fixed(bytes, "date")?) {
        i32::MIN => out.push_str("-infinity"),
        i32::MAX => out.push_str("infinity"),
        days => {
            let era = write_day(days.into(), out)?;
            out.push_str(era);
        }
    }
    Ok(())
}

/// `zone` is what follows the time: nothing, or `+00` for `timestamptz`.
pub(super) fn write_timestamp(bytes: &[u8], zone: &str, out: &mut String) -> Result<(), DecodeError> {
    match i64::from_be_bytes(fixed(bytes, "timestamp")?) {
        i64::MIN => out.push_str("-infinity"),
        i64::MAX => out.push_str("infinity"),
        micros => {
            let era = write_day(micros.div_euclid(DAY_MICROS), out)?;
            out.push(' ');
            write_clock(micros.rem_euclid(DAY_MICROS), out)?;
            out.push_str(zone);
            out.push_str(era);
        }
    }
    Ok(())
}

pub(super) fn write_time(bytes: &[u8], out: &mut String) -> Result<(), DecodeError> {
    write_time_of_day(i64::from_be_bytes(fixed(bytes, "time")?), out)
}

pub(super) fn write_timetz(bytes: &[u8], out: &mut String) -> Result<(), DecodeError> {
    let mut reader = Reader::new(bytes, "timetz");
    let micros = reader.i64()?;
    let west = reader.i32()?;
    reader.finish()?;

    write_time_of_day(micros, out)?;
    out.push(if west <= 0 { '+' } else { '-' });
    let offset = west.unsigned_abs();
    let (hours, minutes, seconds) = (offset / 3600, offset / 60 % 60, offset % 60);
    write!(out, "{hours:02}")?;
    if seconds != 0 {
        write!(out, ":{minutes:02}:{seconds:02}")?;
    } else if minutes != 0 {
        write!(out, ":{minutes:02}")?;
    }
    Ok(())
}

/// PostgreSQL's `iso_8601` style: each part keeps its own sign.
pub(super) fn write_interval(bytes: &[u8], out: &mut String) -> Result<(), DecodeError> {
    let mut reader = Reader::new(bytes, "interval");
    let micros = reader.i64()?;
    let days = reader.i32()?;
    let months = reader.i32()?;
    reader.finish()?;

    match (micros, days, months) {
        (i64::MIN, i32::MIN, i32::MIN) => out.push_str("-infinity"),
        (i64::MAX, i32::MAX, i32::MAX) => out.push_str("infinity"),
        (0, 0, 0) => out.push_str("PT0S"),
        _ => {
            out.push('P');
            for (part, unit) in [(months / 12, 'Y'), (months % 12, 'M'), (days, 'D')] {
                if part != 0 {
                    write!(out, "{part}{unit}")?;
                }
            }
            if micros != 0 {
                out.push('T');
            }
            for (part, unit) in [(micros / HOUR_MICROS, 'H'), (micros / 60_000_000 % 60, 'M')] {
                if part != 0 {
                    write!(out, "{part}{unit}")?;
                }
            }
            let seconds = micros % 60_000_000;
            if seconds != 0 {
                if seconds < 0 {
                    out.push('-');
                }
                let seconds = seconds.unsigned_abs();
                write!(out, "{}", seconds / 1_000_000)?;
                write_fraction(seconds % 1_000_000, out)?;
                out.push('S');
            }
        }
    }
    Ok(())
}

fn write_time_of_day(micros: i64, out: &mut String) -> Result<(), DecodeError> {
    // 24:00:00 is a time; a leap second is stored as the next minute.
    if !(0..=DAY_MICROS).contains(&micros) {
        return Err(DecodeError::new(
            "expected a time between 00:00:00 and 24:00:00, found one outside",
        ));
    }
    write_clock(micros, out)
}

fn write_clock(micros: i64, out: &mut String) -> Result<(), DecodeError> {
    let micros = micros.unsigned_abs();
    let seconds = micros / 1_000_000;
    write!(
        out,
        "{:02}:{:02}:{:02}",
        seconds / 3600,
        seconds / 60 % 60,
        seconds % 60
    )?;
    write_fraction(micros % 1_000_000, out)
}

/// Microseconds as a decimal fraction without trailing zeros; none for 0.
fn write_fraction(micros: u64, out: &mut String) -> Result<(), DecodeError> {
    if micros != 0 {
        write!(out, ".{micros:06}")?;
        out.truncate(out.trim_end_matches('0').len());
    }
    Ok(())
}

/// Writes `YYYY-MM-DD` and returns what the era adds after the time of day.
/// `days` counts from 2000-01-01 and comes from an i32 or a day of i64
/// microseconds, far from where the arithmetic would overflow.
fn write_day(days: i64, out: &mut String) -> Result<&'static str, DecodeError> {
    let (year, month, day) = civil(days.saturating_add(i64::from(EPOCH_DAYS)));
    if year > 0 {
        write!(out, "{year:04}-{month:02}-{day:02}")?;
        Ok("")
    } else {
        // Year 0 is 1 BC.
        write!(out, "{:04}-{month:02}-{day:02}", 1 - year)?;
        Ok(" BC")
    }
}
