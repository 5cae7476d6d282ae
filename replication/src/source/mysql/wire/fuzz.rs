//! What a connection decodes: packets, and what is in them.

use bytes::BufMut;

use super::auth::{Channel, Login, Method};
use super::failure::Failure;
use super::frames::Frames;
use super::packet::{Column, Greeting, Reader, prepared, text_row};
use super::row::columns;
use super::{Endpoint, cells};
use crate::config::SourceConfig;

pub fn endpoint(config: &SourceConfig) {
    let _ = Endpoint::new(config);
}

/// What to take it for, then a packet.
pub fn packet(bytes: &[u8]) {
    let Some((kind, packet)) = bytes.split_first() else {
        return;
    };
    match kind % 8 {
        0 => drop(Greeting::parse(packet)),
        1 => drop(Column::parse(packet)),
        2 => drop(prepared(packet)),
        3 => {
            if let Some((columns, row)) = packet.split_first() {
                let found = text_row(row, usize::from(*columns));
                assert!(found.is_none_or(|row| row.len() == usize::from(*columns)));
            }
        }
        4 => {
            if let Some(failure) = Failure::parse(packet) {
                let _ = failure.into_error("h:3306").to_string();
            }
        }
        5 => answer(packet),
        6 => binary_row(packet),
        _ => stream(packet),
    }
}

/// A method, its nonce, and what the server says next.
fn answer(packet: &[u8]) {
    let names = [
        "mysql_native_password",
        "caching_sha2_password",
        "sha256_password",
        "mysql_clear_password",
        "client_ed25519",
        "parsec",
    ];
    let mut reader = Reader(packet);
    let (Some(number), Some(channel)) = (reader.u8(), reader.u8()) else {
        return;
    };
    let Some(method) = Method::from_name(names[usize::from(number) % names.len()]) else {
        return;
    };
    let channel = if channel & 1 == 0 {
        Channel::Plain
    } else {
        Channel::Private
    };
    let nonce = reader.until_nul().to_vec();
    // Each round doubles the work of PBKDF2: what servers ask for is below 10.
    if method == Method::Parsec && reader.0.get(1).is_some_and(|rounds| *rounds > 3) {
        return;
    }
    let login = Login::new(b"secret", channel, method, nonce);
    let _ = (login.first(), login.next(reader.0));
}

/// How many columns, their types, and a row of the binary protocol.
fn binary_row(packet: &[u8]) {
    let mut reader = Reader(packet);
    let kinds = reader.u8().and_then(|count| reader.bytes(usize::from(count) % 20));
    let columns = columns(kinds.unwrap_or_default());
    assert_eq!(cells(&columns, reader.0).count(), columns.len());
}

/// Bytes as they come from a socket.
fn stream(bytes: &[u8]) {
    let mut frames = Frames::new();
    for part in bytes.chunks(7) {
        frames.room().put_slice(part);
        while let Ok(Some(frame)) = frames.whole() {
            assert_eq!(frames.payload(frame).len(), frame.payload_len());
            let _ = frames.sequence();
            frames.consume(frame);
        }
    }
    let _ = frames.is_empty();
}

pub fn packets() -> Vec<Vec<u8>> {
    let packets: [&[u8]; 9] = [
        b"\x00\x0a5.5.5-10.11.6-MariaDB-log\0\x05\0\0\0ABCDEFGH\0\xfe\xf7\x2d\x02\0\xff\x81\x15\
            \0\0\0\0\0\0\x1d\0\0\0ABCDEFGHIJKL\0mysql_native_password\0",
        b"\x01\x03def\x01s\x01t\x01t\x04name\x04name\x0c\x2d\0\x40\0\0\0\xfd\x21\0\x00\0\0",
        b"\x02\0\x01\0\0\0\x02\0\x03\0\0\0\0",
        b"\x03\x03\x01a\xfb\x02bc",
        b"\x04\xff\x15\x04#28000Access denied",
        b"\x05\x01\x00ABCDEFGHIJKLMNOPQRST\0\x04",
        b"\x05\x05\x00ABCDEFGHIJKLMNOPQRST\0P\x00ABCDEFGHIJKLMNOPQR",
        b"\x06\x03\x03\xfd\x0a\0\0\x01\0\0\0\x02ab\x04\xe8\x07\x01\x02",
        b"\x07\x03\0\0\0abc\x01\0\0\x01d",
    ];
    packets.map(<[u8]>::to_vec).to_vec()
}
