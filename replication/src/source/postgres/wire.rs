//! One connection to a PostgreSQL server: start-up, TLS, SCRAM, the simple
//! query protocol, COPY OUT and the replication stream.
//!
//! Frames are borrowed from the receive buffer, never copied out of it: a row
//! of a COPY or a change of the stream is decoded where it lies.
//! Spec: PostgreSQL, "Frontend/Backend Protocol".

mod channel_binding;
mod endpoint;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzz;
mod password_file;

use std::io;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use fallible_iterator::FallibleIterator;
use postgres_protocol::authentication::{md5_hash, sasl};
use postgres_protocol::message::backend::{AuthenticationSaslBody, ErrorResponseBody, Header, Message};
use postgres_protocol::message::frontend;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};

pub use self::endpoint::Endpoint;

use self::channel_binding::ChannelBinding;
use self::endpoint::Password;
use crate::error::{Class, Error, Result};
use crate::source::silence;
use crate::source::socket::Socket;
use crate::source::tls::{self, SslMode};

/// How long a connect may take, as libpq users expect of a dead host.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// What one read from the socket asks for.
const READ_BYTES: usize = 256 << 10;
/// PostgreSQL allocates at most 1 GiB for one message.
const FRAME_BYTES_MAX: usize = 1 << 30;

/// What a standby says of a read that it ends for replay to go on.
/// Code: `ProcessRecoveryConflictInterrupt`.
pub const CONFLICT: [&str; 2] = ["40001", "40P01"];

/// What to do about it.
pub const CONFLICT_HINT: &str = "reads that stand in the way of replay for longer than the standby's \
                                 max_standby_streaming_delay are ended: raise it, and set hot_standby_feedback = on";

/// A frame that lies whole in the receive buffer.
#[derive(Clone, Copy)]
pub struct Frame {
    pub tag: u8,
    /// Length with tag and length word.
    len: usize,
}

/// A row of text cells, as the simple query protocol returns them.
pub type TextRow = Vec<Option<String>>;

pub struct Wire {
    socket: Socket,
    input: BytesMut,
    output: BytesMut,
    address: String,
}

impl Wire {
    /// Connects and authenticates. `replication` opens a logical walsender,
    /// which takes SQL too.
    pub async fn connect(endpoint: &Endpoint, replication: bool) -> Result<Self> {
        let address = endpoint.address();
        match tokio::time::timeout(CONNECT_TIMEOUT, Self::connect_inner(endpoint, replication)).await {
            Ok(result) => result,
            Err(_) => Err(Error::transient(format!("no answer from {address} within 10 s"))
                .with_hint("check host and port in source.url, and the firewall between")),
        }
    }

    async fn connect_inner(endpoint: &Endpoint, replication: bool) -> Result<Self> {
        let socket = open_socket(endpoint).await?;
        let mut wire = Self {
            socket,
            input: BytesMut::with_capacity(READ_BYTES),
            output: BytesMut::new(),
            address: endpoint.address(),
        };
        let mut parameters = vec![
            ("user", endpoint.user()),
            ("database", endpoint.database.as_str()),
            ("application_name", "tributary"),
            ("client_encoding", "UTF8"),
            // Fixed session settings: what the server prints must not depend
            // on how the database or role is set up.
            ("datestyle", "ISO"),
            ("intervalstyle", "iso_8601"),
            ("timezone", "UTC"),
            ("extra_float_digits", "1"),
            ("search_path", "pg_catalog"),
            ("statement_timeout", "0"),
            ("idle_in_transaction_session_timeout", "0"),
            // A policy for rows is an error: without it, rows would be missing in silence.
            ("row_security", "off"),
        ];
        if replication {
            parameters.push(("replication", "database"));
        }
        frontend::startup_message(parameters, &mut wire.output).map_err(|e| wire.io(e))?;
        if let Err(error) = wire.flush().await {
            // A server that refuses the client's certificate has said so before it closed.
            return match wire.fill().await {
                Err(said) if said.class() == Class::NeedsOperator => Err(said),
                _ => Err(error),
            };
        }
        wire.authenticate(endpoint).await?;
        Ok(wire)
    }

    async fn authenticate(&mut self, endpoint: &Endpoint) -> Result<()> {
        let must_bind = endpoint.channel_binding == ChannelBinding::Require;
        if must_bind && !matches!(self.socket, Socket::Tls(_)) {
            return Err(Error::operator(format!(
                "channel_binding=require needs TLS, and the connection to {} has none",
                self.address
            ))
            .with_hint("turn ssl on at the server, and leave sslmode=disable and sockets out of source.url"));
        }
        // By SCRAM, and bound to TLS if it has to be.
        let mut proven = false;
        loop {
            let message = self.message().await?;
            let asks_otherwise = matches!(
                message,
                Message::AuthenticationOk
                    | Message::AuthenticationCleartextPassword
                    | Message::AuthenticationMd5Password(_)
            );
            if must_bind && !proven && asks_otherwise {
                return Err(self.unbound());
            }
            match message {
                Message::AuthenticationOk => {}
                Message::AuthenticationCleartextPassword => {
                    let password = self.password(endpoint)?;
                    self.send(|out| frontend::password_message(password.text.as_bytes(), out))
                        .await?;
                }
                Message::AuthenticationMd5Password(body) => {
                    let password = self.password(endpoint)?;
                    let hash = md5_hash(endpoint.user().as_bytes(), password.text.as_bytes(), body.salt());
                    self.send(|out| frontend::password_message(hash.as_bytes(), out))
                        .await?;
                }
                Message::AuthenticationSasl(body) => {
                    self.scram(endpoint, &body).await?;
                    proven = true;
                }
                Message::ParameterStatus(_) | Message::BackendKeyData(_) | Message::NoticeResponse(_) => {}
                Message::ReadyForQuery(_) => return Ok(()),
                Message::ErrorResponse(body) => return Err(self.login_error(endpoint, &body, proven)),
                _ => {
                    return Err(Error::operator(
                        "the server asks for an authentication method other than password, md5 or SCRAM",
                    )
                    .with_hint("allow scram-sha-256 or cert for this role in pg_hba.conf"));
                }
            }
        }
    }

    fn password<'e>(&self, endpoint: &'e Endpoint) -> Result<&'e Password> {
        endpoint.password.as_ref().ok_or_else(|| {
            Error::operator(format!(
                "the server at {} asks user {:?} for a password",
                self.address,
                endpoint.user()
            ))
            .with_hint(
                "put the password into source.url, a file for source.password_file, PGPASSWORD, or a line of ~/.pgpass \
                 (chmod 0600) for this host, port, database and user",
            )
        })
    }

    async fn scram(&mut self, endpoint: &Endpoint, body: &AuthenticationSaslBody) -> Result<()> {
        let (mut plain, mut plus) = (false, false);
        let mut mechanisms = body.mechanisms();
        while let Some(mechanism) = mechanisms.next().map_err(|e| self.io(e))? {
            plain |= mechanism == sasl::SCRAM_SHA_256;
            plus |= mechanism == sasl::SCRAM_SHA_256_PLUS;
        }
        let (mechanism, binding) = match (&self.socket, endpoint.channel_binding) {
            (Socket::Tls(tls), ChannelBinding::Prefer | ChannelBinding::Require) if plus => {
                let (_, session) = tls.get_ref();
                let certificate = session.peer_certificates().and_then(|chain| chain.first());
                let data = certificate.and_then(|certificate| channel_binding::end_point(certificate));
                let data = data.ok_or_else(|| {
                    Error::operator(format!(
                        "the certificate of {} has a signature without a hash for channel binding",
                        self.address
                    ))
                    .with_hint(
                        "give the server a certificate signed with RSA or ECDSA; or set channel_binding=disable, with \
                         sslmode=verify-full",
                    )
                })?;
                (
                    sasl::SCRAM_SHA_256_PLUS,
                    sasl::ChannelBinding::tls_server_end_point(data),
                )
            }
            (_, ChannelBinding::Require) => return Err(self.unbound()),
            _ if !plain => {
                return Err(Error::operator(format!(
                    "{} asks for a SASL mechanism other than SCRAM-SHA-256",
                    self.address
                ))
                .with_hint("allow scram-sha-256 for this role in pg_hba.conf; SCRAM-SHA-256-PLUS alone needs TLS"));
            }
            // Tells a server that does offer it that somebody has taken its offer away.
            (Socket::Tls(_), ChannelBinding::Prefer) => (sasl::SCRAM_SHA_256, sasl::ChannelBinding::unrequested()),
            _ => (sasl::SCRAM_SHA_256, sasl::ChannelBinding::unsupported()),
        };
        let mut scram = sasl::ScramSha256::new(self.password(endpoint)?.text.as_bytes(), binding);
        let first = scram.message().to_vec();
        self.send(|out| frontend::sasl_initial_response(mechanism, &first, out))
            .await?;
        loop {
            match self.message().await? {
                Message::AuthenticationSaslContinue(body) => {
                    scram.update(body.data()).map_err(|e| self.io(e))?;
                    let reply = scram.message().to_vec();
                    self.send(|out| frontend::sasl_response(&reply, out)).await?;
                }
                Message::AuthenticationSaslFinal(body) => {
                    return scram.finish(body.data()).map_err(|e| self.io(e));
                }
                Message::ErrorResponse(body) => return Err(self.login_error(endpoint, &body, false)),
                _ => return Err(self.unexpected("a SASL message")),
            }
        }
    }

    /// The server does not prove that TLS ends at it.
    fn unbound(&self) -> Error {
        Error::operator(format!(
            "channel_binding=require, but {} lets this user in without channel binding",
            self.address
        ))
        .with_hint(
            "allow scram-sha-256 for this role in pg_hba.conf, with a password stored as such (password_encryption); or \
             set channel_binding=prefer, with sslmode=verify-full",
        )
    }

    /// An error of the server before it let us in. `proven`: the password was right.
    fn login_error(&self, endpoint: &Endpoint, body: &ErrorResponseBody, proven: bool) -> Error {
        const CERTIFICATE: &str =
            "the CN of the certificate in sslcert has to be the role's name, or pg_ident.conf has to map it";
        let error = self.server_error(body);
        let said = error.to_string();
        let hint = match error.code() {
            Some("28000") if said.contains("valid client certificate") => {
                "pg_hba.conf wants a client certificate of this user: name its files with sslcert= and sslkey="
                    .to_owned()
            }
            Some("28000") if said.contains("certificate authentication failed") => CERTIFICATE.to_owned(),
            Some("28000") if said.contains("SCRAM channel binding") => {
                "TLS does not end at the server but somewhere between, where all can be read. If that is a proxy of \
                 yours, set channel_binding=disable, with sslmode=verify-full"
                    .to_owned()
            }
            Some("28P01") if proven => format!("the password is right, but {CERTIFICATE}"),
            Some("28P01") => match &endpoint.password {
                Some(password) => format!("check the user, and the password, which is from {}", password.origin),
                None => return error,
            },
            _ => return error,
        };
        error.with_hint(hint)
    }

    /// Runs SQL by the simple protocol and returns all rows as text.
    pub async fn query(&mut self, sql: &str) -> Result<Vec<TextRow>> {
        self.send(|out| frontend::query(sql, out)).await?;
        let mut rows = Vec::new();
        let mut failed = None;
        loop {
            match self.message().await? {
                Message::DataRow(body) => rows.push(text_row(&body).map_err(|e| self.io(e))?),
                Message::ErrorResponse(body) => failed = Some(self.server_error(&body)),
                Message::ReadyForQuery(_) => break,
                _ => {}
            }
        }
        match failed {
            Some(error) => Err(error),
            None => Ok(rows),
        }
    }

    /// The first cell of the first row, or an empty string.
    pub async fn scalar(&mut self, sql: &str) -> Result<String> {
        let rows = self.query(sql).await?;
        Ok(rows.into_iter().flatten().flatten().next().unwrap_or_default())
    }

    /// Sends `COPY … TO STDOUT`; then read frames with [`Wire::copy_frame`].
    pub async fn copy_out(&mut self, sql: &str) -> Result<()> {
        self.send(|out| frontend::query(sql, out)).await?;
        loop {
            match self.message().await? {
                Message::CopyOutResponse(_) => return Ok(()),
                Message::NoticeResponse(_) | Message::ParameterStatus(_) => {}
                Message::ErrorResponse(body) => return Err(self.server_error(&body)),
                _ => return Err(self.unexpected("a COPY response")),
            }
        }
    }

    /// The next CopyData frame of a COPY OUT, or `None` once it is complete.
    pub async fn copy_frame(&mut self) -> Result<Option<Frame>> {
        loop {
            match self.buffered()? {
                None => self.fill().await?,
                Some(frame) if frame.tag == b'd' => return Ok(Some(frame)),
                Some(frame) if frame.tag == b'Z' => {
                    self.consume(frame);
                    return Ok(None);
                }
                Some(frame) => self.control(frame)?,
            }
        }
    }

    /// Sends START_REPLICATION and waits for CopyBothResponse.
    pub async fn start_replication(&mut self, command: &str) -> Result<()> {
        self.send(|out| frontend::query(command, out)).await?;
        loop {
            match self.buffered()? {
                None => self.fill().await?,
                Some(frame) if frame.tag == b'W' => {
                    self.consume(frame);
                    return Ok(());
                }
                Some(frame) => self.control(frame)?,
            }
        }
    }

    /// A frame that is neither data nor the end: notices pass, errors don't.
    pub fn control(&mut self, frame: Frame) -> Result<()> {
        let mut bytes = self.input.split_to(frame.len);
        match Message::parse(&mut bytes) {
            Ok(Some(Message::ErrorResponse(body))) => Err(self.server_error(&body)),
            Ok(_) => Ok(()),
            Err(e) => Err(self.io(e)),
        }
    }

    /// The frame at the front of the buffer, if it is there whole. No I/O.
    pub fn buffered(&self) -> Result<Option<Frame>> {
        let Some(header) = Header::parse(&self.input).map_err(|e| self.io(e))? else {
            return Ok(None);
        };
        // The length word counts itself but not the tag; parse refused < 4.
        let len = header.len() as usize + 1;
        if len > FRAME_BYTES_MAX {
            return Err(Error::transient(format!(
                "{} sent a frame of {len} bytes, more than the protocol allows",
                self.address
            )));
        }
        Ok((self.input.len() >= len).then_some(Frame { tag: header.tag(), len }))
    }

    /// The payload of a frame that [`Wire::buffered`] returned.
    pub fn body(&self, frame: Frame) -> &[u8] {
        self.input.get(5..frame.len).unwrap_or_default()
    }

    pub fn consume(&mut self, frame: Frame) {
        self.input.advance(frame.len);
    }

    /// Reads once from the socket. Safe to cancel: bytes are in the buffer or
    /// still in the socket.
    pub async fn fill(&mut self) -> Result<()> {
        self.input.reserve(READ_BYTES);
        match self.socket.read_buf(&mut self.input).await {
            Ok(0) => Err(Error::transient(format!("{} closed the connection", self.address))),
            Ok(_) => Ok(()),
            Err(e) => Err(self.io(e)),
        }
    }

    /// Sends one CopyData frame.
    pub async fn send_copy_data(&mut self, payload: &[u8]) -> Result<()> {
        let data = frontend::CopyData::new(payload).map_err(|e| self.io(e))?;
        data.write(&mut self.output);
        self.flush().await
    }

    /// Ends a replication stream and the connection, as far as the server listens.
    pub async fn terminate(&mut self) {
        frontend::copy_done(&mut self.output);
        frontend::terminate(&mut self.output);
        // The server may be gone already; there is nothing left to save.
        let _ = self.flush().await;
    }

    async fn send(&mut self, build: impl FnOnce(&mut BytesMut) -> io::Result<()>) -> Result<()> {
        build(&mut self.output).map_err(|e| self.io(e))?;
        self.flush().await
    }

    async fn flush(&mut self) -> Result<()> {
        let result = async {
            self.socket.write_all_buf(&mut self.output).await?;
            self.socket.flush().await
        };
        result.await.map_err(|e| self.io(e))
    }

    async fn message(&mut self) -> Result<Message> {
        loop {
            if self.buffered()?.is_some() {
                match Message::parse(&mut self.input) {
                    Ok(Some(message)) => return Ok(message),
                    Ok(None) => {}
                    Err(e) => return Err(self.io(e)),
                }
            }
            self.fill().await?;
        }
    }

    fn unexpected(&self, wanted: &str) -> Error {
        Error::transient(format!(
            "expected {wanted} from {}, found another message",
            self.address
        ))
    }

    fn io(&self, error: io::Error) -> Error {
        tls::broken(&self.address, error)
    }

    fn server_error(&self, body: &ErrorResponseBody) -> Error {
        let (mut code, mut message, mut detail, mut hint) = (String::new(), String::new(), None, None);
        let mut fields = body.fields();
        while let Ok(Some(field)) = fields.next() {
            let value = String::from_utf8_lossy(field.value_bytes()).into_owned();
            match field.type_() {
                b'C' => code = value,
                b'M' => message = value,
                b'D' => detail = Some(value),
                b'H' => hint = Some(value),
                _ => {}
            }
        }
        server_error(&self.address, &code, &message, detail, hint)
    }
}

/// Gives a server's error its class and, where we know one, its way out.
/// Codes: PostgreSQL manual, appendix "PostgreSQL Error Codes".
fn server_error(address: &str, code: &str, message: &str, detail: Option<String>, hint: Option<String>) -> Error {
    let text = match detail {
        // Details of constraint and conversion errors quote row values.
        Some(detail) if !code.starts_with("22") && !code.starts_with("23") => {
            format!("{address}: {message}: {detail} ({code})")
        }
        _ => format!("{address}: {message} ({code})"),
    };
    // An address may lead to a standby that is about to be promoted.
    let is_standby = code == "55000" && message.starts_with("recovery is in progress");
    let transient = is_standby || matches!(code.get(..2), Some("08" | "53" | "40" | "57" | "58" | "25"));
    let error = if transient {
        Error::transient(text)
    } else {
        Error::operator(text)
    }
    .with_code(code);
    let hint = match code {
        "28000" if message.ends_with("no encryption") => {
            Some("the server wants TLS: leave sslmode out of source.url, or set sslmode=require".to_owned())
        }
        _ if is_standby => Some(
            "source.url leads to a standby: it has to lead to the primary, or, with PostgreSQL 16 or newer, set \
             source.standby = true"
                .to_owned(),
        ),
        _ if CONFLICT.contains(&code) && message.contains("conflict with recovery") => Some(CONFLICT_HINT.to_owned()),
        "28P01" => Some("check user and password in source.url".to_owned()),
        "28000" => Some(
            "allow this role, database and address in pg_hba.conf (for replication too), and give it LOGIN".to_owned(),
        ),
        "3D000" => Some("check the database name at the end of source.url".to_owned()),
        "42704" if message.starts_with("publication") => Some(
            "the slot's log begins before the publication was made: SELECT pg_drop_replication_slot('…'), \
             then `tributary snapshot`: all tables are copied anew"
                .to_owned(),
        ),
        "42501" => Some("grant the role what is missing; `tributary check` prints the SQL".to_owned()),
        "53300" => Some("raise max_connections, or end idle sessions".to_owned()),
        "53400" => Some("raise max_replication_slots or max_wal_senders, or drop a slot that nobody uses".to_owned()),
        "55006" => Some(
            "another process reads this slot: stop the other sidecar, or set source.slot to a name of its own"
                .to_owned(),
        ),
        _ => hint,
    };
    match hint {
        Some(hint) => error.with_hint(hint),
        None => error,
    }
}

async fn open_socket(endpoint: &Endpoint) -> Result<Socket> {
    let address = endpoint.address();
    let refused = |e: io::Error| {
        Error::transient(format!("cannot connect to {address}"))
            .with_hint("check host and port in source.url, and that the server listens there")
            .with_source(e)
    };
    if endpoint.host.starts_with('/') {
        let path = format!("{}/.s.PGSQL.{}", endpoint.host, endpoint.port);
        return Ok(Socket::Unix(UnixStream::connect(path).await.map_err(refused)?));
    }
    let mut tcp = TcpStream::connect((endpoint.host.as_str(), endpoint.port))
        .await
        .map_err(refused)?;
    silence::watch(&tcp).map_err(refused)?;
    if endpoint.tls.mode == SslMode::Disable {
        return Ok(Socket::Tcp(tcp));
    }
    let mut request = BytesMut::new();
    frontend::ssl_request(&mut request);
    tcp.write_all(&request).await.map_err(refused)?;
    match tcp.read_u8().await.map_err(refused)? {
        b'S' => {}
        _ if endpoint.tls.mode == SslMode::Prefer => return Ok(Socket::Tcp(tcp)),
        _ => {
            return Err(
                Error::operator(format!("{address} does not speak TLS, but sslmode asks for it"))
                    .with_hint("turn ssl on at the server, or use sslmode=disable on a trusted network"),
            );
        }
    }
    let stream = endpoint.tls.connect(&endpoint.host, &address, tcp).await?;
    Ok(Socket::Tls(stream))
}

fn text_row(body: &postgres_protocol::message::backend::DataRowBody) -> io::Result<TextRow> {
    let buffer = body.buffer();
    body.ranges()
        .map(|range| {
            Ok(range
                .and_then(|r| buffer.get(r))
                .map(|bytes| String::from_utf8_lossy(bytes).into_owned()))
        })
        .collect()
}

/// `"name"`, quoted for SQL.
pub fn quote_identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// `'text'`, quoted for SQL whatever standard_conforming_strings says.
pub fn quote_literal(text: &str) -> String {
    let quoted = text.replace('\'', "''");
    if quoted.contains('\\') {
        format!("E'{}'", quoted.replace('\\', "\\\\"))
    } else {
        format!("'{quoted}'")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_names_stay_inside_their_quotes() {
        assert_eq!(quote_identifier("a\"b"), "\"a\"\"b\"");
        assert_eq!(quote_literal("o'b"), "'o''b'");
        assert_eq!(quote_literal("a\\'b"), "E'a\\\\''b'");
    }
}
