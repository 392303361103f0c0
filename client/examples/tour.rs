//! A tour of the library: what the examples of its pages show, in one program.
//!
//! ```sh
//! ./dev up --detach
//! cargo run -p kvorum-client --example tour -- 127.0.0.1:7101
//! ```
//!
//! It makes keyspaces of its own and drops them. Tests run it too, against a scripted cluster and against a real node:
//! what the pages of the library show, works.
#![allow(clippy::print_stdout, reason = "a program shows what it does")]

use kvorum_client::{Client, ClientError, Condition, Options, Put, ReadLevel, Session, admin::KeyspaceWish};
use std::time::Duration;

/// The keyspaces of the tour.
const KEYSPACES: [&str; 3] = ["tour-orders", "tour-sessions", "tour-accounts"];

#[tokio::main]
async fn main() -> Result<(), ClientError> {
    let mut endpoints: Vec<String> = std::env::args().skip(1).collect();
    if endpoints.is_empty() {
        endpoints.push("127.0.0.1:7101".to_owned());
    }
    tour(endpoints).await
}

/// All of it, against the cluster behind these endpoints.
pub async fn tour(endpoints: Vec<String>) -> Result<(), ClientError> {
    let client = Client::connect(endpoints, Options { timeout: Duration::from_secs(30), ..Options::default() }).await?;
    let admin = client.admin();
    for name in KEYSPACES {
        let wish = KeyspaceWish { shard_by: "range".to_owned(), ..KeyspaceWish::default() };
        let made = admin.create_keyspace(name, wish).await?;
        println!("{name}: {} shards, map revision {}", made.shards.len(), made.map_revision);
    }
    first_steps(&client).await?;
    reads_and_scans(&client).await?;
    conditions_and_batches(&client).await?;
    many_keys(&client).await?;
    sessions(&client).await?;
    for name in KEYSPACES {
        admin.drop_keyspace(name).await?;
    }
    Ok(())
}

async fn first_steps(client: &Client) -> Result<(), ClientError> {
    let orders = client.keyspace("tour-orders");
    let written = orders.put("1001", "paid").await?;
    println!("durable on {} replicas", written.receipt.durable_replicas);
    assert!(written.receipt.durable_replicas >= 1);
    match orders.compare_and_set("1001", "paid", "shipped").await {
        Ok(written) => println!("now at {}", written.receipt.position),
        Err(ClientError::NotApplied(answer)) => println!("somebody was faster: {answer}"),
        // It may have happened. The handle asks again under the same request id: applied at most once.
        Err(ClientError::Unknown(unknown)) => drop(unknown.retry().await?),
        Err(error) => return Err(error),
    }
    assert_eq!(orders.get("1001").await?.entry.map(|entry| entry.value), Some("shipped".into()));
    match orders.compare_and_set("1001", "paid", "shipped").await {
        Err(ClientError::NotApplied(answer)) => println!("as it should be: {answer}"),
        other => panic!("it holds another value: {other:?}"),
    }
    Ok(())
}

async fn reads_and_scans(client: &Client) -> Result<(), ClientError> {
    let orders = client.keyspace("tour-orders");
    let bound = Duration::from_secs(10);
    let reply = orders.get("1001").level(ReadLevel::Bounded(bound)).await?;
    println!("{:?}, no older than {:?}", reply.entry, reply.receipt.staleness);
    assert!(reply.receipt.staleness.is_some_and(|staleness| staleness <= bound));
    for day in ["2024-01", "2024-02", "2024-03"] {
        orders.put(day, "open").await?;
    }
    let mut scan = orders.scan().prefix("2024-").limit(2).await?;
    while let Some(entry) = scan.next().await? {
        println!("{:?} = {:?}", entry.key, entry.value);
    }
    let last = scan.position().cloned().expect("two were read");
    let mut rest = orders.scan().prefix("2024-").after(last).await?;
    assert_eq!(rest.next().await?.map(|entry| entry.key), Some("2024-03".into()));
    Ok(())
}

async fn conditions_and_batches(client: &Client) -> Result<(), ClientError> {
    let sessions = client.keyspace("tour-sessions");
    let written = sessions.put("7f3a", "alice").ttl(Duration::from_secs(3_600)).if_absent().await?;
    println!("version {:?}", written.version());
    let accounts = client.keyspace("tour-accounts");
    let first = Put::new("log/1", "-5").condition(Condition::Absent);
    let both = accounts.batch().increment("alice", -5).operation(first);
    assert_eq!(both.await?.results.len(), 2);
    assert_eq!(accounts.increment("alice", 7).await?.number, 2);
    Ok(())
}

async fn many_keys(client: &Client) -> Result<(), ClientError> {
    let orders = client.keyspace("tour-orders");
    for written in orders.put_many([("1001", "paid"), ("1002", "open")]).await {
        println!("{:?}", written?.version());
    }
    let replies = orders.get_many(["1001", "1002", "1003"]).await;
    let found: Result<Vec<bool>, ClientError> = replies.into_iter().map(|reply| Ok(reply?.entry.is_some())).collect();
    assert_eq!(found?, [true, true, false]);
    Ok(())
}

async fn sessions(client: &Client) -> Result<(), ClientError> {
    let orders = client.keyspace("tour-orders");
    let session = orders.session();
    session.put("1001", "returned").await?;
    assert!(session.get("1001").await?.entry.is_some(), "any replica that answers has it");
    let token = session.token(); // bytes, to go on elsewhere

    let elsewhere = Session::from_token(&orders, &token)?;
    assert_eq!(elsewhere.get("1001").await?.entry.map(|entry| entry.value), Some("returned".into()));
    Ok(())
}
