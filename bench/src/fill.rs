//! Many sessions in a database, without a server: copies of one that is there.

use std::path::PathBuf;

use clap::Args;
use sqlx::{ConnectOptions, SqliteConnection, sqlite::SqliteConnectOptions};

use crate::Result;

#[derive(Args)]
pub(crate) struct Options {
    /// A session database in which a session was created
    #[arg(long)]
    database: PathBuf,
    /// How many are added
    #[arg(long)]
    sessions: u32,
}

pub(crate) async fn run(options: &Options) -> Result<()> {
    // Speed before safety: whoever asks for it starts over if it fails.
    let settings = SqliteConnectOptions::new()
        .filename(&options.database)
        .pragma("synchronous", "off")
        .pragma("cache_size", "-2000000")
        .pragma("temp_store", "memory");
    let mut connection = settings.connect().await?;
    let copy = copy(&mut connection).await?;
    let added = sqlx::query(sqlx::AssertSqlSafe(copy)).bind(options.sessions).execute(&mut connection).await?;
    if added.rows_affected() != u64::from(options.sessions) {
        return Err("there is no session to copy".into());
    }
    Ok(())
}

/// The statement, whatever columns this version has. What is unique gets a value of its own.
async fn copy(connection: &mut SqliteConnection) -> Result<String> {
    let columns: Vec<String> =
        sqlx::query_scalar("SELECT name FROM pragma_table_info('session') WHERE name <> 'number'")
            .fetch_all(connection)
            .await?;
    let values = columns.iter().map(|column| match column.as_str() {
        "id" => "randomblob(16)".to_owned(),
        "destination" | "key" => format!("{column} || '-' || n"),
        "created_at" => "created_at - n".to_owned(),
        _ => column.clone(),
    });
    Ok(format!(
        "WITH RECURSIVE counter(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM counter WHERE n < ?1) \
         INSERT INTO session ({}) SELECT {} FROM session CROSS JOIN counter WHERE number = (SELECT min(number) FROM session)",
        columns.join(", "),
        values.collect::<Vec<_>>().join(", ")
    ))
}
