//! From a URL and options to an object store.

#[cfg(any(feature = "s3", feature = "azure", feature = "gcs"))]
use std::sync::Arc;
use std::time::Duration;

use object_store::{BackoffConfig, ClientConfigKey, ClientOptions, Error, RetryConfig, path::Path};
use url::Url;

use crate::requests::{Backend, Traits};

/// Requests that failed are sent again for so long.
const RETRIES: RetryConfig = RetryConfig {
    backoff: BackoffConfig { init_backoff: Duration::from_millis(100), max_backoff: Duration::from_secs(5), base: 2.0 },
    max_retries: 8,
    retry_timeout: Duration::from_secs(30),
};
/// A store that does not take a connection by then is down.
const CONNECT: Duration = Duration::from_secs(5);
/// A store that sends nothing for so long is down.
const SILENCE: Duration = Duration::from_secs(60);

/// Why a URL and its options name no object store.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidLocation {
    /// The URL's scheme belongs to no store that this program was built for.
    #[error(
        "this program was built without support for {0}: URLs; build it with the feature that bears the store's name"
    )]
    NotBuilt(String),
    /// The URL names no bucket, or its path cannot be a prefix.
    #[error("write it as {0}://BUCKET or {0}://BUCKET/PREFIX")]
    Malformed(String),
    /// The store knows no such option.
    #[error("there is no option {0:?} for this kind of store")]
    UnknownOption(String),
    /// The options do not fit each other.
    #[error("the options do not make a usable store")]
    Options(#[source] Error),
}

/// The object store that `url` names: `s3://BUCKET/PREFIX`, `gs://BUCKET/PREFIX` or
/// `az://CONTAINER/PREFIX`. Options are those of the `object_store` crate, by their short names,
/// such as `endpoint` or `region`; what they leave open is taken from the environment as the
/// store's own tools do.
///
/// Asks nobody: [`ObjectUploads::open`](crate::ObjectUploads::open) finds out whether it answers.
pub fn backend(url: &str, options: &[(String, String)]) -> Result<Backend, InvalidLocation> {
    let scheme = url.split(':').next().unwrap_or_default().to_owned();
    let malformed = || InvalidLocation::Malformed(scheme.clone());
    let parsed = Url::parse(url).map_err(|_| malformed())?;
    let bucket = parsed.host_str().filter(|host| !host.is_empty()).ok_or_else(malformed)?;
    let is_plain = parsed.username().is_empty()
        && parsed.password().is_none()
        && parsed.port().is_none()
        && parsed.query().is_none()
        && parsed.fragment().is_none();
    let prefix = Path::from_url_path(parsed.path()).ok().filter(|_| is_plain).ok_or_else(malformed)?;
    // Without one the client panics; one that is there stays.
    let _ = rustls::crypto::ring::default_provider().install_default();
    match scheme.as_str() {
        #[cfg(feature = "s3")]
        "s3" => s3(bucket, prefix, options),
        #[cfg(feature = "gcs")]
        "gs" => gcs(bucket, prefix, options),
        #[cfg(feature = "azure")]
        "az" => azure(bucket, prefix, options),
        _ => Err(InvalidLocation::NotBuilt(scheme)),
    }
}

/// Reads and checks options; those of the client are the same for all stores.
fn client_options() -> ClientOptions {
    // Each request is bounded by its size instead.
    ClientOptions::new().with_timeout_disabled().with_connect_timeout(CONNECT).with_read_timeout(SILENCE)
}

/// Splits options into those of the client and those of the store.
fn sort_options<K: std::str::FromStr>(
    options: &[(String, String)],
) -> Result<(ClientOptions, Vec<(K, String)>), InvalidLocation> {
    let (mut client, mut store) = (client_options(), Vec::new());
    for (name, value) in options {
        let name = name.to_ascii_lowercase();
        if let Ok(key) = name.parse::<ClientConfigKey>() {
            client = client.with_config(key, value);
        } else {
            let key = name.parse::<K>().map_err(|_| InvalidLocation::UnknownOption(name))?;
            store.push((key, value.clone()));
        }
    }
    Ok((client, store))
}

#[cfg(feature = "s3")]
fn s3(bucket: &str, prefix: Path, options: &[(String, String)]) -> Result<Backend, InvalidLocation> {
    use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey, S3ConditionalPut, S3CopyIfNotExists};

    let (client, own) = sort_options::<AmazonS3ConfigKey>(options)?;
    let mut builder = AmazonS3Builder::from_env()
        .with_copy_if_not_exists(S3CopyIfNotExists::Multipart)
        .with_conditional_put(S3ConditionalPut::ETagMatch);
    for (key, value) in own {
        builder = builder.with_config(key, value);
    }
    let builder = builder.with_bucket_name(bucket).with_client_options(client).with_retry(RETRIES);
    let store = Arc::new(builder.build().map_err(InvalidLocation::Options)?);
    let traits = Traits {
        multipart_at_destination: true,
        session_metadata: "bits-session",
        longest_key: 1024,
        largest_copy: 5 << 30,
    };
    Ok(Backend { objects: store.clone(), multiparts: store.clone(), signer: Some(store), prefix, traits })
}

#[cfg(feature = "gcs")]
fn gcs(bucket: &str, prefix: Path, options: &[(String, String)]) -> Result<Backend, InvalidLocation> {
    use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey};

    let (client, own) = sort_options::<GoogleConfigKey>(options)?;
    let mut builder = GoogleCloudStorageBuilder::from_env();
    for (key, value) in own {
        builder = builder.with_config(key, value);
    }
    let builder = builder.with_bucket_name(bucket).with_client_options(client).with_retry(RETRIES);
    let store = Arc::new(builder.build().map_err(InvalidLocation::Options)?);
    let traits = Traits {
        multipart_at_destination: true,
        session_metadata: "bits-session",
        longest_key: 1024,
        largest_copy: 5 << 40,
    };
    Ok(Backend { objects: store.clone(), multiparts: store.clone(), signer: Some(store), prefix, traits })
}

#[cfg(feature = "azure")]
fn azure(container: &str, prefix: Path, options: &[(String, String)]) -> Result<Backend, InvalidLocation> {
    use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};

    let (client, own) = sort_options::<AzureConfigKey>(options)?;
    let mut builder = MicrosoftAzureBuilder::from_env();
    for (key, value) in own {
        builder = builder.with_config(key, value);
    }
    let builder = builder.with_container_name(container).with_client_options(client).with_retry(RETRIES);
    let store = Arc::new(builder.build().map_err(InvalidLocation::Options)?);
    // Names of metadata are names of variables there.
    let traits = Traits {
        multipart_at_destination: false,
        session_metadata: "bits_session",
        longest_key: 1024,
        largest_copy: 5 << 40,
    };
    Ok(Backend { objects: store.clone(), multiparts: store.clone(), signer: Some(store), prefix, traits })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(feature = "s3")]
    fn urls_name_bucket_and_prefix() {
        let options =
            [("region".to_owned(), "eu-central-1".to_owned()), ("endpoint".to_owned(), "https://x".to_owned())];
        for (url, prefix) in [("s3://bucket", ""), ("s3://bucket/", ""), ("s3://bucket/a/b%20c", "a/b c")] {
            let backend = backend(url, &options).expect(url);
            assert_eq!(backend.prefix.as_ref(), prefix, "{url}");
        }
    }

    #[test]
    #[cfg(feature = "s3")]
    fn what_is_wrong_is_named() {
        for (url, option, message) in [
            ("s3:", "region", "write it as s3://BUCKET"),
            ("s3://", "region", "write it as s3://BUCKET"),
            ("s3:bucket", "region", "write it as s3://BUCKET"),
            ("s3://user:secret@bucket", "region", "write it as s3://BUCKET"),
            ("s3://bucket?x", "region", "write it as s3://BUCKET"),
            ("s3://bucket", "acces_key_id", "no option \"acces_key_id\""),
            ("ftp://bucket", "region", "without support for ftp:"),
        ] {
            let error = backend(url, &[(option.to_owned(), "x".to_owned())]).unwrap_err().to_string();
            assert!(error.contains(message) && !error.contains("secret"), "{url}: {error}");
        }
    }
}
