use crate::{
    echo::EchoLayer,
    pb::{self, peer_server, EndedRequest, EndedResponse, Request, Response},
    Failure, KEEPALIVE, MAX_MESSAGE, PATIENCE,
};
use std::{collections::HashMap, pin::Pin, sync::Arc, sync::Mutex, time::Duration};
use tokio::{sync::mpsc, sync::watch, time};
use tokio_stream::{wrappers::ReceiverStream, Stream, StreamExt};
use tonic::{codec::CompressionEncoding, metadata::MetadataMap, Code, Status, Streaming};

pub async fn serve() -> Result<(), Failure> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    listener.set_nonblocking(true)?;
    println!("listening on {} (tonic {})", listener.local_addr()?, version());

    let service = peer_server::PeerServer::new(Peer::default())
        .max_decoding_message_size(MAX_MESSAGE)
        .max_encoding_message_size(2 * MAX_MESSAGE)
        .accept_compressed(CompressionEncoding::Gzip)
        .send_compressed(CompressionEncoding::Gzip);
    let reflection =
        || tonic_reflection::server::Builder::configure().register_encoded_file_descriptor_set(pb::DESCRIPTORS);
    let (_reporter, health) = tonic_health::server::health_reporter();

    tonic::transport::Server::builder()
        .http2_keepalive_interval(Some(KEEPALIVE))
        .layer(EchoLayer)
        .add_service(service)
        .add_service(health)
        .add_service(reflection().build_v1()?)
        .add_service(reflection().build_v1alpha()?)
        .serve_with_incoming(tokio_stream::wrappers::TcpListenerStream::new(tokio::net::TcpListener::from_std(
            listener,
        )?))
        .await?;
    Ok(())
}

fn version() -> &'static str {
    let (_, tonic) = include_str!("../Cargo.lock").split_once("name = \"tonic\"\nversion = \"").unwrap_or_default();
    tonic.split('"').next().unwrap_or_default()
}

#[derive(Default)]
struct Peer {
    ends: Ends,
}

/// By their hold: whether the RPC has ended.
#[derive(Clone, Default)]
struct Ends(Arc<Mutex<HashMap<String, Arc<watch::Sender<bool>>>>>);

impl Ends {
    fn of(&self, hold: &str) -> Arc<watch::Sender<bool>> {
        let mut ends = self.0.lock().unwrap();
        ends.entry(hold.into()).or_insert_with(|| Arc::new(watch::channel(false).0)).clone()
    }
}

/// Notes the end of an RPC: tonic drops what serves one that is cancelled.
struct Holding(Arc<watch::Sender<bool>>);

impl Drop for Holding {
    fn drop(&mut self) {
        self.0.send_replace(true);
    }
}

type Answers = Pin<Box<dyn Stream<Item = Result<Response, Status>> + Send>>;

#[tonic::async_trait]
impl peer_server::Peer for Peer {
    async fn unary(&self, request: tonic::Request<Request>) -> Result<tonic::Response<Response>, Status> {
        let (metadata, _, request) = request.into_parts();
        failure(&request)?;
        if !request.hold.is_empty() {
            let _holding = Holding(self.ends.of(&request.hold));
            time::sleep(PATIENCE).await;
        }
        let mut response = tonic::Response::new(answer(&request, &metadata));
        if !request.gzip {
            response.disable_compression();
        }
        Ok(response)
    }

    async fn collect(&self, request: tonic::Request<Streaming<Request>>) -> Result<tonic::Response<Response>, Status> {
        let mut requests = request.into_inner();
        let mut response = Response::default();
        while let Some(request) = requests.message().await? {
            failure(&request)?;
            response.requests += 1;
            response.bytes += request.payload.len() as u64;
        }
        let mut response = tonic::Response::new(response);
        response.disable_compression();
        Ok(response)
    }

    type SpreadStream = Answers;

    async fn spread(&self, request: tonic::Request<Request>) -> Result<tonic::Response<Answers>, Status> {
        let (metadata, _, request) = request.into_parts();
        let answers: Vec<_> = (0..request.answers).map(|_| Ok(answer(&request, &metadata))).collect();
        let last = failure(&request).err().map(Err);
        stream(tokio_stream::iter(answers.into_iter().chain(last)))
    }

    type ChatStream = Answers;

    async fn chat(&self, request: tonic::Request<Streaming<Request>>) -> Result<tonic::Response<Answers>, Status> {
        let (metadata, _, mut requests) = request.into_parts();
        let (to, answers) = mpsc::channel(1);
        let ends = self.ends.clone();
        tokio::spawn(async move {
            while let Some(Ok(request)) = requests.next().await {
                if let Err(status) = failure(&request) {
                    let _ = to.send(Err(status)).await;
                    return;
                }
                if to.send(Ok(answer(&request, &metadata))).await.is_err() {
                    return;
                }
                if !request.hold.is_empty() {
                    // Nobody takes answers any more: the RPC was cancelled.
                    to.closed().await;
                    drop(Holding(ends.of(&request.hold)));
                    return;
                }
            }
        });
        stream(ReceiverStream::new(answers))
    }

    async fn ended(&self, request: tonic::Request<EndedRequest>) -> Result<tonic::Response<EndedResponse>, Status> {
        let mut end = self.ends.of(&request.into_inner().hold).subscribe();
        let cancelled = time::timeout(Duration::from_secs(10), end.wait_for(|ended| *ended)).await.is_ok();
        Ok(tonic::Response::new(EndedResponse { cancelled }))
    }
}

fn stream(
    answers: impl Stream<Item = Result<Response, Status>> + Send + 'static,
) -> Result<tonic::Response<Answers>, Status> {
    let mut response = tonic::Response::new(Box::pin(answers) as Answers);
    response.disable_compression();
    Ok(response)
}

fn failure(request: &Request) -> Result<(), Status> {
    if request.fail_code == 0 {
        return Ok(());
    }
    let code = Code::from(request.fail_code as i32);
    Err(Status::with_details(code, &request.fail_message, request.fail_details.clone().into()))
}

fn answer(request: &Request, metadata: &MetadataMap) -> Response {
    Response {
        payload: match request.answer_size {
            0 => request.payload.clone(),
            size => vec![0; size as usize],
        },
        requests: 1,
        bytes: request.payload.len() as u64,
        remaining_ms: remaining(metadata).unwrap_or_default(),
    }
}

/// What the client said at the begin; tonic keeps the time itself, but does not tell.
fn remaining(metadata: &MetadataMap) -> Option<u32> {
    let text = metadata.get("grpc-timeout")?.to_str().ok()?;
    let (count, unit) = text.split_at(text.len() - 1);
    let count: f64 = count.parse().ok()?;
    let milliseconds = match unit {
        "H" => 3_600_000.0,
        "M" => 60_000.0,
        "S" => 1_000.0,
        "m" => 1.0,
        "u" => 0.001,
        "n" => 0.000_001,
        _ => return None,
    };
    Some((count * milliseconds) as u32)
}
