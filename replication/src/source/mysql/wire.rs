//! One connection to a MySQL or MariaDB server: login, TLS, queries, rows of
//! prepared statements and the stream of binary log events.
//!
//! Packets are borrowed from the receive buffer, never copied out of it: a row
//! or an event is decoded where it lies.
//! Spec: MySQL source, "MySQL Client/Server Protocol"; MariaDB, "Client/Server Protocol".

mod auth;
mod endpoint;
mod failure;
mod frames;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzz;
mod packet;
mod row;

use std::io;
use std::time::Duration;

use bytes::{BufMut, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};

pub use self::endpoint::Endpoint;
pub use self::frames::Frame;
pub use self::packet::Column;
pub use self::row::cells;

use self::auth::{Channel, Method};
use self::failure::Failure;
use self::frames::Frames;
use self::packet::{CHUNK_BYTES, Greeting, Reader, capability, malformed};
use crate::error::{Class, Error, Result};
use crate::position::gtid::GtidList;
use crate::source::silence;
use crate::source::socket::Socket;
use crate::source::tls::{self, SslMode};

/// How long a connect may take, as users of the servers' own clients expect of a dead host.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// The two dialects of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flavor {
    MySql,
    MariaDb,
}

/// What a server says of itself when it greets.
#[derive(Clone, Debug)]
pub struct Server {
    /// As `SELECT version()` prints it.
    pub version: String,
    /// Major, minor and patch of it.
    pub number: (u16, u16, u16),
    pub flavor: Flavor,
    /// What `KILL` takes.
    pub connection_id: u32,
}

/// A row of text cells, as a query returns them.
pub type TextRow = Vec<Option<String>>;

/// A prepared statement.
#[derive(Debug)]
pub struct Statement {
    id: u32,
}

/// How a replica introduces itself.
pub struct Replica<'a> {
    /// Its own among all servers and replicas of the topology.
    pub server_id: u32,
    pub uuid: &'a str,
    /// What `SHOW REPLICAS` prints.
    pub hostname: &'a str,
    /// The server sends an event after this time without one.
    pub heartbeat: Duration,
}

/// What the server may send next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Nothing: it waits for a command.
    Idle,
    /// The answer to a command. Whoever waited for it, if it stays so, is gone.
    Answer,
    /// Rows of a prepared statement.
    Rows,
    /// Events of the binary log, without end.
    Dump,
}

pub struct Wire {
    socket: Socket,
    input: Frames,
    /// The row that the caller of [`Wire::next_row`] looks at.
    lent: Option<Frame>,
    output: BytesMut,
    sequence: u8,
    phase: Phase,
    /// Rows end with an OK packet, and nothing stands between columns and rows.
    without_eof: bool,
    server: Server,
    address: String,
}

impl Wire {
    /// Connects, authenticates and fixes the session's settings.
    pub async fn connect(endpoint: &Endpoint) -> Result<Self> {
        let address = endpoint.address();
        match tokio::time::timeout(CONNECT_TIMEOUT, Self::connect_inner(endpoint)).await {
            Ok(result) => result,
            Err(_) => Err(Error::transient(format!("no answer from {address} within 10 s"))
                .with_hint("check host and port in source.url, and the firewall between")),
        }
    }

    async fn connect_inner(endpoint: &Endpoint) -> Result<Self> {
        let mut wire = Self {
            socket: open_socket(endpoint).await?,
            input: Frames::new(),
            lent: None,
            output: BytesMut::new(),
            sequence: 0,
            phase: Phase::Idle,
            without_eof: false,
            server: Server {
                version: String::new(),
                number: (0, 0, 0),
                flavor: Flavor::MySql,
                connection_id: 0,
            },
            address: endpoint.address(),
        };
        let greeting = wire.packet().await?;
        wire.refuse_error(greeting)?;
        let parsed = Greeting::parse(wire.payload(greeting))?;
        wire.consume(greeting);
        wire.server = parsed.server.clone();
        let capabilities = wire.capabilities(endpoint, &parsed)?;
        if capabilities & capability::SSL != 0 {
            wire = wire.start_tls(endpoint, capabilities).await?;
        }
        wire.without_eof = capabilities & capability::DEPRECATE_EOF != 0;
        wire.log_in(endpoint, capabilities, parsed).await?;
        wire.fix_session().await?;
        Ok(wire)
    }

    /// What this client can do and the server too. Errors: the server lacks what is needed.
    fn capabilities(&self, endpoint: &Endpoint, greeting: &Greeting) -> Result<u32> {
        const NEEDED: u32 = capability::PROTOCOL_41 | capability::SECURE_CONNECTION | capability::PLUGIN_AUTH;
        const WANTED: u32 = NEEDED
            | capability::LONG_PASSWORD
            | capability::LONG_FLAG
            | capability::TRANSACTIONS
            | capability::CONNECT_ATTRS
            | capability::PLUGIN_AUTH_LENENC
            | capability::DEPRECATE_EOF;
        let address = &self.address;
        if greeting.capabilities & NEEDED != NEEDED {
            return Err(Error::operator(format!(
                "{address} runs {}, which lacks capabilities of the protocol",
                self.server.version
            ))
            .with_hint("MySQL 5.7 and MariaDB 10.2 are the oldest servers with all that is needed"));
        }
        let mut capabilities = greeting.capabilities & WANTED;
        if endpoint.database.is_some() {
            capabilities |= capability::CONNECT_WITH_DB;
        }
        // A socket file needs no TLS.
        if matches!(self.socket, Socket::Tcp(_)) && endpoint.tls.mode != SslMode::Disable {
            if greeting.capabilities & capability::SSL != 0 {
                capabilities |= capability::SSL;
            } else if endpoint.tls.mode != SslMode::Prefer {
                return Err(Error::operator(format!(
                    "{address} does not speak TLS, but sslmode (ssl-mode) asks for it"
                ))
                .with_hint("give the server a certificate, or use sslmode=disable on a trusted network"));
            }
        }
        Ok(capabilities)
    }

    async fn start_tls(mut self, endpoint: &Endpoint, capabilities: u32) -> Result<Self> {
        self.put_packet(|out| packet::put_login_head(out, capabilities));
        self.flush().await?;
        // Bytes sent before TLS could be anybody's.
        if !self.input.is_empty() {
            return Err(self.unexpected("TLS"));
        }
        let Socket::Tcp(tcp) = self.socket else {
            return Err(Error::bug("TLS on a socket that is not TCP"));
        };
        let stream = endpoint.tls.connect(&endpoint.host, &self.address, tcp).await?;
        self.socket = Socket::Tls(stream);
        Ok(self)
    }

    async fn log_in(&mut self, endpoint: &Endpoint, capabilities: u32, greeting: Greeting) -> Result<()> {
        let password = endpoint.password.as_deref().unwrap_or_default();
        let channel = match self.socket {
            Socket::Tcp(_) => Channel::Plain,
            Socket::Tls(_) | Socket::Unix(_) => Channel::Private,
        };
        // A method that is not known here may be the server's default and yet not this user's.
        let method = Method::from_name(&greeting.plugin)
            .filter(|method| *method != Method::Clear)
            .unwrap_or(Method::Native);
        let mut login = auth::Login::new(password.as_bytes(), channel, method, greeting.nonce);
        let answer = login.first()?;
        let packet = packet::Login {
            capabilities,
            user: &endpoint.user,
            answer: &answer,
            database: endpoint.database.as_deref(),
            plugin: method.name(),
        };
        self.put_packet(|out| packet.put(out));
        if let Err(error) = self.flush().await {
            // A server that refuses the client's certificate has said so before it closed.
            return match self.packet().await {
                Err(said) if said.class() == Class::NeedsOperator => Err(said),
                _ => Err(error),
            };
        }
        loop {
            let frame = self.packet().await?;
            self.refuse_error(frame)?;
            let answer = match self.payload(frame) {
                [packet::OK, ..] => {
                    self.consume(frame);
                    return Ok(());
                }
                [packet::EOF, switch @ ..] => {
                    let mut reader = Reader(switch);
                    let name = String::from_utf8_lossy(reader.until_nul()).into_owned();
                    let nonce = reader.0.strip_suffix(&[0]).unwrap_or(reader.0).to_vec();
                    let method = Method::from_name(&name).ok_or_else(|| self.unknown_method(endpoint, &name))?;
                    login.switch(method, nonce);
                    Some(login.first()?)
                }
                [packet::MORE_DATA, data @ ..] => login.next(data)?,
                // MariaDB leaves out the byte in front where the data's first can't be mistaken.
                data => login.next(data)?,
            };
            self.consume(frame);
            if let Some(answer) = answer {
                self.put_packet(|out| out.extend_from_slice(&answer));
                self.flush().await?;
            }
        }
    }

    fn unknown_method(&self, endpoint: &Endpoint, name: &str) -> Error {
        // The very old servers' switch names none.
        let name = if name.is_empty() { "mysql_old_password" } else { name };
        Error::operator(format!(
            "{} asks user {:?} for the authentication method {name}",
            self.address, endpoint.user
        ))
        .with_hint(
            "let the user log in with caching_sha2_password, mysql_native_password, ed25519 or parsec \
             (ALTER USER … IDENTIFIED WITH … BY …)",
        )
    }

    /// Fixed session settings: what the server prints must not depend on how
    /// it is set up, and a slow reader must not look like a dead one.
    async fn fix_session(&mut self) -> Result<()> {
        let limit = match self.server.flavor {
            Flavor::MySql => "max_execution_time",
            Flavor::MariaDb => "max_statement_time",
        };
        self.execute(&format!(
            "SET NAMES utf8mb4, time_zone = '+00:00', sql_mode = '', autocommit = 1, sql_big_selects = 1, \
             sql_select_limit = 18446744073709551615, net_write_timeout = 86400, wait_timeout = 2147483, {limit} = 0"
        ))
        .await
    }

    pub fn server(&self) -> &Server {
        &self.server
    }

    /// Whether the connection is under TLS.
    pub fn encrypted(&self) -> bool {
        matches!(self.socket, Socket::Tls(_))
    }

    /// Runs SQL and returns all rows as text.
    pub async fn query(&mut self, sql: &str) -> Result<Vec<TextRow>> {
        self.command(COM_QUERY, |out| out.extend_from_slice(sql.as_bytes()))
            .await?;
        let mut rows = Vec::new();
        let Some(columns) = self.columns().await? else {
            return Ok(rows);
        };
        loop {
            let frame = self.packet().await?;
            if self.ends_rows(frame)? {
                return Ok(rows);
            }
            rows.push(packet::text_row(self.payload(frame), columns.len()).ok_or_else(|| malformed("row"))?);
            self.consume(frame);
        }
    }

    /// The first cell of the first row, or an empty string.
    pub async fn scalar(&mut self, sql: &str) -> Result<String> {
        let rows = self.query(sql).await?;
        Ok(rows.into_iter().flatten().flatten().next().unwrap_or_default())
    }

    /// Runs SQL and drops its rows.
    pub async fn execute(&mut self, sql: &str) -> Result<()> {
        self.command(COM_QUERY, |out| out.extend_from_slice(sql.as_bytes()))
            .await?;
        if self.columns().await?.is_some() {
            self.phase = Phase::Rows;
            self.drain().await?;
        }
        Ok(())
    }

    pub async fn prepare(&mut self, sql: &str) -> Result<Statement> {
        self.command(COM_STMT_PREPARE, |out| out.extend_from_slice(sql.as_bytes()))
            .await?;
        let frame = self.packet().await?;
        self.refuse_error(frame)?;
        let (id, columns, params) = packet::prepared(self.payload(frame)).ok_or_else(|| malformed("statement"))?;
        self.consume(frame);
        for count in [params, columns] {
            let eof = usize::from(count > 0 && !self.without_eof);
            for _ in 0..usize::from(count) + eof {
                let frame = self.packet().await?;
                self.consume(frame);
            }
        }
        self.phase = Phase::Idle;
        Ok(Statement { id })
    }

    /// Runs a statement without parameters and returns its columns; its rows come from [`Wire::next_row`].
    pub async fn select(&mut self, statement: &Statement) -> Result<Vec<Column>> {
        self.command(COM_STMT_EXECUTE, |out| put_execute(out, statement.id))
            .await?;
        match self.columns().await? {
            Some(columns) => {
                self.phase = Phase::Rows;
                Ok(columns)
            }
            None => Ok(Vec::new()),
        }
    }

    /// The next row, or `None` once all are read: its NULL bitmap (from bit 2
    /// on) and its values, for [`cells`]. Safe to cancel.
    pub async fn next_row(&mut self) -> Result<Option<&[u8]>> {
        if let Some(frame) = self.lent.take() {
            self.consume(frame);
        }
        if self.phase != Phase::Rows {
            return Ok(None);
        }
        let frame = self.packet().await?;
        if self.ends_rows(frame)? {
            return Ok(None);
        }
        self.lent = Some(frame);
        Ok(Some(self.body(frame)))
    }

    /// Reads and drops the rest of the rows, as every command does where
    /// there are some. To give up a big result, drop the connection.
    pub async fn drain(&mut self) -> Result<()> {
        while self.next_row().await?.is_some() {}
        Ok(())
    }

    /// Frees a statement at the server.
    pub async fn close(&mut self, statement: Statement) -> Result<()> {
        self.command(COM_STMT_CLOSE, |out| out.put_u32_le(statement.id)).await?;
        // There is no answer.
        self.phase = Phase::Idle;
        Ok(())
    }

    /// Tells the server who reads and how it wants to be sent events.
    pub async fn register_replica(&mut self, replica: &Replica<'_>) -> Result<()> {
        let uuid = quote_literal(replica.uuid);
        let heartbeat = replica.heartbeat.as_nanos();
        // Both names: since MySQL 8.0.26 the server asks for the new one first.
        self.execute(&format!(
            "SET @source_binlog_checksum = @@global.binlog_checksum, \
             @master_binlog_checksum = @@global.binlog_checksum, \
             @source_heartbeat_period = {heartbeat}, @master_heartbeat_period = {heartbeat}, \
             @replica_uuid = {uuid}, @slave_uuid = {uuid}"
        ))
        .await?;
        if self.server.flavor == Flavor::MariaDb {
            // 4: knows GTID events.
            self.execute("SET @mariadb_slave_capability = 4").await?;
        }
        self.command(COM_REGISTER_SLAVE, |out| {
            out.put_u32_le(replica.server_id);
            let hostname = replica.hostname.as_bytes();
            let hostname = hostname.get(..hostname.len().min(60)).unwrap_or_default();
            out.put_u8(hostname.len() as u8);
            out.extend_from_slice(hostname);
            // User, password, port, rank and the source's id: all unknown.
            out.put_bytes(0, 2 + 2 + 4 + 4);
        })
        .await?;
        self.answer().await.map_err(|e| match e.code() {
            // The same code as for a wrong password.
            Some("1045") => e.with_hint("the user needs REPLICATION SLAVE; `tributary check` prints the SQL"),
            _ => e,
        })
    }

    /// MySQL: events of all transactions outside `executed`, an encoded
    /// [`crate::position::gtid::GtidSet`]. Then read frames with [`Wire::buffered`].
    pub async fn dump_gtid(&mut self, server_id: u32, executed: &[u8]) -> Result<()> {
        const THROUGH_GTID: u16 = 4;
        self.command(COM_BINLOG_DUMP_GTID, |out| {
            out.put_u16_le(THROUGH_GTID);
            out.put_u32_le(server_id);
            out.put_u32_le(0);
            out.put_u64_le(4);
            out.put_u32_le(executed.len() as u32);
            out.extend_from_slice(executed);
        })
        .await?;
        self.phase = Phase::Dump;
        Ok(())
    }

    /// MariaDB: events after these GTIDs; of domains without one, all there are.
    pub async fn dump_gtid_list(&mut self, server_id: u32, after: &GtidList) -> Result<()> {
        let after = quote_literal(&after.to_string());
        // Strict: a position that the binary log does not have is an error, not a guess.
        self.execute(&format!(
            "SET @slave_connect_state = {after}, @slave_gtid_strict_mode = 1, @slave_gtid_ignore_duplicates = 0"
        ))
        .await?;
        self.dump(server_id, "", 4).await
    }

    /// Events from a place in a binary log file on.
    pub async fn dump(&mut self, server_id: u32, file: &str, position: u64) -> Result<()> {
        let position = u32::try_from(position).map_err(|_| {
            Error::operator(format!(
                "position {position} of {file} is above 4 GiB, the last that a replica without GTIDs can ask for"
            ))
            .with_hint("turn on gtid_mode at the server")
        })?;
        self.command(COM_BINLOG_DUMP, |out| {
            out.put_u32_le(position);
            out.put_u16_le(0);
            out.put_u32_le(server_id);
            out.extend_from_slice(file.as_bytes());
        })
        .await?;
        self.phase = Phase::Dump;
        Ok(())
    }

    /// The event at the front of the buffer, if it is there whole. No I/O.
    /// Errors: the server ends the stream.
    pub fn buffered(&mut self) -> Result<Option<Frame>> {
        let Some(frame) = self.input.whole()? else {
            return Ok(None);
        };
        match self.payload(frame).first() {
            Some(&packet::OK) => Ok(Some(frame)),
            Some(&packet::ERR) => Err(self.server_error(frame)),
            Some(&packet::EOF) => Err(Error::transient(format!(
                "{} ended the binary log stream",
                self.address
            ))),
            _ => Err(self.unexpected("an event")),
        }
    }

    /// The bytes of an event that [`Wire::buffered`] returned: header, body
    /// and, where the stream has them, checksum.
    pub fn body(&self, frame: Frame) -> &[u8] {
        self.payload(frame).get(1..).unwrap_or_default()
    }

    pub fn consume(&mut self, frame: Frame) {
        self.input.consume(frame);
    }

    /// Reads once from the socket. Safe to cancel: bytes are in the buffer or
    /// still in the socket.
    pub async fn fill(&mut self) -> Result<()> {
        match self.socket.read_buf(self.input.room()).await {
            Ok(0) => Err(Error::transient(format!("{} closed the connection", self.address))),
            Ok(_) => Ok(()),
            Err(e) => Err(self.io(e)),
        }
    }

    /// Ends the connection, as far as the server listens.
    pub async fn terminate(&mut self) {
        self.sequence = 0;
        self.put_packet(|out| out.put_u8(COM_QUIT));
        // The server may be gone already; there is nothing left to save.
        let _ = self.flush().await;
    }

    /// Sends a command once the last one's answer is read.
    async fn command(&mut self, code: u8, build: impl FnOnce(&mut BytesMut)) -> Result<()> {
        match self.phase {
            Phase::Idle => {}
            Phase::Rows => self.drain().await?,
            Phase::Answer => {
                return Err(Error::transient(format!(
                    "the connection to {} ended in the middle of an answer",
                    self.address
                )));
            }
            Phase::Dump => return Err(Error::bug("a command on a connection that streams the binary log")),
        }
        self.sequence = 0;
        self.put_packet(|out| {
            out.put_u8(code);
            build(out);
        });
        self.phase = Phase::Answer;
        self.flush().await
    }

    /// An answer that is OK or an error.
    async fn answer(&mut self) -> Result<()> {
        let frame = self.packet().await?;
        self.refuse_error(frame)?;
        self.consume(frame);
        self.phase = Phase::Idle;
        Ok(())
    }

    /// The columns of a result set, or `None` for a command without one.
    async fn columns(&mut self) -> Result<Option<Vec<Column>>> {
        let frame = self.packet().await?;
        self.refuse_error(frame)?;
        let count = match self.payload(frame) {
            [packet::OK, ..] => {
                self.consume(frame);
                self.phase = Phase::Idle;
                return Ok(None);
            }
            [packet::LOCAL_INFILE, ..] => return Err(self.unexpected("rows")),
            payload => Reader(payload).lenenc().ok_or_else(|| malformed("result"))?,
        };
        self.consume(frame);
        let mut columns = Vec::new();
        for _ in 0..count {
            let frame = self.packet().await?;
            columns.push(Column::parse(self.payload(frame)).ok_or_else(|| malformed("column"))?);
            self.consume(frame);
        }
        if !self.without_eof {
            let frame = self.packet().await?;
            self.consume(frame);
        }
        Ok(Some(columns))
    }

    /// Whether a packet is the end of the rows. Errors: the server's.
    fn ends_rows(&mut self, frame: Frame) -> Result<bool> {
        match self.payload(frame).first() {
            // The first cell of a text row may begin with this byte, but is longer then.
            Some(&packet::EOF) if frame.payload_len() < CHUNK_BYTES => {
                self.consume(frame);
                self.phase = Phase::Idle;
                Ok(true)
            }
            Some(&packet::ERR) => {
                self.refuse_error(frame)?;
                Ok(true)
            }
            _ => Ok(false),
        }
    }

    /// Turns an ERR packet into the error; the server then waits for a command.
    fn refuse_error(&mut self, frame: Frame) -> Result<()> {
        if self.payload(frame).first() != Some(&packet::ERR) {
            return Ok(());
        }
        let error = self.server_error(frame);
        self.consume(frame);
        self.phase = Phase::Idle;
        Err(error)
    }

    fn payload(&self, frame: Frame) -> &[u8] {
        self.input.payload(frame)
    }

    /// The next packet, which stays in the buffer until [`Wire::consume`]. Safe to cancel.
    async fn packet(&mut self) -> Result<Frame> {
        loop {
            match self.input.whole()? {
                Some(frame) => {
                    self.sequence = self.input.sequence().wrapping_add(1);
                    return Ok(frame);
                }
                None => self.fill().await?,
            }
        }
    }

    /// Frames a payload; one that is too long for a packet goes in several.
    fn put_packet(&mut self, build: impl FnOnce(&mut BytesMut)) {
        let mut payload = BytesMut::new();
        build(&mut payload);
        loop {
            let len = payload.len().min(CHUNK_BYTES);
            self.output.put_uint_le(len as u64, 3);
            self.output.put_u8(self.sequence);
            self.sequence = self.sequence.wrapping_add(1);
            self.output.unsplit(payload.split_to(len));
            if len < CHUNK_BYTES {
                break;
            }
        }
    }

    async fn flush(&mut self) -> Result<()> {
        let result = async {
            self.socket.write_all_buf(&mut self.output).await?;
            self.socket.flush().await
        };
        result.await.map_err(|e| self.io(e))
    }

    fn unexpected(&self, wanted: &str) -> Error {
        Error::transient(format!("expected {wanted} from {}, found another packet", self.address))
    }

    fn io(&self, error: io::Error) -> Error {
        tls::broken(&self.address, error)
    }

    fn server_error(&self, frame: Frame) -> Error {
        match Failure::parse(self.payload(frame)) {
            Some(failure) => failure.into_error(&self.address),
            None => malformed("error"),
        }
    }
}

const COM_QUIT: u8 = 0x01;
const COM_QUERY: u8 = 0x03;
const COM_BINLOG_DUMP: u8 = 0x12;
const COM_REGISTER_SLAVE: u8 = 0x15;
const COM_STMT_PREPARE: u8 = 0x16;
const COM_STMT_EXECUTE: u8 = 0x17;
const COM_STMT_CLOSE: u8 = 0x19;
const COM_BINLOG_DUMP_GTID: u8 = 0x1e;

fn put_execute(out: &mut BytesMut, statement: u32) {
    out.put_u32_le(statement);
    out.put_u8(0); // no cursor: rows stream
    out.put_u32_le(1);
}

async fn open_socket(endpoint: &Endpoint) -> Result<Socket> {
    let address = endpoint.address();
    let refused = |e: io::Error| {
        Error::transient(format!("cannot connect to {address}"))
            .with_hint("check host and port in source.url, and that the server listens there")
            .with_source(e)
    };
    if let Some(path) = &endpoint.socket {
        return Ok(Socket::Unix(UnixStream::connect(path).await.map_err(refused)?));
    }
    let tcp = TcpStream::connect((endpoint.host.as_str(), endpoint.port))
        .await
        .map_err(refused)?;
    silence::watch(&tcp).map_err(refused)?;
    Ok(Socket::Tcp(tcp))
}

/// `` `name` ``, quoted for SQL.
pub fn quote_identifier(name: &str) -> String {
    format!("`{}`", name.replace('`', "``"))
}

/// `'text'`, quoted for SQL in the `sql_mode` that [`Wire::connect`] sets.
pub fn quote_literal(text: &str) -> String {
    format!("'{}'", text.replace('\\', "\\\\").replace('\'', "''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_names_stay_inside_their_quotes() {
        assert_eq!(quote_identifier("a`b"), "`a``b`");
        assert_eq!(quote_literal("o'b"), "'o''b'");
        assert_eq!(quote_literal("a\\'b"), "'a\\\\''b'");
    }
}
