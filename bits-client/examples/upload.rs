//! The least client that loses nothing: it uploads a file, and when it is run again after it was
//! killed, it goes on where the server says.
//!
//! `cargo run -p bits-client --example upload -- FILE http://127.0.0.1:8080/upload/FILE`

use std::{error::Error, fs, path::PathBuf, sync::Arc};

use bits_client::{Client, Event, FileSource, Job, Source};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(file), Some(url)) = (arguments.next(), arguments.next()) else {
        return Err("usage: upload FILE URL".into());
    };
    let source = Arc::new(FileSource::open(&file).await?);
    let kept = PathBuf::from(format!("{file}.job"));
    let mut job = match fs::read_to_string(&kept) {
        Ok(text) => serde_json::from_str(&text)?,
        Err(_) => Job::new(url.parse()?, source.fingerprint().await?),
    };
    // Whatever happens next, this much is known.
    let observe = |job: &Job, event: Event<'_>| {
        let written = serde_json::to_vec(job).map_err(Into::into).and_then(|text| fs::write(&kept, text));
        if let Err(error) = written {
            eprintln!("{}: {error}", kept.display());
        }
        if let Event::Acknowledged { offset } = event {
            println!("the server has {offset} bytes");
        }
    };
    Client::builder().build()?.upload(&mut job, source, observe).await?;
    fs::remove_file(&kept)?;
    println!("done");
    Ok(())
}
