//! A look into an object store past the servers.

use std::{
    io::Write,
    process::{Command, Stdio},
};

use base64::Engine;
use futures_util::TryStreamExt;
use object_store::{ObjectStore as _, ObjectStoreExt, path::Path};
use tests::ObjectStore;

/// Says which database of sessions the store's prefix belongs to.
pub(crate) const OWNER: &str = "BITS-Sessions/database";

/// The names of all objects of the store's prefix, without it, and but for the one that says whose it
/// is.
pub(crate) fn objects(store: &ObjectStore) -> Vec<String> {
    run(store, async |backend| {
        let listed: Vec<_> = backend.objects.list(Some(&backend.prefix)).try_collect().await.unwrap();
        let prefix = format!("{}/", backend.prefix);
        let mut names: Vec<_> =
            listed.into_iter().map(|meta| meta.location.as_ref().trim_start_matches(&prefix).to_owned()).collect();
        names.retain(|name| name != OWNER);
        names.sort();
        names
    })
}

/// What an object holds; none where there is none.
#[allow(dead_code, reason = "not all tests read past the servers")]
pub(crate) fn object(store: &ObjectStore, name: &str) -> Option<Vec<u8>> {
    run(store, async |backend| {
        let path = Path::parse(format!("{}/{name}", backend.prefix)).unwrap();
        match backend.objects.get(&path).await {
            Ok(found) => Some(found.bytes().await.unwrap().to_vec()),
            Err(object_store::Error::NotFound { .. }) => None,
            Err(error) => panic!("{name} cannot be read: {error}"),
        }
    })
}

/// Writes an object as another program does.
#[allow(dead_code, reason = "not all tests have other writers")]
pub(crate) fn put(store: &ObjectStore, name: &str, content: &[u8]) {
    let content = content.to_owned();
    run(store, async |backend| {
        let path = Path::parse(format!("{}/{name}", backend.prefix)).unwrap();
        backend.objects.put(&path, content.clone().into()).await.unwrap();
    });
}

/// Deletes an object as an administrator does.
#[allow(dead_code, reason = "not all tests have an administrator")]
pub(crate) fn delete(store: &ObjectStore, name: &str) {
    run(store, async |backend| {
        let path = Path::parse(format!("{}/{name}", backend.prefix)).unwrap();
        backend.objects.delete(&path).await.unwrap();
    });
}

/// The names at which multipart uploads of an S3 store are unfinished, without the prefix.
#[allow(dead_code, reason = "not all tests ask")]
pub(crate) fn multiparts(store: &ObjectStore) -> Vec<String> {
    let (_, prefix) = place(store);
    let text = ask(store, "uploads", &[]);
    assert!(text.contains("<IsTruncated>false"), "{text}");
    let keys = text.split("<Upload>").skip(1).filter_map(|one| one.split("<Key>").nth(1)?.split("</Key>").next());
    keys.filter_map(|key| Some(key.strip_prefix(prefix)?.strip_prefix('/')?.to_owned())).collect()
}

/// Gives what is below the prefix the lifecycle rule that the documentation asks for, with one day.
#[allow(dead_code, reason = "not all tests wait for it")]
pub(crate) fn end_multiparts_after_a_day(store: &ObjectStore) {
    let (_, prefix) = place(store);
    let rule = format!(
        "<LifecycleConfiguration><Rule><ID>bits</ID><Status>Enabled</Status><Filter><Prefix>{prefix}/</Prefix></Filter>\
         <AbortIncompleteMultipartUpload><DaysAfterInitiation>1</DaysAfterInitiation></AbortIncompleteMultipartUpload>\
         </Rule></LifecycleConfiguration>"
    );
    let digest = format!("Content-MD5: {}", md5(&rule));
    ask(store, "lifecycle", &["--request", "PUT", "--header", &digest, "--data-binary", &rule]);
}

/// Bucket and prefix.
fn place(store: &ObjectStore) -> (&str, &str) {
    store.url.trim_start_matches("s3://").split_once('/').expect("a test has a prefix of its own")
}

/// What an S3 store answers to a question about its bucket.
fn ask(store: &ObjectStore, question: &str, arguments: &[&str]) -> String {
    let option = |name: &str| &store.options.iter().find(|(known, _)| *known == name).expect("it is S3").1;
    let mut curl = Command::new("curl");
    curl.args(["--silent", "--show-error", "--fail-with-body", "--aws-sigv4", "aws:amz:us-east-1:s3", "--user"]);
    curl.arg(format!("{}:{}", option("access_key_id"), option("secret_access_key")));
    curl.args(["--header", "x-amz-content-sha256: UNSIGNED-PAYLOAD"]).args(arguments);
    let output = curl.arg(format!("http://{}/{}?{question}=", store.address(), place(store).0)).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    text
}

fn md5(text: &str) -> String {
    let mut child = Command::new("md5sum").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let digits = &output.stdout[..32];
    let bytes = digits.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap());
    base64::engine::general_purpose::STANDARD.encode(bytes.collect::<Vec<u8>>())
}

fn run<T>(store: &ObjectStore, work: impl AsyncFn(bits_store_object::Backend) -> T) -> T {
    let options: Vec<_> = store.options.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let backend = bits_store_object::backend(&store.url, &options).unwrap();
    runtime.block_on(work(backend))
}
