//! Integers, bits and decimals.

use super::DecodeError;

/// A little-endian integer of 1 to 8 bytes.
#[inline]
pub fn integer(bytes: &[u8], unsigned: bool) -> Result<i128, DecodeError> {
    let mut wide = [0; 8];
    let len = bytes.len();
    if len == 0 || len > 8 {
        return Err(DecodeError::new(format!(
            "expected an integer of 1 to 8 bytes, found {len}"
        )));
    }
    wide[..len].copy_from_slice(bytes);
    let value = u64::from_le_bytes(wide);
    Ok(if unsigned {
        i128::from(value)
    } else {
        let unused = 64 - 8 * len as u32;
        i128::from((value << unused) as i64 >> unused)
    })
}

/// BIT, big-endian.
pub fn bits(bytes: &[u8]) -> Result<u64, DecodeError> {
    if bytes.len() > 8 {
        return Err(DecodeError::new(format!(
            "expected at most 8 bytes of bits, found {}",
            bytes.len()
        )));
    }
    Ok(bytes.iter().fold(0, |value, byte| value << 8 | u64::from(*byte)))
}

/// Calls `digits` for each group of a packed decimal: its value and how many
/// digits it has. Returns the sign. The whole part's first group comes first.
/// Spec: MySQL source, `strings/decimal.cc`, `decimal2bin`.
pub fn packed_decimal(
    bytes: &[u8],
    precision: u8,
    scale: u8,
    mut digits: impl FnMut(u32, u8),
) -> Result<bool, DecodeError> {
    const BYTES: [usize; 10] = [0, 1, 1, 2, 2, 3, 3, 4, 4, 4];
    let malformed = || DecodeError::new("expected a packed decimal of its column's size");
    let (whole, fraction) = (precision - scale, scale);
    let first = *bytes.first().ok_or_else(malformed)?;
    let negative = first & 0x80 == 0;
    let mut rest = bytes;
    let mut is_first = true;
    let mut group = |count: u8, digits: &mut dyn FnMut(u32, u8)| -> Result<(), DecodeError> {
        let size = BYTES[usize::from(count)];
        if size == 0 {
            return Ok(());
        }
        let (own, after) = rest.split_at_checked(size).ok_or_else(malformed)?;
        rest = after;
        let mut value: u32 = 0;
        for (place, byte) in own.iter().enumerate() {
            let mut byte = *byte;
            if is_first && place == 0 {
                byte ^= 0x80;
            }
            if negative {
                byte = !byte;
            }
            value = value << 8 | u32::from(byte);
        }
        is_first = false;
        if value >= 10_u32.pow(u32::from(count)) {
            return Err(DecodeError::new(
                "expected decimal digits, found a group that is too large",
            ));
        }
        digits(value, count);
        Ok(())
    };
    group(whole % 9, &mut digits)?;
    for _ in 0..whole / 9 {
        group(9, &mut digits)?;
    }
    for _ in 0..fraction / 9 {
        group(9, &mut digits)?;
    }
    group(fraction % 9, &mut digits)?;
    if !rest.is_empty() {
        return Err(malformed());
    }
    Ok(negative)
}

/// A packed decimal of at most 38 digits, as the integer of all its digits.
pub fn packed_to_integer(bytes: &[u8], precision: u8, scale: u8) -> Result<i128, DecodeError> {
    let mut value: i128 = 0;
    let negative = packed_decimal(bytes, precision, scale, |group, count| {
        // At most 38 digits, which fit.
        value = value
            .wrapping_mul(10_i128.pow(u32::from(count)))
            .wrapping_add(i128::from(group));
    })?;
    Ok(if negative { -value } else { value })
}

/// A packed decimal as the server prints it.
pub fn packed_to_text(bytes: &[u8], precision: u8, scale: u8, out: &mut String) -> Result<(), DecodeError> {
    use std::fmt::Write;
    let mut digits = String::new();
    let negative = packed_decimal(bytes, precision, scale, |group, count| {
        // Writing to a string does not fail.
        let _ = write!(digits, "{group:0width$}", width = usize::from(count));
    })?;
    let (whole, fraction) = digits.split_at(digits.len() - usize::from(scale));
    let whole = whole.trim_start_matches('0');
    if negative {
        out.push('-');
    }
    out.push_str(if whole.is_empty() { "0" } else { whole });
    if scale > 0 {
        out.push('.');
        out.push_str(fraction);
    }
    Ok(())
}

/// A decimal in text without the zeros that ZEROFILL puts before it.
pub fn without_fill(text: &[u8]) -> &[u8] {
    let zeros = text.iter().take_while(|byte| **byte == b'0').count();
    match text.get(zeros) {
        Some(b'1'..=b'9') => &text[zeros..],
        _ => &text[zeros.saturating_sub(1)..],
    }
}

/// A decimal in text, with exactly `scale` digits after its point, as the
/// integer of all its digits.
pub fn text_to_integer(bytes: &[u8], scale: u8) -> Result<i128, DecodeError> {
    let malformed = || DecodeError::new("expected a decimal in text");
    let (negative, digits) = match bytes {
        [b'-', rest @ ..] => (true, rest),
        rest => (false, rest),
    };
    let (mut value, mut count, mut after) = (0_i128, 0, None);
    for byte in digits {
        match byte {
            b'0'..=b'9' => {
                let grown = value
                    .checked_mul(10)
                    .and_then(|v| v.checked_add(i128::from(byte - b'0')));
                value = grown.ok_or_else(malformed)?;
                count += 1;
                after = after.map(|n: u8| n.saturating_add(1));
            }
            b'.' if after.is_none() => after = Some(0),
            _ => return Err(malformed()),
        }
    }
    if count == 0 || after.unwrap_or(0) != scale {
        return Err(malformed());
    }
    Ok(if negative { -value } else { value })
}
