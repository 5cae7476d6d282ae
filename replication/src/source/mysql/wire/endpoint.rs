//! `source.url` of a MySQL or MariaDB server.

use percent_encoding::percent_decode_str;
use url::Url;

use crate::config::SourceConfig;
use crate::error::{Error, Result};
use crate::source::tls;

/// Where and as whom to connect.
#[derive(Clone)]
pub struct Endpoint {
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) socket: Option<String>,
    pub(super) user: String,
    pub(super) password: Option<String>,
    pub database: Option<String>,
    pub(super) tls: tls::Settings,
}

impl Endpoint {
    /// Errors: what [`Endpoint::parse`] has.
    pub fn new(config: &SourceConfig) -> Result<Self> {
        let mut endpoint = Self::parse(config.url.expose())?;
        if endpoint.password.is_none() {
            let file = config.password.as_ref().map(|password| password.expose().to_owned());
            endpoint.password = file.or_else(|| std::env::var("MYSQL_PWD").ok());
        }
        Ok(endpoint)
    }

    /// Reads `mysql://user:password@host:port/database?ssl-mode=…&ssl-ca=…`,
    /// or the same with `mariadb:`.
    fn parse(text: &str) -> Result<Self> {
        let hint = "write source.url as mysql://user:password@host:3306/database";
        let url = Url::parse(text).map_err(|e| {
            Error::operator("source.url is not a URL")
                .with_hint(hint)
                .with_source(e)
        })?;
        if !matches!(url.scheme(), "mysql" | "mariadb") {
            return Err(Error::operator(format!("source.url has the scheme {:?}", url.scheme())).with_hint(hint));
        }
        let decode = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
        let mut endpoint = Self {
            host: url.host_str().map(decode).unwrap_or_default(),
            port: url.port().unwrap_or(3306),
            socket: None,
            user: decode(url.username()),
            password: url.password().map(decode),
            database: Some(decode(url.path().trim_start_matches('/'))).filter(|name| !name.is_empty()),
            tls: tls::Settings::default(),
        };
        for (key, value) in url.query_pairs() {
            match key.as_ref() {
                "socket" => endpoint.socket = Some(value.into_owned()),
                "user" => endpoint.user = value.into_owned(),
                "sslmode" | "ssl-mode" => endpoint.tls.mode = value.parse()?,
                "sslrootcert" | "ssl-ca" => endpoint.tls.root = Some(value.into_owned()),
                "sslcert" | "ssl-cert" => endpoint.tls.certificate = Some(value.into_owned()),
                "sslkey" | "ssl-key" => endpoint.tls.key = Some(value.into_owned()),
                other => {
                    return Err(
                        Error::operator(format!("source.url has an unknown parameter {other:?}")).with_hint(
                            "known: socket (its path), user, ssl-mode (or sslmode), ssl-ca (or sslrootcert), \
                             ssl-cert (or sslcert), ssl-key (or sslkey)",
                        ),
                    );
                }
            }
        }
        if endpoint.host.is_empty() {
            endpoint.host = "localhost".to_owned();
        }
        // IPv6 literals keep their brackets in a URL but not on a socket.
        endpoint.host = endpoint.host.trim_matches(['[', ']']).to_owned();
        if endpoint.user.is_empty() {
            endpoint.user = std::env::var("USER").unwrap_or_default();
        }
        for (what, text) in [("user", Some(&endpoint.user)), ("database", endpoint.database.as_ref())] {
            if text.is_some_and(|text| text.contains('\0')) {
                return Err(Error::operator(format!("the {what} in source.url has a NUL character")).with_hint(hint));
            }
        }
        Ok(endpoint)
    }

    /// The endpoint without its password, for messages.
    pub fn address(&self) -> String {
        match &self.socket {
            Some(path) => path.clone(),
            None => format!("{}:{}", self.host, self.port),
        }
    }

    pub fn user(&self) -> &str {
        &self.user
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::tls::SslMode;

    #[test]
    fn url_parts_are_decoded() {
        let e = Endpoint::parse("mysql://us%40er:p%2Fw@[::1]:3307/d%20b?ssl-mode=DISABLED").expect("url");
        assert_eq!((e.host.as_str(), e.port), ("::1", 3307));
        assert_eq!((e.user.as_str(), e.password.as_deref()), ("us@er", Some("p/w")));
        assert_eq!((e.database.as_deref(), e.tls.mode), (Some("d b"), SslMode::Disable));
        assert_eq!(e.address(), "::1:3307");
        let e =
            Endpoint::parse("mariadb:///?socket=/run/mysqld.sock&user=u&sslmode=verify-full&ssl-ca=/ca").expect("url");
        assert_eq!((e.address().as_str(), e.user()), ("/run/mysqld.sock", "u"));
        assert_eq!((e.database, e.tls.mode), (None, SslMode::VerifyFull));
        assert_eq!(e.tls.root.as_deref(), Some("/ca"));
        assert_eq!(Endpoint::parse("mysql://h").expect("url").address(), "h:3306");
        for url in ["mysql://h?sslcert=/c&sslkey=/k", "mysql://h?ssl-cert=/c&ssl-key=/k"] {
            let tls = Endpoint::parse(url).expect("url").tls;
            assert_eq!(
                (tls.certificate.as_deref(), tls.key.as_deref()),
                (Some("/c"), Some("/k"))
            );
        }
    }

    #[test]
    fn both_dialects_of_ssl_mode_are_known() {
        for (text, mode) in [
            ("disable", SslMode::Disable),
            ("PREFERRED", SslMode::Prefer),
            ("Required", SslMode::Require),
            ("VERIFY_CA", SslMode::VerifyCa),
            ("verify-ca", SslMode::VerifyCa),
            ("VERIFY_IDENTITY", SslMode::VerifyFull),
            ("verify-full", SslMode::VerifyFull),
        ] {
            assert_eq!(text.parse::<SslMode>().expect(text), mode);
        }
    }

    #[test]
    fn bad_urls_name_the_form() {
        for url in [
            "postgres://h/d",
            "nonsense",
            "mysql://h/d?ssl-mode=perhaps",
            "mysql://h/d?what=1",
            "mysql://u%00@h/d",
        ] {
            let Err(error) = Endpoint::parse(url) else {
                unreachable!("{url}")
            };
            assert!(error.hint().is_some(), "{url}");
        }
    }
}
