//! Changes of columns and tables, in order with the data: each kind on its own.

use crate::support::lake::{is_mapped, replacements};
use crate::support::server::{Kind as Source, MARIADB, Server};
use crate::support::sidecar::Sidecar;
use crate::support::{Case, on_mysql_and_mariadb, wait_for};

on_mysql_and_mariadb! {
    each_change_between_changes_of_rows
    each_change_that_no_row_follows
    each_change_while_the_program_is_away
    each_change_while_the_table_is_copied
    each_change_with_full_metadata_and_minimal_images
    tables_that_tools_swap_are_followed
    tables_that_are_renamed_in_one_statement_are_told_apart
    truncated_dropped_and_made_again
    statements_in_odd_words_are_understood
    statements_that_change_more_than_they_say_are_followed
    columns_that_change_outside_of_the_log_are_noticed_by_the_next_row
    a_table_that_cannot_be_replicated_any_more_waits_until_it_can
}

/// What a change of columns does to the lake's table.
#[derive(Clone, Copy, PartialEq)]
enum Outcome {
    /// New metadata, and no copying.
    InPlace,
    /// As `InPlace`, and names in the files that are not the columns'.
    Mapped,
    /// The content is replaced: values may have changed, or a name would mean one column to readers and another in files.
    Copied,
    /// Either is right.
    Any,
}
use Outcome::{Any, Copied, InPlace, Mapped};

/// Where a change can be made.
#[derive(Clone, Copy, PartialEq)]
enum Where {
    Both,
    MySql,
    MariaDb,
}
use Where::{Both, MariaDb, MySql};

/// A change of a table with the columns `id int PRIMARY KEY, n int, big text` and some more.
struct Kind {
    name: &'static str,
    /// More columns, and values for them.
    columns: &'static str,
    fill: &'static str,
    /// What follows `ALTER TABLE t`, several with `;` between them; `*` is a change of rows. What begins with a verb is
    /// taken as it is, with TABLE for the name.
    alter: &'static str,
    /// Values for the columns as they are then.
    fill_after: &'static str,
    /// The key's column then.
    key: &'static str,
    outcome: Outcome,
    at: Where,
}

const fn kind(
    name: &'static str,
    columns: &'static str,
    fill: &'static str,
    alter: &'static str,
    fill_after: &'static str,
    outcome: Outcome,
) -> Kind {
    Kind {
        name,
        columns,
        fill,
        alter,
        fill_after,
        key: "id",
        outcome,
        at: Both,
    }
}

const fn keyed(key: &'static str, kind: Kind) -> Kind {
    Kind { key, ..kind }
}

const fn only(at: Where, kind: Kind) -> Kind {
    Kind { at, ..kind }
}

#[rustfmt::skip]
const KINDS: &[Kind] = &[
    kind("untouched", "c int", "c = id", "", "c = -id", InPlace),
    kind("add_null", "", "n = 1", "ADD c int", "c = id", InPlace),
    kind("add_some", "", "n = 1", "ADD COLUMN c text; ADD (d decimal(10,2), e datetime(3)), ADD f json", "c = 'new', d = 1.25, e = '2024-01-01', f = '{}'", InPlace),
    kind("add_first", "", "n = 1", "ADD c varchar(9) FIRST, ADD d int AFTER id", "c = id, d = 2", Any),
    kind("add_instant", "", "n = 1", "ADD c int, ALGORITHM = INSTANT; *; ADD d int AFTER n, ALGORITHM = INSTANT; *; DROP COLUMN c, ALGORITHM = INSTANT", "d = id", Any),
    kind("add_constant", "", "n = 1", "ADD c int DEFAULT 7", "c = id", Copied),
    kind("add_constant_instant", "", "n = 1", "ADD c varchar(20) DEFAULT 'seven', ALGORITHM = INSTANT", "c = 'x'", Copied),
    kind("add_not_null", "", "n = 1", "ADD c text NOT NULL", "c = 'later'", Copied),
    kind("add_not_null_number", "", "n = 1", "ADD c int NOT NULL, ADD d date NOT NULL DEFAULT '2024-01-01'", "c = 7", Copied),
    kind("add_now", "", "n = 1", "ADD c timestamp NOT NULL DEFAULT CURRENT_TIMESTAMP ON UPDATE CURRENT_TIMESTAMP", "n = 2", Copied),
    kind("add_auto", "", "n = 1", "ADD c bigint NOT NULL AUTO_INCREMENT UNIQUE", "n = 2", Copied),
    kind("add_stored", "", "n = 1", "ADD c int GENERATED ALWAYS AS (n * 2) STORED", "n = 2", Copied),
    kind("add_virtual", "", "n = 1", "ADD c int AS (n * 2) VIRTUAL", "n = 2", Any),
    kind("add_invisible", "", "n = 1", "ADD c int INVISIBLE", "c = id", InPlace),
    kind("drop_one", "c int, d text", "c = id, d = 'd'", "DROP c", "d = 'e'", InPlace),
    kind("drop_big", "c int", "c = id", "DROP COLUMN big", "c = -id", InPlace),
    kind("drop_two", "c int, d text, e int", "c = id, d = 'd', e = 5", "DROP c, DROP COLUMN e", "d = 'e'", InPlace),
    kind("add_and_drop", "", "n = 1", "ADD c int; *; DROP c", "n = 3", Any),
    kind("rename_", "c int", "c = id", "RENAME COLUMN c TO `C d`", "`C d` = -id", Mapped),
    kind("change_name", "c int", "c = id", "CHANGE c d int", "d = -id", Mapped),
    kind("change_name_and_type", "c int", "c = id", "CHANGE COLUMN c d bigint NULL DEFAULT 3", "d = 5000000000", Copied),
    kind("rename_big", "c int", "c = id", "RENAME COLUMN big TO bigger", "c = -id", Mapped),
    kind("rename_and_back", "c int", "c = id", "RENAME COLUMN c TO d; *; RENAME COLUMN d TO c", "c = -id", Any),
    keyed("`key`", kind("rename_key", "c int", "c = id", "RENAME COLUMN id TO `key`", "c = -`key`", Mapped)),
    kind("exchange", "c int, d int", "c = id, d = -id", "RENAME COLUMN c TO d, RENAME COLUMN d TO c", "c = 5", Copied),
    kind("exchange_types", "c int, d varchar(9)", "c = id, d = 'd'", "CHANGE c d int, CHANGE d c varchar(9)", "c = 'five'", Copied),
    kind("take_name", "c int", "c = id", "RENAME COLUMN c TO d; ADD c text", "c = 'c', d = 6", Copied),
    kind("replace_", "c int", "c = id", "DROP c, ADD c int", "c = -id", Copied),
    kind("replace_type", "c int", "c = id", "DROP c; ADD c text", "c = 'text'", Copied),
    kind("replace_apart", "c int", "c = id", "DROP c; *; ADD c int", "c = -id", Copied),
    kind("longer", "c varchar(3)", "c = 'abc'", "MODIFY c varchar(9)", "c = 'abcdefghi'", InPlace),
    kind("longer_by_byte", "c varchar(200)", "c = 'abc'", "MODIFY c varchar(300)", "c = repeat('x', 299)", InPlace),
    kind("text_longer", "c text", "c = 'abc'", "MODIFY c longtext", "c = repeat('x', 5000)", InPlace),
    kind("varchar_to_text", "c varchar(30)", "c = 'abc'", "MODIFY c text", "c = repeat('x', 500)", Any),
    kind("finer", "c datetime(3)", "c = '2024-01-01 00:00:00.123'", "MODIFY c datetime(6)", "c = '2024-01-01 00:00:00.123456'", Any),
    kind("coarser", "c datetime(6)", "c = '2024-01-01 00:00:00.567'", "MODIFY c datetime", "c = '2024-01-01'", Copied),
    kind("time_finer", "c time", "c = '01:00:00'", "MODIFY c time(2)", "c = '02:00:00.25'", Copied),
    kind("wider", "c int", "c = id", "MODIFY c bigint", "c = 5000000000", Copied),
    kind("narrower", "c int", "c = id % 100", "MODIFY c smallint", "c = 5", Copied),
    kind("wider_in_kind", "c mediumint", "c = id", "MODIFY c int", "c = 2000000000", Any),
    kind("unsigned_", "c int", "c = id", "MODIFY c int unsigned", "c = 4000000000", Copied),
    kind("wider_decimal", "c decimal(10,2)", "c = 1.25", "MODIFY c decimal(12,2)", "c = 9999999999.25", Copied),
    kind("huge_decimal", "c decimal(10,2)", "c = 1.25", "MODIFY c decimal(50,4)", "c = 1.2345", Copied),
    kind("float_double", "c float", "c = 0.1", "MODIFY c double", "c = 0.1", Copied),
    kind("int_text", "c int", "c = id", "MODIFY c varchar(20)", "c = 'text'", Copied),
    kind("text_int", "c varchar(20)", "c = '7'", "MODIFY c int", "c = 8", Copied),
    kind("enum_longer", "c enum('a', 'b')", "c = 'b'", "MODIFY c enum('a', 'b', 'c')", "c = 'c'", InPlace),
    kind("enum_reordered", "c enum('a', 'b')", "c = 'b'", "MODIFY c enum('b', 'a', 'c')", "c = 'c'", Any),
    kind("set_longer", "c set('a', 'b')", "c = 'a,b'", "MODIFY c set('a', 'b', 'c')", "c = 'a,c'", InPlace),
    kind("enum_text", "c enum('a', 'b')", "c = 'b'", "MODIFY c varchar(20)", "c = 'other'", Any),
    kind("charset", "c varchar(20) CHARACTER SET latin1", "c = 'é'", "MODIFY c varchar(20) CHARACTER SET utf8mb4", "c = 'é漢'", Any),
    kind("charset_lossy", "c varchar(20) CHARACTER SET utf8mb4", "c = 'é'", "MODIFY c varchar(20) CHARACTER SET latin1", "c = 'ü'", Any),
    kind("charset_binary", "c varchar(20) CHARACTER SET latin1", "c = 'é'", "MODIFY c varbinary(20)", "c = x'00ff'", Copied),
    kind("convert_", "c varchar(20) CHARACTER SET latin1", "c = 'é'", "CONVERT TO CHARACTER SET utf8mb4 COLLATE utf8mb4_bin", "c = 'é漢'", Any),
    kind("default_charset", "c varchar(20) CHARACTER SET latin1", "c = 'é'", "DEFAULT CHARACTER SET latin1; ADD d varchar(9)", "c = 'ü', d = 'ü'", InPlace),
    kind("moved", "c int, d text", "c = id, d = 'd'", "MODIFY c int FIRST", "c = 9", Any),
    kind("moved_after", "c int, d text", "c = id, d = 'd'", "MODIFY n int AFTER d, MODIFY c int AFTER n", "c = 9", Any),
    kind("not_null", "c int", "c = id", "MODIFY c int NOT NULL", "c = 5", InPlace),
    kind("null_to_zero", "c int", "n = 1", "UPDATE TABLE SET c = 0 WHERE c IS NULL; MODIFY c int NOT NULL", "c = 5", InPlace),
    keyed("c", kind("other_key", "c int NOT NULL", "c = -id", "DROP PRIMARY KEY, ADD PRIMARY KEY (c)", "n = 4", Copied)),
    kind("longer_key", "c int NOT NULL", "c = -id", "DROP PRIMARY KEY, ADD PRIMARY KEY (id, c)", "n = 4", Copied),
    kind("wider_key", "", "n = 1", "MODIFY id bigint NOT NULL", "n = 4", Copied),
    kind("auto_key", "", "n = 1", "MODIFY id int NOT NULL AUTO_INCREMENT", "n = 4", Any),
    keyed("c", kind("new_key", "", "n = 1", "DROP id, ADD c bigint NOT NULL AUTO_INCREMENT PRIMARY KEY", "n = 4", Copied)),
    kind("second_key", "c int NOT NULL", "c = id", "ADD UNIQUE KEY k (c), ADD KEY (n); RENAME INDEX k TO l; DROP KEY l", "c = -id", InPlace),
    kind("without_meaning", "c int", "c = id", "ALTER c SET DEFAULT 3; ALTER c DROP DEFAULT; COMMENT = 'it''s; a \"comment\"', ADD CONSTRAINT positive CHECK (n > -99); AUTO_INCREMENT = 5, ROW_FORMAT = DYNAMIC; RENAME KEY x TO y", "c = 9", InPlace),
    kind("comment", "c int", "c = id", "MODIFY c int COMMENT 'ADD d int; DROP n'", "c = 9", InPlace),
    kind("rebuilt", "c int", "c = id", "ENGINE = InnoDB; FORCE; OPTIMIZE TABLE TABLE; ANALYZE TABLE TABLE", "c = -id", InPlace),
    kind("many_", "c int, d varchar(3), e text", "c = id, d = 'd', e = 'e'",
        "ADD f int; DROP e; MODIFY d varchar(9); RENAME COLUMN c TO g; *; ADD c text; DROP f; RENAME COLUMN d TO e", "c = 'c', e = 'e', g = 0", Any),
    kind("many_at_once", "c int, d varchar(3), e text", "c = id, d = 'd', e = 'e'",
        "ADD f int AFTER id, DROP e, MODIFY d varchar(9) FIRST, CHANGE c g int AFTER big, ADD h datetime(6), ALGORITHM = COPY, LOCK = SHARED", "d = 'dddd', f = 1, g = 0", Any),
    kind("partitioned", "c int", "c = id", "PARTITION BY HASH (id) PARTITIONS 3; ADD c2 int; REMOVE PARTITIONING", "c = 9, c2 = 1", Any),
    only(MySql, kind("vector", "", "n = 1", "ADD c vector(3)", "c = TO_VECTOR('[1,2,3]')", InPlace)),
    only(MySql, kind("visibility", "c int", "c = id", "ALTER COLUMN c SET INVISIBLE; ALTER COLUMN c SET VISIBLE", "c = 9", InPlace)),
    only(MariaDb, kind("if_exists", "c int", "c = id", "ADD COLUMN IF NOT EXISTS c int; ADD COLUMN IF NOT EXISTS d int; DROP COLUMN IF EXISTS nothing; MODIFY COLUMN IF EXISTS nothing int; CHANGE COLUMN IF EXISTS nothing nothing2 int", "c = 9, d = 1", InPlace)),
    only(MariaDb, kind("rename_if_exists", "c int", "c = id", "RENAME COLUMN IF EXISTS c TO d", "d = 9", Mapped)),
    only(MariaDb, kind("uuid", "", "n = 1", "ADD c uuid, ADD d inet6", "c = uuid(), d = '::1'", InPlace)),
    only(MariaDb, kind("reordered_instant", "c int, d int", "c = id", "MODIFY d int FIRST, ALGORITHM = INSTANT; DROP c, ALGORITHM = INSTANT", "d = 9", Any)),
];

impl Kind {
    fn create(&self, rows: u32) -> String {
        let Kind {
            name, columns, fill, ..
        } = self;
        let comma = if columns.is_empty() { "" } else { "," };
        format!(
            "SET SESSION sql_mode = ''; CREATE TABLE {name} (id int PRIMARY KEY, n int, {columns}{comma} big text, KEY x (n));
             INSERT INTO {name} (id, n, big) SELECT i, 0, CASE WHEN i % 4 = 0 THEN repeat(hash(i), 90) END FROM series(1, {rows});
             UPDATE {name} SET {fill}"
        )
    }

    fn rows_before(&self) -> String {
        let Kind { name, fill, .. } = self;
        format!(
            "SET SESSION sql_mode = ''; INSERT INTO {name} (id, n) SELECT i, 1 FROM series(1000001, 1000012); UPDATE {name} SET {fill} WHERE id > 1000000;
             UPDATE {name} SET n = n + 1 WHERE id % 2 = 0; DELETE FROM {name} WHERE id % 9 = 0;
             UPDATE {name} SET id = -id WHERE id % 11 = 0"
        )
    }

    /// With the columns between two alterations, of which only some are known.
    fn rows_between(&self) -> String {
        let name = self.name;
        format!(
            "UPDATE {name} SET n = n + 1 WHERE id % 4 = 0; DELETE FROM {name} WHERE id % 8 = 1;
             DELETE FROM {name} WHERE id > 3000000; INSERT INTO {name} (id, n) SELECT i, 1 FROM series(3000001, 3000005)"
        )
    }

    /// `first` makes keys that were never used.
    fn rows_after(&self, first: u32) -> String {
        let Kind {
            name, fill_after, key, ..
        } = self;
        let last = first + 11;
        let insert = match *name {
            "other_key" | "longer_key" => format!("INSERT INTO {name} (id, c, n) SELECT i, i, 2"),
            "add_auto" | "not_null" | "second_key" => format!("INSERT INTO {name} (id, c, n) SELECT i, i, 2"),
            _ => format!("INSERT INTO {name} ({key}, n) SELECT i, 2"),
        };
        format!(
            "SET SESSION sql_mode = ''; {insert} FROM series({first}, {last}); UPDATE {name} SET n = n + 1 WHERE {key} % 3 = 0;
             UPDATE {name} SET {fill_after} WHERE {key} % 5 = 0; DELETE FROM {name} WHERE {key} % 13 = 0;
             UPDATE {name} SET {key} = -{key} WHERE {key} % 17 = 0"
        )
    }

    fn alterations(&self) -> Vec<String> {
        const VERBS: &[&str] = &["UPDATE", "OPTIMIZE", "ANALYZE"];
        let parts = self.alter.split(';').map(str::trim).filter(|part| !part.is_empty());
        let mut found: Vec<String> = vec![];
        let mut open = String::new();
        for part in parts {
            // A semicolon in quotes divides nothing.
            open += part;
            if open.matches('\'').count() % 2 == 1 {
                open += ";";
                continue;
            }
            let part = std::mem::take(&mut open);
            found.push(match part.as_str() {
                "*" => format!("SET SESSION sql_mode = ''; {}", self.rows_between()),
                part if VERBS.iter().any(|verb| part.starts_with(verb)) => {
                    let (verb, rest) = part.rsplit_once("TABLE").unwrap();
                    format!("{verb}{}{rest}", self.name)
                }
                part => format!("SET SESSION sql_mode = DEFAULT; ALTER TABLE {} {part}", self.name),
            });
        }
        found
    }

    /// The change with rows before and after it.
    fn whole(&self) -> Vec<String> {
        let mut all = vec![self.rows_before()];
        all.extend(self.alterations());
        all.push(self.rows_after(2_000_001));
        all
    }
}

fn kinds(source: Source) -> impl Iterator<Item = &'static Kind> {
    let here = if source == Source::MySql { MySql } else { MariaDb };
    KINDS.iter().filter(move |kind| kind.at == Both || kind.at == here)
}

fn apart(case: &Case, parts: &[String]) {
    case.sql(&parts.join(";\n"));
}

fn kinds_case<'a>(server: &'a Server, name: &str, rows: u32) -> Case<'a> {
    let case = Case::new(server, name);
    apart(
        &case,
        &kinds(server.kind).map(|kind| kind.create(rows)).collect::<Vec<_>>(),
    );
    case
}

/// What is told of all kinds that did not come out as they should.
fn check_outcomes(case: &Case) {
    let mut wrong = vec![];
    for Kind { name, outcome, .. } in kinds(case.kind()) {
        let table = case.table(name);
        let (copied, mapped) = (!replacements(&table).is_empty(), is_mapped(&table));
        let right = match outcome {
            InPlace => !copied && !mapped,
            Mapped => !copied && mapped,
            Copied => copied,
            Any => true,
        };
        if !right {
            wrong.push(format!("{name}: copied: {copied}, mapped: {mapped}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

fn each_change_between_changes_of_rows(source: Source) {
    changes_live(Server::shared(source), "changes_live");
}

fn each_change_with_full_metadata_and_minimal_images(source: Source) {
    let server = Server::configured(source, "binlog_row_metadata = FULL\nbinlog_row_image = MINIMAL");
    changes_live(&server, "changes_full");
}

fn changes_live(server: &Server, name: &str) {
    let case = kinds_case(server, name, 60);
    // In minimal images MariaDB leaves out virtual columns, so their tables are refused.
    let told = |kind: &&Kind| name == "changes_live" || server.kind == Source::MySql || kind.name != "add_virtual";
    let kinds = || kinds(server.kind).filter(told);
    let mut sidecar = case.start();
    case.wait_until_current(&mut sidecar);
    for kind in kinds() {
        apart(&case, &kind.whole());
    }
    case.wait_until_settled(&mut sidecar);
    case.compare(&[]);
    if name == "changes_live" {
        // With minimal images, what an insert left out has to be read, and a copy takes the place of what can't be.
        check_outcomes(&case);
    }
    // What was altered goes on, and after a restart too.
    for kind in kinds() {
        case.sql(&kind.rows_after(4_000_001));
    }
    case.wait_until_current(&mut sidecar);
    case.compare(&[]);
    sidecar.kill();
    for kind in kinds() {
        case.sql(&kind.rows_after(5_000_001));
    }
    case.catch_up();
    case.compare(&[]);
    case.verify();
}

fn each_change_that_no_row_follows(source: Source) {
    let case = kinds_case(Server::shared(source), "changes_idle", 60);
    let mut sidecar = case.start();
    case.wait_until_current(&mut sidecar);
    for kind in kinds(source) {
        apart(&case, &[vec![kind.rows_before()], kind.alterations()].concat());
    }
    case.wait_until_settled(&mut sidecar);
    case.wait_until_equal(&mut sidecar);
    check_outcomes(&case);
    sidecar.stop();
}

fn each_change_while_the_program_is_away(source: Source) {
    let case = kinds_case(Server::shared(source), "changes_away", 60);
    case.catch_up();
    for kind in kinds(source) {
        apart(&case, &kind.whole());
    }
    case.catch_up();
    case.compare(&[]);
    check_outcomes(&case);
    // Nothing follows the change.
    case.sql("ALTER TABLE untouched RENAME COLUMN c TO d; ALTER TABLE add_null ADD e int DEFAULT 5");
    case.catch_up();
    case.compare(&[]);
}

fn each_change_while_the_table_is_copied(source: Source) {
    let mut case = kinds_case(Server::shared(source), "changes_copying", 400);
    case.snapshot = "max_bytes_per_s = \"8MiB\"";
    let mut sidecar = case.start();
    wait_for("the first copies", || {
        sidecar.assert_running();
        let tables = case.status().tables;
        (tables.len() == kinds(source).count() && tables.iter().any(|t| t.rows > Some(0))).then_some(())
    });
    // Backwards, since the tables are copied in some order.
    let backwards: Vec<_> = kinds(source).collect();
    for kind in backwards.iter().rev() {
        apart(&case, &kind.whole());
    }
    case.wait_until_settled(&mut sidecar);
    case.wait_until_equal(&mut sidecar);
    sidecar.stop();
}

/// Waits until the lake's table has been replaced `count` times.
fn wait_for_copies(case: &Case, sidecar: &mut Sidecar, table: &str, count: usize) {
    wait_for("the new content", || {
        sidecar.assert_running();
        (replacements(&case.table(table)).len() >= count).then_some(())
    });
}

fn tables_that_tools_swap_are_followed(source: Source) {
    let case = Case::new(Server::shared(source), "swapped");
    case.sql(
        "CREATE TABLE t (id int PRIMARY KEY, v varchar(20)); INSERT INTO t SELECT i, concat('v', i) FROM series(1, 2000);
         CREATE TABLE u (id int PRIMARY KEY, v varchar(20)); INSERT INTO u SELECT i, concat('v', i) FROM series(1, 2000);
         CREATE TABLE other (id int PRIMARY KEY)",
    );
    let mut sidecar = case.start();
    case.wait_until_current(&mut sidecar);
    // As pt-online-schema-change does: triggers keep a shadow table current, one RENAME exchanges the two.
    case.sql(
        "CREATE TABLE _t_new LIKE t; ALTER TABLE _t_new ADD c int NOT NULL DEFAULT 5, MODIFY id bigint;
         CREATE TRIGGER t_del AFTER DELETE ON t FOR EACH ROW DELETE IGNORE FROM _t_new WHERE id <=> OLD.id;
         CREATE TRIGGER t_upd AFTER UPDATE ON t FOR EACH ROW REPLACE INTO _t_new (id, v) VALUES (NEW.id, NEW.v);
         CREATE TRIGGER t_ins AFTER INSERT ON t FOR EACH ROW REPLACE INTO _t_new (id, v) VALUES (NEW.id, NEW.v);
         INSERT IGNORE INTO _t_new (id, v) SELECT id, v FROM t WHERE id <= 1000; UPDATE t SET v = 'changed' WHERE id % 10 = 0; DELETE FROM t WHERE id % 17 = 0;
         INSERT IGNORE INTO _t_new (id, v) SELECT id, v FROM t WHERE id > 1000;
         RENAME TABLE t TO _t_old, _t_new TO t;
         INSERT INTO t (id, v) VALUES (5001, 'after the swap'); UPDATE t SET c = 6 WHERE id % 3 = 0;
         DROP TABLE IF EXISTS _t_old; DROP TRIGGER IF EXISTS t_del; DROP TRIGGER IF EXISTS t_upd; DROP TRIGGER IF EXISTS t_ins",
    );
    // As gh-ost does: a sentry table, rows applied by a reader of the binlog, then a cut-over.
    case.sql(
        "CREATE TABLE _u_gho LIKE u; ALTER TABLE _u_gho DROP v, ADD w varchar(30); CREATE TABLE _u_ghc (id int PRIMARY KEY AUTO_INCREMENT, hint varchar(20));
         INSERT INTO _u_ghc (hint) VALUES ('state'); INSERT INTO _u_gho (id, w) SELECT id, concat('w', id) FROM u; UPDATE u SET v = 'late' WHERE id < 50; UPDATE _u_gho SET w = 'late' WHERE id < 50;
         CREATE TABLE _u_del (id int PRIMARY KEY) COMMENT = 'ghost-cut-over-sentry'; DROP TABLE _u_del;
         RENAME TABLE u TO _u_del, _u_gho TO u; UPDATE u SET w = 'new' WHERE id > 1900; DELETE FROM u WHERE id = 1; DROP TABLE _u_ghc; DROP TABLE _u_del",
    );
    sidecar.reload();
    wait_for_copies(&case, &mut sidecar, "t", 1);
    wait_for_copies(&case, &mut sidecar, "u", 1);
    case.wait_until_settled(&mut sidecar);
    case.compare(&[]);
    case.sql(
        "UPDATE t SET c = 7, v = 'x' WHERE id % 7 = 0; DELETE FROM u WHERE id < 100; INSERT INTO other VALUES (1)",
    );
    case.wait_until_current(&mut sidecar);
    case.compare(&[]);
    sidecar.stop();
    // Once more while the program is away.
    case.sql(
        "CREATE TABLE _t_new LIKE t; ALTER TABLE _t_new ADD d int; INSERT INTO _t_new SELECT t.*, 1 FROM t; RENAME TABLE t TO _t_old, _t_new TO t; DROP TABLE _t_old;
         UPDATE t SET d = 2 WHERE id % 2 = 0",
    );
    case.catch_up();
    case.compare(&[]);
    case.verify();
}

fn tables_that_are_renamed_in_one_statement_are_told_apart(source: Source) {
    let case = Case::new(Server::shared(source), "renamed");
    for table in ["a", "b", "c"] {
        case.sql(&format!(
            "CREATE TABLE {table} (id int PRIMARY KEY, v varchar(20)); INSERT INTO {table} SELECT i, '{table}' FROM series(1, 100)"
        ));
    }
    let mut sidecar = case.start();
    case.wait_until_current(&mut sidecar);
    case.sql(
        "UPDATE a SET v = 'last as a' WHERE id < 10; RENAME TABLE a TO tmp, b TO a, c TO b, tmp TO c;
         UPDATE a SET v = 'was b' WHERE id < 20; UPDATE b SET v = 'was c' WHERE id < 30; DELETE FROM c WHERE id < 40",
    );
    sidecar.reload();
    for table in ["a", "b", "c"] {
        wait_for_copies(&case, &mut sidecar, table, 1);
    }
    case.wait_until_settled(&mut sidecar);
    case.compare(&[]);
    case.sql("ALTER TABLE a RENAME TO d, ADD c int; UPDATE d SET c = 5; ALTER TABLE b RENAME AS e; INSERT INTO e VALUES (900, 'e')");
    case.wait_for_state(&mut sidecar, "a", "dropped");
    case.wait_for_state(&mut sidecar, "e", "streaming");
    case.wait_until_settled(&mut sidecar);
    case.compare(&[]);
    sidecar.stop();
}

fn truncated_dropped_and_made_again(source: Source) {
    let case = Case::new(Server::shared(source), "emptied");
    for table in ["a", "b", "c", "d", "e"] {
        case.sql(&format!(
            "CREATE TABLE {table} (id int PRIMARY KEY, v varchar(20)); INSERT INTO {table} SELECT i, '{table}' FROM series(1, 100)"
        ));
    }
    let mut sidecar = case.start();
    case.wait_until_current(&mut sidecar);
    case.sql(
        "INSERT INTO a VALUES (500, 'gone'); TRUNCATE TABLE a; INSERT INTO a VALUES (1, 'again'); TRUNCATE b; TRUNCATE b; DELETE FROM c; INSERT INTO c VALUES (7, 'c');
         TRUNCATE c; INSERT INTO c SELECT i, 'new' FROM series(1, 10); UPDATE c SET id = -id WHERE id > 5;
         DROP TABLE d; CREATE TABLE d (code varchar(9) PRIMARY KEY, n int); INSERT INTO d VALUES ('x', 1); DROP TABLE d; CREATE TABLE d (code varchar(9) PRIMARY KEY, n bigint); INSERT INTO d VALUES ('y', 2);
         DROP TABLE e",
    );
    assert!(replacements(&case.table("a")).is_empty());
    sidecar.reload();
    case.wait_for_state(&mut sidecar, "e", "dropped");
    wait_for_copies(&case, &mut sidecar, "d", 1);
    case.wait_until_settled(&mut sidecar);
    case.compare(&[]);
    case.assert_not_copied_anew(&["a", "b", "c"]);
    sidecar.stop();
    case.sql("TRUNCATE a; CREATE TABLE e (id int PRIMARY KEY); INSERT INTO e VALUES (5); DROP TABLE b, c; CREATE TABLE b LIKE a");
    case.catch_up();
    case.compare(&[]);
}

fn statements_in_odd_words_are_understood(source: Source) {
    let case = Case::new(Server::shared(source), "odd_words");
    let name = &case.database.name;
    case.sql(
        "CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t SELECT i, 'v' FROM series(1, 50); CREATE TABLE `select` (id int PRIMARY KEY, `from` int);
         INSERT INTO `select` VALUES (1, 1); CREATE TABLE late (id int PRIMARY KEY, v text); INSERT INTO late VALUES (1, 'v')",
    );
    let mut sidecar = case.start();
    case.wait_until_current(&mut sidecar);
    case.sql(&format!(
        "/* a comment; DROP TABLE t */ ALTER TABLE `{name}`.`t` /*!50000 ADD */ COLUMN `a;b` INTEGER; UPDATE t SET `a;b` = 1 WHERE id % 2 = 0;
         USE mysql; alter\ttable {name}.t add\ncolumn `C``D` Varchar (20); USE {name}; UPDATE t SET `C``D` = 'x' WHERE id % 3 = 0;
         SET SESSION sql_mode = 'ANSI_QUOTES'; ALTER TABLE \"t\" ADD \"quoted name\" text DEFAULT NULL COMMENT 'it''s'; UPDATE \"t\" SET \"quoted name\" = 'q' WHERE id % 4 = 0;
         SET SESSION sql_mode = 'NO_BACKSLASH_ESCAPES'; ALTER TABLE t ADD back int COMMENT 'ends with \\'; UPDATE t SET back = 5; SET SESSION sql_mode = '';
         ALTER IGNORE TABLE t ADD ignored int"
    ).replace("ALTER IGNORE TABLE t ADD ignored int", if source == Source::MySql { "ALTER TABLE t ADD ignored int" } else { "ALTER IGNORE TABLE t ADD ignored int" }));
    case.sql(
        "ALTER TABLE `select` ADD `where` int; UPDATE `select` SET `where` = 2; SET NAMES latin1; ALTER TABLE t ADD `gr\u{fc}n` int; SET NAMES utf8mb4; UPDATE t SET id = -id WHERE id < 5;
         CREATE TABLE made AS SELECT 1 AS id; ALTER TABLE made ADD PRIMARY KEY (id); CREATE TABLE made_like LIKE t; INSERT INTO made_like SELECT * FROM t; CREATE OR REPLACE VIEW view_of_t AS SELECT * FROM t;
         CREATE TEMPORARY TABLE temporary_t (id int PRIMARY KEY); INSERT INTO temporary_t VALUES (1); DROP TEMPORARY TABLE temporary_t;
         CREATE PROCEDURE alters() ALTER TABLE late ADD c int; CALL alters(); UPDATE late SET c = 7; CREATE INDEX i ON t (id); DROP INDEX i ON t; CREATE UNIQUE INDEX late_u ON late (c)",
    );
    case.wait_until_settled(&mut sidecar);
    case.wait_until_equal(&mut sidecar);
    case.verify();
    sidecar.stop();
}

fn a_table_that_cannot_be_replicated_any_more_waits_until_it_can(source: Source) {
    let case = Case::new(Server::shared(source), "unwell");
    case.sql(
        "CREATE TABLE other (id int PRIMARY KEY); CREATE TABLE keyless (id int PRIMARY KEY, v int); INSERT INTO keyless SELECT i, 1 FROM series(1, 100);
         CREATE TABLE uniquely (id int NOT NULL, v int, UNIQUE KEY u (id)); INSERT INTO uniquely SELECT i, 1 FROM series(1, 100)",
    );
    if source != Source::MySql {
        case.sql("CREATE TABLE packed (id int PRIMARY KEY, c text); INSERT INTO packed VALUES (1, 'text')");
    }
    let mut sidecar = case.start();
    case.wait_until_current(&mut sidecar);
    if source != Source::MySql {
        case.sql("ALTER TABLE packed MODIFY c text COMPRESSED; UPDATE packed SET c = repeat('y', 300)");
        let status = case.wait_for_state(&mut sidecar, "packed", "stalled");
        assert!(status.reason.contains("compressed"), "{:?}", status.reason);
        case.sql("ALTER TABLE packed MODIFY c text; UPDATE packed SET c = repeat('z', 300)");
    }
    case.sql("ALTER TABLE keyless DROP PRIMARY KEY; INSERT INTO keyless VALUES (101, 2); ALTER TABLE uniquely DROP KEY u; INSERT INTO uniquely VALUES (1, 2)");
    for table in ["keyless", "uniquely"] {
        let status = case.wait_for_state(&mut sidecar, table, "stalled");
        assert!(status.reason.contains("key"), "{table}: {:?}", status.reason);
    }
    case.sql("INSERT INTO other SELECT i FROM series(1, 10)");
    wait_for("the other table", || {
        sidecar.assert_running();
        (case.table_status("other")?.rows == Some(10)).then_some(())
    });
    // A restart changes nothing about that.
    sidecar.stop();
    let mut sidecar = case.start();
    case.sql("INSERT INTO other VALUES (11)");
    wait_for("the other table", || {
        sidecar.assert_running();
        (case.table_status("other")?.rows == Some(11)).then_some(())
    });
    case.sql(
        "INSERT INTO keyless VALUES (102, 3); ALTER TABLE keyless ADD PRIMARY KEY (id); DELETE FROM uniquely WHERE id = 1; ALTER TABLE uniquely ADD PRIMARY KEY (id)",
    );
    sidecar.reload();
    for table in ["keyless", "uniquely"] {
        case.wait_for_state(&mut sidecar, table, "streaming");
    }
    case.sql("UPDATE keyless SET v = 4 WHERE id = 1; DELETE FROM uniquely WHERE id = 2");
    case.wait_until_current(&mut sidecar);
    case.compare(&[]);
    sidecar.stop();
}

/// No row tells of them, and the columns look as before.
fn statements_that_change_more_than_they_say_are_followed(source: Source) {
    let case = Case::new(Server::shared(source), "hidden_changes");
    case.sql(
        "CREATE TABLE computed (id int PRIMARY KEY, v varchar(20) CHARACTER SET utf8mb4 COLLATE utf8mb4_general_ci, g int AS (v = 'abc') VIRTUAL); INSERT INTO computed (id, v) VALUES (1, 'ABC'), (2, 'abc');
         CREATE TABLE größe (id int PRIMARY KEY); INSERT INTO größe VALUES (1), (2); CREATE TABLE base (id int PRIMARY KEY, n int); INSERT INTO base VALUES (1, 1); CREATE VIEW through AS SELECT * FROM base;
         CREATE TABLE p (id int PRIMARY KEY, n int) PARTITION BY RANGE (id) (PARTITION p0 VALUES LESS THAN (100), PARTITION p1 VALUES LESS THAN MAXVALUE); INSERT INTO p VALUES (1, 1);
         CREATE TABLE x (id int PRIMARY KEY, n int); INSERT INTO x VALUES (7, 7)",
    );
    let mut sidecar = case.start();
    case.wait_until_current(&mut sidecar);
    case.sql("ALTER TABLE computed MODIFY v varchar(20) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin");
    case.sql("SET @s = 'TRUNCATE TABLE größe'; SET NAMES latin1; PREPARE p FROM @s; EXECUTE p");
    case.sql("SET SESSION binlog_format = STATEMENT; UPDATE through SET n = 2");
    case.sql("ALTER TABLE p EXCHANGE PARTITION p0 WITH TABLE x");
    if source == Source::MySql {
        case.sql("ALTER TABLE p ALGORITHM = DEFAULT, EXCHANGE PARTITION p0 WITH TABLE x; INSERT INTO p VALUES (8, 8); ALTER TABLE p ALGORITHM = DEFAULT, EXCHANGE PARTITION p0 WITH TABLE x");
    }
    case.wait_until_equal(&mut sidecar);
    case.verify();
    sidecar.stop();
}

/// Rows come with columns that no statement in the log has announced.
fn columns_that_change_outside_of_the_log_are_noticed_by_the_next_row(source: Source) {
    let case = Case::new(Server::shared(source), "unannounced");
    for table in ["less", "more"] {
        case.sql(&format!("CREATE TABLE {table} (id int PRIMARY KEY, n int, c bigint); INSERT INTO {table} SELECT i, i, i FROM series(1, 50)"));
    }
    let mut sidecar = case.start();
    case.wait_until_current(&mut sidecar);
    case.sql("SET SESSION sql_log_bin = 0; ALTER TABLE less DROP c; ALTER TABLE more ADD d bigint; SET SESSION sql_log_bin = 1; UPDATE less SET n = -n; UPDATE more SET n = -n, d = 5");
    for table in ["less", "more"] {
        wait_for_copies(&case, &mut sidecar, table, 1);
    }
    case.wait_until_settled(&mut sidecar);
    case.compare(&[]);
    sidecar.stop();
}

#[test]
fn versioned_tables_of_mariadb_are_refused() {
    let case = Case::new(Server::shared(MARIADB), "versioned");
    case.sql("CREATE TABLE t (id int PRIMARY KEY, v int) WITH SYSTEM VERSIONING; INSERT INTO t SELECT i, 0 FROM series(1, 20)");
    // The log has rows of the past too, as if they were others.
    crate::support::assert_error(&case.run_once(), &[&case.qualified("t"), "DROP SYSTEM VERSIONING"]);
    case.sql("ALTER TABLE t DROP SYSTEM VERSIONING");
    case.catch_up();
    case.compare(&[]);
}
