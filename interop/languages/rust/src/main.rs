//! The peer that is written with tonic: a server and a client of the service in ../proto.

mod client;
mod echo;
mod server;

use std::{collections::HashMap, error::Error, time::Duration};

pub mod pb {
    tonic::include_proto!("pillion.languages.v1");

    pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/peer.bin"));
}

pub type Failure = Box<dyn Error + Send + Sync>;

/// The largest message that is taken, in bytes.
pub const MAX_MESSAGE: usize = 8 << 20;
pub const KEEPALIVE: Duration = Duration::from_secs(10);
/// Bounds what has to succeed.
pub const PATIENCE: Duration = Duration::from_secs(60);

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let mut arguments = std::env::args().skip(1);
    if arguments.next().as_deref() == Some("server") {
        return server::serve().await;
    }

    let mut options = HashMap::new();
    while let Some(name) = arguments.next() {
        options.insert(name, arguments.next().unwrap_or_default());
    }
    client::run(&options).await
}
