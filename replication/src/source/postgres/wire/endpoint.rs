//! `source.url` of a PostgreSQL server. What it leaves out comes from libpq's
//! environment, and the password also from a file.
//!
//! Spec: PostgreSQL manual, "Connection Strings", "Environment Variables", "The Password File".

use std::path::Path;

use percent_encoding::percent_decode_str;
use url::Url;

use super::channel_binding::ChannelBinding;
use super::password_file;
use crate::config::SourceConfig;
use crate::error::{Error, Result};
use crate::source::tls;

/// Where libpq looks for sockets if nobody says where; which of these depends on who built it.
const DEFAULT_SOCKET_FOLDERS: [&str; 3] = ["/tmp", "/run/postgresql", "/var/run/postgresql"];

/// Where and as whom to connect.
#[derive(Clone)]
pub struct Endpoint {
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) user: String,
    pub(super) password: Option<Password>,
    pub database: String,
    pub(super) tls: tls::Settings,
    pub(super) channel_binding: ChannelBinding,
}

#[derive(Clone)]
pub(super) struct Password {
    pub text: String,
    /// Where it is from, for hints.
    pub origin: String,
}

impl Password {
    fn of(text: &str, origin: impl Into<String>) -> Self {
        Self {
            text: text.to_owned(),
            origin: origin.into(),
        }
    }
}

impl Endpoint {
    /// Errors: a part of the URL or of the environment that can't be used.
    pub fn new(config: &SourceConfig) -> Result<Self> {
        let of_file = config.password.as_ref().map(|password| password.expose());
        Self::parse(config.url.expose(), of_file, |name| std::env::var(name).ok())
    }

    /// Reads `postgres://user:password@host:port/database?sslmode=…&sslrootcert=…`.
    /// `of_file` is the password of `source.password_file`.
    fn parse(text: &str, of_file: Option<&str>, env: impl Fn(&str) -> Option<String>) -> Result<Self> {
        let env = |name: &str| env(name).filter(|value| !value.is_empty());
        let hint = "write source.url as postgres://user:password@host:5432/database";
        let url = Url::parse(text).map_err(|e| {
            Error::operator("source.url is not a URL")
                .with_hint(hint)
                .with_source(e)
        })?;
        if !matches!(url.scheme(), "postgres" | "postgresql") {
            return Err(Error::operator(format!("source.url has the scheme {:?}", url.scheme())).with_hint(hint));
        }
        let decode = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
        let mut host = url.host_str().map(decode).unwrap_or_default();
        let mut user = decode(url.username());
        let mut database = decode(url.path().trim_start_matches('/'));
        let mut tls = tls::Settings {
            root: env("PGSSLROOTCERT"),
            certificate: env("PGSSLCERT"),
            key: env("PGSSLKEY"),
            ..tls::Settings::default()
        };
        let (mut mode, mut binding, mut passfile) = (None, None, None);
        for (key, value) in url.query_pairs() {
            let value = value.into_owned();
            match key.as_ref() {
                "host" => host = value,
                "user" => user = value,
                "passfile" => passfile = Some(value),
                "sslmode" => mode = Some(value),
                "sslrootcert" => tls.root = Some(value),
                "sslcert" => tls.certificate = Some(value),
                "sslkey" => tls.key = Some(value),
                "channel_binding" => binding = Some(value),
                other => {
                    return Err(
                        Error::operator(format!("source.url has an unknown parameter {other:?}")).with_hint(
                            "known: host (a socket folder), user, passfile, sslmode, sslrootcert, sslcert, sslkey, \
                             channel_binding",
                        ),
                    );
                }
            }
        }
        if let Some(mode) = parameter(mode, "PGSSLMODE", env)? {
            tls.mode = mode;
        }
        let channel_binding = parameter(binding, "PGCHANNELBINDING", env)?.unwrap_or(ChannelBinding::Prefer);
        if host.is_empty() {
            host = env("PGHOST").unwrap_or_else(|| "localhost".to_owned());
        }
        // IPv6 literals keep their brackets in a URL but not on a socket.
        let host = host.trim_matches(['[', ']']).to_owned();
        let port = match (url.port(), env("PGPORT")) {
            (Some(port), _) => port,
            (None, Some(text)) => text.parse().map_err(|e| {
                Error::operator(format!("PGPORT is {text:?}, which is no port"))
                    .with_hint("set it to a number from 1 to 65535, or name the port in source.url")
                    .with_source(e)
            })?,
            (None, None) => 5432,
        };
        if user.is_empty() {
            user = env("PGUSER").or_else(|| env("USER")).unwrap_or_default();
        }
        if database.is_empty() {
            database = env("PGDATABASE").unwrap_or_else(|| user.clone());
        }
        let mut endpoint = Self {
            host,
            port,
            user,
            password: None,
            database,
            tls,
            channel_binding,
        };
        endpoint.password = if let Some(password) = url.password() {
            Some(Password::of(&decode(password), "source.url"))
        } else if let Some(password) = of_file {
            Some(Password::of(password, "source.password_file"))
        } else if let Some(password) = env("PGPASSWORD") {
            Some(Password::of(&password, "PGPASSWORD"))
        } else {
            let home = || env("HOME").map(|home| format!("{home}/.pgpass"));
            let path = passfile.or_else(|| env("PGPASSFILE")).or_else(home);
            path.and_then(|path| endpoint.look_up(path))
        };
        Ok(endpoint)
    }

    /// The password that a file of libpq has for this endpoint.
    fn look_up(&self, path: String) -> Option<Password> {
        let host = match self.host.as_str() {
            folder if DEFAULT_SOCKET_FOLDERS.contains(&folder.trim_end_matches('/')) => "localhost",
            host => host,
        };
        let wanted = [host, &self.port.to_string(), &self.database, &self.user];
        let text = password_file::read(Path::new(&path), wanted)?;
        (!text.is_empty()).then_some(Password { text, origin: path })
    }

    /// The endpoint without its password, for messages.
    pub fn address(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }

    pub fn user(&self) -> &str {
        &self.user
    }
}

/// What the URL says, or else the variable.
fn parameter<T: std::str::FromStr<Err = Error>>(
    given: Option<String>,
    variable: &str,
    env: impl Fn(&str) -> Option<String>,
) -> Result<Option<T>> {
    match given {
        Some(text) => text.parse().map(Some),
        None => env(variable)
            .map(|text| text.parse().map_err(|e: Error| e.within(variable)))
            .transpose(),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::source::tls::SslMode;

    fn parse(url: &str, variables: &[(&str, &str)]) -> Result<Endpoint> {
        Endpoint::parse(url, None, |name| {
            let found = variables.iter().find(|(variable, _)| *variable == name);
            found.map(|(_, value)| (*value).to_owned())
        })
    }

    fn password(endpoint: &Endpoint) -> Option<(&str, &str)> {
        let password = endpoint.password.as_ref()?;
        Some((password.text.as_str(), password.origin.as_str()))
    }

    #[test]
    fn url_parts_are_decoded() {
        let e = parse("postgres://us%40er:p%2Fw@[::1]:5433/d%20b?sslmode=disable", &[]).expect("url");
        assert_eq!((e.host.as_str(), e.port), ("::1", 5433));
        assert_eq!((e.user.as_str(), password(&e)), ("us@er", Some(("p/w", "source.url"))));
        assert_eq!(e.database, "d b");
        let e = parse("postgres:///db?host=/run/postgresql&user=u", &[]).expect("url");
        assert_eq!((e.host.as_str(), e.user.as_str()), ("/run/postgresql", "u"));
        let e = parse("postgres://u@h/d?sslcert=/c&sslkey=/k&channel_binding=require", &[]).expect("url");
        assert_eq!(
            (e.tls.certificate.as_deref(), e.tls.key.as_deref()),
            (Some("/c"), Some("/k"))
        );
        assert_eq!(e.channel_binding, ChannelBinding::Require);
    }

    #[test]
    fn bad_urls_name_the_form() {
        for url in [
            "mysql://h/d",
            "nonsense",
            "postgres://h/d?sslmode=perhaps",
            "postgres://h/d?channel_binding=perhaps",
            "postgres://h/d?what=1",
        ] {
            let Err(error) = parse(url, &[]) else {
                unreachable!("{url}")
            };
            assert!(error.hint().is_some(), "{url}");
        }
        for (name, value) in [("PGPORT", "x"), ("PGSSLMODE", "x"), ("PGCHANNELBINDING", "x")] {
            let Err(error) = parse("postgres://h/d", &[(name, value)]) else {
                unreachable!("{name}")
            };
            assert!(error.to_string().contains(name) && error.hint().is_some(), "{error}");
        }
    }

    #[test]
    fn what_a_url_leaves_out_is_in_the_environment() {
        let variables = [
            ("PGHOST", "/tmp"),
            ("PGPORT", "5433"),
            ("PGUSER", "pu"),
            ("PGDATABASE", "pd"),
            ("PGSSLMODE", "verify-full"),
            ("PGSSLROOTCERT", "/r"),
            ("PGSSLCERT", "/c"),
            ("PGSSLKEY", "/k"),
            ("PGCHANNELBINDING", "disable"),
            ("USER", "nobody"),
        ];
        let e = parse("postgres://", &variables).expect("url");
        assert_eq!((e.host.as_str(), e.port), ("/tmp", 5433));
        assert_eq!((e.user.as_str(), e.database.as_str()), ("pu", "pd"));
        assert_eq!((e.tls.mode, e.tls.root.as_deref()), (SslMode::VerifyFull, Some("/r")));
        assert_eq!(
            (e.tls.certificate.as_deref(), e.tls.key.as_deref()),
            (Some("/c"), Some("/k"))
        );
        assert_eq!(e.channel_binding, ChannelBinding::Disable);
        let url = "postgres://u@h:1/d?sslmode=prefer&sslrootcert=1&sslcert=2&sslkey=3&channel_binding=prefer";
        let e = parse(url, &variables).expect("url");
        assert_eq!((e.address().as_str(), e.user(), e.database.as_str()), ("h:1", "u", "d"));
        assert_eq!((e.tls.mode, e.tls.root.as_deref()), (SslMode::Prefer, Some("1")));
        assert_eq!(
            (e.tls.certificate.as_deref(), e.tls.key.as_deref()),
            (Some("2"), Some("3"))
        );
        assert_eq!(e.channel_binding, ChannelBinding::Prefer);
        // What is empty is not there.
        let e = parse("postgres://", &[("PGHOST", ""), ("PGPORT", ""), ("USER", "me")]).expect("url");
        assert_eq!(
            (e.address().as_str(), e.user(), e.database.as_str()),
            ("localhost:5432", "me", "me")
        );
    }

    #[test]
    fn passwords_come_from_the_nearest_place() {
        let folder = std::env::temp_dir().join(format!("tributary-pgpass-{}", std::process::id()));
        fs::create_dir_all(&folder).expect("folder");
        let path = folder.join(".pgpass");
        fs::write(
            &path,
            "h:5432:d:u:of file\nh:5432:empty:u:\nh:5432:empty:u:behind\nlocalhost:*:d:u:of sockets\n/other:*:d:u:of another\n",
        )
        .expect("file");
        fs::set_permissions(&path, Permissions::from_mode(0o600)).expect("permissions");
        let (home, file) = (folder.to_str().expect("UTF-8"), path.to_str().expect("UTF-8"));
        let url = "postgres://u@h/d";
        for (url, variables, expected) in [
            (url, &[("HOME", home)][..], Some(("of file", file))),
            (url, &[("PGPASSFILE", file), ("HOME", "/")], Some(("of file", file))),
            (url, &[("PGPASSFILE", "/absent"), ("HOME", home)], None),
            (url, &[("HOME", home), ("PGPASSWORD", "p")], Some(("p", "PGPASSWORD"))),
            (url, &[("HOME", home), ("PGPASSWORD", "")], Some(("of file", file))),
            (
                "postgres://u:w@h/d",
                &[("HOME", home), ("PGPASSWORD", "p")],
                Some(("w", "source.url")),
            ),
            ("postgres://u@h/e", &[("HOME", home)], None),
            ("postgres://u@h/empty", &[("HOME", home)], None),
            ("postgres://u@h:1/d", &[("HOME", home)], None),
            (
                "postgres:///d?host=/var/run/postgresql&user=u",
                &[("HOME", home)],
                Some(("of sockets", file)),
            ),
            (
                "postgres://u@localhost/d",
                &[("HOME", home)],
                Some(("of sockets", file)),
            ),
            (
                "postgres:///d?host=/other&user=u",
                &[("HOME", home)],
                Some(("of another", file)),
            ),
        ] {
            let endpoint = parse(url, variables).expect("url");
            assert_eq!(password(&endpoint), expected, "{url} {variables:?}");
        }
        let named = parse(&format!("{url}?passfile={file}"), &[]).expect("url");
        assert_eq!(password(&named), Some(("of file", file)));
        let env = |name: &str| (name == "PGPASSWORD").then(|| "p".to_owned());
        let of_file = |url| Endpoint::parse(url, Some("k"), env).expect("url");
        assert_eq!(password(&of_file(url)), Some(("k", "source.password_file")));
        assert_eq!(password(&of_file("postgres://u:w@h/d")), Some(("w", "source.url")));
        for mode in [0o640, 0o604, 0o620] {
            fs::set_permissions(&path, Permissions::from_mode(mode)).expect("permissions");
            assert_eq!(password(&parse(url, &[("HOME", home)]).expect("url")), None, "{mode:o}");
        }
        fs::remove_dir_all(&folder).expect("folder");
    }
}
