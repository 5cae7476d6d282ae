//! Dates and times.
//!
//! Spec: MySQL source, `sql-common/my_time.cc` (`my_datetime_packed_from_binary`
//! and the like); MySQL, "Binary Protocol Value".

use std::fmt::Write;

use super::{DecodeError, ZeroDates};

/// A date and a time of day, valid or not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moment {
    pub year: u32,
    pub month: u32,
    pub day: u32,
    /// Of the day.
    pub micros: i64,
}

const DAY_MICROS: i64 = 86_400_000_000;

impl Moment {
    fn time(hour: u64, minute: u64, second: u64, micros: u64) -> i64 {
        (((hour * 60 + minute) * 60 + second) * 1_000_000 + micros) as i64
    }

    /// Microseconds since 1970, after the policy on dates that are none.
    /// `None` is NULL; `true` tells that the policy changed the value.
    pub fn micros(self, policy: ZeroDates) -> Result<(Option<i64>, bool), DecodeError> {
        let (days, changed) = self.days(policy)?;
        Ok((days.map(|days| i64::from(days) * DAY_MICROS + self.micros), changed))
    }

    /// Days since 1970, likewise.
    pub fn days(self, policy: ZeroDates) -> Result<(Option<i32>, bool), DecodeError> {
        let valid = self.year > 0
            && (1..=12).contains(&self.month)
            && self.day > 0
            && self.day <= month_days(self.year, self.month);
        if self.micros >= DAY_MICROS || self.year > 9999 || self.month > 12 || self.day > 31 {
            return Err(DecodeError::new(
                "expected a date of the calendar, found one that no server stores",
            ));
        }
        if valid {
            return Ok((Some(days(self.year, self.month, self.day)), false));
        }
        match policy {
            ZeroDates::Null => Ok((None, true)),
            ZeroDates::Clamp => {
                let (year, month) = (self.year.max(1), self.month.max(1));
                let day = self.day.clamp(1, month_days(year, month));
                Ok((Some(days(year, month, day)), true))
            }
            ZeroDates::Error => Err(DecodeError::new("expected a date, found a zero or partial one")),
        }
    }
}

fn month_days(year: u32, month: u32) -> u32 {
    match month {
        4 | 6 | 9 | 11 => 30,
        2 if year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400)) => 29,
        2 => 28,
        _ => 31,
    }
}

/// Days from 1970-01-01 to a date of the Gregorian calendar: the year is
/// counted from March, so that a leap day is its last.
fn days(year: u32, month: u32, day: u32) -> i32 {
    let year = if month <= 2 { year as i32 - 1 } else { year as i32 };
    let month = (month as i32 + 9) % 12;
    let (era, of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let of_year = (153 * month + 2) / 5 + day as i32 - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

fn big_endian(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |value, byte| value << 8 | u64::from(*byte))
}

fn little_endian(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte))
}

/// The fraction of a second that `digits` digits need: 0 to 3 bytes of
/// hundredths, ten thousandths or millionths.
fn fraction(bytes: &[u8]) -> Result<u64, DecodeError> {
    let unit = match bytes.len() {
        0 => return Ok(0),
        1 => 10_000,
        2 => 100,
        3 => 1,
        len => {
            return Err(DecodeError::new(format!(
                "expected at most 3 bytes of a fraction, found {len}"
            )));
        }
    };
    let value = big_endian(bytes) * unit;
    if value >= 1_000_000 {
        return Err(DecodeError::new("expected less than a second"));
    }
    Ok(value)
}

fn short(what: &str, found: usize) -> DecodeError {
    DecodeError::new(format!("expected {what}, found {found} bytes"))
}

/// DATE in the log.
pub fn log_date(bytes: &[u8]) -> Result<Moment, DecodeError> {
    if bytes.len() != 3 {
        return Err(short("a date of 3 bytes", bytes.len()));
    }
    let packed = little_endian(bytes) as u32;
    Ok(Moment {
        year: packed >> 9,
        month: packed >> 5 & 15,
        day: packed & 31,
        micros: 0,
    })
}

/// DATETIME2 and the older DATETIME in the log.
pub fn log_datetime(bytes: &[u8], old: bool) -> Result<Moment, DecodeError> {
    if old {
        if bytes.len() != 8 {
            return Err(short("a datetime of 8 bytes", bytes.len()));
        }
        let number = little_endian(bytes);
        let (date, time) = (number / 1_000_000, number % 1_000_000);
        return Ok(Moment {
            year: u32::try_from(date / 10_000).unwrap_or(u32::MAX),
            month: (date / 100 % 100) as u32,
            day: (date % 100) as u32,
            micros: Moment::time(time / 10_000, time / 100 % 100, time % 100, 0),
        });
    }
    let (whole, rest) = bytes
        .split_at_checked(5)
        .ok_or_else(|| short("a datetime of 5 bytes or more", bytes.len()))?;
    let packed = big_endian(whole) ^ 0x80_0000_0000;
    let (date, time) = (packed >> 17, packed & 0x1_ffff);
    let year_month = date >> 5;
    Ok(Moment {
        year: u32::try_from(year_month / 13).unwrap_or(u32::MAX),
        month: (year_month % 13) as u32,
        day: (date & 31) as u32,
        micros: Moment::time(time >> 12, time >> 6 & 63, time & 63, fraction(rest)?),
    })
}

/// TIMESTAMP2 and the older TIMESTAMP in the log: microseconds since 1970, or
/// `None` for the zero timestamp.
pub fn log_timestamp(bytes: &[u8], old: bool) -> Result<Option<i64>, DecodeError> {
    let (whole, rest) = bytes
        .split_at_checked(4)
        .ok_or_else(|| short("a timestamp of 4 bytes or more", bytes.len()))?;
    let seconds = if old { little_endian(whole) } else { big_endian(whole) };
    let micros = fraction(rest)?;
    Ok((seconds > 0 || micros > 0).then_some((seconds * 1_000_000 + micros) as i64))
}

/// TIME2 and the older TIME in the log: signed microseconds.
pub fn log_time(bytes: &[u8], old: bool) -> Result<i64, DecodeError> {
    if old {
        if bytes.len() != 3 {
            return Err(short("a time of 3 bytes", bytes.len()));
        }
        let number = (little_endian(bytes) << 40) as i64 >> 40;
        let (sign, number) = (number.signum(), number.unsigned_abs());
        return Ok(sign * Moment::time(number / 10_000, number / 100 % 100, number % 100, 0));
    }
    let fraction_len = match bytes.len() {
        3..=6 => bytes.len() - 3,
        len => return Err(short("a time of 3 to 6 bytes", len)),
    };
    // The whole, fraction included, is an integer that begins in the middle.
    let bits = 8 * bytes.len() as u32;
    let value = big_endian(bytes) as i64 - (1_i64 << (bits - 1));
    let (sign, value) = (if value < 0 { -1 } else { 1 }, value.unsigned_abs());
    let fraction_bits = 8 * fraction_len as u32;
    let (whole, part) = (value >> fraction_bits, value & ((1 << fraction_bits) - 1));
    let unit = [1, 10_000, 100, 1][fraction_len];
    let micros = if fraction_len == 0 { 0 } else { part * unit };
    if micros >= 1_000_000 {
        return Err(DecodeError::new("expected less than a second"));
    }
    Ok(sign * Moment::time(whole >> 12 & 0x3ff, whole >> 6 & 63, whole & 63, micros))
}

/// DATE, DATETIME and TIMESTAMP of the binary protocol.
pub fn protocol_moment(bytes: &[u8]) -> Result<Moment, DecodeError> {
    let byte = |place: usize| u64::from(bytes.get(place).copied().unwrap_or(0));
    let micros = match bytes.len() {
        0 => return Ok(Moment::default()),
        4 | 7 => 0,
        11 => little_endian(bytes.get(7..).unwrap_or_default()),
        len => return Err(short("a date of 0, 4, 7 or 11 bytes", len)),
    };
    if micros >= 1_000_000 {
        return Err(DecodeError::new("expected less than a second"));
    }
    Ok(Moment {
        year: little_endian(bytes.get(..2).unwrap_or_default()) as u32,
        month: byte(2) as u32,
        day: byte(3) as u32,
        micros: Moment::time(byte(4), byte(5), byte(6), micros),
    })
}

/// TIME of the binary protocol.
pub fn protocol_time(bytes: &[u8]) -> Result<i64, DecodeError> {
    let byte = |place: usize| u64::from(bytes.get(place).copied().unwrap_or(0));
    let micros = match bytes.len() {
        0 => return Ok(0),
        8 => 0,
        12 => little_endian(bytes.get(8..).unwrap_or_default()),
        len => return Err(short("a time of 0, 8 or 12 bytes", len)),
    };
    let days = little_endian(bytes.get(1..5).unwrap_or_default());
    if days > 10_000 || micros >= 1_000_000 {
        return Err(DecodeError::new("expected a time of the server's range"));
    }
    let time = Moment::time(days * 24 + byte(5), byte(6), byte(7), micros);
    Ok(if byte(0) == 0 { time } else { -time })
}

/// A time as the server prints it.
pub fn write_time(micros: i64, digits: u8, out: &mut String) -> Result<(), DecodeError> {
    let (sign, micros) = (if micros < 0 { "-" } else { "" }, micros.unsigned_abs());
    let (seconds, micros) = (micros / 1_000_000, micros % 1_000_000);
    write!(
        out,
        "{sign}{:02}:{:02}:{:02}",
        seconds / 3600,
        seconds / 60 % 60,
        seconds % 60
    )?;
    let digits = usize::from(digits.min(6));
    if digits > 0 {
        let fraction = format!("{micros:06}");
        write!(out, ".{}", fraction.get(..digits).unwrap_or_default())?;
    }
    Ok(())
}
