//! The statements and what became of them are those of a MySQL 9.7 and a
//! MariaDB 10.11, which ran them.

use super::*;

fn my() -> Session {
    Session {
        flavor: Flavor::MySql,
        version: 90_704,
        sql_mode: mode::STRICT_TRANS_TABLES,
        explicit_timestamps: Some(true),
        fold_names: false,
    }
}

fn maria() -> Session {
    Session {
        flavor: Flavor::MariaDb,
        version: 101_119,
        explicit_timestamps: None,
        ..my()
    }
}

fn both() -> [Session; 2] {
    [my(), maria()]
}

/// Columns as `name type`, one a line; `!` after the name is NOT NULL. Text
/// without another charset is in utf8mb4.
fn table(columns: &str, key_name: &str, key: &[i32], session: &Session) -> Table {
    let column = |(at, line): (usize, &str)| {
        let (name, ty) = line.split_once(' ').expect("type");
        let (ty, charset) = ty.split_once(" charset ").unwrap_or((ty, "utf8mb4"));
        let implied = if ty == "json" && session.flavor == Flavor::MariaDb {
            "longtext"
        } else {
            ty
        };
        let ty = ColumnType::parse(implied, session).expect("known type");
        KnownColumn {
            name: name.trim_end_matches('!').to_owned(),
            column_type: ty.display(session),
            charset: ty.is_text().then(|| charset.to_owned()),
            attribute: at as i32 + 1,
            nullable: !name.ends_with('!'),
            auto_increment: false,
        }
    };
    let columns: Vec<KnownColumn> = columns.lines().map(str::trim).enumerate().map(column).collect();
    Table {
        attribute_max: columns.len() as i32,
        columns,
        key: key.to_vec(),
        key_name: key_name.to_owned(),
        charset: "utf8mb4".into(),
        computed: false,
    }
}

const WIDE: &str = "id! int\ni int\nnn! int\nti tinyint\ntu tinyint unsigned\nsu smallint unsigned\nsi smallint\n\
    iu int unsigned\nb1 tinyint(1)\nv varchar(20)\nvn! varchar(20)\nl varchar(30) charset latin1\n\
    u3 varchar(10) charset utf8mb3\nch char(5)\ntx text\nt3 text charset utf8mb3\ntt tinytext\nbl blob\n\
    bi binary(4)\nvb varbinary(10)\nd decimal(10,2)\ndt datetime\nts timestamp\ntm time\nda date\ny year\nf float\n\
    db double\ne enum('x','y')\ns set('p','q')\nj json\nbt bit(5)\ng point\nn2 int";

const SMALL: &str = "id! int\na int\nb varchar(10)\nc date\nd! int";

fn alter(sql: &str, session: &Session) -> Option<Alter> {
    match parse(sql, "s", session).into_iter().next() {
        Some(Effect::Alter { alter, .. }) => Some(alter),
        _ => None,
    }
}

/// `same`, `copy: why`, or the columns after: a new one with its number, a
/// renamed one as `old>new`.
fn judged(before: &Table, clauses: &str, session: &Session) -> String {
    let Some(alter) = alter(&format!("ALTER TABLE t {clauses}"), session) else {
        return "nothing".into();
    };
    let after = match before.judge(&alter, session) {
        Verdict::Same(_) => return "same".into(),
        Verdict::Copy(reason) => return format!("copy: {reason}"),
        Verdict::Evolve(after) => after,
    };
    let column = |c: &KnownColumn| match before.columns.iter().find(|own| own.attribute == c.attribute) {
        Some(own) if own.name == c.name => c.name.clone(),
        Some(own) => format!("{}>{}", own.name, c.name),
        None => format!("{}:{}", c.name, c.attribute),
    };
    after.columns.iter().map(column).collect::<Vec<_>>().join(" ")
}

/// The kind of verdict on WIDE.
fn check_all(expected: &str, sessions: &[Session], clauses: &[&str]) {
    for session in sessions {
        let before = table(WIDE, "PRIMARY", &[1], session);
        for clauses in clauses {
            let verdict = judged(&before, clauses, session);
            let kind = verdict.split(':').next().unwrap_or_default();
            assert_eq!(kind, expected, "{:?}: {clauses}: {verdict}", session.flavor);
        }
    }
}

/// The effects as words.
fn told(sql: &str, session: &Session) -> String {
    let ids = |ids: Vec<TableId>| ids.iter().map(TableId::to_string).collect::<Vec<_>>().join(",");
    let word = |effect: Effect| match effect {
        Effect::Alter { table, alter } => format!("alter {table} {}", alter.changes.len()),
        Effect::Rename { from, to } => format!("rename {from} {to}"),
        Effect::Truncate { table } => format!("truncate {table}"),
        Effect::Drop { table } => format!("drop {table}"),
        Effect::DropSchema { schema } => format!("drop schema {schema}"),
        Effect::Create { table, unless_exists } if unless_exists => format!("create? {table}"),
        Effect::Create { table, .. } => format!("create {table}"),
        Effect::Unlogged { table } => format!("unlogged {table}"),
        Effect::Unclear { tables, .. } => format!("unclear {}", tables.map_or("any".into(), ids)),
    };
    parse(sql, "s", session)
        .into_iter()
        .map(word)
        .collect::<Vec<_>>()
        .join("; ")
}

#[test]
fn a_column_without_values_evolves_as_the_server_types_it() {
    // The definition, and its COLUMN_TYPE and charset on both; empty if it is
    // unknown there.
    let added = [
        ("INT", "int", "int(11)"),
        ("INT NULL", "int", "int(11)"),
        ("VARCHAR(10) DEFAULT NULL", "varchar(10) utf8mb4", "varchar(10) utf8mb4"),
        ("BOOL", "tinyint(1)", "tinyint(1)"),
        (r#"BOOLEAN COMMENT "it's""#, "tinyint(1)", "tinyint(1)"),
        ("NUMERIC(10)", "decimal(10,0)", "decimal(10,0)"),
        ("DEC", "decimal(10,0)", "decimal(10,0)"),
        ("FIXED(5,1)", "decimal(5,1)", "decimal(5,1)"),
        (
            "DECIMAL(12,3) UNSIGNED",
            "decimal(12,3) unsigned",
            "decimal(12,3) unsigned",
        ),
        ("DOUBLE PRECISION", "double", "double"),
        ("REAL", "double", "double"),
        ("FLOAT(53)", "double", "double"),
        ("FLOAT(20)", "float", "float"),
        ("FLOAT(7,3)", "float(7,3)", "float(7,3)"),
        ("DOUBLE(9,2) UNSIGNED", "double(9,2) unsigned", "double(9,2) unsigned"),
        ("NVARCHAR(10)", "varchar(10) utf8mb3", "varchar(10) utf8mb3"),
        ("NCHAR(3)", "char(3) utf8mb3", "char(3) utf8mb3"),
        ("NATIONAL VARCHAR(4)", "varchar(4) utf8mb3", "varchar(4) utf8mb3"),
        (
            "NATIONAL CHARACTER VARYING(4)",
            "varchar(4) utf8mb3",
            "varchar(4) utf8mb3",
        ),
        ("CHARACTER VARYING(6)", "varchar(6) utf8mb4", "varchar(6) utf8mb4"),
        ("CHAR", "char(1) utf8mb4", "char(1) utf8mb4"),
        ("CHARACTER(3)", "char(3) utf8mb4", "char(3) utf8mb4"),
        ("NCHAR VARYING(7)", "varchar(7) utf8mb3", "varchar(7) utf8mb3"),
        ("LONG", "mediumtext utf8mb4", "mediumtext utf8mb4"),
        ("LONG VARCHAR", "mediumtext utf8mb4", "mediumtext utf8mb4"),
        ("LONG VARBINARY", "mediumblob", "mediumblob"),
        ("INTEGER", "int", "int(11)"),
        ("INT(11) UNSIGNED", "int unsigned", "int(11) unsigned"),
        (
            "INT(5) ZEROFILL",
            "int(5) unsigned zerofill",
            "int(5) unsigned zerofill",
        ),
        ("TINYINT(1)", "tinyint(1)", "tinyint(1)"),
        ("TINYINT(1) UNSIGNED", "tinyint unsigned", "tinyint(1) unsigned"),
        ("INT1", "tinyint", "tinyint(4)"),
        ("INT2 UNSIGNED", "smallint unsigned", "smallint(5) unsigned"),
        ("INT3", "mediumint", "mediumint(9)"),
        ("INT4", "int", "int(11)"),
        ("INT8", "bigint", "bigint(20)"),
        ("MIDDLEINT", "mediumint", "mediumint(9)"),
        ("BIGINT(20) SIGNED", "bigint", "bigint(20)"),
        (
            "BIGINT ZEROFILL",
            "bigint(20) unsigned zerofill",
            "bigint(20) unsigned zerofill",
        ),
        ("TEXT(300)", "text utf8mb4", "text utf8mb4"),
        ("TEXT(10)", "tinytext utf8mb4", "tinytext utf8mb4"),
        ("TEXT(63)", "tinytext utf8mb4", "tinytext utf8mb4"),
        ("TEXT(64)", "text utf8mb4", "text utf8mb4"),
        ("TEXT(255)", "text utf8mb4", "text utf8mb4"),
        ("TEXT(256)", "text utf8mb4", "text utf8mb4"),
        ("TEXT(20000)", "mediumtext utf8mb4", "mediumtext utf8mb4"),
        ("TEXT(70000)", "mediumtext utf8mb4", "mediumtext utf8mb4"),
        ("BLOB(10)", "tinyblob", "tinyblob"),
        ("BLOB(300)", "blob", "blob"),
        ("BLOB(70000)", "mediumblob", "mediumblob"),
        ("BLOB(20000000)", "longblob", "longblob"),
        ("TEXT(100) CHARACTER SET latin1", "tinytext latin1", "tinytext latin1"),
        ("TEXT(80) CHARSET utf8", "tinytext utf8mb3", "tinytext utf8mb3"),
        ("TINYTEXT", "tinytext utf8mb4", "tinytext utf8mb4"),
        (
            "MEDIUMTEXT CHARACTER SET utf8mb3",
            "mediumtext utf8mb3",
            "mediumtext utf8mb3",
        ),
        ("LONGBLOB", "longblob", "longblob"),
        ("YEAR", "year", "year(4)"),
        ("YEAR(4)", "year", "year(4)"),
        ("DATE", "date", "date"),
        ("DATETIME", "datetime", "datetime"),
        ("DATETIME(6)", "datetime(6)", "datetime(6)"),
        ("TIME(3)", "time(3)", "time(3)"),
        ("TIMESTAMP NULL", "timestamp", "timestamp"),
        ("TIMESTAMP(3) NULL DEFAULT NULL", "timestamp(3)", "timestamp(3)"),
        ("DATETIME(0)", "datetime", "datetime"),
        ("DATETIME NULL ON UPDATE CURRENT_TIMESTAMP", "datetime", "datetime"),
        ("JSON", "json", "longtext utf8mb4"),
        ("BIT", "bit(1)", "bit(1)"),
        ("BIT(1)", "bit(1)", "bit(1)"),
        ("BIT(64)", "bit(64)", "bit(64)"),
        ("BINARY", "binary(1)", "binary(1)"),
        ("BINARY(16)", "binary(16)", "binary(16)"),
        ("VARBINARY(3)", "varbinary(3)", "varbinary(3)"),
        (r#"ENUM ('a', "b")"#, "enum('a','b') utf8mb4", "enum('a','b') utf8mb4"),
        (
            r#"ENUM('it''s','b\'c','d\\e','f,g','h  ','\n','(')"#,
            r#"enum('it''s','b''c','d\\e','f,g','h','\n','(') utf8mb4"#,
            r#"enum('it''s','b''c','d\\e','f,g','h','\n','(') utf8mb4"#,
        ),
        (
            "SET('a','b') CHARACTER SET latin1",
            "set('a','b') latin1",
            "set('a','b') latin1",
        ),
        (
            "ENUM('é','€') CHARSET utf8mb4 COLLATE utf8mb4_bin",
            "enum('é','€') utf8mb4",
            "enum('é','€') utf8mb4",
        ),
        ("GEOMETRY", "geometry", "geometry"),
        ("POINT", "point", "point"),
        ("GEOMETRYCOLLECTION", "geomcollection", "geometrycollection"),
        ("MULTIPOLYGON", "multipolygon", "multipolygon"),
        ("LINESTRING NULL", "linestring", "linestring"),
        (
            "VARCHAR(10) CHARACTER SET latin1 COLLATE latin1_bin",
            "varchar(10) latin1",
            "varchar(10) latin1",
        ),
        (
            "VARCHAR(10) COLLATE latin1_swedish_ci",
            "varchar(10) latin1",
            "varchar(10) latin1",
        ),
        (
            "VARCHAR(10) COLLATE utf8_general_ci",
            "varchar(10) utf8mb3",
            "varchar(10) utf8mb3",
        ),
        ("VARCHAR(10) CHARSET utf8", "varchar(10) utf8mb3", "varchar(10) utf8mb3"),
        ("VARCHAR(10) ASCII", "varchar(10) latin1", "varchar(10) latin1"),
        ("VARCHAR(10) UNICODE", "varchar(10) ucs2", "varchar(10) ucs2"),
        ("CHAR(5) BYTE", "binary(5)", "binary(5)"),
        ("VARCHAR(10) BINARY", "varchar(10) utf8mb4", "varchar(10) utf8mb4"),
        ("VARCHAR(10) CHARACTER SET binary", "varbinary(10)", "varbinary(10)"),
        ("TEXT CHARACTER SET binary", "blob", "blob"),
        ("CHAR(10) CHARACTER SET = latin1", "char(10) latin1", "char(10) latin1"),
        (
            "VARCHAR(10) CHARACTER SET latin1 BINARY",
            "varchar(10) latin1",
            "varchar(10) latin1",
        ),
        ("ENUM('a') CHARACTER SET binary", "enum('a')", "enum('a') binary"),
        (
            "VARCHAR(20) DEFAULT NULL COLLATE latin1_bin",
            "varchar(20) latin1",
            "varchar(20) latin1",
        ),
        ("INT UNIQUE", "int", "int(11)"),
        ("INT UNIQUE KEY COMMENT 'x'", "int", "int(11)"),
        ("INT CHECK (z > 0)", "int", "int(11)"),
        ("INT CONSTRAINT ck CHECK (z > 0)", "int", "int(11)"),
        ("INT REFERENCES other(id)", "int", "int(11)"),
        ("INT -- trailing", "int", "int(11)"),
        ("INT # hash", "int", "int(11)"),
        ("INT /*!50606 COLUMN_FORMAT DYNAMIC */", "int", "int(11)"),
        (
            "VARCHAR(100) NULL COMMENT 'ADD COLUMN y INT, DROP COLUMN v'",
            "varchar(100) utf8mb4",
            "varchar(100) utf8mb4",
        ),
        ("INT, COMMENT='t'", "int", "int(11)"),
        ("INT, ENGINE=InnoDB", "int", "int(11)"),
        ("INT, ROW_FORMAT=DYNAMIC KEY_BLOCK_SIZE=0", "int", "int(11)"),
        ("INT, ORDER BY i, v", "int", "int(11)"),
        ("INT, AUTO_INCREMENT = 100", "int", "int(11)"),
        (
            "VARCHAR(10), DEFAULT CHARSET latin1",
            "varchar(10) latin1",
            "varchar(10) latin1",
        ),
        ("INT INVISIBLE", "int", ""),
        ("INT NULL VISIBLE, ALGORITHM=INSTANT", "int", ""),
        ("POINT SRID 4326", "point", ""),
        ("VECTOR(3)", "vector(3)", ""),
        ("VECTOR", "vector(2048)", ""),
        ("GEOMCOLLECTION", "geomcollection", ""),
        ("INT ENGINE_ATTRIBUTE='{}'", "int", ""),
        ("INT COLUMN_FORMAT FIXED STORAGE DISK", "int", ""),
        ("INT CHECK (z > 0) NOT ENFORCED", "int", ""),
        ("INT INVISIBLE", "", "int(11)"),
        ("UUID", "", "uuid"),
        ("INET6", "", "inet6"),
        ("INET4", "", "inet4"),
        (
            "VARCHAR(100) COMPRESSED",
            "",
            "varchar(100) /*M!100301 COMPRESSED*/ utf8mb4",
        ),
        ("BLOB COMPRESSED", "", "blob /*M!100301 COMPRESSED*/"),
        (
            "TEXT /*M!100301 COMPRESSED*/",
            "",
            "text /*M!100301 COMPRESSED*/ utf8mb4",
        ),
        ("INT, ALGORITHM=INSTANT, LOCK=NONE", "", "int(11)"),
        ("VARCHAR(20) COLLATE uca1400_ai_ci", "", "varchar(20) utf8mb4"),
        (
            r#"INT /*!100100 COMMENT "x" */ /*!50701 bogus */ /*M!50701 COMMENT "y" */"#,
            "",
            "int(11)",
        ),
        ("INT /*!999999 NOT NULL */", "", "int(11)"),
        ("POINT REF_SYSTEM_ID=101", "", "point"),
        ("GEOMETRYCOLLECTION NULL", "", "geometrycollection"),
        ("TIMESTAMP", "timestamp", ""),
    ];
    for (definition, mysql, mariadb) in added {
        for (session, expected) in [(my(), mysql), (maria(), mariadb)] {
            if expected.is_empty() {
                continue;
            }
            let before = table("id! int\ni int\nnn! int\nv varchar(20)", "PRIMARY", &[1], &session);
            let alter = alter(&format!("ALTER TABLE t ADD COLUMN z {definition}"), &session).expect("an ALTER");
            let Verdict::Evolve(after) = before.judge(&alter, &session) else {
                assert_eq!(definition, "", "{:?}", session.flavor);
                continue;
            };
            let last = after.columns.last().expect("columns");
            let found = match &last.charset {
                Some(charset) => format!("{} {charset}", last.column_type),
                None => last.column_type.clone(),
            };
            assert_eq!((found.as_str(), last.attribute), (expected, 5), "{definition}");
            // What the server displays is read as what it is.
            let known = column_type(&last.column_type, &session);
            assert_eq!(known.as_deref(), Some(last.column_type.as_str()), "{definition}");
        }
    }
}

#[test]
fn a_wider_column_or_another_default_leaves_the_lake_alone() {
    let clauses = [
        "MODIFY i INT DEFAULT 5",
        "MODIFY i INT COMMENT 'c'",
        "MODIFY i INT(4)",
        "MODIFY COLUMN i INTEGER NULL",
        "MODIFY nn INT",
        "MODIFY nn INT NULL",
        "MODIFY id INT NOT NULL COMMENT 'id'",
        "MODIFY id INT",
        "MODIFY v VARCHAR(255)",
        "MODIFY v VARCHAR(256)",
        "MODIFY v VARCHAR(2000)",
        "MODIFY v TEXT",
        "MODIFY v TINYTEXT",
        "MODIFY v MEDIUMTEXT",
        "MODIFY v LONGTEXT",
        "MODIFY v VARCHAR(20) COLLATE utf8mb4_bin",
        "MODIFY v VARCHAR(20) CHARACTER SET utf8mb4",
        "MODIFY u3 VARCHAR(10) CHARACTER SET utf8mb4",
        "MODIFY u3 VARCHAR(10)",
        "MODIFY u3 VARCHAR(10) CHARSET utf8",
        "MODIFY u3 VARCHAR(12) CHARSET utf8",
        "MODIFY l VARCHAR(40) CHARACTER SET latin1",
        "MODIFY l VARCHAR(30) COLLATE latin1_bin",
        "MODIFY ch CHAR(10)",
        "MODIFY ch VARCHAR(5)",
        "MODIFY ch VARCHAR(30)",
        "MODIFY ch TEXT",
        "MODIFY tx MEDIUMTEXT",
        "MODIFY tx LONGTEXT",
        "MODIFY t3 TEXT CHARACTER SET utf8mb4",
        "MODIFY t3 MEDIUMTEXT",
        "MODIFY tt TEXT",
        "MODIFY bl MEDIUMBLOB",
        "MODIFY bi VARBINARY(4)",
        "MODIFY bi BLOB",
        "MODIFY vb VARBINARY(20)",
        "MODIFY vb BLOB",
        "MODIFY vb TINYBLOB",
        "MODIFY ti SMALLINT",
        "MODIFY tu SMALLINT",
        "MODIFY su MEDIUMINT",
        "MODIFY su INT",
        "MODIFY su MEDIUMINT UNSIGNED",
        "MODIFY iu BIGINT",
        "MODIFY b1 TINYINT",
        "MODIFY ti TINYINT(1)",
        "MODIFY dt DATETIME(3)",
        "MODIFY dt DATETIME(6) DEFAULT CURRENT_TIMESTAMP(6)",
        "MODIFY ts TIMESTAMP(6) NULL",
        "MODIFY ts TIMESTAMP NULL DEFAULT CURRENT_TIMESTAMP ON UPDATE CURRENT_TIMESTAMP",
        "MODIFY bt BIT(10)",
        "MODIFY e ENUM('x','y','z')",
        "MODIFY e ENUM('x','y')",
        "MODIFY s SET('p','q','r','it''s')",
        "MODIFY e ENUM('x','y','z') DEFAULT 'z' COMMENT 'e'",
        "MODIFY d DECIMAL(10,2) DEFAULT 1.5",
        "MODIFY d NUMERIC(10,2)",
        "MODIFY y YEAR(4)",
        "MODIFY f FLOAT",
        "MODIFY db DOUBLE PRECISION",
        "MODIFY db REAL",
        "MODIFY j JSON",
        "MODIFY g POINT",
        "MODIFY g GEOMETRY",
        "MODIFY vn VARCHAR(20)",
        "MODIFY vn VARCHAR(20) NOT NULL DEFAULT 'a'",
        r#"MODIFY vn VARCHAR(20) DEFAULT 'a\'b' NOT NULL"#,
        "MODIFY n2 INT NOT NULL",
        "MODIFY n2 INT NOT NULL DEFAULT 0",
        "MODIFY i INT CHECK (i < 1000)",
        "CHANGE i i INT",
        "CHANGE COLUMN v v VARCHAR(60)",
        "CHANGE i `i` INT DEFAULT -1",
        "DEFAULT CHARACTER SET latin1",
        "DEFAULT CHARSET=utf8mb3 COLLATE=utf8mb3_bin",
        "CHARACTER SET latin1",
        "COLLATE latin1_bin",
        "COLLATE = utf8mb4_bin",
        "ENGINE=InnoDB, CHARSET latin1",
        "MODIFY v VARCHAR(30), MODIFY i INT DEFAULT 3, COMMENT 'x'",
        "CHARSET utf8mb4",
        "ADD UNIQUE KEY u2 (i)",
        "ADD UNIQUE (n2)",
        "DROP INDEX iv",
        "DROP KEY iv",
        "DROP INDEX un",
        "RENAME INDEX iv TO iv9",
        "DROP INDEX iv, ADD INDEX iv2 (v)",
        "ADD CONSTRAINT uq UNIQUE (i)",
        "ADD CONSTRAINT UNIQUE KEY uq (i)",
        "DROP PRIMARY KEY, ADD PRIMARY KEY (id)",
        "MODIFY nn INT DEFAULT 1 NOT NULL",
        "MODIFY vn VARCHAR(20) DEFAULT 'q' COLLATE utf8mb4_bin NOT NULL",
        "MODIFY vn VARCHAR(20) DEFAULT 'q' COMMENT 'y' NOT NULL",
        "MODIFY dt DATETIME(6) DEFAULT CURRENT_TIMESTAMP(6) ON UPDATE CURRENT_TIMESTAMP(6)",
        "MODIFY dt DATETIME DEFAULT NOW() ON UPDATE NOW()",
        "MODIFY dt DATETIME DEFAULT LOCALTIMESTAMP",
        "MODIFY nn INT DEFAULT 1 NOT NULL UNIQUE",
        "MODIFY i INT DEFAULT NULL UNIQUE COMMENT 'a'",
        "MODIFY bt BIT(5) DEFAULT b'0' COMMENT 'x'",
        "MODIFY nn INT DEFAULT (1+2) NOT NULL",
        "MODIFY nn INT NOT NULL DEFAULT 1 CHECK (nn > 0)",
        "MODIFY da DATE DEFAULT (CURRENT_DATE) NULL",
        "MODIFY vn VARCHAR(20) NOT NULL DEFAULT _latin1'a' COMMENT 'z'",
        r#"MODIFY vn VARCHAR(20) DEFAULT "a'b""c" NOT NULL"#,
        "MODIFY nn INT DEFAULT 0x10 NOT NULL",
        "MODIFY db DOUBLE DEFAULT -1.5e-3 NULL",
        "MODIFY b1 TINYINT(1) DEFAULT TRUE",
        "MODIFY e ENUM('x','y') DEFAULT 'x' NULL COLLATE utf8mb4_bin",
        "MODIFY vn VARCHAR(20) DEFAULT 'a' 'b' NOT NULL",
        "MODIFY da DATE DEFAULT '2020-01-01'",
        "MODIFY da DATE DEFAULT DATE'2020-01-01'",
        "MODIFY n2 INT DEFAULT 5 NOT NULL",
        "MODIFY vn VARCHAR(20) NOT NULL DEFAULT (concat('a',','))",
        "MODIFY iu INT ZEROFILL",
        "MODIFY iu INT(5) ZEROFILL",
        "MODIFY tu TINYINT(1) UNSIGNED",
    ];
    check_all("same", &both(), &clauses);
    let mysql = [
        "ALTER COLUMN i SET DEFAULT 3, MODIFY v VARCHAR(44)",
        "MODIFY v VARCHAR(22) INVISIBLE",
        "RENAME INDEX un TO un2, ALTER INDEX iv VISIBLE",
        "MODIFY ts TIMESTAMP",
    ];
    check_all("same", &[my()], &mysql);
    let mariadb = [
        "MODIFY IF EXISTS v VARCHAR(40)",
        "MODIFY COLUMN IF EXISTS nope INT, MODIFY v VARCHAR(40)",
        "DROP INDEX IF EXISTS iv",
        "ADD UNIQUE KEY IF NOT EXISTS un (nn)",
        "MODIFY j LONGTEXT",
        "ADD COLUMN IF NOT EXISTS i INT",
        "DROP COLUMN IF EXISTS nope",
        "ADD PRIMARY KEY IF NOT EXISTS (nn)",
        "MODIFY da DATE DEFAULT curdate()",
        "MODIFY vn VARCHAR(40) NOT NULL DEFAULT uuid()",
        "MODIFY vn VARCHAR(40) DEFAULT concat('a',',','b') NOT NULL",
        "MODIFY i INT DEFAULT (id+1)",
        "MODIFY nn INT DEFAULT 1 INVISIBLE NOT NULL",
        "MODIFY nn INT(3) NOT NULL",
        "MODIFY iu INT(5) UNSIGNED",
        "MODIFY iu INT(5) ZEROFILL",
    ];
    check_all("same", &[maria()], &mariadb);
}

#[test]
fn what_may_change_a_value_is_a_copy() {
    let clauses = [
        "ADD z INT NOT NULL",
        "ADD z INT DEFAULT 5",
        "ADD z INT NOT NULL DEFAULT 5",
        "ADD z VARCHAR(10) DEFAULT ''",
        "ADD z VARCHAR(10) NOT NULL",
        "ADD z DATETIME DEFAULT CURRENT_TIMESTAMP",
        "ADD z TIMESTAMP DEFAULT CURRENT_TIMESTAMP ON UPDATE CURRENT_TIMESTAMP",
        "ADD z TIMESTAMP DEFAULT NOW()",
        "ADD z INT AS (i+1)",
        "ADD z INT GENERATED ALWAYS AS (i + 1) STORED",
        "ADD z INT AS (i+1) VIRTUAL COMMENT 'x' AFTER v",
        "ADD z INT DEFAULT (1+1)",
        "ADD z INT DEFAULT -1",
        "ADD z INT DEFAULT +1",
        "ADD z BIT(3) DEFAULT b'101'",
        "ADD z VARBINARY(5) DEFAULT x'00'",
        "ADD z BOOL DEFAULT TRUE",
        "ADD z BOOL NOT NULL DEFAULT FALSE AFTER v",
        "ADD z BIGINT UNSIGNED NOT NULL AUTO_INCREMENT UNIQUE",
        "ADD z SERIAL",
        "ADD z VARCHAR(9) DEFAULT _utf8mb4'x'",
        "ADD z VARCHAR(9) DEFAULT N'x'",
        "ADD z JSON DEFAULT ('{}')",
        "ADD z DATE DEFAULT (CURRENT_DATE)",
        "ADD z VARCHAR(36) DEFAULT (UUID())",
        "ADD z ENUM('a','b') NOT NULL",
        "ADD z DOUBLE DEFAULT 1e3",
        "ADD z VARCHAR(5) DEFAULT 'a' 'b'",
        "DROP COLUMN id, DROP PRIMARY KEY",
        "DROP PRIMARY KEY",
        "DROP PRIMARY KEY, ADD PRIMARY KEY (nn)",
        "DROP PRIMARY KEY, ADD PRIMARY KEY (id, nn)",
        "DROP INDEX `PRIMARY`",
        "DROP COLUMN id",
        "MODIFY id BIGINT NOT NULL",
        "MODIFY id INT UNSIGNED",
        "MODIFY i BIGINT",
        "MODIFY i INT UNSIGNED",
        "MODIFY i VARCHAR(20)",
        "MODIFY v VARCHAR(10)",
        "MODIFY v CHAR(20)",
        "MODIFY v VARCHAR(20) CHARACTER SET latin1",
        "MODIFY l VARCHAR(30)",
        "MODIFY l VARCHAR(30) CHARACTER SET utf8mb4",
        "MODIFY tx VARCHAR(100)",
        "MODIFY tx TINYTEXT",
        "MODIFY bi BINARY(8)",
        "MODIFY d DECIMAL(12,2)",
        "MODIFY d DECIMAL(10,1)",
        "MODIFY d DECIMAL(10,3)",
        "MODIFY dt DATE",
        "MODIFY dt TIMESTAMP NULL",
        "MODIFY da DATETIME",
        "MODIFY tm TIME(3)",
        "MODIFY f DOUBLE",
        "MODIFY f FLOAT(7,2)",
        "MODIFY e ENUM('y','x')",
        "MODIFY e ENUM('w','x','y')",
        "MODIFY e VARCHAR(10)",
        "MODIFY s SET('q','p')",
        "MODIFY v VARBINARY(80)",
        "MODIFY vb VARCHAR(10)",
        "MODIFY j LONGTEXT CHARACTER SET latin1",
        "MODIFY y INT",
        "MODIFY ti INT",
        "MODIFY si INT",
        "MODIFY b1 INT",
        "MODIFY bt BIGINT",
        "MODIFY bt BIT(64)",
        "MODIFY id INT AUTO_INCREMENT",
        "MODIFY i INT AUTO_INCREMENT UNIQUE",
        "MODIFY v VARCHAR(20) CHARACTER SET binary",
        "CONVERT TO CHARACTER SET latin1",
        "CONVERT TO CHARACTER SET utf8mb4",
        "CONVERT TO CHARACTER SET binary",
        "ENGINE=MyISAM, ADD z INT NOT NULL",
        "MODIFY u3 VARCHAR(10) CHARACTER SET ucs2",
        "DEFAULT CHARSET latin1, MODIFY v VARCHAR(30)",
        "ADD PRIMARY KEY (nn), DROP PRIMARY KEY",
    ];
    check_all("copy", &both(), &clauses);
    let mysql = ["MODIFY j LONGTEXT", "MODIFY j TEXT"];
    check_all("copy", &[my()], &mysql);
    let mariadb = [
        "ADD z UUID NOT NULL",
        "ADD z TIMESTAMP",
        "ADD z INT DEFAULT 1+1",
        "ADD z VARCHAR(40) DEFAULT uuid()",
        "MODIFY v VARCHAR(20) COMPRESSED",
        "ADD SYSTEM VERSIONING",
        "ADD z INT AS (i+1) PERSISTENT",
        "MODIFY v VARCHAR(20) COMPRESSED",
        "ALGORITHM=INPLACE, FROBNICATE",
        "ADD z FANCYTYPE",
        "ADD z INT WITHOUT SYSTEM VERSIONING",
        "ENGINE=BLACKHOLE",
        "UNION=(a, b)",
        "MODIFY nope INT",
        "ADD z INT AFTER nope",
        "ADD i INT",
        "DROP i, MODIFY i INT",
    ];
    check_all("copy", &[maria()], &mariadb);
}

#[test]
fn indexes_options_and_defaults_are_nothing() {
    let clauses = [
        "ADD INDEX ii (i)",
        "ADD KEY (i, n2)",
        "ADD FULLTEXT INDEX ft (v)",
        "ADD CONSTRAINT ck CHECK (i < 1000000)",
        "ENGINE=InnoDB",
        "FORCE",
        "AUTO_INCREMENT=1000",
        "COMMENT='a, b DROP COLUMN v'",
        r#"COMMENT "x" ROW_FORMAT=COMPACT"#,
        "ALTER COLUMN i SET DEFAULT 5",
        "ALTER i DROP DEFAULT",
        "ALTER COLUMN v SET DEFAULT 'x,y', ALTER i SET DEFAULT 3",
        "DISABLE KEYS",
        "ENABLE KEYS",
        "ORDER BY v",
        "ORDER BY v DESC, i",
        "ENGINE = innodb STATS_PERSISTENT=1",
        "STATS_PERSISTENT 0, AVG_ROW_LENGTH=10 MAX_ROWS 5",
        "FORCE, ALGORITHM=COPY, LOCK=SHARED",
        "CHECKSUM=1 DELAY_KEY_WRITE=1",
        "ADD CHECK (nn > 0)",
    ];
    check_all("nothing", &both(), &clauses);
    let mysql = [
        "ALTER INDEX iv INVISIBLE",
        "ALTER COLUMN i SET INVISIBLE",
        "ALTER COLUMN i SET DEFAULT (1+2)",
    ];
    check_all("nothing", &[my()], &mysql);
    let mariadb = [
        "ADD INDEX IF NOT EXISTS iv (v)",
        "PAGE_COMPRESSED=0",
        "ALTER INDEX iv IGNORED",
        "TRANSACTIONAL=1 PAGE_CHECKSUM=1",
        "ADD CONSTRAINT IF NOT EXISTS ck CHECK (i < 99999)",
        "ENGINE=MyISAM",
        "ENGINE=Aria",
    ];
    check_all("nothing", &[maria()], &mariadb);
}

#[test]
fn clauses_speak_of_the_table_as_it_was() {
    let cases = [
        ("ADD z INT", "id a b c d z:6"),
        ("ADD z INT FIRST", "z:6 id a b c d"),
        ("ADD z INT AFTER `A`", "id a z:6 b c d"),
        ("ADD (y INT, z DATE, INDEX (a))", "id a b c d y:6 z:7"),
        (
            "ADD y INT AFTER a, ADD z INT AFTER y, ADD x INT FIRST",
            "x:8 id a y:6 z:7 b c d",
        ),
        ("DROP b, DROP COLUMN D", "id a c"),
        ("DROP a, ADD a INT", "id b c d a:6"),
        ("DROP COLUMN a, ADD COLUMN a DATE AFTER b", "id b a:6 c d"),
        ("RENAME COLUMN a TO x", "id a>x b c d"),
        ("RENAME COLUMN a TO A", "id a>A b c d"),
        ("RENAME COLUMN a TO b, RENAME COLUMN b TO a", "id a>b b>a c d"),
        ("CHANGE a b INT, CHANGE b a VARCHAR(10)", "id a>b b>a c d"),
        ("DROP a, CHANGE b a VARCHAR(10)", "id b>a c d"),
        ("RENAME COLUMN a TO x, ADD a DATE AFTER x", "id a>x a:6 b c d"),
        ("RENAME COLUMN id TO ident", "id>ident a b c d"),
        ("CHANGE COLUMN a `x y` INT NULL AFTER c", "id b c a>x y d"),
        ("CHANGE a x INT, ADD z INT AFTER x", "id a>x z:6 b c d"),
        ("MODIFY c DATE FIRST, MODIFY a INT FIRST", "a c id b d"),
        (
            "MODIFY b VARCHAR(10) AFTER c, MODIFY a INT AFTER b, ADD z INT AFTER a",
            "id c b a z:6 d",
        ),
        // A column that moves has its old place until its turn comes.
        (
            "MODIFY c DATE AFTER a, MODIFY a INT AFTER b, ADD z INT AFTER a",
            "id c b a z:6 d",
        ),
        (
            "MODIFY d INT FIRST, DROP a, MODIFY b VARCHAR(40) DEFAULT 'FIRST'",
            "d id b c",
        ),
        (
            "ADD z INT, ENGINE=InnoDB PARTITION BY HASH(id) PARTITIONS 2",
            "id a b c d z:6",
        ),
        ("ADD z INT REMOVE PARTITIONING", "id a b c d z:6"),
        ("MODIFY a INT AFTER id", "same"),
        ("MODIFY a INT COMMENT 'b, DROP COLUMN c'", "same"),
        ("DROP id", "copy: its key column \"id\" was dropped"),
        (
            "MODIFY a BIGINT",
            "copy: the type of its column \"a\" changed, so values may have",
        ),
    ];
    for session in both() {
        let before = table(SMALL, "PRIMARY", &[1], &session);
        for (clauses, expected) in cases {
            assert_eq!(judged(&before, clauses, &session), expected, "{clauses}");
        }
    }
    let before = table(SMALL, "PRIMARY", &[1], &maria());
    let mariadb = [
        (
            "ADD COLUMN IF NOT EXISTS a INT, ADD IF NOT EXISTS z INT",
            "id a b c d z:6",
        ),
        ("DROP COLUMN a, ADD COLUMN IF NOT EXISTS a INT", "id b c d"),
        ("DROP COLUMN IF EXISTS nope, DROP COLUMN IF EXISTS a", "id b c d"),
        (
            "CHANGE IF EXISTS a x INT, CHANGE COLUMN IF EXISTS nope y INT",
            "id a>x b c d",
        ),
        ("RENAME COLUMN IF EXISTS a TO x", "id a>x b c d"),
        (
            "MODIFY COLUMN IF EXISTS nope INT NOT NULL, MODIFY b VARCHAR(40)",
            "same",
        ),
        ("ADD COLUMN IF NOT EXISTS (x INT, a INT)", "id a b c d x:6"),
    ];
    for (clauses, expected) in mariadb {
        assert_eq!(judged(&before, clauses, &maria()), expected, "{clauses}");
    }
}

#[test]
fn a_number_is_never_given_again() {
    let mut now = table(SMALL, "PRIMARY", &[1], &my());
    let steps = [
        ("ADD z INT", "id:1 a:2 b:3 c:4 d:5 z:6"),
        ("DROP z", "id:1 a:2 b:3 c:4 d:5"),
        ("ADD z VARCHAR(5)", "id:1 a:2 b:3 c:4 d:5 z:7"),
        ("CHANGE z y VARCHAR(9) FIRST", "y:7 id:1 a:2 b:3 c:4 d:5"),
        ("MODIFY y TEXT AFTER id", "id:1 y:7 a:2 b:3 c:4 d:5"),
        ("DROP y, ADD y DATE AFTER id", "id:1 y:8 a:2 b:3 c:4 d:5"),
    ];
    for (clauses, expected) in steps {
        let alter = alter(&format!("ALTER TABLE t {clauses}"), &my()).expect("an ALTER");
        now = match now.judge(&alter, &my()) {
            Verdict::Same(after) | Verdict::Evolve(after) => after,
            Verdict::Copy(reason) => return assert_eq!(reason, "", "{clauses}"),
        };
        let told: Vec<String> = now
            .columns
            .iter()
            .map(|c| format!("{}:{}", c.name, c.attribute))
            .collect();
        assert_eq!(told.join(" "), expected, "{clauses}");
    }
}

#[test]
fn only_the_same_key_is_followed() {
    let unique = "id! int\na! int\nb int\nc! varchar(9)";
    let cases = [
        ("ADD z INT", "id a b c z:5"),
        ("DROP INDEX k1", "copy: its key changed"),
        ("DROP INDEX K1", "copy: its key changed"),
        ("DROP KEY k1, ADD UNIQUE KEY k1 (id)", "copy: its key changed"),
        ("ADD PRIMARY KEY (id)", "copy: its key changed"),
        ("ADD UNIQUE KEY k0 (a)", "copy: its key changed"),
        ("RENAME INDEX k1 TO k2", "copy: its key changed"),
        ("MODIFY id INT", "copy: its key changed"),
        ("MODIFY id INT NOT NULL COMMENT 'x'", "same"),
        ("RENAME COLUMN id TO ident", "id>ident a b c"),
        ("DROP INDEX kb", "same"),
        ("MODIFY a INT", "same"),
    ];
    for (clauses, expected) in cases {
        let before = table(unique, "k1", &[1], &my());
        assert_eq!(judged(&before, clauses, &my()), expected, "{clauses}");
    }
    let cases = [
        ("MODIFY b VARCHAR(20)", "same"),
        ("DROP PRIMARY KEY, ADD PRIMARY KEY (b, a)", "same"),
        (
            "DROP PRIMARY KEY, ADD CONSTRAINT pk PRIMARY KEY USING BTREE (`B`, a DESC)",
            "same",
        ),
        ("DROP PRIMARY KEY, ADD PRIMARY KEY (a, b)", "copy: its key changed"),
        ("DROP PRIMARY KEY, ADD PRIMARY KEY (b)", "copy: its key changed"),
        ("DROP INDEX `PRIMARY`", "copy: its key changed"),
        ("DROP PRIMARY KEY", "copy: its key changed"),
        ("ADD UNIQUE (c)", "same"),
        ("DROP INDEX other", "same"),
        ("CHANGE a aa INT", "a>aa b c"),
        ("MODIFY b VARCHAR(10) FIRST", "b a c"),
    ];
    for (clauses, expected) in cases {
        let before = table("a! int\nb! varchar(10)\nc int", "PRIMARY", &[2, 1], &my());
        assert_eq!(judged(&before, clauses, &my()), expected, "{clauses}");
        let kept = before.judge(
            &alter(&format!("ALTER TABLE t {clauses}"), &my()).expect("an ALTER"),
            &my(),
        );
        if let Verdict::Same(after) | Verdict::Evolve(after) = kept {
            let key = after.columns.iter().filter(|c| after.key.contains(&c.attribute));
            assert!(key.into_iter().all(|c| !c.nullable), "{clauses}");
        }
    }
}

#[test]
fn a_null_is_refused_or_replaced() {
    let lax = Session { sql_mode: 0, ..my() };
    let all = Session {
        sql_mode: mode::STRICT_ALL_TABLES,
        ..maria()
    };
    let implicit = Session {
        explicit_timestamps: Some(false),
        ..my()
    };
    let cases = [
        (my(), "MODIFY a INT NOT NULL", "same"),
        (all, "MODIFY a INT NOT NULL", "same"),
        (lax, "MODIFY a INT NOT NULL", "copy"),
        (lax, "MODIFY d INT NOT NULL", "same"),
        (lax, "MODIFY d INT", "same"),
        (my(), "ADD z TIMESTAMP", "evolve"),
        (implicit, "ADD z TIMESTAMP", "copy"),
        (implicit, "ADD z TIMESTAMP NULL", "evolve"),
        (maria(), "ADD z TIMESTAMP", "copy"),
    ];
    for (session, clauses, expected) in cases {
        let verdict = judged(&table(SMALL, "PRIMARY", &[1], &session), clauses, &session);
        let kind = ["same", "copy"].into_iter().find(|kind| verdict.starts_with(kind));
        let kind = kind.unwrap_or("evolve");
        assert_eq!(kind, expected, "{clauses}: {verdict}");
    }
    let ignore = alter("ALTER IGNORE TABLE t ADD UNIQUE KEY (a)", &maria()).expect("an ALTER");
    let verdict = table(SMALL, "PRIMARY", &[1], &maria()).judge(&ignore, &maria());
    assert!(matches!(verdict, Verdict::Copy(_)), "{verdict:?}");
    let pads = Session {
        sql_mode: mode::PAD_CHAR_TO_FULL_LENGTH,
        ..my()
    };
    for ty in ["CHAR(10)", "VARCHAR(10)", "TEXT"] {
        let verdict = judged(&table(WIDE, "PRIMARY", &[1], &pads), &format!("MODIFY ch {ty}"), &pads);
        assert!(verdict.starts_with("copy"), "{ty}: {verdict}");
    }
}

#[test]
fn a_charset_is_the_columns_or_the_tables() {
    let columns = "id! int\na varchar(10) charset utf8mb3\nb text charset utf8mb3\nc tinytext charset utf8mb3\n\
        d mediumtext charset utf8mb3\ne longtext charset utf8mb3\ng enum('k','l') charset utf8mb3\nh varbinary(3)";
    let before = Table {
        charset: "utf8mb3".into(),
        ..table(columns, "PRIMARY", &[1], &my())
    };
    let after = |clauses: &str| {
        let alter = alter(&format!("ALTER TABLE t {clauses}"), &my()).expect("an ALTER");
        match before.judge(&alter, &my()) {
            Verdict::Same(after) | Verdict::Evolve(after) => {
                let column = |c: &KnownColumn| format!("{} {}", c.column_type, c.charset.as_deref().unwrap_or("-"));
                (
                    after.charset.clone(),
                    after.columns.iter().map(column).collect::<Vec<_>>(),
                )
            }
            Verdict::Copy(reason) => (reason, Vec::new()),
        }
    };
    let (charset, converted) = after("CONVERT TO CHARACTER SET utf8mb4 COLLATE utf8mb4_bin");
    let expected = [
        "int -",
        "varchar(10) utf8mb4",
        "mediumtext utf8mb4",
        "text utf8mb4",
        "longtext utf8mb4",
        "longtext utf8mb4",
        "enum('k','l') utf8mb4",
        "varbinary(3) -",
    ];
    assert_eq!(
        (charset.as_str(), converted.as_slice()),
        ("utf8mb4", expected.map(str::to_owned).as_slice())
    );
    assert_eq!(after("CONVERT TO CHARSET utf8").0, "utf8mb3");
    for clauses in [
        "CONVERT TO CHARACTER SET latin1",
        "CONVERT TO CHARACTER SET DEFAULT",
        "DEFAULT CHARACTER SET DEFAULT",
        "CONVERT TO CHARACTER SET utf8mb4, MODIFY b TEXT",
        "CONVERT TO CHARACTER SET utf8mb4, ADD z TEXT",
        "CHARSET latin1, MODIFY a VARCHAR(10)",
    ] {
        assert!(after(clauses).1.is_empty(), "{clauses}");
    }
    // A column without one has the table's, also when that changes at once.
    let last = |clauses: &str| after(clauses).1.last().cloned();
    assert_eq!(last("ADD z VARCHAR(5)").as_deref(), Some("varchar(5) utf8mb3"));
    assert_eq!(
        last("ADD z VARCHAR(5), DEFAULT CHARSET=latin1").as_deref(),
        Some("varchar(5) latin1")
    );
    assert_eq!(
        last("COLLATE latin1_bin, ADD z TEXT(100)").as_deref(),
        Some("tinytext latin1")
    );
    assert_eq!(last("ADD z TEXT(80)").as_deref(), Some("tinytext utf8mb3"));
    assert_eq!(last("ADD z TEXT(90)").as_deref(), Some("text utf8mb3"));
    assert_eq!(last("CHARSET binary, ADD z TEXT").as_deref(), Some("blob -"));
    assert_eq!(after("CHARSET utf8mb4").0, "utf8mb4");
}

#[test]
fn types_are_compared_by_what_they_are() {
    let same = [
        ("int(11)", "INT"),
        ("int(10) unsigned", "int unsigned"),
        ("tinyint(1)", "tinyint(4)"),
        ("year(4)", "year"),
        ("decimal(10,0)", "NUMERIC(10)"),
        ("enum('a','b''c')", r#"ENUM ("a", 'b\'c')"#),
        ("varchar(5)", "CHARACTER VARYING(5)"),
        ("int(5) unsigned zerofill", "int unsigned"),
        ("datetime", "DATETIME(0)"),
        ("double", "double precision"),
    ];
    let other = [
        ("int", "int unsigned"),
        ("varchar(5)", "varchar(6)"),
        ("enum('a')", "enum('A')"),
        ("datetime", "datetime(1)"),
        ("float", "double"),
        ("set('a')", "enum('a')"),
        ("varchar(9)", "varchar(9) /*M!100301 COMPRESSED*/"),
    ];
    for session in both() {
        for (a, b) in same {
            assert!(same_type(a, b, &session), "{a} {b}");
        }
        for (a, b) in other {
            assert!(!same_type(a, b, &session), "{a} {b}");
        }
    }
    let old = Session {
        version: 50_744,
        ..my()
    };
    assert_eq!(column_type("INT", &old).as_deref(), Some("int(11)"));
    assert_eq!(column_type("YEAR", &old).as_deref(), Some("year(4)"));
    let real = Session {
        sql_mode: mode::REAL_AS_FLOAT,
        ..my()
    };
    let added = alter("ALTER TABLE t ADD z REAL", &real).map(|alter| alter.changes);
    let is_float = |c: &[Change]| matches!(c, [Change::Add { column, .. }] if column.column_type.base == "float");
    assert!(added.is_some_and(|changes| is_float(&changes)));
    for unknown in [
        "fancy",
        "varchar",
        "int(",
        "enum(a)",
        "uuid(3)",
        "national int",
        "int int",
        "",
    ] {
        assert_eq!(column_type(unknown, &my()), None, "{unknown}");
    }
    // Values with all that is escaped in COLUMN_TYPE.
    let sql = r#"ALTER TABLE t ADD z ENUM('a\\b','it''s','t\t','n\n','0\0','r\r','\Z','\%','\"','x  ',"y'")"#;
    let shown = "enum('a\\\\b','it''s','t\t','n\\n','0\\0','r\\r','\u{1a}','\\\\%','\"','x','y''')";
    for session in both() {
        let found = alter(sql, &session).map(|alter| alter.changes);
        let Some([Change::Add { column, .. }]) = found.as_deref() else {
            return assert_eq!(found, None);
        };
        assert_eq!(column.column_type.display(&session), shown);
        assert_eq!(ColumnType::parse(shown, &session).as_ref(), Some(&column.column_type));
    }
}

#[test]
fn a_statement_tells_its_tables() {
    let cases = [
        ("RENAME TABLE a TO b, x.c TO `d e`", "rename s.a s.b; rename x.c s.d e"),
        ("ALTER TABLE a RENAME TO x.b", "rename s.a x.b"),
        ("ALTER TABLE a RENAME b", "rename s.a s.b"),
        ("ALTER TABLE a RENAME AS b, ADD z INT", "alter s.a 1; rename s.a s.b"),
        ("TRUNCATE TABLE x.a", "truncate x.a"),
        ("TRUNCATE a", "truncate s.a"),
        ("/* generated by server */ DELETE FROM `x`.`a`", "truncate x.a"),
        ("DROP TABLE `a` /* generated by server */", "drop s.a"),
        ("DROP TABLE IF EXISTS a, x.b RESTRICT", "drop s.a; drop x.b"),
        ("DROP DATABASE IF EXISTS `x`", "drop schema x"),
        ("DROP SCHEMA x", "drop schema x"),
        ("CREATE TABLE a (id INT)", "create s.a"),
        ("CREATE TABLE x.a LIKE b", "create x.a"),
        ("CREATE TABLE a SELECT * FROM b", "create s.a"),
        ("CREATE TABLE `a` (`id` int) START TRANSACTION", "create s.a"),
        ("CREATE TABLE IF NOT EXISTS a (id INT)", "create? s.a"),
        ("CREATE OR REPLACE TABLE a (id INT)", "create s.a"),
        ("CREATE UNIQUE INDEX i ON x.a (b)", "alter x.a 1"),
        ("DROP INDEX i ON a", "alter s.a 1"),
        ("DROP INDEX `on` ON a LOCK=NONE", "alter s.a 1"),
        (
            "ALTER TABLE a EXCHANGE PARTITION p WITH TABLE x.b WITHOUT VALIDATION",
            "alter s.a 1; alter x.b 1",
        ),
        ("ALTER TABLE a DROP PARTITION p, q", "alter s.a 1"),
        ("ALTER TABLE a ORDER BY b DESC, c, ADD z INT", "alter s.a 1"),
        ("ALTER TABLE a ENGINE=InnoDB", ""),
        ("REPAIR TABLE a, b", "alter s.a 1; alter s.b 1"),
        ("INSERT INTO a VALUES (1)", "unlogged s.a"),
        ("insert ignore a select * from b", "unlogged s.a"),
        ("REPLACE INTO x.a VALUES (1)", "unlogged x.a"),
        ("UPDATE a SET b = 1", "unlogged s.a"),
        ("UPDATE a JOIN b ON a.x = b.x SET a.y = 1", "unclear any"),
        ("UPDATE a, b SET a.y = 1", "unclear any"),
        ("DELETE FROM a WHERE b = 1", "unlogged s.a"),
        ("DELETE a FROM a JOIN b", "unclear any"),
        ("LOAD DATA INFILE 'x' IGNORE INTO TABLE a", "unlogged s.a"),
        ("SELECT `s`.`f`()", "unclear any"),
        ("CALL p()", "unclear any"),
        ("FROBNICATE TABLE a", "unclear any"),
        ("ALTER TABLE a ADD z INT COMMENT 'x", "unclear s.a"),
        ("CREATE TEMPORARY TABLE a (id INT)", ""),
        ("DROP TEMPORARY TABLE IF EXISTS `a`", ""),
        ("CREATE INDEX i ON a (b)", ""),
        ("CREATE FULLTEXT INDEX i ON a (b)", ""),
        (
            "CREATE OR REPLACE ALGORITHM=MERGE DEFINER=`r`@`%` SQL SECURITY INVOKER VIEW v AS SELECT 1",
            "",
        ),
        ("CREATE DEFINER=`r`@`%` PROCEDURE p() BEGIN DROP TABLE a; END", ""),
        (
            "/*!50003 CREATE*/ /*!50017 DEFINER=`r`@`%`*/ /*!50003 TRIGGER x BEFORE INSERT ON a FOR EACH ROW SET @a=1*/",
            "",
        ),
        ("CREATE FUNCTION f() RETURNS INT RETURN 'open", ""),
        ("CREATE DATABASE x", ""),
        ("ALTER DATABASE x CHARACTER SET utf8mb4", ""),
        ("ALTER USER u IDENTIFIED BY 'x'", ""),
        ("GRANT ALL ON *.* TO u", ""),
        ("DROP VIEW v", ""),
        ("RENAME USER a TO b", ""),
        ("ANALYZE TABLE a", ""),
        ("OPTIMIZE TABLE a", ""),
        ("FLUSH TABLES", ""),
        ("SET PASSWORD = 'x'", ""),
        ("XA START 'a'", ""),
        ("BEGIN", ""),
        ("# Dummy event", ""),
        ("", ""),
    ];
    for session in both() {
        for (sql, expected) in cases {
            assert_eq!(told(sql, &session), expected, "{sql}");
        }
    }
    let mariadb = [
        ("RENAME TABLE IF EXISTS a WAIT 5 TO b", "rename s.a s.b"),
        ("DROP TABLE a WAIT 2", "drop s.a"),
        ("ALTER ONLINE TABLE a ADD z INT", "alter s.a 1"),
        ("ALTER TABLE IF EXISTS a NOWAIT ADD z INT", "alter s.a 1"),
        (
            "SET STATEMENT max_statement_time=1, lock_wait_timeout=2 FOR ALTER TABLE a ADD z INT",
            "alter s.a 1",
        ),
        (
            "SET STATEMENT sql_mode='ANSI_QUOTES' FOR ALTER TABLE a ADD y INT, ADD z INT",
            "alter s.a 1",
        ),
        (
            "ALTER TABLE a CONVERT PARTITION p TO TABLE x.b",
            "alter s.a 1; create x.b",
        ),
        (
            "ALTER TABLE a CONVERT TABLE b TO PARTITION p VALUES LESS THAN (9)",
            "alter s.a 1; drop s.b",
        ),
        ("CREATE SEQUENCE q", ""),
        ("ANALYZE FORMAT=JSON UPDATE a SET b = 1", "unclear any"),
    ];
    for (sql, expected) in mariadb {
        assert_eq!(told(sql, &maria()), expected, "{sql}");
    }
    let folds = Session {
        fold_names: true,
        ..my()
    };
    assert_eq!(
        told("ALTER TABLE X.Über ADD z INT, RENAME TO B", &folds),
        "alter x.über 1; rename x.über s.b"
    );
}

#[test]
fn online_schema_changes_are_swaps() {
    let ghost = [
        ("create /* gh-ost */ table `s`.`_t_gho` like `s`.`t`", "create s._t_gho"),
        (
            "alter /* gh-ost */ table `s`.`_t_gho` add column z int",
            "alter s._t_gho 1",
        ),
        (
            "create /* gh-ost */ table `s`.`_t_del` (\n id int auto_increment primary key\n) engine=InnoDB comment='ghost-cut-over-sentry'",
            "create s._t_del",
        ),
        (
            "DROP TABLE IF EXISTS `s`.`_t_del` /* generated by server */",
            "drop s._t_del",
        ),
        (
            "rename /* gh-ost */ table `s`.`t` to `s`.`_t_del`, `s`.`_t_gho` to `s`.`t`",
            "rename s.t s._t_del; rename s._t_gho s.t",
        ),
    ];
    let percona = [
        (
            "CREATE TABLE `s`.`_t_new` (\n  `id` int NOT NULL,\n  PRIMARY KEY (`id`)\n)",
            "create s._t_new",
        ),
        ("ALTER TABLE `s`.`_t_new` ADD COLUMN z INT", "alter s._t_new 1"),
        (
            "CREATE TRIGGER `pt_osc_s_t_del` AFTER DELETE ON `s`.`t` FOR EACH ROW BEGIN DELETE IGNORE FROM `s`.`_t_new`; END",
            "",
        ),
        (
            "RENAME TABLE `s`.`t` TO `s`.`_t_old`, `s`.`_t_new` TO `s`.`t`",
            "rename s.t s._t_old; rename s._t_new s.t",
        ),
        (
            "DROP TABLE IF EXISTS `_t_old` /* generated by server */",
            "drop s._t_old",
        ),
    ];
    for (sql, expected) in ghost.into_iter().chain(percona) {
        assert_eq!(told(sql, &my()), expected, "{sql}");
    }
}

#[test]
fn comments_and_quotes_are_the_servers() {
    let ansi = Session {
        sql_mode: mode::ANSI_QUOTES,
        ..my()
    };
    let plain = Session {
        sql_mode: mode::NO_BACKSLASH_ESCAPES,
        ..my()
    };
    let cases = [
        (
            my(),
            "/* a */ ALTER /* b */ TABLE /*! t */ ADD /*!80000 COLUMN */ z INT /* c */;",
            "id z:2",
        ),
        (my(), "-- a\nALTER TABLE t # b\n ADD z INT -- c", "id z:2"),
        (my(), "/*!50000 ALTER TABLE t ADD z INT */", "id z:2"),
        (my(), "ALTER TABLE t ADD z INT COMMENT '/* no */ -- no # no'", "id z:2"),
        (
            my(),
            "ALTER TABLE t ADD z INT /*!40000 COMMENT \"a /* b */ c\" */",
            "id z:2",
        ),
        (
            my(),
            "ALTER TABLE t ADD z INT /*!100100 NOT NULL */ /*M! NOT NULL */",
            "id z:2",
        ),
        (my(), "ALTER TABLE t ADD z INT /*!90000 NOT NULL */", "copy"),
        (
            my(),
            "ALTER TABLE t ADD z INT/*!50503 NULL /* in */ COMMENT 'x' */, ADD y INT",
            "id z:2 y:3",
        ),
        (
            my(),
            "ALTER TABLE t ADD z INT /*!999999 , /* in */ ADD x INT */, ADD y INT",
            "id z:2 y:3",
        ),
        (maria(), "ALTER TABLE t ADD z INT /*!100100 NOT NULL */", "copy"),
        (maria(), "ALTER TABLE t ADD z INT /*M! NOT NULL */", "copy"),
        (
            maria(),
            "ALTER TABLE t ADD z INT /*!50701 NOT NULL */ /*!999999 NOT NULL */ /*M!120000 NOT NULL */",
            "id z:2",
        ),
        (maria(), "ALTER TABLE t ADD z INT /*M!50701 NOT NULL */", "copy"),
        (my(), "ALTER TABLE`s`.`t`ADD`z``q`INT", "id z`q:2"),
        (my(), "alter\ttable\r\n s . t\n add\tz2 int", "id z2:2"),
        (
            my(),
            "ALTER TABLE t ADD 1z INT, ADD `2e` INT AFTER 1z, ADD $d INT",
            "id 1z:2 2e:3 $d:4",
        ),
        (
            my(),
            "ALTER TABLE t ADD 日本 INT, ADD `select` INT, ADD status INT",
            "id 日本:2 select:3 status:4",
        ),
        (
            my(),
            r"ALTER TABLE t ADD z INT COMMENT 'a\'', ADD y INT COMMENT 'b'",
            "id z:2 y:3",
        ),
        (
            plain,
            r"ALTER TABLE t ADD z INT COMMENT 'a\', ADD y INT COMMENT 'b\'",
            "id z:2 y:3",
        ),
        (ansi, r#"ALTER TABLE "t" ADD "z""\" INT COMMENT 'a"b'"#, "id z\"\\:2"),
        (
            my(),
            r#"ALTER TABLE t ADD z INT COMMENT "it's -- a \"", ADD y INT"#,
            "id z:2 y:3",
        ),
    ];
    for (session, sql, expected) in cases {
        let alter = alter(sql, &session);
        let verdict = alter.map(|alter| table("id! int", "PRIMARY", &[1], &session).judge(&alter, &session));
        let found = match verdict {
            Some(Verdict::Evolve(after)) => {
                let name = |c: &KnownColumn| match c.attribute {
                    1 => c.name.clone(),
                    other => format!("{}:{other}", c.name),
                };
                after.columns.iter().map(name).collect::<Vec<_>>().join(" ")
            }
            Some(Verdict::Copy(_)) => "copy".into(),
            other => format!("{other:?}"),
        };
        assert_eq!(found, expected, "{sql}");
    }
}

#[test]
fn text_that_is_cut_off_or_garbled_is_never_a_panic() {
    let texts = [
        "ALTER TABLE `s`.`t` ADD COLUMN (a ENUM('x','y') DEFAULT 'x' COMMENT 'c', b INT AS (a + (1)) STORED), DROP c",
        "ALTER TABLE t /*!50100 PARTITION BY RANGE (id) (PARTITION p VALUES LESS THAN (10)) */ /* x */ -- y",
        "CREATE UNIQUE INDEX i ON t (a(3), (b + 1)) COMMENT 'x' ALGORITHM=INPLACE",
        "SET STATEMENT a=1 FOR RENAME TABLE IF EXISTS a WAIT 3 TO b, c TO d",
        "UPDATE a, b SET a.x = b.'ü\\' WHERE ((1))",
        "DROP INDEX i ON t",
    ];
    for session in both() {
        let before = table(SMALL, "PRIMARY", &[1], &session);
        for text in texts {
            for (cut, _) in text.char_indices() {
                let (head, tail) = text.split_at(cut);
                let garbled = [
                    head.to_owned(),
                    tail.to_owned(),
                    format!("{head}){tail}"),
                    format!("{head}'{tail}"),
                ];
                for sql in garbled {
                    for effect in parse(&sql, "s", &session) {
                        if let Effect::Alter { alter, .. } = effect {
                            before.judge(&alter, &session);
                        }
                    }
                    column_type(&sql, &session);
                }
            }
        }
    }
}
