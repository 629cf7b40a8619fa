use crate::{
    pb::{self, peer_client::PeerClient, EndedRequest, Request, Response},
    Failure, KEEPALIVE, MAX_MESSAGE, PATIENCE,
};
use std::{
    collections::HashMap,
    fmt::Debug,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};
use tokio::{sync::mpsc, time};
use tokio_stream::{wrappers::ReceiverStream, StreamExt};
use tonic::{
    codec::CompressionEncoding,
    metadata::{MetadataMap, MetadataValue},
    transport::{Channel, Endpoint},
    Code, Status,
};
use tonic_health::pb::{health_check_response::ServingStatus, health_client::HealthClient, HealthCheckRequest};
use tonic_reflection::pb::v1::{
    server_reflection_client::ServerReflectionClient, server_reflection_request::MessageRequest,
    server_reflection_response::MessageResponse, ServerReflectionRequest,
};

const MESSAGE: &str = "because of 100 % naïveté: 世界";
const TEXTS: [&str; 2] = ["one", "two words"];
const BINARIES: [&[u8]; 2] = [b"\x00\x01\xfe\xff", b"\x80,;= "];

struct Client {
    target: String,
    details: Vec<u8>,
    idle: Duration,
    unique: String,
    channel: Channel,
}

/// The code is the status of the RPC that was to fail, OK where none was.
type Outcome = Result<Code, Failure>;

pub async fn run(options: &HashMap<String, String>) -> Result<(), Failure> {
    let option = |name: &str| options.get(name).cloned().unwrap_or_default();
    let (target, authority) = (option("--target"), option("--authority"));
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos();
    let client = Client {
        channel: dial(&target, &authority)?,
        target,
        details: unhex(&option("--details"))?,
        idle: Duration::from_secs(option("--idle").parse().unwrap_or_default()),
        unique: format!("rust-{}-{now}", std::process::id()),
    };
    for case in option("--cases").split(',') {
        let (error, code) = match client.case(case).await {
            Ok(code) => (String::new(), code as i32),
            Err(failure) => (failure.to_string(), 0),
        };
        let error = error.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', " ");
        println!("{{\"case\": \"{case}\", \"error\": \"{error}\", \"code\": {code}}}");
    }
    Ok(())
}

fn dial(target: &str, authority: &str) -> Result<Channel, Failure> {
    let mut endpoint = Endpoint::try_from(format!("http://{target}"))?
        .http2_keep_alive_interval(KEEPALIVE)
        .keep_alive_while_idle(true);
    if !authority.is_empty() {
        endpoint = endpoint.origin(format!("http://{authority}").parse()?);
    }
    Ok(endpoint.connect_lazy())
}

fn unhex(text: &str) -> Result<Vec<u8>, Failure> {
    (0..text.len()).step_by(2).map(|at| Ok(u8::from_str_radix(&text[at..at + 2], 16)?)).collect()
}

fn same<T: PartialEq + Debug>(what: &str, got: T, want: T) -> Result<(), Failure> {
    if got == want {
        return Ok(());
    }
    Err(format!("{what}: got {got:?}, want {want:?}").into())
}

fn failed<T>(result: Result<T, Status>) -> Result<Status, Failure> {
    result.err().ok_or_else(|| "the RPC did not fail".into())
}

fn request(message: Request) -> tonic::Request<Request> {
    let mut request = tonic::Request::new(message);
    request.set_timeout(PATIENCE);
    request
}

fn with_echo(message: Request) -> tonic::Request<Request> {
    let mut request = request(message);
    for text in TEXTS {
        request.metadata_mut().append("x-echo", text.parse().unwrap());
    }
    for value in BINARIES {
        request.metadata_mut().append_bin("x-echo-bin", MetadataValue::from_bytes(value));
    }
    request
}

fn same_texts(metadata: &MetadataMap, key: &str) -> Result<(), Failure> {
    // Grpc-js joins repeated values with a comma, as HTTP allows.
    let got: Vec<_> =
        metadata.get_all(key).iter().flat_map(|value| value.to_str().unwrap_or("?").split(", ")).collect();
    same(key, got, TEXTS.to_vec())
}

fn same_binaries(metadata: &MetadataMap, key: &str) -> Result<(), Failure> {
    let got: Vec<_> =
        metadata.get_all_bin(key).iter().map(|value| value.to_bytes().unwrap_or_default().to_vec()).collect();
    same(key, got, BINARIES.iter().map(|value| value.to_vec()).collect())
}

impl Client {
    fn peer(&self) -> PeerClient<Channel> {
        PeerClient::new(self.channel.clone())
            .max_decoding_message_size(MAX_MESSAGE)
            .max_encoding_message_size(2 * MAX_MESSAGE)
    }

    async fn case(&self, name: &str) -> Outcome {
        match name {
            "unary" => self.unary().await,
            "client_streaming" => self.client_streaming().await,
            "server_streaming" => self.server_streaming().await,
            "bidi_streaming" => self.bidi_streaming().await,
            "metadata" => self.metadata().await,
            "status" => self.status().await,
            "early_status" => self.early_status().await,
            "deadline_expires" => self.deadline_expires().await,
            "deadline_arrives" => self.deadline_arrives().await,
            "cancel" => self.cancel().await,
            "large" => self.large().await,
            "too_large_request" => self.too_large_request().await,
            "too_large_answer" => self.too_large_answer().await,
            "gzip" => self.gzip().await,
            "health" => self.health().await,
            "reflection" => self.reflection().await,
            "keepalive" => self.keepalive().await,
            _ => Err("no case has this name".into()),
        }
    }

    async fn unary(&self) -> Outcome {
        let payload = b"hello".to_vec();
        let response = self.peer().unary(request(Request { payload: payload.clone(), ..Default::default() })).await?;
        same("the answer", response.into_inner().payload, payload)?;
        Ok(Code::Ok)
    }

    async fn client_streaming(&self) -> Outcome {
        let requests = (0..100).map(|_| Request { payload: vec![0; 50_000], ..Default::default() });
        let response = self.peer().collect(tokio_stream::iter(requests)).await?.into_inner();
        same("requests", response.requests, 100)?;
        same("bytes", response.bytes, 5_000_000)?;
        Ok(Code::Ok)
    }

    async fn server_streaming(&self) -> Outcome {
        let asked = Request { answers: 100, answer_size: 50_000, ..Default::default() };
        let mut stream = self.peer().spread(request(asked)).await?.into_inner();
        let (mut answers, mut bytes) = (0, 0);
        while let Some(response) = stream.message().await? {
            answers += 1;
            bytes += response.payload.len();
        }
        same("answers", answers, 100)?;
        same("bytes", bytes, 5_000_000)?;
        Ok(Code::Ok)
    }

    /// Each request waits for the answer before it, so nothing may be held back.
    async fn bidi_streaming(&self) -> Outcome {
        let (to, requests) = mpsc::channel(1);
        let text = |i: u32| format!("message {i}").into_bytes();
        to.send(Request { payload: text(0), ..Default::default() }).await?;
        let mut stream = self.peer().chat(ReceiverStream::new(requests)).await?.into_inner();
        for i in 0..20 {
            let response = time::timeout(PATIENCE, stream.message()).await??;
            let Response { payload, .. } = response.ok_or("the stream ended early")?;
            same("answer", payload, text(i))?;
            if i < 19 {
                to.send(Request { payload: text(i + 1), ..Default::default() }).await?;
            }
        }
        drop(to);
        same("the stream's end", stream.message().await?, None)?;
        Ok(Code::Ok)
    }

    async fn metadata(&self) -> Outcome {
        let response = self.peer().unary(with_echo(Request::default())).await?;
        // In an answer of one message tonic puts headers and trailers into one map.
        let metadata = response.metadata();
        same_texts(metadata, "x-echo")?;
        same_binaries(metadata, "x-echo-bin")?;
        same_texts(metadata, "x-trail")?;
        same_binaries(metadata, "x-trail-bin")?;

        let response = self.peer().spread(with_echo(Request { answers: 1, ..Default::default() })).await?;
        same_texts(response.metadata(), "x-echo")?;
        same_binaries(response.metadata(), "x-echo-bin")?;
        same("x-trail in the headers", response.metadata().get("x-trail"), None)?;
        let mut stream = response.into_inner();
        while stream.message().await?.is_some() {}
        let trailers = stream.trailers().await?.ok_or("there are no trailers")?;
        same_texts(&trailers, "x-trail")?;
        same_binaries(&trailers, "x-trail-bin")?;
        Ok(Code::Ok)
    }

    fn same_status(&self, status: &Status) -> Result<(), Failure> {
        same("message", status.message(), MESSAGE)?;
        same("details", status.details(), &self.details[..])
    }

    async fn status(&self) -> Outcome {
        let failing = Request {
            answers: 1,
            fail_code: 9,
            fail_message: MESSAGE.into(),
            fail_details: self.details.clone(),
            ..Default::default()
        };
        let status = failed(self.peer().unary(with_echo(failing.clone())).await)?;
        self.same_status(&status)?;
        same_binaries(status.metadata(), "x-trail-bin")?;

        let mut stream = self.peer().spread(request(failing)).await?.into_inner();
        stream.message().await?.ok_or("no answer came before the status")?;
        let status = failed(stream.message().await)?;
        self.same_status(&status)?;
        Ok(status.code())
    }

    /// The server ends the RPC while the client is still sending.
    async fn early_status(&self) -> Outcome {
        let failing =
            Request { fail_code: 10, fail_message: MESSAGE.into(), payload: vec![0; 50_000], ..Default::default() };
        let requests = tokio_stream::iter((0..1000).map(move |_| failing.clone()));
        let status = failed(self.peer().collect(requests).await)?;
        same("message", status.message(), MESSAGE)?;
        Ok(status.code())
    }

    async fn ended(&self, hold: String) -> Result<(), Failure> {
        let response = self.peer().ended(EndedRequest { hold }).await?;
        same("the server saw the RPC cancelled", response.into_inner().cancelled, true)
    }

    async fn deadline_expires(&self) -> Outcome {
        let hold = format!("{}-deadline", self.unique);
        let begin = Instant::now();
        let mut held = tonic::Request::new(Request { hold: hold.clone(), ..Default::default() });
        held.set_timeout(Duration::from_millis(300));
        let status = failed(self.peer().unary(held).await)?;
        let took = begin.elapsed().as_millis();
        if !(250..5_000).contains(&took) {
            return Err(format!("a deadline of 300 ms expired after {took} ms").into());
        }
        self.ended(hold).await?;
        Ok(status.code())
    }

    async fn deadline_arrives(&self) -> Outcome {
        let mut timed = tonic::Request::new(Request::default());
        timed.set_timeout(Duration::from_secs(30));
        let left = self.peer().unary(timed).await?.into_inner().remaining_ms;
        if !(20_000..=30_100).contains(&left) {
            return Err(format!("of 30 s there were {left} ms left").into());
        }
        Ok(Code::Ok)
    }

    /// Tonic cancels an RPC once both its requests and its answers are dropped, so
    /// there is no status to see.
    async fn cancel(&self) -> Outcome {
        let hold = format!("{}-cancel", self.unique);
        let (to, requests) = mpsc::channel(1);
        to.send(Request { hold: hold.clone(), ..Default::default() }).await?;
        let mut stream = self.peer().chat(ReceiverStream::new(requests)).await?.into_inner();
        stream.message().await?.ok_or("the stream ended early")?;
        drop((to, stream));
        self.ended(hold).await?;
        Ok(Code::Cancelled)
    }

    async fn large(&self) -> Outcome {
        let payload = b"abcdefghijklmnop".repeat(4 << 16);
        let response = self.peer().unary(request(Request { payload: payload.clone(), ..Default::default() })).await?;
        if response.get_ref().payload != payload {
            return Err(format!("{} other bytes came back", response.get_ref().payload.len()).into());
        }
        Ok(Code::Ok)
    }

    async fn too_large_request(&self) -> Outcome {
        let large = Request { payload: vec![0; 9 << 20], ..Default::default() };
        Ok(failed(self.peer().unary(request(large)).await)?.code())
    }

    async fn too_large_answer(&self) -> Outcome {
        let asked = Request { answer_size: 9 << 20, ..Default::default() };
        Ok(failed(self.peer().unary(request(asked)).await)?.code())
    }

    async fn gzip(&self) -> Outcome {
        let mut peer =
            self.peer().send_compressed(CompressionEncoding::Gzip).accept_compressed(CompressionEncoding::Gzip);
        let asked = Request { payload: vec![0; 1 << 20], answer_size: 1 << 20, gzip: true, ..Default::default() };
        let response = peer.unary(request(asked)).await?.into_inner();
        same("bytes", response.bytes, 1 << 20)?;
        same("the answer's bytes", response.payload.len(), 1 << 20)?;
        Ok(Code::Ok)
    }

    async fn health(&self) -> Outcome {
        let mut health = HealthClient::new(self.channel.clone());
        let check = health.check(HealthCheckRequest::default()).await?.into_inner();
        same("Check", check.status(), ServingStatus::Serving)?;
        let mut watch = health.watch(HealthCheckRequest::default()).await?.into_inner();
        let first = watch.message().await?.ok_or("Watch ended")?;
        same("Watch", first.status(), ServingStatus::Serving)?;
        Ok(Code::Ok)
    }

    /// Without the authority, as a person asks who has a sidecar before him, and not one service.
    async fn reflection(&self) -> Outcome {
        let mut reflection = ServerReflectionClient::new(dial(&self.target, "")?);
        let asked = ServerReflectionRequest {
            host: String::new(),
            message_request: Some(MessageRequest::FileContainingSymbol("pillion.languages.v1.Peer".into())),
        };
        let mut stream = reflection.server_reflection_info(tokio_stream::once(asked)).await?.into_inner();
        let response = stream.next().await.ok_or("no answer came")??;
        match response.message_response {
            Some(MessageResponse::FileDescriptorResponse(files)) if !files.file_descriptor_proto.is_empty() => {
                Ok(Code::Ok)
            }
            other => Err(format!("no descriptor came: {other:?}").into()),
        }
    }

    async fn keepalive(&self) -> Outcome {
        self.unary().await?;
        println!("idle");
        time::sleep(self.idle).await;
        println!("awake");
        self.unary().await
    }
}
