"""Every type of MySQL and MariaDB with its edge values: a line per column, a value per row; a last row of NULLs.

    mysql_types.py SOURCE snapshot   creates the tables; fills types_snapshot, to be copied, and the rows of
                                     types_updated, which are all NULL
    mysql_types.py SOURCE stream     fills types_stream and updates types_updated, so that all three are equal
    mysql_types.py SOURCE equal      fails if they are not
    mysql_types.py SOURCE keys       a table for each type that can be a key, with four rows
    mysql_types.py SOURCE keys-stream   inserts, updates, deletes, changes and reuses keys there

Values are in SQL. Charsets have tables of their own: `charsets_…`, with what each of them can say. gb18030 is not replicated.
"""

import sys

import mysql

MYSQL, MARIADB = {"mysql"}, {"mariadb"}
BOTH = MYSQL | MARIADB


def texts(*values):
    return [f"_utf8mb4'{v}'" for v in values]


def signed(bits):
    return [f"{-(2 ** (bits - 1))}", f"{2 ** (bits - 1) - 1}", "0", "-1"]


def unsigned(bits):
    return ["0", f"{2**bits - 1}", f"{2 ** (bits - 1)}"]


INTEGERS = {"tinyint": 8, "smallint": 16, "mediumint": 24, "int": 32, "bigint": 64}
SAMPLES = texts("", "abc", " a ", "a  ", "żółw 漢字 😀", "tab\\tnewline\\nreturn\\r", "\\\\ \\' \" , ; `", "a\\0b")
LATIN = texts("", "abc", "  a", "éÜß", "x\\0y")
ENUM = """'a', 'it\\'s, "fine"', 'ü', '', 'A c'"""
ENUM_MANY = ", ".join(f"'v{i}'" for i in range(300))
SET_64 = ", ".join(f"'s{i}'" for i in range(64))
POINT = "ST_GeomFromText('POINT(1.5 -2)')"
GEOMETRIES = {
    "point": [POINT, "ST_GeomFromText('POINT(-0.1 1e300)')"],
    "linestring": ["ST_GeomFromText('LINESTRING(0 0, 1 1, 2 0.25)')"],
    "polygon": ["ST_GeomFromText('POLYGON((0 0, 10 0, 10 10, 0 10, 0 0), (1 1, 2 1, 2 2, 1 2, 1 1))')"],
    "multipoint": ["ST_GeomFromText('MULTIPOINT(0 0, 1 2)')"],
    "multilinestring": ["ST_GeomFromText('MULTILINESTRING((0 0, 1 1), (2 2, 3 3))')"],
    "multipolygon": ["ST_GeomFromText('MULTIPOLYGON(((0 0, 1 0, 1 1, 0 0)), ((5 5, 6 5, 6 6, 5 5)))')"],
    "geometrycollection": [
        "ST_GeomFromText('GEOMETRYCOLLECTION(POINT(1 1), LINESTRING(0 0, 1 1))')", "ST_GeomFromText('GEOMETRYCOLLECTION EMPTY')",
    ],
}
DATES = ["1000-01-01", "9999-12-31", "1970-01-01", "1969-12-31", "2024-02-29", "0001-01-01", "1582-10-10"]
ODD_DATES = ["0000-00-00", "2024-00-10", "2024-02-00", "2024-00-00"]
TIMES = ["00:00:00", "-838:59:59", "838:59:59", "-00:00:01", "23:59:59", "100:00:01", "-100:30:00"]
JSON = texts(
    "{}", "[]", "null", "true", "false", '"x"', "0", "-1", "1.5", "-0.0", "1e300", "1e-7", "100000000000000000000",
    "18446744073709551615", "-9223372036854775808", "9223372036854775808", "2147483648", "-32769", "65536", "3.0", "1.10",
    ' { "b" : [1, 2.50, null, {"c": "ü😀"}], "a": 1, "aa": "", "": 2 } ', '["\\\\u0000", "\\\\"\\\\\\\\/\\\\b\\\\f\\\\n\\\\r\\\\t", "\\\\u00e9"]',
    '{"k": {"k": {"k": [[[[]]]]}}}',
)
# Values that only the binary form can have, and documents of its large format.
JSON_BINARY = [
    "CAST(1.10 AS JSON)", "CAST(CAST(12345678901234567890.123456789 AS DECIMAL(40,9)) AS JSON)", "CAST(DATE '2024-02-29' AS JSON)",
    "CAST(TIMESTAMP '2024-02-29 12:34:56.123456' AS JSON)", "CAST(TIME '-100:00:01.5' AS JSON)", "CAST(x'00ff10' AS JSON)",
    "JSON_OBJECT('d', 1.10, 't', TIMESTAMP '2024-01-01 00:00:00', 'y', CAST(2024 AS YEAR), 'b', b'101', 'u', CAST(18446744073709551615 AS UNSIGNED))",
    "JSON_ARRAY(1e0, -1e0, 0.1e0, 1e15, 1e16, 1e17, 123456789012345680e0, 1.7976931348623157e308, 5e-324)", "JSON_OBJECT('big', REPEAT('x', 70000), 'n', 1)",
    "(WITH RECURSIVE s (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM s WHERE i < 9000) SELECT JSON_ARRAYAGG(i * 1000) FROM s)",
    "(WITH RECURSIVE s (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM s WHERE i < 5000) SELECT JSON_OBJECTAGG(CONCAT('key', i), CAST(SHA2(i, 256) AS CHAR)) FROM s)",
    "JSON_QUOTE(REPEAT('ü', 20000))",
]


def fraction(values, digits, of="."):
    """Times and moments with `digits` of a second's fraction."""
    ends = [f"{of}{'0' * (digits - 1)}1", f"{of}{'9' * digits}", ""] if digits else ["", "", ""]
    return [f"'{v}{ends[i % 3]}'" for i, v in enumerate(values)]


MATRIX = [("bool", "bool", ["0", "1", "-128", "127"], BOTH)]
MATRIX += [(name, name, signed(bits), BOTH) for name, bits in INTEGERS.items()]
MATRIX += [(f"{name}_u", f"{name} unsigned", unsigned(bits), BOTH) for name, bits in INTEGERS.items()]
MATRIX += [
    ("int_zf", "int(9) zerofill", ["0", "42", "4294967295"], BOTH),
    ("decimal_65_30", "decimal(65,30)", ["9" * 35 + "." + "9" * 30, "-" + "9" * 35 + "." + "9" * 30, "0", "0." + "0" * 29 + "1"], BOTH),
    ("decimal_65_0", "decimal(65)", ["9" * 65, "-" + "9" * 65, "0", "-1"], BOTH),
    ("decimal_39_1", "decimal(39,1)", ["9" * 38 + ".9", "-0.1"], BOTH),
    ("decimal_38_0", "decimal(38)", ["9" * 38, "-" + "9" * 38, "0"], BOTH),
    ("decimal_38_10", "decimal(38,10)", ["1234567890123456789012345678.0123456789", "-0.0000000001", "10000", "0.00010002"], BOTH),
    ("decimal_30_30", "decimal(30,30)", ["0." + "9" * 30, "-0." + "9" * 30, "0"], BOTH),
    ("decimal_12_2", "decimal(12,2)", ["9999999999.99", "-9999999999.99", "0.01", "-0.10", "0"], BOTH),
    ("decimal_4_4", "decimal(4,4)", ["0.9999", "-0.9999", "0.0001"], BOTH),
    ("decimal_1_0", "decimal(1)", ["9", "-9", "0"], BOTH),
    ("decimal_u", "decimal(9,3) unsigned", ["999999.999", "0.001"], BOTH),
    ("decimal_zf", "decimal(9,3) zerofill", ["1.5", "0"], BOTH),
    ("float", "float", ["3.4028234e38", "-3.4028234e38", "1e-45", "'-0'", "0.1", "16777217", "1.17549435e-38", "123456.789"], BOTH),
    ("double", "double", ["1.7976931348623157e308", "-1.7976931348623157e308", "5e-324", "'-0'", "0.1", "1e15", "123456789.12345679"], BOTH),
    ("float_u", "float unsigned", ["0", "0.3"], BOTH),
    ("float_7_3", "float(7,3)", ["1234.567", "-0.001"], BOTH),
    ("double_zf", "double zerofill", ["1.5", "0"], BOTH),
    ("bit_1", "bit(1)", ["b'0'", "b'1'"], BOTH),
    ("bit_7", "bit(7)", ["b'0'", "b'1111111'", "b'1010101'"], BOTH),
    ("bit_9", "bit(9)", ["0", "511", "256", "1"], BOTH),
    ("bit_63", "bit(63)", ["0", "9223372036854775807", "1"], BOTH),
    ("bit_64", "bit(64)", ["0", "18446744073709551615", "9223372036854775808"], BOTH),
    ("year", "year", ["'0000'", "1901", "2155", "2024"], BOTH),
    ("date", "date", [f"'{d}'" for d in DATES + ODD_DATES], BOTH),
]
MOMENTS = ["1000-01-01 00:00:00", "9999-12-31 23:59:59", "1970-01-01 00:00:00", "1969-12-31 23:59:59", "2024-02-29 12:34:56", "0001-01-01 00:00:00"]
STAMPS = ["1970-01-01 00:00:01", "2038-01-19 03:14:07", "2024-02-29 12:34:56"]
for n in range(7):
    size = f"({n})" if n else ""
    moments = fraction(MOMENTS, n) + [f"'{d} 00:00:00'" for d in ODD_DATES] + ["'2024-00-10 12:34:56.5'"]
    if n == 6:
        moments.append("'9999-12-31 23:59:59.999999'")
    MATRIX += [
        (f"datetime_{n}", f"datetime{size}", moments, BOTH),
        (f"timestamp_{n}", f"timestamp{size} NULL", fraction(STAMPS, n) + ["'0000-00-00 00:00:00'"], BOTH),
        (f"time_{n}", f"time{size}", [v for v in fraction(TIMES, n) if not v.startswith(("'838", "'-838")) or v.endswith("59'")] + [f"'-00:00:00{'.' + '0' * (n - 1) + '1' if n else ''}'"], BOTH),
    ]
MATRIX += [
    ("char_5", "char(5)", SAMPLES[:4] + texts("żółw😀", "   "), BOTH),
    ("char_255", "char(255)", SAMPLES, BOTH),
    ("char_0", "char(0)", ["''"], BOTH),
    ("varchar_20", "varchar(20)", SAMPLES[:6], BOTH),
    ("varchar_500", "varchar(500)", [*SAMPLES, "REPEAT('ü', 500)"], BOTH),
    ("tinytext", "tinytext", SAMPLES, BOTH),
    ("text", "text", [*SAMPLES, "REPEAT('漢', 20000)"], BOTH),
    ("mediumtext", "mediumtext", [*SAMPLES, "REPEAT('x', 1048576)"], BOTH),
    ("longtext", "longtext", SAMPLES, BOTH),
    ("binary_5", "binary(5)", ["''", "x'00'", "x'0102'", "x'0000000000'", "x'ff00ff0000'", "x'2020202020'"], BOTH),
    ("varbinary_9", "varbinary(9)", ["''", "x'00'", "x'010200'", "x'20'", "x'ff00ff'"], BOTH),
    ("varbinary_400", "varbinary(400)", ["''", "REPEAT(x'00', 300)"], BOTH),
    ("tinyblob", "tinyblob", ["''", "x'00ff'"], BOTH),
    ("blob_", "blob", ["''", "x'00ff'", "x'5c6e'"], BOTH),
    ("mediumblob", "mediumblob", ["''", "REPEAT(x'00ff10', 100000)"], BOTH),
    ("longblob", "longblob", ["''", "x'00'"], BOTH),
    ("enum_", f"enum({ENUM})", ["1", "2", "3", "4", "5", "0"], BOTH),
    ("enum_many", f"enum({ENUM_MANY})", ["1", "300", "256", "0"], BOTH),
    ("enum_latin1", "enum('é', 'ß', 'b') CHARACTER SET latin1", ["1", "2", "3"], BOTH),
    ("set_", "set('a', 'b', 'ü', 'd e')", ["''", "'a'", "'a,b'", "15", "'d e,ü'"], BOTH),
    ("set_64", f"set({SET_64})", ["0", "1", "18446744073709551615", "9223372036854775808"], BOTH),
    ("set_latin1", "set('é', 'ß') CHARACTER SET latin1", ["0", "3", "2"], BOTH),
    ("json_", "json", JSON, BOTH),
    ("json_binary", "json", JSON_BINARY, MYSQL),
    ("uuid_", "uuid", ["'00000000-0000-0000-0000-000000000000'", "'ffffffff-ffff-ffff-ffff-ffffffffffff'", "'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'", "'123e4567-e89b-12d3-a456-426655440000'"], MARIADB),
    ("inet6_", "inet6", ["'::'", "'::1'", "'2001:db8::ff00:42:8329'", "'::ffff:1.2.3.4'", "'ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff'", "'::1.2.3.4'"], MARIADB),
    ("inet4_", "inet4", ["'0.0.0.0'", "'255.255.255.255'", "'10.1.2.3'"], MARIADB),
    ("vector_3", "vector(3)", ["TO_VECTOR('[1,2,3]')", "TO_VECTOR('[-0.1,1e-30,3.4e38]')"], MYSQL),
    ("geometry_", "geometry", [POINT, *(v[0] for v in GEOMETRIES.values()), "ST_GeomFromText('POINT(50 10)', 4326)"], BOTH),
]
MATRIX += [(f"{name}_", name, values, BOTH) for name, values in GEOMETRIES.items()]

# The characters that most charsets have in common with something.
REPERTOIRE = (
    "ASCII ~!@#$%^&*()_+ ÀÉÎÕÜàéîõüßñçøåÆœ€£¥§¶ Żółćęąśźń Čšžřěďťň АБВГДЯабвгдяёЁїЄ ΑΒΓΔΩαβγδω אבגדת ابتث ไทยกขค "
    "漢字中文国語繁體龍龜 ひらがなカタカナ ｱｲｳ 한글조선 ①②③ ─│┌┐ ←↑→↓ ∑√∞≠≤≥ ♥♦♣♠ ՀայերենԱԲ ქართული"
)

# Words that the catalogue has with question marks: only the log can tell them, if binlog_row_metadata is FULL.
WIDE = [
    ("enum_wide", "enum('a', 'ü😀', '?')", ["1", "2", "3"], BOTH),
    ("set_wide", "set('😀', 'b?', '??')", ["7", "1", "6"], BOTH),
]


def columns_of(kind):
    return [(name, type_, values) for name, type_, values, kinds in MATRIX if kind in kinds]


def create(connection, kind):
    columns = ", ".join(f"{mysql.quote(name)} {type_}" for name, type_, _ in columns_of(kind))
    for table in ("types_snapshot", "types_stream", "types_updated"):
        connection.execute(f"CREATE TABLE {table} (id int PRIMARY KEY, {columns}) CHARACTER SET utf8mb4")
    charsets = connection.execute("SELECT character_set_name, maxlen FROM information_schema.character_sets WHERE character_set_name <> 'gb18030' ORDER BY 1").fetchall()
    for charset, width in charsets:
        for table in ("snapshot", "stream"):
            connection.execute(
                f"CREATE TABLE charsets_{charset}_{table} (id int PRIMARY KEY, v varchar(300), c char(10), t mediumtext, e enum('a', 'b'))"
                f" CHARACTER SET {charset}"
            )
        fill_charset(connection, f"charsets_{charset}_snapshot", charset, int(width))


def fill_charset(connection, table, charset, width):
    if charset == "binary":
        connection.execute(f"INSERT INTO {table} VALUES (1, x'{bytes(range(256)).hex()}', x'00ff', x'ff00', 'a')")
        return
    # A byte that is no character of its charset is refused or cut off; what stays is what counts.
    if width == 1:
        for row in range(16):
            part = bytes(range(16 * row, 16 * row + 16)).hex()
            connection.execute(f"INSERT INTO {table} VALUES ({row}, _{charset} x'{part}', _{charset} x'{part[:16]}', _{charset} x'{part}', 'b')")
    connection.execute(f"INSERT INTO {table} SELECT 100, _utf8mb4 %s, LEFT(_utf8mb4 %s, 10), REPEAT(_utf8mb4 %s, 300), 'a'", [REPERTOIRE[:300]] * 3)
    for row, (first, last) in enumerate([(0x80, 0x600), (0xE00, 0xE80), (0x10A0, 0x1100), (0x2000, 0x2700), (0x3000, 0x3400), (0x4E00, 0x9FA6), (0xAC00, 0xD7A4), (0xFF00, 0xFFE7), (0x1F300, 0x1F700)]):
        text = "".join(map(chr, range(first, last)))
        connection.execute(f"INSERT INTO {table} (id, t) VALUES ({200 + row}, _utf8mb4 %s)", [text])
    connection.execute(f"INSERT INTO {table} (id) VALUES (300)")


def rows(kind):
    """Each row as name → SQL."""
    columns = columns_of(kind)
    for i in range(max(len(values) for _, _, values in columns) + 1):
        yield {name: values[i] if i < len(values) else "NULL" for name, _, values in columns}


def insert(connection, table, kind):
    for i, row in enumerate(rows(kind), 1):
        connection.execute(f"INSERT INTO {table} VALUES ({i}, {', '.join(row.values())})")


def stream(connection, kind):
    insert(connection, "types_stream", kind)
    for i, row in enumerate(rows(kind), 1):
        assignments = ", ".join(f"{mysql.quote(name)} = {value}" for name, value in row.items())
        connection.execute(f"UPDATE types_updated SET {assignments} WHERE id = {i}")
    # Most columns stay as they are: with row images that are not full, they are in no image.
    for _ in range(2):
        connection.execute("UPDATE types_updated SET bool = 1 - bool")
    for (table,) in connection.execute("SHOW TABLES LIKE 'charsets%%snapshot'").fetchall():
        connection.execute(f"INSERT INTO {table.replace('_snapshot', '_stream')} SELECT * FROM {table}")


def assert_equal(connection, kind):
    # Updated twice, a bool of -128 or 127 is what it can be.
    names = [mysql.quote(name) for name, _, _ in columns_of(kind) if name != "bool"]
    # A virtual comparison by bytes of what is printed: floats as doubles, geometries as stored.
    for table in ("types_stream", "types_updated"):
        for name in names:
            ((count,),) = connection.execute(
                f"SELECT count(*) FROM types_snapshot s JOIN {table} t USING (id) WHERE NOT (CAST(s.{name} AS BINARY) <=> CAST(t.{name} AS BINARY))"
            ).fetchall()
            assert count == "0", f"{table}.{name} is not what it is meant to be in {count} rows"


KEYS = {
    "tinyint": ["-128", "127", "0", "1", "2", "3", "4"],
    "int": ["-2147483648", "2147483647", "0", "1", "2", "3", "4"],
    "int unsigned": ["0", "4294967295", "5", "1", "2", "3", "4"],
    "bigint": ["-9223372036854775808", "9223372036854775807", "0", "1", "2", "3", "4"],
    "bigint unsigned": ["0", "18446744073709551615", "9223372036854775808", "1", "2", "3", "4"],
    "decimal(10,2)": ["1.10", "-1.10", "0", "99999999.99", "2", "3", "4"],
    "decimal(60,5)": ["1.1", "-1.1", "0", "9" * 55, "2", "3", "4"],
    "float": ["0", "-1024", "0.125", "1.5", "2", "3", "4"],
    "double": ["0", "-1e300", "0.125", "1.5", "2", "3", "4"],
    "char(9)": texts("", "a", "b", "ü😀", " a", "c", "d"),
    "varchar(300)": [*texts("", "a", "b", "ü😀", " a", "c"), "REPEAT('k', 300)"],
    "varchar(30) CHARACTER SET latin1 COLLATE latin1_bin": texts("", "a", "A", "ü", " a", "é", "d"),
    "varchar(30) COLLATE utf8mb4_bin": texts("", "a", "A", "ü", " a", "á", "d"),
    "binary(4)": ["x'00000000'", "x'00010000'", "x'ff000000'", "x'01000000'", "x'02000001'", "x'20202020'", "x'03002000'"],
    "varbinary(40)": ["''", "x'00'", "x'0000'", "x'ff'", "x'01'", "x'20'", "x'02'"],
    "date": ["'1000-01-01'", "'9999-12-31'", "'1970-01-01'", "'2024-02-29'", "'2024-03-01'", "'2024-03-02'", "'2024-03-03'"],
    "datetime(6)": ["'1000-01-01'", "'9999-12-31 23:59:59.999999'", "'1969-12-31 23:59:59.999999'", "'2024-01-01'", "'2024-01-02'", "'2024-01-03'", "'2024-01-04'"],
    "timestamp(3)": ["'1970-01-01 00:00:01.001'", "'2038-01-19 03:14:07.999'", "'2024-01-05'", "'2024-01-01'", "'2024-01-02'", "'2024-01-03'", "'2024-01-04'"],
    "time(2)": ["'-838:59:59'", "'838:59:59'", "'00:00:00'", "'-00:00:00.01'", "'1:00'", "'2:00'", "'3:00'"],
    "year": ["'0000'", "1901", "2155", "2001", "2002", "2003", "2004"],
    "bit(12)": ["0", "4095", "5", "1", "2", "3", "4"],
    "enum('a','b','c','d','e','f','g')": ["1", "2", "3", "4", "5", "6", "7"],
    "set('a','b','c')": ["0", "1", "2", "3", "4", "5", "7"],
}
KEYS_MARIADB = {
    "uuid": [f"'{i:08x}-0000-0000-0000-00000000000{i}'" for i in range(1, 8)],
    "inet6": [f"'2001:db8::{i}'" for i in range(1, 8)],
}


def keys(kind):
    found = KEYS | (KEYS_MARIADB if kind == "mariadb" else {})
    return [(f"key_{i:02}", type_, values) for i, (type_, values) in enumerate(found.items())]


def create_keys(connection, kind):
    for table, type_, values in keys(kind):
        connection.execute(f"CREATE TABLE {table} (k {type_} NOT NULL PRIMARY KEY, v int, big mediumtext)")
        connection.execute(f"CREATE TABLE {table}_two (a varchar(10) NOT NULL, k {type_} NOT NULL, v int, PRIMARY KEY (k, a))")
        for i, value in enumerate(values[:4]):
            connection.execute(f"INSERT INTO {table} VALUES ({value}, {i}, REPEAT('{i}', 3000))")
            connection.execute(f"INSERT INTO {table}_two VALUES ({i % 2}, {value}, {i})")


def change_keys(connection, kind):
    for table, _, v in keys(kind):
        for statement in f"""
            UPDATE {table} SET v = v + 10; INSERT INTO {table} VALUES ({v[4]}, 4, 'x'), ({v[5]}, 5, NULL);
            UPDATE {table} SET k = {v[6]} WHERE k = {v[3]}; DELETE FROM {table} WHERE k = {v[1]};
            UPDATE {table} SET k = {v[3]} WHERE k = {v[4]}; BEGIN; DELETE FROM {table} WHERE k = {v[2]};
            INSERT INTO {table} VALUES ({v[2]}, 22, 'again'); UPDATE {table} SET k = {v[1]} WHERE k = {v[2]}; COMMIT;
            UPDATE {table}_two SET v = v + 1, a = 'x' WHERE k = {v[0]}; UPDATE {table}_two SET k = {v[5]} WHERE k = {v[1]};
            DELETE FROM {table}_two WHERE k = {v[2]}; INSERT INTO {table}_two VALUES ('y', {v[0]}, 7)
        """.split(";"):
            connection.execute(statement.strip())


def main():
    source, stage = sys.argv[1:]
    connection = mysql.connect(source)
    kind = source.split(":")[0]
    connection.execute("SET SESSION sql_mode = 'NO_ENGINE_SUBSTITUTION'")
    if connection.execute("SELECT @@binlog_row_metadata").fetchall() == [("FULL",)]:
        MATRIX.extend(WIDE)
    match stage:
        case "snapshot":
            create(connection, kind)
            insert(connection, "types_snapshot", kind)
            connection.execute("INSERT INTO types_updated (id) SELECT id FROM types_snapshot")
        case "stream":
            stream(connection, kind)
        case "equal":
            assert_equal(connection, kind)
        case "keys":
            create_keys(connection, kind)
        case "keys-stream":
            change_keys(connection, kind)
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main()
