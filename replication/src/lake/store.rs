//! Where a lake lies: a folder on local disk, or a prefix of a bucket.
//!
//! Commits rest on one promise of the store: that a conditional put of an
//! object that is there is refused. A probe makes sure of it. Errors get their
//! class here; what the store or its credentials say never holds a secret.

use std::borrow::Cow;
use std::error::Error as StdError;
use std::sync::Arc;
use std::time::Duration;

use delta_kernel::KernelError;
use futures::TryStreamExt;
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use object_store::client::HttpError;
use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey};
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{
    BackoffConfig, ClientConfigKey, Error as StoreError, ObjectStore, ObjectStoreExt, PutMode, PutPayload, RetryConfig,
};
use url::Url;

use crate::config::{StoreOptions, did_you_mean};
use crate::error::{Error, Result};

/// One request, from connecting to the last byte of its answer. What goes over
/// at a time is at most a part of an upload or a row group: 5 and 16 MiB.
const REQUEST_TIMEOUT: &str = "30s";
const CONNECT_TIMEOUT: &str = "5s";
/// How long the store's failures are ridden out before the pipeline starts
/// over, which means to read every table's keys again.
const RETRY_TIMEOUT: Duration = Duration::from_secs(45);
/// More than fit into that time: the pauses are at random below their bounds.
const RETRIES_MAX: usize = 200;
const RETRY_PAUSE_MIN: Duration = Duration::from_millis(100);
const RETRY_PAUSE_MAX: Duration = Duration::from_secs(5);

const KEYS_HINT: &str = "set the access key in the environment (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, \
     GOOGLE_SERVICE_ACCOUNT, AZURE_STORAGE_ACCOUNT_KEY, …) or in [lake.options]";

/// What keys of `[lake.options]` are about, by store; others of the crate are
/// taken as well.
const S3_KEYS: &[&str] = &[
    "aws_access_key_id",
    "aws_secret_access_key",
    "aws_session_token",
    "aws_region",
    "aws_endpoint",
    "aws_allow_http",
    "aws_virtual_hosted_style_request",
    "aws_server_side_encryption",
    "aws_sse_kms_key_id",
    "aws_skip_signature",
    "timeout",
    "connect_timeout",
    "proxy_url",
];
const GCS_KEYS: &[&str] = &[
    "google_service_account",
    "google_service_account_key",
    "google_application_credentials",
    "google_base_url",
    "google_skip_signature",
    "timeout",
    "connect_timeout",
    "proxy_url",
];
const AZURE_KEYS: &[&str] = &[
    "azure_storage_account_name",
    "azure_storage_account_key",
    "azure_storage_sas_token",
    "azure_client_id",
    "azure_client_secret",
    "azure_tenant_id",
    "azure_federated_token_file",
    "azure_endpoint",
    "azure_allow_http",
    "azure_use_azure_cli",
    "timeout",
    "connect_timeout",
    "proxy_url",
];

/// Opens the store of `lake.url`, by the options and the environment. Returns
/// the lake's root, which ends with a slash; nothing is read or written yet.
pub fn open(url: &str, options: &StoreOptions) -> Result<(Url, Arc<dyn ObjectStore>)> {
    let environment: Vec<(String, String)> = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect();
    match Url::parse(url) {
        // One letter is a drive.
        Ok(parsed) if parsed.scheme().len() > 1 && parsed.scheme() != "file" => remote(parsed, options, &environment),
        Err(e) if url.contains("://") => {
            // It is not shown: nobody knows where in it a key may be.
            Err(Error::operator("lake.url is not a URL")
                .with_hint("write s3://bucket/prefix, gs://bucket/prefix, az://container/prefix or a path")
                .with_source(e))
        }
        parsed => {
            if let Some(key) = options.iter().map(|(key, _)| key).next() {
                return Err(Error::operator(format!(
                    "lake.options.{key} is for object stores, and lake.url is a folder"
                ))
                .with_hint("remove [lake.options], or set lake.url to s3://bucket/prefix or the like"));
            }
            local(url, parsed.ok().filter(|parsed| parsed.scheme() == "file"))
        }
    }
}

fn local(url: &str, parsed: Option<Url>) -> Result<(Url, Arc<dyn ObjectStore>)> {
    let path = match parsed {
        Some(parsed) => parsed.to_file_path().map_err(|()| {
            Error::operator(format!("lake.url {url} is not a local path")).with_hint("write file:///absolute/path")
        })?,
        None => url.into(),
    };
    let not_a_path = || Error::operator(format!("lake.url {url} is not a usable path")).with_hint("use file:///path");
    let path = std::path::absolute(path).map_err(|e| not_a_path().with_source(e))?;
    let root = Url::from_directory_path(&path).map_err(|()| not_a_path())?;
    let store = LocalFileSystem::new().with_fsync(true).with_automatic_cleanup(true);
    Ok((root, Arc::new(store)))
}

/// Takes a builder's settings from defaults, the environment and options, each
/// of which overrides the one before.
macro_rules! configure {
    ($builder:ty, $key:ident, $known:expr, $url:expr, $options:expr, $environment:expr) => {{
        let mut builder = <$builder>::new().with_url($url.as_str()).with_retry(retries());
        for (key, value) in [
            (ClientConfigKey::Timeout, REQUEST_TIMEOUT),
            (ClientConfigKey::ConnectTimeout, CONNECT_TIMEOUT),
            (ClientConfigKey::AllowHttp, "false"),
            (
                ClientConfigKey::UserAgent,
                concat!("tributary/", env!("CARGO_PKG_VERSION")),
            ),
        ] {
            builder = builder.with_config($key::Client(key), value);
        }
        for (key, value) in $environment {
            if let Ok(key) = key.parse::<$key>() {
                builder = builder.with_config(key, value);
            }
        }
        for (key, value) in $options.iter() {
            let lower = key.to_ascii_lowercase();
            let key = lower.parse::<$key>().map_err(|_| {
                Error::operator(format!("unknown key lake.options.{key} for {}", $url))
                    .with_hint(did_you_mean($known, &lower))
            })?;
            builder = builder.with_config(key, value);
        }
        builder
    }};
}

fn remote(
    mut url: Url,
    options: &StoreOptions,
    environment: &[(String, String)],
) -> Result<(Url, Arc<dyn ObjectStore>)> {
    let scheme = url.scheme().to_owned();
    let azure = matches!(scheme.as_str(), "az" | "azure" | "adl" | "abfs" | "abfss");
    if !azure && !matches!(scheme.as_str(), "s3" | "s3a" | "gs") {
        return Err(
            Error::operator(format!("lake.url has the scheme {scheme:?}, which is not supported"))
                .with_hint("use a path, s3://bucket/prefix, gs://bucket/prefix or az://container/prefix"),
        );
    }
    // Such a URL is not shown: it may hold a key.
    if url.password().is_some() || (!azure && !url.username().is_empty()) || url.query().is_some() {
        return Err(Error::operator("lake.url holds credentials or a query")
            .with_hint("put keys and tokens into environment variables (AWS_…, GOOGLE_…, AZURE_…) or [lake.options]"));
    }
    url.set_fragment(None);
    if url.host_str().unwrap_or_default().is_empty() {
        return Err(Error::operator(format!("lake.url {url} names no bucket"))
            .with_hint(format!("write {scheme}://bucket/prefix")));
    }
    if !url.path().ends_with('/') {
        url.set_path(&format!("{}/", url.path()));
    }
    root_path(&url)?;
    // As the SDKs of the stores name them.
    let variables = |prefix: &str, others: &[(&str, &str)]| -> Vec<(String, String)> {
        let named = environment.iter().filter_map(|(name, value)| {
            let other = others
                .iter()
                .find(|(other, _)| other == name)
                .map(|(_, key)| (*key).to_owned());
            let key = other.or_else(|| name.starts_with(prefix).then(|| name.to_ascii_lowercase()))?;
            Some((key, value.clone()))
        });
        named.collect()
    };
    let wrong = |e: StoreError| not_configured(&url, options, &e);
    let store: Arc<dyn ObjectStore> = if azure {
        let others = [
            ("MSI_ENDPOINT", "msi_endpoint"),
            ("IDENTITY_ENDPOINT", "identity_endpoint"),
        ];
        let environment = variables("AZURE_", &others);
        let builder = configure!(
            MicrosoftAzureBuilder,
            AzureConfigKey,
            AZURE_KEYS,
            url,
            options,
            environment
        );
        Arc::new(builder.build().map_err(wrong)?)
    } else if scheme == "gs" {
        let environment = variables("GOOGLE_", &[("SERVICE_ACCOUNT", "service_account")]);
        let builder = configure!(
            GoogleCloudStorageBuilder,
            GoogleConfigKey,
            GCS_KEYS,
            url,
            options,
            environment
        );
        Arc::new(builder.build().map_err(wrong)?)
    } else {
        let environment = variables("AWS_", &[]);
        let builder = configure!(AmazonS3Builder, AmazonS3ConfigKey, S3_KEYS, url, options, environment);
        // Without keys an instance's metadata are asked, which most machines
        // don't have: that is to be told soon.
        let asking = builder.clone().with_retry(few_retries()).build().map_err(wrong)?;
        let builder = builder.with_credentials(asking.credentials().clone());
        Arc::new(builder.build().map_err(wrong)?)
    };
    Ok((url, store))
}

fn retries() -> RetryConfig {
    RetryConfig {
        backoff: BackoffConfig {
            init_backoff: RETRY_PAUSE_MIN,
            max_backoff: RETRY_PAUSE_MAX,
            base: 2.,
        },
        max_retries: RETRIES_MAX,
        retry_timeout: RETRY_TIMEOUT,
    }
}

fn few_retries() -> RetryConfig {
    RetryConfig {
        max_retries: 2,
        ..retries()
    }
}

/// What a builder says, without what it may repeat of a key.
fn not_configured(url: &Url, options: &StoreOptions, error: &StoreError) -> Error {
    let mut text = match error {
        StoreError::Generic { source, .. } => source.to_string(),
        other => other.to_string(),
    };
    for (key, value) in options.iter() {
        if value.len() > 5 {
            text = text.replace(value, &format!("<{key}>"));
        }
    }
    let hint = match text.contains("Missing") {
        true => KEYS_HINT,
        false => "correct [lake.options] or the environment: the README lists the options of each store",
    };
    Error::operator(format!("cannot use the store of {url}: {text}")).with_hint(hint)
}

/// The root's key in its store.
pub fn root_path(root: &Url) -> Result<Path> {
    Path::from_url_path(root.path()).map_err(|e| {
        Error::operator(format!("lake.url {root} is not a usable path"))
            .with_hint("use letters, digits, `-`, `_`, `.` and `/`")
            .with_source(e)
    })
}

/// A folder's name in its store. `~` makes the escapes of odd names, and
/// `deltalake` looks for deletion vectors under a key that has `%7E` for it;
/// `!` is safe, and no other name has it.
pub fn key<'a>(root: &Url, folder: &'a str) -> Cow<'a, str> {
    match is_local(root) || !folder.contains('~') {
        true => Cow::Borrowed(folder),
        false => Cow::Owned(folder.replace('~', "!")),
    }
}

pub fn is_local(url: &Url) -> bool {
    url.scheme() == "file"
}

/// Makes sure that objects can be listed and put, that a second conditional
/// put of the same is refused, and that objects can be removed.
pub async fn probe(store: &dyn ObjectStore, root: &Url) -> Result<()> {
    let name = format!("probe-{}", uuid::Uuid::new_v4());
    let folder = root_path(root)?.join("_tributary");
    // First of all, for it tells a bucket that isn't there from one that is closed.
    let listed = store.list(Some(&folder)).try_next().await;
    listed.map_err(|e| error("cannot list", root, &e))?;
    let path = folder.join(name);
    let put = || store.put_opts(&path, PutPayload::from_static(b"probe"), PutMode::Create.into());
    let cannot = |e| error("cannot write to", root, &e);
    match put().await {
        // Put again by itself after its answer got lost.
        Ok(_) | Err(StoreError::AlreadyExists { .. }) => {}
        Err(e) => return Err(cannot(e)),
    }
    let second = put().await;
    match store.delete(&path).await {
        Ok(()) | Err(StoreError::NotFound { .. }) => {}
        Err(e) => return Err(error("cannot remove an object from", root, &e)),
    }
    match second {
        Err(StoreError::AlreadyExists { .. }) => Ok(()),
        Err(e) => Err(cannot(e)),
        Ok(_) => Err(Error::operator(format!(
            "the store of {root} ignores conditional puts: two sidecars could overwrite each other's commits"
        ))
        .with_hint(
            "use a store or a version of it that honours `If-None-Match: *`: AWS S3, GCS, Azure, R2, MinIO, Ceph and SeaweedFS do in their newer releases",
        )),
    }
}

/// Whether a table or an object is simply not there. A bucket that isn't there
/// looks much the same, and must not be taken for an empty lake.
pub fn is_absent(error: &StoreError) -> bool {
    matches!(error, StoreError::NotFound { .. }) && !names_no_bucket(&error.to_string())
}

fn names_no_bucket(text: &str) -> bool {
    ["NoSuchBucket", "ContainerNotFound", "bucket does not exist"]
        .iter()
        .any(|code| text.contains(code))
}

/// Gives an error of an object store its class.
pub fn error(what: &str, url: &Url, error: &StoreError) -> Error {
    let text = cause(error);
    let says = |codes: &[&str]| codes.iter().any(|code| text.contains(code));
    let message = |reason: &str| format!("{what} {url}: {reason}");
    let operator = |reason: &str, hint: &str| Error::operator(message(reason)).with_hint(hint);
    let found = if says(&["RequestTimeTooSkewed"]) {
        operator(
            "this machine's clock is wrong",
            "set the clock: signed requests hold for some minutes only",
        )
    } else if says(&[
        "SignatureDoesNotMatch",
        "InvalidAccessKeyId",
        "InvalidToken",
        "ExpiredToken",
        "AuthenticationFailed",
    ]) || matches!(error, StoreError::Unauthenticated { .. })
    {
        operator("the store does not accept the credentials", KEYS_HINT)
    } else if matches!(error, StoreError::PermissionDenied { .. }) {
        operator(
            "access denied",
            "allow these credentials to get, put, list and delete objects under lake.url",
        )
    } else if names_no_bucket(&text) {
        operator("there is no such bucket", "create the bucket, or correct lake.url")
    } else if matches!(
        error,
        StoreError::NotImplemented { .. } | StoreError::NotSupported { .. }
    ) || says(&["501 Not Implemented"])
    {
        operator(
            "the store has no conditional puts",
            "use a store that honours `If-None-Match: *`, and do not turn `conditional_put` off",
        )
    } else if says(&[
        "AuthorizationHeaderMalformed",
        "PermanentRedirect",
        "incorrectly configured region",
    ]) {
        operator(
            "the bucket is in another region",
            "set AWS_REGION or aws_region in [lake.options] to the bucket's",
        )
    } else if says(&["URL scheme is not allowed"]) {
        operator(
            "the endpoint is plain HTTP",
            "use https://, or set aws_allow_http = true in [lake.options] where that is safe",
        )
    } else if says(&[
        "/latest/api/token",
        "/latest/meta-data",
        "metadata.google.internal",
        "/metadata/identity",
    ]) {
        operator("there are no credentials", KEYS_HINT)
    } else {
        let reason = match http_error(error) {
            Some(_) => "the store can't be reached",
            None => "the store fails",
        };
        Error::transient(message(reason)).with_hint(
            "nothing is lost, the source keeps its log until the store works again; see that it is up, and lake.url and its endpoint",
        )
    };
    found.with_source(text)
}

/// The transport's error, where there was no answer.
fn http_error(error: &StoreError) -> Option<&HttpError> {
    causes(error).find_map(|e| e.downcast_ref::<HttpError>())
}

fn causes<'a>(error: &'a (dyn StdError + 'static)) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    std::iter::successors(Some(error), |e| inner(*e))
}

fn inner<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a (dyn StdError + 'static)> {
    // An I/O error that wraps another one passes it over.
    match error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref) {
        Some(inner) => Some(inner),
        None => error.source(),
    }
}

/// What went wrong, in one line: the levels above repeat it, and bodies are XML.
fn cause(error: &StoreError) -> String {
    let mut text = error.source().map_or_else(|| error.to_string(), ToString::to_string);
    if let Some(start) = text.find("<?xml").or_else(|| text.find("<Error>")) {
        let element = |name: &str| {
            let (_, rest) = text.split_once(&format!("<{name}>"))?;
            rest.split_once(&format!("</{name}>")).map(|(value, _)| value)
        };
        let told = match (element("Code"), element("Message")) {
            (Some(code), Some(message)) => format!("{code}: {message}"),
            (Some(code), None) => code.to_owned(),
            _ => String::new(),
        };
        text.truncate(start);
        text.push_str(&told);
    }
    if let Some(last) = causes(error).last().map(ToString::to_string)
        && http_error(error).is_some()
        && !text.contains(&last)
    {
        text = format!("{text}: {last}");
    }
    text
}

/// The store's error in one of the kernel, if that is what it comes from.
pub fn of_kernel(error: &KernelError) -> Option<&StoreError> {
    causes(error).find_map(|e| {
        let kernel = e
            .downcast_ref::<KernelError>()
            .or_else(|| e.downcast_ref::<Box<KernelError>>().map(Box::as_ref));
        match kernel {
            Some(KernelError::ObjectStore(store)) => Some(store),
            _ => e.downcast_ref::<StoreError>(),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use object_store::memory::InMemory;

    fn options(pairs: &[(&str, &str)]) -> StoreOptions {
        pairs
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect()
    }

    #[test]
    fn a_url_names_a_store_and_a_root() {
        let account = options(&[
            ("azure_storage_account_name", "a"),
            ("azure_storage_account_key", "c2VjcmV0"),
        ]);
        let service = options(&[("google_skip_signature", "true")]);
        for (url, root, path, options) in [
            ("/lake", "file:///lake/", "lake", options(&[])),
            ("file:///lake/", "file:///lake/", "lake", options(&[])),
            ("s3://bucket", "s3://bucket/", "", options(&[])),
            ("s3://bucket/", "s3://bucket/", "", options(&[])),
            (
                "s3://bucket/a/b",
                "s3://bucket/a/b/",
                "a/b",
                options(&[("aws_region", "r")]),
            ),
            ("s3a://bucket/a", "s3a://bucket/a/", "a", options(&[])),
            ("s3://bucket/a b/", "s3://bucket/a%20b/", "a b", options(&[])),
            ("gs://bucket/a", "gs://bucket/a/", "a", service),
            ("az://container/a", "az://container/a/", "a", account.clone()),
            (
                "abfss://container@account.dfs.core.windows.net/a",
                "abfss://container@account.dfs.core.windows.net/a/",
                "a",
                account,
            ),
        ] {
            let (found, _) = open(url, &options).expect(url);
            assert_eq!(found.as_str(), root);
            assert_eq!(root_path(&found).expect(url).as_ref(), path, "{url}");
        }
    }

    #[test]
    fn a_url_that_cannot_be_used_says_why_and_hides_keys() {
        for (url, what) in [
            ("ftp://host/lake", "scheme \"ftp\""),
            ("https://host/lake", "scheme \"https\""),
            ("s3:///lake", "names no bucket"),
            ("s3://verysecret@bu cket/lake", "not a URL"),
            ("s3://key:verysecret@bucket/lake", "holds credentials"),
            ("s3://verysecret@bucket/lake", "holds credentials"),
            ("az://container/lake?sv=1&sig=verysecret", "holds credentials"),
        ] {
            let error = open(url, &options(&[])).map(|_| ()).expect_err(url);
            assert!(error.to_string().contains(what), "{url}: {error}");
            assert!(error.hint().is_some(), "{url}");
            assert!(!format!("{error:?}").contains("verysecret"), "{error:?}");
        }
    }

    #[test]
    fn options_that_are_unknown_or_wrong_are_named_and_their_values_hidden() {
        for (url, key, value, what, hint) in [
            (
                "s3://b/p",
                "aws_regoin",
                "r",
                "lake.options.aws_regoin",
                "did you mean \"aws_region\"",
            ),
            (
                "gs://b/p",
                "aws_region",
                "r",
                "lake.options.aws_region",
                "google_service_account",
            ),
            (
                "/lake",
                "aws_region",
                "r",
                "is for object stores",
                "remove [lake.options]",
            ),
            (
                "s3://b/p",
                "aws_allow_http",
                "verysecret",
                "cannot use the store",
                "README",
            ),
            (
                "gs://b/p",
                "google_service_account_key",
                "verysecret",
                "cannot use the store",
                "README",
            ),
            (
                "s3://b/p",
                "aws_secret_access_key",
                "verysecret",
                "cannot use the store",
                "AWS_ACCESS_KEY_ID",
            ),
        ] {
            let error = open(url, &options(&[(key, value)])).map(|_| ()).expect_err(key);
            assert!(error.to_string().contains(what), "{key}: {error}");
            assert!(error.hint().unwrap_or("").contains(hint), "{key}: {:?}", error.hint());
            assert!(!format!("{error:?}").contains("verysecret"), "{error:?}");
        }
    }

    #[test]
    fn options_override_the_environment() {
        let environment = [("AWS_ALLOW_HTTP", "nonsense"), ("AWS_REGION", "here"), ("OTHER", "x")]
            .map(|(name, value)| (name.to_owned(), value.to_owned()));
        let open =
            |options: &StoreOptions| remote(Url::parse("s3://b/p").expect("url"), options, &environment).map(|_| ());
        assert!(open(&options(&[])).is_err());
        open(&options(&[("aws_allow_http", "true")])).expect("the option's value");
    }

    #[tokio::test]
    async fn a_store_that_keeps_conditional_puts_passes_and_nothing_is_left() {
        let (store, root) = (InMemory::new(), Url::parse("s3://b/p/").expect("url"));
        probe(&store, &root).await.expect("probe");
        let left: Vec<_> = store.list(None).try_collect().await.expect("list");
        assert!(left.is_empty(), "{left:?}");
    }

    #[test]
    fn errors_get_their_class_from_what_the_store_says() {
        use crate::error::Class;
        let url = Url::parse("s3://b/p/").expect("url");
        let generic = |text: &str| StoreError::Generic {
            store: "S3",
            source: text.into(),
        };
        let denied = |text: &str| StoreError::PermissionDenied {
            path: "x".to_owned(),
            source: text.into(),
        };
        let absent = |text: &str| StoreError::NotFound {
            path: "x".to_owned(),
            source: text.into(),
        };
        let body = "Server returned non-2xx status code: 403 Forbidden: <?xml version=\"1.0\"?><Error><Code>InvalidAccessKeyId</Code><Message>unknown key</Message><Resource>/x</Resource></Error>";
        for (error, class, what) in [
            (denied(body), Class::NeedsOperator, "does not accept the credentials"),
            (denied("403"), Class::NeedsOperator, "access denied"),
            (
                absent("404 <Error><Code>NoSuchBucket</Code></Error>"),
                Class::NeedsOperator,
                "no such bucket",
            ),
            (
                generic("500 Internal Server Error"),
                Class::Transient,
                "the store fails",
            ),
            (
                generic("501 Not Implemented"),
                Class::NeedsOperator,
                "no conditional puts",
            ),
            (
                generic("<Code>RequestTimeout</Code>"),
                Class::Transient,
                "the store fails",
            ),
        ] {
            let found = super::error("cannot write to", &url, &error);
            assert_eq!(found.class(), class, "{found}");
            assert!(found.to_string().contains(what), "{found}");
            assert!(found.hint().is_some());
            assert!(
                !found.cause().unwrap_or_default().contains("<Resource>"),
                "{:?}",
                found.cause()
            );
        }
        assert!(is_absent(&absent("404 Not Found")));
        assert!(!is_absent(&absent("404 NoSuchBucket")));
    }
}
