//! What the server reports as failed, and who can help. Pure: no I/O.
//!
//! Codes: MySQL, "Server Error Message Reference"; MariaDB, "Error Codes".

use super::packet::Reader;
use crate::error::Error;

/// An ERR packet.
pub struct Failure {
    pub code: u16,
    pub state: String,
    pub message: String,
}

impl Failure {
    pub fn parse(payload: &[u8]) -> Option<Self> {
        let mut reader = Reader(payload.get(1..)?);
        let code = reader.u16()?;
        // Before the login is through there is no SQLSTATE.
        let state = match reader.0.first() {
            Some(b'#') => reader.bytes(6)?.get(1..)?,
            _ => b"HY000",
        };
        Some(Self {
            code,
            state: String::from_utf8_lossy(state).into_owned(),
            message: String::from_utf8_lossy(reader.0).into_owned(),
        })
    }

    /// Gives it its class and, where we know one, its way out.
    pub fn into_error(self, address: &str) -> Error {
        let Self { code, state, message } = self;
        // Messages of constraint and conversion errors quote row values.
        let text = if state.starts_with("22") || state.starts_with("23") {
            format!("{address}: error {code} ({state})")
        } else {
            format!("{address}: {message} ({code})")
        };
        let transient = match code {
            // Too many connections, out of memory or disk, shutting down, killed.
            1021 | 1037 | 1038 | 1040 | 1041 | 1053 | 1203 | 1226 | 1317 | 1927 | 3169 | 4031 => true,
            // Lock waits and deadlocks, time limits, a table altered under a statement.
            1205 | 1213 | 1412 | 1615 | 1969 | 3024 => true,
            // An unknown command, a packet that is too large, a method the server lacks: no failures of a network.
            1047 | 1153 | 1251 => false,
            _ => state.starts_with("08") || state.starts_with("40"),
        };
        let error = if transient {
            Error::transient(text)
        } else {
            Error::operator(text)
        }
        .with_code(code.to_string());
        let hint = match code {
            1044 | 1142 | 1143 | 1227 | 1370 => "grant the user what is missing; `tributary check` prints the SQL",
            1045 | 1698 => {
                "check user and password (source.url, source.password_file or MYSQL_PWD), that the account allows this \
                 host, and what it requires: TLS (sslmode), or a client certificate (ssl-cert, ssl-key)"
            }
            1049 => "check the database name at the end of source.url",
            1040 => "raise max_connections, or end idle sessions",
            1203 | 1226 => "raise the user's limits (ALTER USER … WITH MAX_USER_CONNECTIONS …)",
            1129 => {
                "the server blocks this host after many failed connects: run FLUSH HOSTS \
                 (MySQL: TRUNCATE TABLE performance_schema.host_cache)"
            }
            1130 => "the server has no account for this host: CREATE USER 'user'@'host'",
            1236 | 4052 if message.contains("same server_") => {
                "another replica has this server id: stop the other sidecar, or give each an id of its own"
            }
            1236 if message.contains("anonymous transaction") => {
                "gtid_mode went on while the sidecar still had transactions without GTIDs to read: \
                 SET GLOBAL gtid_mode = 'ON_PERMISSIVE' until it has caught up"
            }
            1236 => {
                "the binary log does not have this position: keep logs for longer than the sidecar may be down \
                 (binlog_expire_logs_seconds), and run `tributary snapshot`: all tables are copied anew"
            }
            1461 => "raise max_prepared_stmt_count, or end idle sessions",
            1820 | 1862 => "give the user a new password, and put it where the old one is",
            3118 | 4151 => "unlock the account: ALTER USER … ACCOUNT UNLOCK",
            3159 | 4048 => "the server wants TLS: leave sslmode (ssl-mode) out of source.url, or set sslmode=require",
            _ => return error,
        };
        error.with_hint(hint)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Class;

    #[test]
    fn errors_hide_values_and_know_who_can_help() {
        let error = |code: u16, state: &str| {
            let failure = Failure {
                code,
                state: state.to_owned(),
                message: "Duplicate entry 'secret'".to_owned(),
            };
            failure.into_error("h:1")
        };
        assert!(!error(1062, "23000").to_string().contains("secret"));
        assert_eq!(error(1040, "08004").class(), Class::Transient);
        let denied = error(1045, "28000");
        assert_eq!((denied.class(), denied.code()), (Class::NeedsOperator, Some("1045")));
        assert!(denied.hint().is_some());
    }

    #[test]
    fn truncated_packets_are_no_failures() {
        let packet = b"\xff\x15\x04#28000no";
        for len in 0..9 {
            assert!(Failure::parse(&packet[..len]).is_none() || len == 3, "{len}");
        }
        let parsed = Failure::parse(packet).expect("failure");
        assert_eq!(
            (parsed.code, parsed.state.as_str(), parsed.message.as_str()),
            (1045, "28000", "no")
        );
        // Before the login there is no SQLSTATE.
        let parsed = Failure::parse(b"\xff\x10\x04Too many").expect("failure");
        assert_eq!((parsed.code, parsed.message.as_str()), (1040, "Too many"));
    }
}
