//! Numbers by their values: one text for all that the server takes for equal,
//! whatever their type. Pure.

use std::io::Write;

use super::columns::decimal_parts;
use super::raw::{Malformed, Result, Value, tag};

/// Appends a number as plain digits: `5`, `-0.25`. No exponent, no zeros at the
/// end of a fraction, no negative zero; or else `NaN`, `Infinity`, `-Infinity`.
pub fn write(value: Value<'_>, out: &mut Vec<u8>) -> Result<()> {
    let whole = || Malformed("a value as long as its type");
    match value.tag {
        tag::DOUBLE => write_double(value.double().ok_or_else(whole)?, out),
        tag::DECIMAL128 => write_decimal(value.decimal().ok_or_else(whole)?, out),
        _ => put(out, format_args!("{}", value.integer().ok_or_else(whole)?)),
    }
    Ok(())
}

/// A double is a whole number times a power of two, so it has as many digits
/// after the point as that power says, and all of them count.
fn write_double(number: f64, out: &mut Vec<u8>) {
    const FRACTION_BITS: i32 = 52;
    const BIAS: i32 = 1023;
    if let Some(name) = name(number.is_nan(), number.is_infinite(), number < 0.0) {
        return out.extend_from_slice(name);
    }
    if number == 0.0 {
        return out.push(b'0');
    }
    let bits = number.to_bits();
    let fraction = bits & ((1 << FRACTION_BITS) - 1);
    let (digits, exponent) = match (bits >> FRACTION_BITS) as i32 & 0x7ff {
        0 => (fraction, 1 - BIAS - FRACTION_BITS),
        biased => (fraction | 1 << FRACTION_BITS, biased - BIAS - FRACTION_BITS),
    };
    let places = -(exponent + digits.trailing_zeros() as i32);
    put(out, format_args!("{number:.*}", places.max(0) as usize));
}

fn write_decimal(bytes: [u8; 16], out: &mut Vec<u8>) {
    let Some((digits, exponent, _)) = decimal_parts(bytes) else {
        // Infinity has the lower one of the two highest exponents.
        let infinite = bytes[15] & 0x7c == 0x78;
        let name = name(!infinite, infinite, bytes[15] & 0x80 != 0);
        return out.extend_from_slice(name.unwrap_or_default());
    };
    if digits == 0 {
        return out.push(b'0');
    }
    if digits < 0 {
        out.push(b'-');
    }
    let (mut digits, mut exponent) = (digits.unsigned_abs(), exponent);
    while exponent < 0 && digits % 10 == 0 {
        digits /= 10;
        exponent += 1;
    }
    if exponent >= 0 {
        put(out, format_args!("{digits}"));
        return out.resize(out.len() + exponent as usize, b'0');
    }
    let places = exponent.unsigned_abs() as usize;
    let digits = format!("{digits:0>width$}", width = places + 1);
    let (whole, fraction) = digits.split_at(digits.len() - places);
    put(out, format_args!("{whole}.{fraction}"));
}

fn name(nan: bool, infinite: bool, negative: bool) -> Option<&'static [u8]> {
    match (nan, infinite, negative) {
        (true, ..) => Some(b"NaN"),
        (_, true, false) => Some(b"Infinity"),
        (_, true, true) => Some(b"-Infinity"),
        _ => None,
    }
}

fn put(out: &mut Vec<u8>, text: std::fmt::Arguments<'_>) {
    // Writing to memory does not fail.
    let _ = out.write_fmt(text);
}
