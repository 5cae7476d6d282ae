use super::*;

fn rows(list: &[(&str, &str)]) -> Vec<Vec<Option<String>>> {
    let cell = |text: &str| Some(text.to_owned());
    list.iter().map(|(code, text)| vec![cell(code), cell(text)]).collect()
}

/// ASCII, and some codes more.
fn charsets(name: &str, list: &[(&str, &str)]) -> Charsets {
    let ascii: Vec<String> = (0..128).map(|byte| format!("{byte:02X}")).collect();
    let mut all: Vec<(&str, &str)> = ascii.iter().map(|code| (code.as_str(), code.as_str())).collect();
    all.extend(list);
    let mut charsets = Charsets::default();
    charsets.load(name, &rows(&all)).expect("rows as the server sends them");
    charsets
}

fn check(charsets: &Charsets, name: &str, bytes: &[u8], expect: &str) {
    assert_eq!(charsets.decode(name, bytes).as_deref(), Ok(expect), "{name} {bytes:x?}");
}

#[test]
fn unicode_charsets_need_no_table() {
    let none = Charsets::default();
    for name in [
        "utf8", "utf8mb3", "utf8mb4", "binary", "ascii", "ucs2", "utf16", "utf16le", "utf32",
    ] {
        assert_eq!(Charsets::query(name), Ok(None));
        assert!(none.has(name));
        check(&none, name, b"", "");
    }
    check(&none, "utf8mb4", "a\u{1f600}".as_bytes(), "a\u{1f600}");
    check(&none, "utf8mb4", b"a\xe2\x82b", "a??b");
    check(&none, "ascii", b"a\xc3\xa9", "a??");
    check(&none, "ucs2", b"\x00a\x20\xac\xd8\x3d\x00", "a€??");
    check(&none, "utf16", b"\x00a\xd8\x3d\xde\x00\xde\x00", "a\u{1f600}?");
    check(&none, "utf16le", b"a\x00\x3d\xd8\x00\xde\x3d", "a\u{1f600}?");
    check(
        &none,
        "utf32",
        b"\x00\x00\x00a\x00\x01\xf6\x00\x00\x11\x00\x00",
        "a\u{1f600}?",
    );
}

#[test]
fn codes_of_one_byte_are_decoded() {
    let charsets = charsets("latin1", &[("80", "E282AC"), ("E9", "C3A9")]);
    assert!(matches!(
        charsets.decode("latin1", b"plain"),
        Ok(Cow::Borrowed("plain"))
    ));
    check(&charsets, "latin1", b"a\x80\xe9\xff", "a€é?");
}

#[test]
fn codes_of_two_and_three_bytes_are_decoded() {
    let charsets = charsets(
        "ujis",
        &[
            ("8EB1", "EFBDB1"),
            ("A4A2", "E38182"),
            ("A4F4", "3F"),
            ("8FB0A1", "E4B882"),
        ],
    );
    check(&charsets, "ujis", b"\x8e\xb1a\xa4\xa2\x8f\xb0\xa1", "\u{ff71}aあ丂");
    // No code: one byte; a code for nothing: all of it.
    check(&charsets, "ujis", b"\xa4a\xa4\xf4\x8f\xb0", "?a???");
}

#[test]
fn charset_without_ascii_is_not_taken_for_it() {
    let mut charsets = Charsets::default();
    charsets
        .load("swe7", &rows(&[("41", "41"), ("5B", "C384")]))
        .expect("rows");
    check(&charsets, "swe7", b"A[", "AÄ");
}

#[test]
fn a_charset_is_known_after_its_rows() {
    let none = Charsets::default();
    let some = charsets("latin2", &[]);
    assert!(!none.has("latin2") && some.has("latin2"));
    assert!(none.decode("latin2", b"a").is_err());
    assert!(some.decode("latin1", b"a").is_err());
    let sql = Charsets::query("latin2").expect("a charset").expect("needs a table");
    assert!(sql.contains("USING latin2)"));
}

#[test]
fn names_that_are_no_charset_are_refused() {
    for name in ["", "Latin1", "latin1)", "gb18030"] {
        assert!(Charsets::query(name).is_err(), "{name}");
    }
}

#[test]
fn rows_that_are_no_codes_are_refused() {
    let mut charsets = Charsets::default();
    let bad: [&[(&str, &str)]; 6] = [
        &[],
        &[("41", "4142")],
        &[("41", "")],
        &[("4", "41")],
        &[("41", "FF")],
        &[("41424344", "41")],
    ];
    for list in bad {
        assert!(charsets.load("latin1", &rows(list)).is_err());
    }
    assert!(charsets.load("latin1", &[vec![Some("41".to_owned()), None]]).is_err());
    assert!(!charsets.has("latin1"));
}
