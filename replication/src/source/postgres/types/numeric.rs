//! `numeric`, and the text forms of numbers.

use std::fmt::Write;

use super::wire::Reader;
use super::{DecodeError, Infinity};

/// Decimal digits per base-10000 digit of the wire.
const GROUP: i32 = 4;

const DSCALE_MAX: u16 = 0x3fff;

/// The wire form of `numeric`: base-10000 digits, the first of which counts
/// 10000^weight.
struct Numeric<'a> {
    digits: &'a [u8],
    weight: i32,
    dscale: u16,
    sign: Sign,
}

#[derive(Clone, Copy, PartialEq)]
enum Sign {
    Positive,
    Negative,
    NaN,
    Infinity,
    NegativeInfinity,
}

impl<'a> Numeric<'a> {
    fn read(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes, "numeric");
        let len = reader.u16()?;
        let weight = reader.i16()?.into();
        let sign = match reader.u16()? {
            0x0000 => Sign::Positive,
            0x4000 => Sign::Negative,
            0xc000 => Sign::NaN,
            0xd000 => Sign::Infinity,
            0xf000 => Sign::NegativeInfinity,
            other => {
                return Err(DecodeError::new(format!(
                    "expected the sign of a numeric, found {other:#06x}"
                )));
            }
        };
        let dscale = reader.u16()?;
        if dscale > DSCALE_MAX {
            return Err(DecodeError::new(format!(
                "expected a numeric scale up to {DSCALE_MAX}, found {dscale}"
            )));
        }
        let digits = reader.take(usize::from(len).saturating_mul(2))?;
        reader.finish()?;

        let numeric = Self {
            digits,
            weight,
            dscale,
            sign,
        };
        match numeric.digits().find(|d| *d > 9999) {
            Some(digit) => Err(DecodeError::new(format!(
                "expected a base-10000 digit of numeric, found {digit}"
            ))),
            None => Ok(numeric),
        }
    }

    fn digits(&self) -> impl Iterator<Item = u16> + use<'a> {
        self.digits
            .chunks_exact(2)
            .map(|d| d.try_into().map(u16::from_be_bytes).unwrap_or(0))
    }

    /// The unscaled value at `scale`, or None where that is not exact or
    /// does not fit.
    fn unscaled(&self, scale: i32) -> Option<u128> {
        let mut value = 0u128;
        // The power of ten that one unit of `value` stands for.
        let mut exponent = self.weight.checked_add(1)?.checked_mul(GROUP)?;
        for digit in self.digits() {
            exponent = exponent.checked_sub(GROUP)?;
            let excess = exponent.checked_add(scale)?;
            let digit = u128::from(digit);
            if excess >= 0 {
                value = value.checked_mul(10_000)?.checked_add(digit)?;
            } else {
                // The digits of this group that lie past the scale must be 0.
                let past = pow10(excess.unsigned_abs().min(GROUP.unsigned_abs()))?;
                if digit.checked_rem(past)? != 0 {
                    return None;
                }
                value = value
                    .checked_mul(10_000u128.checked_div(past)?)?
                    .checked_add(digit.checked_div(past)?)?;
            }
        }
        let missing = exponent.checked_add(scale)?;
        if missing > 0 && value != 0 {
            value = value.checked_mul(pow10(missing.unsigned_abs())?)?;
        }
        Some(value)
    }
}

/// The unscaled value of a `decimal(precision, scale)`, and whether the policy
/// replaced it.
pub(super) fn decimal(
    bytes: &[u8],
    precision: u8,
    scale: i8,
    policy: Infinity,
) -> Result<(Option<i128>, bool), DecodeError> {
    let numeric = Numeric::read(bytes)?;
    let bound = pow10(precision.into())
        .and_then(|bound| i128::try_from(bound).ok())
        .unwrap_or(i128::MAX);
    let clamped = match numeric.sign {
        Sign::Positive | Sign::Negative => {
            let value = numeric
                .unscaled(scale.into())
                .and_then(|value| i128::try_from(value).ok())
                .filter(|value| *value < bound)
                .ok_or_else(|| {
                    DecodeError::new(format!(
                        "expected a numeric that fits decimal({precision},{scale}), found one that does not"
                    ))
                })?;
            return Ok(match numeric.sign {
                Sign::Negative => (Some(value.saturating_neg()), false),
                _ => (Some(value), false),
            });
        }
        Sign::NaN => None,
        Sign::Infinity => Some(bound.saturating_sub(1)),
        Sign::NegativeInfinity => Some(1i128.saturating_sub(bound)),
    };
    match policy {
        Infinity::Null => Ok((None, true)),
        Infinity::Clamp => Ok((clamped, true)),
        Infinity::Error => Err(DecodeError::new("expected a finite numeric, found NaN or infinity")),
    }
}

/// The text form of any numeric: keeps the scale it was stored with.
pub(super) fn write_numeric(bytes: &[u8], out: &mut String) -> Result<(), DecodeError> {
    let numeric = Numeric::read(bytes)?;
    match numeric.sign {
        Sign::NaN => out.push_str("NaN"),
        Sign::Infinity => out.push_str("Infinity"),
        Sign::NegativeInfinity => out.push_str("-Infinity"),
        Sign::Positive | Sign::Negative => {
            if numeric.sign == Sign::Negative {
                out.push('-');
            }
            let mut digits = numeric.digits();
            if numeric.weight < 0 {
                out.push('0');
            } else {
                write!(out, "{}", digits.next().unwrap_or(0))?;
                for _ in 0..numeric.weight {
                    write!(out, "{:04}", digits.next().unwrap_or(0))?;
                }
            }
            if numeric.dscale > 0 {
                out.push('.');
                let end = out.len().saturating_add(numeric.dscale.into());
                // Groups of zeros between the point and the first digit.
                let mut zeros = numeric.weight.saturating_add(1).min(0).unsigned_abs();
                while out.len() < end {
                    if zeros > 0 {
                        zeros = zeros.saturating_sub(1);
                        out.push_str("0000");
                    } else {
                        write!(out, "{:04}", digits.next().unwrap_or(0))?;
                    }
                }
                out.truncate(end);
            }
        }
    }
    Ok(())
}

/// An integer count of 10^-scale as a plain decimal.
pub(super) fn write_scaled(value: i64, scale: u8, out: &mut String) -> Result<(), DecodeError> {
    if value < 0 {
        out.push('-');
    }
    let value = u128::from(value.unsigned_abs());
    let unit = pow10(scale.into()).unwrap_or(1);
    let whole = value.checked_div(unit).unwrap_or(0);
    write!(out, "{whole}")?;
    if scale > 0 {
        let fraction = value.checked_rem(unit).unwrap_or(0);
        write!(out, ".{fraction:0width$}", width = usize::from(scale))?;
    }
    Ok(())
}

fn pow10(exponent: u32) -> Option<u128> {
    10u128.checked_pow(exponent)
}

pub(super) fn write_float4(value: f32, out: &mut String) -> Result<(), DecodeError> {
    // Outside of 2^22 to 10^20 no decimal of nine digits lies exactly between
    // two floats: its product with a power of two or ten would need more.
    let between_floats = (4_194_304.0..1e20).contains(&value.abs());
    let text = postgres_shortest(
        format!("{value:e}"),
        9,
        between_floats,
        |digits| format!("{value:.*e}", digits.saturating_sub(1)),
        |text| text.parse() == Ok(value),
    );
    write_shortest(&text, 6, out)
}

pub(super) fn write_float8(value: f64, out: &mut String) -> Result<(), DecodeError> {
    // As above, for 17 digits: 2^51 to 10^41.
    let between_floats = (2_251_799_813_685_248.0..1e41).contains(&value.abs());
    let text = postgres_shortest(
        format!("{value:e}"),
        17,
        between_floats,
        |digits| format!("{value:.*e}", digits.saturating_sub(1)),
        |text| text.parse() == Ok(value),
    );
    write_shortest(&text, 15, out)
}

/// Rust's and PostgreSQL's shortest decimals that read back as a float differ
/// in two ways, both in favour of readers with other rounding (see
/// `STRICTLY_SHORTEST` in PostgreSQL's `src/common/d2s.c`):
/// - of two decimals as near, PostgreSQL takes the even one;
/// - it does not print a decimal that lies exactly between two floats, but the
///   shortest longer one. Only if `between_floats` can that be.
///
/// `rounded` gives the value at so many digits, `same` whether a text reads
/// back as it.
fn postgres_shortest(
    shortest: String,
    digits_max: usize,
    between_floats: bool,
    rounded: impl Fn(usize) -> String,
    same: impl Fn(&str) -> bool,
) -> String {
    let Some(digits) = Scientific::split(&shortest).map(|parts| parts.digits.len()) else {
        return shortest;
    };
    let inside = |text: &str| is_strictly_inside(text, &same);
    let even = rounded(digits);
    let nearest = if even != shortest && inside(&even) {
        even
    } else {
        shortest
    };
    if !between_floats || inside(&nearest) {
        return nearest;
    }
    (digits.saturating_add(1)..=digits_max)
        .map(rounded)
        .find(|candidate| inside(candidate))
        .unwrap_or(nearest)
}

/// Whether a hair more and a hair less than the decimal still read back as the
/// same float.
fn is_strictly_inside(text: &str, same: impl Fn(&str) -> bool) -> bool {
    const HAIR_DIGITS: usize = 40;

    let Some(parts) = Scientific::split(text) else {
        return true;
    };
    let Ok(digits) = parts.digits.parse::<u64>() else {
        return true;
    };
    let sign = parts.sign;
    let exponent = parts.last_exponent().saturating_sub(HAIR_DIGITS as i32);
    let above = format!("{sign}{digits}{:0>HAIR_DIGITS$}e{exponent}", 1);
    let below = format!("{sign}{}{:9>HAIR_DIGITS$}e{exponent}", digits.saturating_sub(1), 9);
    same(&above) && same(&below)
}

/// `-1.25e-7`, taken apart.
struct Scientific<'a> {
    sign: &'a str,
    /// Without the point.
    digits: String,
    /// Of the first digit.
    exponent: i32,
}

impl<'a> Scientific<'a> {
    fn split(text: &'a str) -> Option<Self> {
        let (mantissa, exponent) = text.split_once('e')?;
        let (sign, mantissa) = match mantissa.strip_prefix('-') {
            Some(mantissa) => ("-", mantissa),
            None => ("", mantissa),
        };
        Some(Self {
            sign,
            digits: mantissa.replace('.', ""),
            exponent: exponent.parse().ok()?,
        })
    }

    fn last_exponent(&self) -> i32 {
        let digits = i32::try_from(self.digits.len()).unwrap_or(0);
        self.exponent.saturating_sub(digits).saturating_add(1)
    }
}

/// Lays out what `{:e}` gave as PostgreSQL does: plain digits while the
/// exponent of the first is in `-4..plain_below`.
fn write_shortest(text: &str, plain_below: i32, out: &mut String) -> Result<(), DecodeError> {
    let Some(parts) = Scientific::split(text) else {
        // Rust prints NaN and inf as such.
        out.push_str(match text {
            "inf" => "Infinity",
            "-inf" => "-Infinity",
            other => other,
        });
        return Ok(());
    };
    let Scientific { sign, digits, exponent } = parts;
    out.push_str(sign);
    if (-4..0).contains(&exponent) {
        let width = exponent.unsigned_abs() as usize;
        write!(out, "{:0<width$}{digits}", "0.", width = width.saturating_add(1))?;
    } else if (0..plain_below).contains(&exponent) {
        let whole = exponent.unsigned_abs() as usize;
        let whole = whole.saturating_add(1);
        match digits.split_at_checked(whole) {
            Some((whole, "")) => out.push_str(whole),
            Some((whole, fraction)) => write!(out, "{whole}.{fraction}")?,
            None => write!(out, "{digits:0<whole$}")?,
        }
    } else {
        let sign = if exponent < 0 { '-' } else { '+' };
        let exponent = exponent.unsigned_abs();
        match digits.split_at_checked(1) {
            Some((first, rest)) if !rest.is_empty() => {
                write!(out, "{first}.{rest}e{sign}{exponent:02}")?;
            }
            _ => write!(out, "{digits}e{sign}{exponent:02}")?,
        }
    }
    Ok(())
}
