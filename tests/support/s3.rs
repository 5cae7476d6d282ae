//! Lakes in a bucket of an S3 server, and a proxy before it that fails as it is told.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

use serde_json::{Value, json};

use super::server::Server;
use super::{Case, cache, finish, lake, python, repository, serving, succeed};

/// What lets the tests in; the server takes no other key.
pub const KEY: [(&str, &str); 2] = [
    ("AWS_ACCESS_KEY_ID", "testkey"),
    ("AWS_SECRET_ACCESS_KEY", "testsecret"),
];

/// A server that ends with the pipe that `_holder` keeps open, so with this process at the latest.
pub struct S3 {
    /// Where it is: `http://host:port`.
    pub url: String,
    _holder: Child,
}

impl S3 {
    /// The one that all tests share.
    pub fn shared() -> &'static S3 {
        static SHARED: OnceLock<S3> = OnceLock::new();
        SHARED.get_or_init(S3::start)
    }

    fn start() -> S3 {
        cache();
        let mut holder = Command::new(repository().join("tests/servers/s3.sh"))
            .args(["serve", "4.48"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(holder.stdout.take().unwrap()).lines();
        let said: HashMap<_, _> = lines
            .take(4)
            .map(|line| line.unwrap())
            .filter_map(|line| {
                line.split_once('=')
                    .map(|(name, value)| (name.to_owned(), value.to_owned()))
            })
            .collect();
        S3 {
            url: said.get("URL").expect("the S3 server does not start").clone(),
            _holder: holder,
        }
    }
}

/// Where a case's lake is, if not in its folder.
#[derive(Clone)]
pub struct Bucket {
    /// `s3://bucket/prefix`
    pub url: String,
    /// Where the program finds the store.
    pub endpoint: String,
    /// Where outside readers find it.
    pub direct: String,
    /// More lines for `[lake.options]`.
    pub options: &'static str,
}

impl Bucket {
    /// The lines of `[lake]`.
    pub fn config(&self) -> String {
        format!(
            "url = {:?}\n[lake.options]\naws_endpoint = {:?}\naws_allow_http = true\n{}\n",
            self.url, self.endpoint, self.options
        )
    }

    /// What a program has to know to read it past any proxy.
    pub fn environment(&self) -> [(&'static str, String); 4] {
        let [id, secret] = KEY.map(|(name, value)| (name, value.to_owned()));
        let endpoint = ("AWS_ENDPOINT_URL", self.direct.clone());
        [id, secret, endpoint, ("AWS_ALLOW_HTTP", "true".to_owned())]
    }
}

impl<'a> Case<'a> {
    /// As [`Case::new`], with a lake in a bucket. `case.lake` is a copy of it, as of the last look at it.
    pub fn in_bucket(server: &'a Server, name: &str) -> Self {
        let s3 = S3::shared();
        let mut case = Case::new(server, name);
        let prefix = case.folder.file_name().unwrap().to_str().unwrap();
        case.bucket = Some(Bucket {
            url: format!("s3://lake/{prefix}/tables"),
            endpoint: s3.url.clone(),
            direct: s3.url.clone(),
            options: "",
        });
        case
    }

    /// As [`Case::in_bucket`], with a proxy between the program and the store.
    pub fn behind_proxy(server: &'a Server, name: &str, seed: u32) -> (Self, Proxy) {
        let mut case = Case::in_bucket(server, name);
        let proxy = Proxy::start(&S3::shared().url, seed);
        case.bucket_mut().endpoint = proxy.url.clone();
        (case, proxy)
    }

    pub fn bucket_mut(&mut self) -> &mut Bucket {
        self.bucket.as_mut().unwrap()
    }

    /// Takes over what is in the bucket now.
    pub fn sync(&self) {
        let Some(bucket) = &self.bucket else { return };
        succeed(
            python("s3.py")
                .envs(bucket.environment())
                .arg(&bucket.url)
                .arg(&self.lake),
        );
    }

    /// What `status` says to somebody who is not behind the proxy.
    pub fn status_past_proxy(&self) -> lake::Status {
        let mut bucket = self.bucket.clone().unwrap();
        bucket.endpoint = bucket.direct.clone();
        let config = self.folder.join("direct.toml");
        std::fs::write(&config, self.config(&bucket.config())).unwrap();
        lake::Status::parse(&finish(self.command_with("status", &config).arg("--json")))
    }
}

/// tests/python/fault_proxy.py; passes everything until it is told otherwise.
pub struct Proxy {
    pub url: String,
    control: u16,
    child: Child,
}

impl Proxy {
    fn start(upstream: &str, seed: u32) -> Self {
        let seed = seed.to_string();
        let (child, ports) = serving(python("fault_proxy.py").args(["--upstream", upstream, "--seed", &seed]));
        let (port, control) = ports.split_once(' ').expect("the proxy's ports");
        Proxy {
            url: format!("http://127.0.0.1:{port}"),
            control: control.parse().unwrap(),
            child,
        }
    }

    /// From now on; see fault_proxy.py.
    pub fn set(&self, rules: Value) {
        self.tell(json!({"rules": rules}));
    }

    /// How often each rule has been applied.
    pub fn applied(&self) -> Vec<u64> {
        self.counts("applied")
    }

    /// How often the store has answered a request that each rule was for.
    pub fn answered(&self) -> Vec<u64> {
        self.counts("done")
    }

    fn counts(&self, which: &str) -> Vec<u64> {
        let counts = self.tell(json!({"count": which}));
        let counts = counts.as_array().unwrap().iter();
        counts.map(|n| n.as_u64().unwrap()).collect()
    }

    fn tell(&self, command: Value) -> Value {
        let mut connection = TcpStream::connect(("127.0.0.1", self.control)).unwrap();
        writeln!(connection, "{command}").unwrap();
        let mut line = String::new();
        BufReader::new(connection).read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
